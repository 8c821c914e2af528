"""A grounded language model: a backbone answers, spans of the answer become queries, a segmenter turns them into masks.

One forward pass serves training and evaluation of every system; each stage can also be called alone (paper, section 4,
figure 3). Systems differ in the components they pass in: the query projection, a tagger or none, a SAM, a feedback loop
or none. `plum.models.systems.target_notation` defines how answers are written.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from plum.config import ModelConfig
from plum.models.backbones.backbone import Backbone
from plum.models.batch_plan import span_plan, student_layout, supervised_places, tagged_places, take_places
from plum.models.heads.crf import number_runs
from plum.models.heads.mask_feedback import EncodedMasks, FeedbackContext, MaskFeedback
from plum.models.heads.query_projection import QueryProjection
from plum.models.heads.span_tagger import SpanTagger
from plum.models.heads.teacher import span_teacher_states
from plum.models.segmenters.segmenter import Segmenter
from plum.structures import (
    IGNORE_INDEX,
    Batch,
    ConversationImages,
    GroundedOutput,
    ImageEmbeddings,
    ImageFeatures,
    ImageTokens,
    KnownEmbeddings,
    Pixels,
    SpanBounds,
    TagChain,
    TokenPlaces,
)


class GroundedLMM(nn.Module):
    """Backbone + query selector + mask predictor + optional mask feedback."""

    def __init__(
        self,
        *,
        config: ModelConfig,
        backbone: Backbone,
        tagger: SpanTagger | None,
        query_projection: QueryProjection,
        sam: Segmenter,
        feedback: MaskFeedback | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.llava = backbone  # named as in saved models, whatever the backbone
        self.tagger = tagger
        self.query_projection = query_projection
        self.sam = sam
        self.feedback = feedback

    @property
    def backbone(self) -> Backbone:
        """The language model that sees images."""
        return self.llava

    @property
    def prompt_dim(self) -> int:
        """Width C of queries and of SAM's image embedding."""
        return self.query_projection.prompt_dim

    @property
    def weights_name(self) -> str:
        """Where the weights come from, for messages."""
        return self.backbone.weights_name

    def forward(self, batch: Batch, with_teacher: bool, known: KnownEmbeddings | None = None) -> GroundedOutput:
        """Run every stage on a collated batch, with the batch's own spans.

        Args:
            batch: collated samples; may contain no image and no span.
            with_teacher: also return the states with adapters off, for the KL term (systems with tagged phrases).
            known: embeddings of all images to segment, if they are known already; the segmenter's encoder is then not
                run.
        """
        images = self.encode_images(batch.clip_pixels, batch.sam_pixels, batch.sam_rows, known)
        text = (batch.input_ids, batch.attention_mask, batch.shown, images.tokens)
        hidden_states = self.backbone.shared_hidden_states(*text, student_layout(batch))
        states, labels = supervised_states(hidden_states, batch.labels, supervised_places(batch))
        tagged, where = tagged_places(batch), (batch.shown, images.tokens.values)
        return GroundedOutput(
            hidden_states=hidden_states,
            token_logits=self.backbone.token_logits(states),
            token_labels=labels,
            tag_logits=self.tag(hidden_states, batch.attention_mask, tagged, *where),
            tag_labels=take_places(batch.tags, tagged.index),
            images=images,
            mask_logits=self.decode_masks(hidden_states, batch.spans, images.embeddings),
            teacher_states=span_teacher_states(self.backbone, batch, images.tokens) if with_teacher else None,
            tag_chain=self.tag_chain(batch.tags != IGNORE_INDEX),
        )

    def encode_images(
        self,
        clip_pixels: Pixels,
        sam_pixels: Tensor,
        sam_rows: Tensor | None = None,
        known: KnownEmbeddings | None = None,
    ) -> ImageFeatures:
        """Encode B images (B may be 0) with both towers, each image once.

        Args:
            clip_pixels: B images for the backbone.
            sam_pixels: [U, 3, P, P], normalised for the segmenter.
            sam_rows: [U], rows of the images that the segmenter encodes; the other embeddings are zeros. None: all
                images.
            known: embeddings to take instead of encoding `sam_pixels`.
        """
        like = next(self.query_projection.parameters())
        tokens = self.backbone.encode_images(clip_pixels) if len(clip_pixels) else self.backbone.no_images()
        if known is not None:
            embeddings, sam_rows = known.embeddings, known.rows
        elif len(sam_pixels) == 0:
            return ImageFeatures(tokens, self.sam.no_embeddings(len(clip_pixels), like))
        else:
            embeddings = self.sam.encode_images(sam_pixels)
        embeddings = self.sam.prepare(embeddings)
        if sam_rows is None or len(embeddings) == len(clip_pixels):
            return ImageFeatures(tokens, embeddings)
        return ImageFeatures(tokens, embeddings.spread(sam_rows, len(clip_pixels)))

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, shown: ConversationImages, image_tokens: ImageTokens
    ) -> Tensor:
        """Return the language model's states [N, T, D]; see `Backbone.hidden_states`."""
        return self.backbone.hidden_states(input_ids, attention_mask, shown, image_tokens)

    def token_logits(self, states: Tensor) -> Tensor:
        """Return next-token logits [..., V] of states [..., D]."""
        return self.backbone.token_logits(states)

    def tag(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        is_read: Tensor | TokenPlaces | None = None,
        shown: ConversationImages | None = None,
        image_tokens: Tensor | None = None,
    ) -> Tensor | None:
        """Return the logits of tags; None without a tagger.

        Args:
            hidden_states: [N, T, D].
            attention_mask: [N, T]; sequences are right-padded.
            is_read: the A tokens to tag, bool [N, T] or their places; None: all.
            shown: the images of the N conversations; only cross-attention needs it.
            image_tokens: [B, image tokens, D], `ImageTokens.values`; only cross-attention needs them.

        Returns:
            Logits [N, T, C], or [A, C] of the tokens in `is_read`. The C = 3 classes of the BIO scheme are in the order
            of plum.inputs.bio_labels.Tag; the two of the binary scheme are outside and in a phrase.
        """
        if self.tagger is None:
            return None
        return self.tagger(hidden_states, attention_mask, is_read, shown, image_tokens)

    def tag_chain(self, is_read: Tensor, is_other: Tensor | None = None) -> TagChain | None:
        """Return what links the tags of tokens; None without a CRF.

        Args:
            is_read: bool [N, T]; each contiguous run of tokens (an answer) is a sequence.
            is_other: bool [N, T], further tokens (prompts), whose runs are sequences of their own; None: none.
        """
        if self.tagger is None or self.tagger.crf is None:
            return None
        is_chained = is_read if is_other is None else is_read | is_other
        return self.tagger.crf.chain(number_runs(is_read)[is_chained])

    def generate_text(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        shown: ConversationImages,
        image_tokens: ImageTokens,
        max_new_tokens: int,
    ) -> Tensor:
        """Continue prompts greedily; see `Backbone.generate`. Returns token ids [N, up to max_new_tokens]."""
        return self.backbone.generate(input_ids, attention_mask, shown, image_tokens, max_new_tokens)

    def decode_masks(self, hidden_states: Tensor, spans: SpanBounds, image_embeddings: ImageEmbeddings) -> Tensor:
        """Decode one mask per span, in reading order within each conversation, feeding back earlier masks.

        A mask is fed back to later spans of the same conversation and image only. Step s decodes the s-th span of all
        conversations and images that have one, so there are at most max(S) decoder calls, and none without spans.

        Args:
            hidden_states: [N, T, D].
            spans: M token ranges, sorted by conversation, then reading order.
            image_embeddings: of the B images, from `encode_images`.

        Returns:
            Mask logits [M, 4h, 4w], float32, in the frame of the segmenter's square input.

        Raises:
            ValueError: a span belongs to a conversation without an image.
        """
        height, width = self.sam.grid
        if len(spans) == 0:
            return hidden_states.new_zeros(0, 4 * height, 4 * width, dtype=torch.float32)
        plan = span_plan(spans)
        for row, image in zip(plan.conversations, plan.images, strict=True):
            if image < 0:
                raise ValueError(f"conversation {row} of the batch has spans to segment but no image")
        queries = self.query_projection(hidden_states, replace(spans, plan=plan))  # [M, C]
        if self.feedback is None:
            return self.decode_step(queries, image_embeddings[spans.image], [], self.sam.dense_position())
        first = plan.order[: plan.step_sizes[0]]
        decoded = self._decode_with_feedback(
            queries[plan.order].split(plan.step_sizes), image_embeddings[spans.image[first]]
        )
        return decoded[plan.ranks]

    def _decode_with_feedback(self, queries_of_steps: Sequence[Tensor], image_embeddings: ImageEmbeddings) -> Tensor:
        """Run the decode loop; the rows of each step are a prefix of the previous step's rows.

        Args:
            queries_of_steps: for each step [R_s, C], R_0 >= R_1 >= ...
            image_embeddings: of each row's image, R_0 rows.

        Returns:
            Mask logits of all steps, concatenated, [M, 4h, 4w].
        """
        decoded: list[Tensor] = []
        earlier: list[EncodedMasks] = []
        context = self.prepare_feedback()
        image_embeddings = image_embeddings.channels_last()  # once, not in every step
        for step, queries in enumerate(queries_of_steps):
            num_rows = len(queries)
            if step > 0:
                last = decoded[-1][:num_rows]
                earlier = [masks.take_first(num_rows) for masks in earlier]
                earlier.append(self.encode_masks(last, queries_of_steps[step - 1][:num_rows], step - 1, context))
            decoded.append(self.decode_step(queries, image_embeddings[:num_rows], earlier, context.position))
        return torch.cat(decoded)

    def prepare_feedback(self) -> FeedbackContext:
        """Precompute what all steps of a decode loop share.

        Raises:
            ValueError: the model was built without mask feedback.
        """
        if self.feedback is None:
            raise ValueError("this model has no mask feedback (feedback.is_enabled is false)")
        return self.feedback.prepare(self.sam.dense_position())

    def encode_masks(self, mask_logits: Tensor, queries: Tensor, order: int, context: FeedbackContext) -> EncodedMasks:
        """Encode masks as feedback for later ones; interactive callers may pass their own masks.

        Args:
            mask_logits: [R, 4h, 4w], frame of the segmenter's square input.
            queries: [R, C], of the masks' spans.
            order: 0-based position of the masks in their conversations.
            context: from `prepare_feedback`.
        """
        assert self.feedback is not None
        return self.feedback.encode(mask_logits, queries, order, self.sam.mask_layers(), context)

    def decode_step(
        self, queries: Tensor, image_embeddings: ImageEmbeddings, earlier: Sequence[EncodedMasks], position: Tensor
    ) -> Tensor:
        """Decode one mask per row from its query, its image and the earlier masks of its conversation.

        Args:
            queries: [R, C].
            image_embeddings: of each row's image.
            earlier: earlier masks in order, each with the same R rows; interactive callers may drop, insert or
                replace them.
            position: the segmenter's dense positional encoding.

        Returns:
            Mask logits [R, 4h, 4w], float32.
        """
        dense = self.feedback.pool(earlier) if self.feedback is not None and earlier else None
        return self.sam.decode_masks(image_embeddings, queries, dense, position)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the backbone's layer activations in the backward pass instead of keeping them."""
        self.backbone.enable_gradient_checkpointing()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GroundedLMM":
        """Move or cast as nn.Module does, but never round floating-point buffers.

        These buffers are frequencies (LLaMA's rotary, SAM's positional ones). Rounding them, as DeepSpeed and
        `.to(bfloat16)` do, would shift positions. Batch norms (EdgeTAM's) need their statistics in the weights' dtype.
        """
        statistics = {
            f"{name}.{buffer}"
            for name, module in self.named_modules()
            if isinstance(module, _BatchNorm)
            for buffer, _ in module.named_buffers(recurse=False)
        }
        exact = {
            name: buffer
            for name, buffer in self.named_buffers()
            if buffer.is_floating_point() and name not in statistics
        }
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            owner, _, attribute = name.rpartition(".")
            cast = self.get_buffer(name)
            if cast.dtype != buffer.dtype:
                setattr(self.get_submodule(owner), attribute, buffer.to(cast.device))
        return self


def supervised_states(hidden_states: Tensor, labels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Select the states that predict a supervised token, and those tokens.

    Args:
        hidden_states: [N, T, D].
        labels: [N, T], IGNORE_INDEX where unsupervised; the state at t predicts the label at t + 1.
        places: [K], from `plum.models.batch_plan.supervised_places`.

    Returns:
        States [K, D] and token ids [K].
    """
    return take_places(hidden_states, places), take_places(labels, places + 1)
