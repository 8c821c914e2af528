"""The CRF against sums and maxima over every sequence of classes, and its numbering of sequences."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from plum.losses.losses import bio_loss, crf_loss
from plum.models.heads.crf import (
    LinearChainCrf,
    best_classes,
    log_likelihoods,
    log_marginals,
    log_partitions,
    number_runs,
)
from plum.models.heads.span_tagger import predict_classes
from plum.structures import TagChain

LENGTHS = (3, 1, 5, 2)
SEQUENCE = torch.repeat_interleave(torch.tensor([4, 5, 7, 9]), torch.tensor(LENGTHS))


def make_case(num_classes: int, scale: float = 2.0, seed: int = 0) -> tuple[Tensor, TagChain]:
    """Random logits and scores of sequences of 3, 1, 5 and 2 tokens."""
    generator = torch.Generator().manual_seed(seed)
    crf = LinearChainCrf(num_classes)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    logits = (scale * torch.randn(len(SEQUENCE), num_classes, generator=generator)).requires_grad_()
    return logits, crf.chain(SEQUENCE)


def score(logits: Tensor, classes: tuple[int, ...], chain: TagChain) -> float:
    """Score of one sequence of classes, added up term by term."""
    total = chain.start[classes[0]].item() + chain.end[classes[-1]].item()
    for position, own in enumerate(classes):
        total += float(logits[position, own])
        if position:
            total += chain.transitions[classes[position - 1], own].item()
    return total


def every_score(logits: Tensor, chain: TagChain) -> list[dict[tuple[int, ...], float]]:
    """For each sequence, the score of every assignment of classes."""
    return [
        {classes: score(own, classes, chain) for classes in itertools.product(range(logits.shape[1]), repeat=len(own))}
        for own in logits.detach().split(LENGTHS)
    ]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_partition_likelihood_and_marginals_are_sums_over_all_sequences(num_classes: int) -> None:
    logits, chain = make_case(num_classes)
    scores = every_score(logits, chain)
    partitions = [math.log(sum(map(math.exp, one.values()))) for one in scores]
    assert log_partitions(logits, chain).tolist() == pytest.approx(partitions, rel=1e-5)
    truth = torch.randint(num_classes, SEQUENCE.shape, generator=torch.Generator().manual_seed(1))
    of_truth = [one[tuple(own.tolist())] for one, own in zip(scores, truth.split(LENGTHS), strict=True)]
    expected = [own - total for own, total in zip(of_truth, partitions, strict=True)]
    assert log_likelihoods(logits, truth, chain).tolist() == pytest.approx(expected, rel=1e-5)
    assert crf_loss(logits, truth, chain).item() == pytest.approx(-sum(expected) / len(SEQUENCE), rel=1e-5)
    found = iter(log_marginals(logits, chain).exp().tolist())
    for one, partition, length in zip(scores, partitions, LENGTHS, strict=True):
        for position in range(length):
            marginal = [
                sum(math.exp(value - partition) for classes, value in one.items() if classes[position] == label)
                for label in range(num_classes)
            ]
            assert next(found) == pytest.approx(marginal, abs=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_viterbi_finds_the_best_of_all_sequences(num_classes: int, seed: int) -> None:
    logits, chain = make_case(num_classes, seed=seed)
    best = [max(one, key=lambda classes, one=one: one[classes]) for one in every_score(logits, chain)]  # type: ignore[misc]
    found = best_classes(logits, chain)
    assert [tuple(own.tolist()) for own in found.split(LENGTHS)] == best
    predicted = predict_classes(logits, chain)
    assert torch.equal(predicted.classes, found)
    own = log_marginals(logits, chain).exp()[torch.arange(len(found)), found]
    torch.testing.assert_close(predicted.probabilities, own)


def test_viterbi_is_not_the_best_class_of_each_token() -> None:
    """B B is likelier token by token; the transition forbids it."""
    chain = TagChain(torch.zeros(2, dtype=torch.long), torch.zeros(3), torch.zeros(3, 3), torch.zeros(3))
    logits = torch.tensor([[0.0, 2.0, 0.0], [0.0, 1.0, 0.5]])
    assert predict_classes(logits, None).classes.tolist() == [1, 1]
    chain.transitions[1, 1] = -5.0
    assert predict_classes(logits, chain).classes.tolist() == [1, 2]


def test_gradients_are_those_of_the_sum_over_all_sequences() -> None:
    logits, chain = make_case(3)
    truth = torch.randint(3, SEQUENCE.shape, generator=torch.Generator().manual_seed(1))
    inputs = [logits, chain.start, chain.transitions, chain.end]
    total = logits.new_zeros(())
    for own, labels in zip(logits.split(LENGTHS), truth.split(LENGTHS), strict=True):
        every = torch.tensor(list(itertools.product(range(3), repeat=len(own))))

        def value(classes: Tensor, own: Tensor = own) -> Tensor:
            """Scores of K assignments [K, length]."""
            tokens = own[torch.arange(len(own)), classes].sum(1)
            pairs = chain.transitions[classes[:, :-1], classes[:, 1:]].sum(1)
            return tokens + pairs + chain.start[classes[:, 0]] + chain.end[classes[:, -1]]

        total = total + value(every).logsumexp(0) - value(labels[None])[0]
    expected = torch.autograd.grad(total / len(SEQUENCE), inputs)
    found = torch.autograd.grad(crf_loss(logits, truth, chain), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert bool(theirs.any())
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_it_starts_as_a_softmax_of_each_token() -> None:
    logits, _ = make_case(3)
    chain = LinearChainCrf(3).chain(SEQUENCE)
    truth = torch.randint(3, SEQUENCE.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(crf_loss(logits, truth, chain), bio_loss(logits, truth, (1.0, 1.0, 1.0)))
    torch.testing.assert_close(log_marginals(logits, chain), logits.log_softmax(1))
    assert torch.equal(best_classes(logits, chain), logits.argmax(1))


def test_long_answers_and_large_scores_stay_finite() -> None:
    crf = LinearChainCrf(3)
    logits = torch.full((2000, 3), -300.0).index_fill(1, torch.tensor([1]), 300.0).requires_grad_()
    chain = crf.chain(torch.zeros(2000, dtype=torch.long))
    loss = crf_loss(logits, torch.ones(2000, dtype=torch.long), chain)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-3)
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    rounded = crf.to(torch.bfloat16).chain(SEQUENCE)
    half = logits[: len(SEQUENCE)].to(torch.bfloat16)
    assert crf_loss(half, torch.ones(len(SEQUENCE), dtype=torch.long), rounded).dtype == torch.float32
    assert log_marginals(half, rounded).dtype == torch.float32


def test_no_token_gives_no_loss_with_finite_gradients() -> None:
    crf = LinearChainCrf(3)
    states = torch.zeros(4, 3, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    loss = crf_loss(states[:0], nothing, crf.chain(nothing))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in (states, *crf.parameters()))
    assert len(predict_classes(states[:0], crf.chain(nothing)).probabilities) == 0


def test_runs_are_numbered_within_rows() -> None:
    is_read = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    runs = number_runs(is_read)
    assert runs.tolist() == [[1, 2, 2, 3, 4], [5, 5, 6, 6, 6], [7, 7, 7, 7, 7]]
    # The last token of a row and the first of the next are not neighbours.
    assert runs[is_read].unique_consecutive(return_counts=True)[1].tolist() == [2, 1, 2]
