"""The module that an engine wraps: model and losses in one forward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plum.data.sam_feature_cache import SamFeatureCache
from plum.inputs.bio_labels import Tag
from plum.losses.losses import bio_accuracy, compute_losses, weighted_sum, with_tags_in_scope
from plum.losses.mask_losses import focal_of, losses_by_mask, sum_pixels
from plum.models.batch_plan import tagged_places, take_places
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.sam import SegmentAnything
from plum.structures import IGNORE_INDEX, Batch, GroundedOutput, ImageFeatures, LossTerms
from plum.train_config import LossConfig, PretextConfig
from plum.training.part_pretext import PartPretext
from plum.training.sam_features import complete_embeddings


@dataclass(frozen=True)
class StepResult:
    """One micro-batch: weighted loss to backpropagate, its unweighted terms, and tag counts.

    During the warm-up `part_pretext` includes the losses of the pretext's queries, so it drops when the warm-up ends.
    `tag_hits` and `tag_totals` are LongTensor [3] in the order O, B, I, over answer tokens whatever the BIO loss covers
    (over all tokens nearly every O is right: an image patch or a padding token is easy).
    """

    total: Tensor
    terms: LossTerms
    part_pretext: Tensor | None
    tag_hits: Tensor
    tag_totals: Tensor


class Objective(nn.Module):
    """Weighted training loss (PLUM paper, section 4) plus, in the tiny recipe, the part pretext (not saved).

    Args:
        model: trained in place.
        losses: forms and weights.
        pretext: part pretext; None at full size.
        pretext_config: weights of the part pretext; None: the defaults.
        sam_features: cache of embeddings, read before SAM's (frozen) encoder is run.
    """

    def __init__(
        self,
        model: GroundedLMM,
        losses: LossConfig,
        pretext: PartPretext | None = None,
        pretext_config: PretextConfig | None = None,
        sam_features: SamFeatureCache | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        self.pretext = pretext
        self.pretext_config = pretext_config or PretextConfig()
        self.sam_features = sam_features

    def forward(self, batch: Batch, is_warmup: bool = False) -> StepResult:
        """Return the micro-batch's losses; with `is_warmup`, the pretext's queries ask for masks, not the phrases."""
        with_phrases = batch
        if is_warmup:
            batch = batch.without_spans()
        answers, batch = batch, with_tags_in_scope(batch, self.losses.bio_scope)
        known = None
        if self.sam_features is not None:
            known = complete_embeddings(batch, self.model.sam, self.sam_features)
        output = self.model(batch, with_teacher=self.losses.kl > 0, known=known)
        terms = compute_losses(output, batch, self.losses)
        total = weighted_sum(terms, self.losses)
        pretext = None
        if self.pretext is not None:
            pretext = self._pretext_loss(output.images, batch)
            if is_warmup and self.pretext_config.queries_per_image:
                pretext = pretext + self._warmup_loss(output, with_phrases)
            total = total + self.pretext_config.weight * pretext
        is_answer = None
        if batch is not answers:  # the BIO loss covers more than answers
            is_answer = take_places(answers.tags, tagged_places(batch).index) != IGNORE_INDEX
        hits, totals = count_tags(output, is_answer)
        return StepResult(total, terms, pretext, hits, totals)

    def _warmup_loss(self, output: GroundedOutput, batch: Batch) -> Tensor:
        """Return the weighted sum of the pretext queries' loss and the distance of the phrases' queries to them."""
        assert self.pretext is not None
        masks = self._query_loss(output.images, batch)
        queries = self.model.query_projection(output.hidden_states, batch.spans)
        distance = self.pretext.phrase_loss(queries, batch)
        return self.pretext_config.query_weight * masks + self.pretext_config.phrase_weight * distance

    def _query_loss(self, images: ImageFeatures, batch: Batch) -> Tensor:
        """Return the weighted losses of the masks that the pretext's own queries ask for; 0 if no part is drawn."""
        assert self.pretext is not None
        asked = self.pretext.draw_queries(batch.part_maps, self.pretext_config.queries_per_image)
        if len(asked.image) == 0:
            return images.embeddings.main.new_zeros(())
        sam = self.model.sam
        logits = sam.decode_masks(images.embeddings[asked.image], asked.queries, None, sam.dense_position())
        sums = sum_pixels(logits, asked.targets, asked.is_counted, focal=focal_of(self.losses))
        overlaps, bces = losses_by_mask(sums, self.losses)
        return self.losses.mask_overlap * overlaps.mean() + self.losses.mask_bce * bces.mean()

    def _pretext_loss(self, images: ImageFeatures, batch: Batch) -> Tensor:
        assert self.pretext is not None
        assert isinstance(self.model.sam, SegmentAnything), "runs with another segmenter have no pretext"
        upscaled = self.model.sam.mask_decoder.output_upscaling(images.embeddings.main)
        return self.pretext(images, upscaled, batch, self.pretext_config.token_weight)


def count_tags(output: GroundedOutput, is_counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Count correct tags and all tags of the counted ones of A tagged tokens (bool [A]; None: all) by class: O, B, I.

    Without a tagger both are zeros.
    """
    if output.tag_logits is None:
        nothing = torch.zeros(len(Tag), dtype=torch.long, device=output.hidden_states.device)
        return nothing, nothing
    return bio_accuracy(output.tag_logits, output.tag_labels, output.tag_chain, is_counted)
