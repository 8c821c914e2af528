"""Data structures shared by plum's modules: samples, batches and model outputs.

Shape symbols, used in all docstrings and comments of the package:
B images, N conversations, T tokens (image patches already expanded), D hidden size of the language model, S spans of
one conversation, M spans of a batch (sum of S), C SAM prompt width, h w SAM embedding grid (64 x 64 at 1024 px),
4h 4w low-resolution masks, H W original image size, K supervised token positions of a batch, V vocabulary.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from partonomy.structures import RLE, CharSpan

IGNORE_INDEX = -100
"""Label and tag value of positions that all losses ignore."""

TEXT_ONLY = -1
"""`Batch.image_index` of a conversation without an image."""


@dataclass(frozen=True)
class Exchange:
    """One question and its answer; `spans` are the answer's phrases to segment (reading order), aligned with `masks`.

    `is_tagged=False` excludes the answer from the BIO loss (VQA answers whose nouns have no masks). With `is_marked`
    the spans are the places of the system's own marks, such as [SEG], instead of phrases; their text is only a
    place-holder, and systems without marks cannot write the answer.
    """

    question: str
    answer: str
    spans: tuple[CharSpan, ...] = ()
    masks: tuple[RLE, ...] = ()
    is_tagged: bool = True
    is_marked: bool = False


@dataclass(frozen=True)
class Sample:
    """One image with one or more independent conversations about it.

    `image` is uint8 RGB (H, W, 3) or None for text-only samples; `ignore_mask` marks pixels (H, W) that the mask losses
    ignore. `part_map` is an int64 class map (H, W), 0 = background, for the tiny recipe's part pretext; None if the
    source has none.
    """

    sample_id: str
    source: str
    image: np.ndarray | None
    conversations: tuple[tuple[Exchange, ...], ...]
    ignore_mask: np.ndarray | None = None
    part_map: np.ndarray | None = None


@dataclass(frozen=True)
class SpanBounds:
    """Token ranges of a batch's spans in the expanded sequence; rows sorted by conversation, then reading order.

    Each field is a LongTensor [M]; `end` is exclusive.
    """

    conversation: Tensor
    start: Tensor
    end: Tensor

    def __len__(self) -> int:
        return int(self.conversation.numel())

    def to(self, device: torch.device) -> "SpanBounds":
        """Move to a device."""
        return SpanBounds(self.conversation.to(device), self.start.to(device), self.end.to(device))


@dataclass(frozen=True)
class ImageFrame:
    """Sizes of one image: `original` (H, W) pixels, `resized` (h', w') inside SAM's padded square input."""

    original: tuple[int, int]
    resized: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Collated samples. Sequences are right-padded.

    input_ids, attention_mask, labels, tags: LongTensor [N, T] (labels and tags: IGNORE_INDEX where unsupervised)
    spans: token ranges of the M phrases to segment
    clip_pixels [B, 3, p, p], sam_pixels [U, 3, P, P]: normalised float32 inputs of the two towers (B may be 0)
    sam_rows: LongTensor [U], image row of each entry of sam_pixels: images with something to segment and no cached
        embedding; None: all images
    frames: B image sizes; image_index: LongTensor [N], row of the conversation's image or TEXT_ONLY
    masks: M bool tensors (H, W) in original-image pixels; ignore_masks: B bool tensors (H, W) or None
    part_maps: LongTensor [B, 4h, 4w], class at each low-resolution mask pixel; IGNORE_INDEX in padding and for images
        without a part map
    image_hashes, cached_embeddings: only with a cache of SAM features, the content hash of each of the B images and its
        embedding [C, h, w] if the cache has it
    """

    sample_ids: tuple[str, ...]
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    tags: Tensor
    spans: SpanBounds
    clip_pixels: Tensor
    sam_pixels: Tensor
    frames: tuple[ImageFrame, ...]
    image_index: Tensor
    masks: tuple[Tensor, ...]
    ignore_masks: tuple[Tensor | None, ...]
    part_maps: Tensor
    sam_rows: Tensor | None = None
    image_hashes: tuple[str, ...] = ()
    cached_embeddings: tuple[Tensor | None, ...] = ()

    def without_spans(self) -> "Batch":
        """Return the batch with nothing to segment; text, tags and SAM's input are kept."""
        nothing = self.spans.conversation[:0]
        return replace(self, spans=SpanBounds(nothing, nothing, nothing), masks=())

    def without_sam(self) -> "Batch":
        """Return the batch with nothing to segment and no image for SAM."""
        nothing = self.image_index[:0]
        return replace(self.without_spans(), sam_pixels=self.sam_pixels[:0], sam_rows=nothing)

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor to a device."""
        return Batch(
            sample_ids=self.sample_ids,
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            tags=self.tags.to(device, non_blocking=True),
            spans=self.spans.to(device),
            clip_pixels=self.clip_pixels.to(device, non_blocking=True),
            sam_pixels=self.sam_pixels.to(device, non_blocking=True),
            frames=self.frames,
            image_index=self.image_index.to(device, non_blocking=True),
            masks=tuple(mask.to(device, non_blocking=True) for mask in self.masks),
            ignore_masks=tuple(None if mask is None else mask.to(device) for mask in self.ignore_masks),
            part_maps=self.part_maps.to(device, non_blocking=True),
            sam_rows=None if self.sam_rows is None else self.sam_rows.to(device, non_blocking=True),
            image_hashes=self.image_hashes,
            cached_embeddings=tuple(
                None if embedding is None else embedding.to(device, non_blocking=True)
                for embedding in self.cached_embeddings
            ),
        )


@dataclass(frozen=True)
class ImageFeatures:
    """Features of B images, each encoded once by both towers.

    tokens [B, image tokens, D]: LLaVA's; embeddings [B, C, h, w]: SAM's
    """

    tokens: Tensor
    embeddings: Tensor


@dataclass(frozen=True)
class TagChain:
    """What links the tags of A tokens under a linear-chain CRF with C classes.

    sequence: LongTensor [A], number of the sequence that each token belongs to; a sequence's tokens are adjacent and in
        order
    start [C], end [C]: scores of a sequence's first and last class
    transitions [C, C]: scores of a class (row) followed by another (column)
    """

    sequence: Tensor
    start: Tensor
    transitions: Tensor
    end: Tensor


@dataclass(frozen=True)
class GroundedOutput:
    """Output of one forward pass of the model.

    hidden_states [N, T, D]: last layer, after the final norm
    token_logits [K, V], token_labels [K]: next-token logits at supervised positions only
    tag_logits [A, 3], tag_labels [A]: at the A tokens with a tag only, in the order of plum.inputs.bio_labels.Tag;
        tag_logits is None without a tagger, and [A, 2] in the binary scheme, whose labels are BIO tags too
    images: both towers' features of the B images
    mask_logits [M, 4h, 4w]: low resolution, in the frame of SAM's padded input
    teacher_states [N, T, D] or None: hidden states with the adapters off; zeros after each conversation's last span
    tag_chain: None without a CRF; its tokens are those of tag_logits
    """

    hidden_states: Tensor
    token_logits: Tensor
    token_labels: Tensor
    tag_logits: Tensor | None
    tag_labels: Tensor
    images: ImageFeatures
    mask_logits: Tensor
    teacher_states: Tensor | None = None
    tag_chain: TagChain | None = None


@dataclass(frozen=True)
class LossTerms:
    """Named, unweighted losses (scalars, float32). None: the term is off in this run; 0: nothing to supervise."""

    language: Tensor
    bio: Tensor | None
    mask_overlap: Tensor
    mask_bce: Tensor
    kl: Tensor | None = None
