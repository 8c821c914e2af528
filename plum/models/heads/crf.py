"""Linear-chain conditional random field over the tags of an answer (Lafferty et al., 2001).

Paper: not described. Authors' code: the switch `use_crf_bio`, whose CRF is commented out. Here: the score of a sequence
of classes is the sum of its tokens' logits, a learned score of each pair of neighbours, and learned scores of the first
and the last class. Scores start at zero, where the CRF equals the softmax of each token, and no pair is forbidden. Each
answer is a sequence of its own. All sums run in log space and in float32.
"""

import torch
from torch import Tensor, nn

from plum.structures import TagChain


class LinearChainCrf(nn.Module):
    """The learned scores of first, neighbouring and last classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(num_classes))
        self.transitions = nn.Parameter(torch.zeros(num_classes, num_classes))
        self.end = nn.Parameter(torch.zeros(num_classes))

    def chain(self, sequence: Tensor) -> TagChain:
        """Link tokens.

        Args:
            sequence: LongTensor [A], from `number_runs`.
        """
        return TagChain(sequence, self.start, self.transitions, self.end)


def number_runs(values: Tensor) -> Tensor:
    """Number the runs of equal neighbours within the rows of [N, T], on through all rows; LongTensor [N, T]."""
    is_first = torch.ones_like(values, dtype=torch.bool)
    is_first[:, 1:] = values[:, 1:] != values[:, :-1]
    return is_first.flatten().cumsum(0).view_as(values)


def log_likelihoods(logits: Tensor, classes: Tensor, chain: TagChain) -> Tensor:
    """Return the log-likelihood (nats) of each of R sequences, float32 [R].

    Args:
        logits: [A, C].
        classes: LongTensor [A], the true class of each token.
        chain: of the same tokens.
    """
    own = logits.float().gather(1, classes[:, None])[:, 0]
    is_first, is_last = _borders(chain.sequence)
    own = own + is_first * chain.start.float()[classes] + is_last * chain.end.float()[classes]
    pairs = chain.transitions.float()[classes[:-1], classes[1:]]
    own = own + nn.functional.pad(pairs * ~is_first[1:], (1, 0))
    scores = own.new_zeros(int(is_first.sum())).index_add(0, is_first.cumsum(0) - 1, own)
    return scores - log_partitions(logits, chain)


def log_partitions(logits: Tensor, chain: TagChain) -> Tensor:
    """Return the logarithm of the sum over all classes of the exponential of each sequence's score, float32 [R]."""
    ending = _forward(logits.float(), chain)[_borders(chain.sequence)[1]]
    return (ending + chain.end.float()).logsumexp(1)


def log_marginals(logits: Tensor, chain: TagChain) -> Tensor:
    """Return the log-probability of every class of every token, given its whole sequence, float32 [A, C]."""
    logits = logits.float()
    backwards = TagChain(chain.sequence.flip(0), chain.end, chain.transitions.T, chain.start)
    # Both sums contain the token's own logits.
    total = _forward(logits, chain) + _forward(logits.flip(0), backwards).flip(0) - logits
    return total.log_softmax(1)


def best_classes(logits: Tensor, chain: TagChain) -> Tensor:
    """Return the classes of each sequence's most probable assignment (Viterbi), LongTensor [A]."""
    if len(logits) == 0:
        return chain.sequence.new_zeros(0)
    padded, is_token = _pad(logits.detach().float(), chain.sequence)  # [R, L, C], [R, L]
    counts = is_token.sum(1)
    transitions, end = chain.transitions.detach().float(), chain.end.detach().float()
    best = padded[:, 0] + chain.start.detach().float()  # [R, C]: score of the best beginning that ends in each class
    finals, previous = [best], []
    for position in range(1, padded.shape[1]):
        scores, origin = (best[:, :, None] + transitions).max(1)
        best = scores + padded[:, position]
        finals.append(best)
        previous.append(origin)
    rows = torch.arange(len(counts), device=logits.device)
    current = (torch.stack(finals, 1)[rows, counts - 1] + end).argmax(1)  # [R]
    classes = current[:, None].repeat(1, padded.shape[1])
    for position in range(padded.shape[1] - 2, -1, -1):
        is_inside = position + 1 < counts
        current = torch.where(is_inside, previous[position][rows, current], current)
        classes[:, position] = current
    return classes[is_token]


def _borders(sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens are the first and which the last of their sequences, bool [A] each."""
    is_first = torch.ones_like(sequence, dtype=torch.bool)
    is_first[1:] = sequence[1:] != sequence[:-1]
    is_last = torch.ones_like(is_first)
    is_last[:-1] = is_first[1:]
    return is_first, is_last


def _forward(logits: Tensor, chain: TagChain) -> Tensor:
    """Return, for each token and class, the log-sum of all beginnings that end there, [A, C]."""
    if len(logits) == 0:
        return logits
    padded, is_token = _pad(logits, chain.sequence)
    transitions = chain.transitions.float()
    ending = padded[:, 0] + chain.start.float()  # [R, C]
    endings = [ending]
    for position in range(1, padded.shape[1]):
        ending = (ending[:, :, None] + transitions).logsumexp(1) + padded[:, position]
        endings.append(ending)
    return torch.stack(endings, 1)[is_token]


def _pad(logits: Tensor, sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Lay out tokens by sequence: logits [R, L, C], zeros after a sequence's end, and which places hold a token."""
    counts = sequence.unique_consecutive(return_counts=True)[1]
    is_token = torch.arange(int(counts.max()), device=sequence.device) < counts[:, None]
    padded = logits.new_zeros(*is_token.shape, logits.shape[1])
    return padded.index_put(is_token.nonzero(as_tuple=True), logits), is_token
