"""The module an engine wraps: model + losses in one forward, so that all ranks do the same work in a micro-batch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plum.config import LossConfig
from plum.losses import bio_accuracy, compute_losses, weighted_sum
from plum.models.grounded_lmm import GroundedLMM
from plum.models.trainable import zero_anchor
from plum.structures import IGNORE_INDEX, Batch, LossTerms


@dataclass(frozen=True)
class StepResult:
    """One micro-batch: weighted loss to backpropagate, its unweighted terms, and tag counts.

    `tag_hits` and `tag_totals` are LongTensor [3] in the order O, B, I, over answer tokens.
    """

    total: Tensor
    terms: LossTerms
    part_pretext: Tensor | None
    tag_hits: Tensor
    tag_totals: Tensor


class Objective(nn.Module):
    """Weighted training loss of PLUM (paper, section 4) plus, in the tiny recipe, the part pretext.

    The pretext is a per-pixel part cross-entropy on SAM's embedding (1 x 1 convolution). It belongs to training a small
    SAM from scratch, is not in the paper, and its head is not saved with the model.
    """

    def __init__(self, model: GroundedLMM, losses: LossConfig, part_pretext: float, num_part_classes: int) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        self.pretext_weight = part_pretext
        self.pretext_head = nn.Conv2d(model.prompt_dim, num_part_classes, kernel_size=1) if part_pretext > 0 else None

    def forward(self, batch: Batch) -> StepResult:
        """Return the micro-batch's losses."""
        output = self.model(batch, with_teacher=self.losses.kl > 0)
        terms = compute_losses(output, batch, self.losses)
        # Every trainable tensor takes part in every step: ranks whose batch has no span or image must not branch away.
        total = weighted_sum(terms, self.losses) + zero_anchor(self)
        pretext = None
        if self.pretext_head is not None:
            pretext = self._pretext_loss(output.image_embeddings, batch.part_maps)
            total = total + self.pretext_weight * pretext
        hits, totals = bio_accuracy(output.tag_logits, batch.tags)
        return StepResult(total, terms, pretext, hits, totals)

    def _pretext_loss(self, image_embeddings: Tensor, part_maps: Tensor) -> Tensor:
        """Cross-entropy of part classes per embedding cell; 0 when no cell is labelled."""
        assert self.pretext_head is not None
        supervised = part_maps != IGNORE_INDEX  # [B, h, w]
        if not bool(supervised.any()):
            return image_embeddings.new_zeros((), dtype=torch.float32)
        logits = self.pretext_head(image_embeddings)  # [B, L, h, w]
        return nn.functional.cross_entropy(logits.float(), part_maps, ignore_index=IGNORE_INDEX)
