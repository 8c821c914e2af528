"""Data structures shared by plum's modules: samples, batches and model outputs.

Shape symbols, used in all docstrings and comments of the package:
B images, N conversations, I the most images of one conversation, T tokens (image patches already expanded), n tokens of
an image, D hidden size of the language model, S spans of one conversation, M spans of a batch (sum of S), C SAM prompt
width, h w SAM embedding grid (64 x 64 at 1024 px), 4h 4w low-resolution masks, H W original image size, K supervised
token positions of a batch, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace

import numpy as np
import torch
from torch import Tensor

from partonomy.structures import RLE, CharSpan

IGNORE_INDEX = -100
"""Label and tag value of positions that all losses ignore."""

TEXT_ONLY = -1
"""Row of an image that a conversation does not have; see `ConversationImages`."""


@dataclass(frozen=True)
class Exchange:
    """One question and its answer; `spans` are the answer's phrases to segment (reading order), aligned with `masks`.

    `images` are the numbers, from 0, of the sample's images that the masks belong to; empty: all to the last one.
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
    images: tuple[int, ...] = ()

    def image_of(self, target: int, num_images: int) -> int:
        """Return which of the conversation's `num_images` images a mask belongs to."""
        return self.images[target] if self.images else num_images - 1


@dataclass(frozen=True)
class Sample:
    """One image or several, with one or more independent conversations about all of them.

    `image` is uint8 RGB (H, W, 3), the first image, or None for text-only samples; `more_images` are the others, in the
    order in which a conversation shows them. `ignore_mask` marks pixels (H, W) of the first image that the mask losses
    ignore. `part_map` is an int64 class map (H, W) of the first image, 0 = background, for the tiny recipe's part
    pretext; None if the source has none.
    """

    sample_id: str
    source: str
    image: np.ndarray | None
    conversations: tuple[tuple[Exchange, ...], ...]
    ignore_mask: np.ndarray | None = None
    part_map: np.ndarray | None = None
    more_images: tuple[np.ndarray, ...] = ()

    @property
    def images(self) -> tuple[np.ndarray, ...]:
        """All images, in the order in which a conversation shows them."""
        return () if self.image is None else (self.image, *self.more_images)


@dataclass(frozen=True)
class SpanPlan:
    """What the host knows about M spans; see `plum.models.batch_plan`.

    made_for: the tensors of the SpanBounds that it describes; a plan of other bounds is ignored
    longest: tokens of the longest span; images: row of each span's image; conversations: each span's conversation
    step_sizes: number of spans that each step of the decoding loop decodes
    order: LongTensor [M], spans in the order in which they are decoded; ranks: LongTensor [M], its inverse
    constrained: LongTensor [R], conversations with spans
    is_constrained: bool [R, longest], which of their tokens lie before the end of their last span
    """

    made_for: tuple[Tensor, ...]
    longest: int
    images: tuple[int, ...]
    conversations: tuple[int, ...]
    step_sizes: tuple[int, ...]
    order: Tensor
    ranks: Tensor
    constrained: Tensor
    is_constrained: Tensor


@dataclass(frozen=True)
class SpanBounds:
    """Token ranges of a batch's spans in the expanded sequence; rows sorted by conversation, then reading order.

    The first four fields are LongTensors [M]; `end` is exclusive; `image` is the row of the image that the span's mask
    belongs to. `plan` is what the host knows about them; None: it has to be found.
    """

    conversation: Tensor
    start: Tensor
    end: Tensor
    image: Tensor
    plan: SpanPlan | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return int(self.conversation.numel())

    @property
    def fields(self) -> tuple[Tensor, ...]:
        """The four bounds."""
        return self.conversation, self.start, self.end, self.image

    @classmethod
    def none(cls, device: torch.device | None = None) -> "SpanBounds":
        """Return the bounds of no span."""
        return cls(*torch.zeros(4, 0, dtype=torch.long, device=device))


@dataclass(frozen=True)
class ImageFrame:
    """Sizes of one image: `original` (H, W) pixels, `resized` (h', w') inside the segmenter's square input.

    SAM pads what is left of the square; SAM 2 stretches images to all of it.
    """

    original: tuple[int, int]
    resized: tuple[int, int]


@dataclass(frozen=True)
class ImageTokens:
    """What the language model reads of B images.

    values [B, n, D]: the embeddings that replace `<image>`, padded at the end where images differ in their number
    details [B, S, E]: features that the language model reads again in its layers (CALICO's X'_global, S tokens of width
        E); None in models that do not
    layers [B, n, k, D]: features that the first k layers add to the states of the same tokens (Qwen3-VL's DeepStack),
        padded as `values`; None in models that do not
    """

    values: Tensor
    details: Tensor | None = None
    layers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, images: Tensor | slice) -> "ImageTokens":
        values, details, layers = (
            None if features is None else features[images] for features in (self.values, self.details, self.layers)
        )
        assert values is not None
        return ImageTokens(values, details, layers)

    @classmethod
    def concatenate(cls, parts: Sequence["ImageTokens"]) -> "ImageTokens":
        """Return the tokens of all images of `parts`, one after the other."""
        details = [part.details for part in parts if part.details is not None]
        layers = [part.layers for part in parts if part.layers is not None]
        return cls(
            _concatenate_ragged([part.values for part in parts]),
            torch.cat(details) if details else None,
            _concatenate_ragged(layers) if layers else None,
        )


@dataclass(frozen=True)
class StockPixels:
    """Images as the image processor of a stock model prepares them, for each image the arguments of its encoder.

    Their number of patches or tiles differs, so each image has its own tensors.
    """

    images: tuple[Mapping[str, Tensor], ...]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device, non_blocking: bool = False) -> "StockPixels":
        """Move to a device."""
        return StockPixels(
            tuple(
                {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in image.items()}
                for image in self.images
            )
        )


Pixels = Tensor | StockPixels
"""Input of a backbone's image encoder: CLIP's squares [B, 3, p, p] (LLaVA), or a stock model's own."""


def _concatenate_ragged(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate [B_i, n_i, ...], padded with zeros to the largest n_i."""
    longest = max(part.shape[1] for part in parts)
    if all(part.shape[1] == longest for part in parts):
        return torch.cat(list(parts))
    whole = [
        torch.cat([part, part.new_zeros(len(part), longest - part.shape[1], *part.shape[2:])], dim=1) for part in parts
    ]
    return torch.cat(whole)


@dataclass(frozen=True)
class ImageEmbeddings:
    """What a segmenter computes once from B images, for any number of masks.

    main [B, C, h, w]: SAM's image embedding
    finer: further maps, those of the highest resolution first; none in SAM. SAM 2: [B, C / 8, 4h, 4w] and
        [B, C / 4, 2h, 2w], or both with C channels before its decoder's convolutions (see `Segmenter.prepare`)
    """

    main: Tensor
    finer: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.main)

    def __getitem__(self, images: Tensor | slice) -> "ImageEmbeddings":
        return ImageEmbeddings(self.main[images], tuple(one[images] for one in self.finer))

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """All maps, `main` first."""
        return (self.main, *self.finer)

    @property
    def nbytes(self) -> int:
        """Size of all maps in bytes."""
        return sum(one.nbytes for one in self.maps)

    @classmethod
    def of_maps(cls, maps: Sequence[Tensor]) -> "ImageEmbeddings":
        """Return the embeddings whose `maps` these are."""
        return cls(maps[0], tuple(maps[1:]))

    @classmethod
    def concatenate(cls, parts: Sequence["ImageEmbeddings"]) -> "ImageEmbeddings":
        """Return the embeddings of all images of `parts`, one after the other."""
        return cls.of_maps([torch.cat(maps) for maps in zip(*(part.maps for part in parts), strict=True)])

    def to(self, device: torch.device) -> "ImageEmbeddings":
        """Move to a device."""
        return ImageEmbeddings.of_maps([one.to(device, non_blocking=True) for one in self.maps])

    def channels_last(self) -> "ImageEmbeddings":
        """Return the same values, laid out pixel by pixel, as mask decoders read them."""
        return ImageEmbeddings.of_maps([one.contiguous(memory_format=torch.channels_last) for one in self.maps])

    def spread(self, rows: Tensor, num_images: int) -> "ImageEmbeddings":
        """Return the embeddings of `num_images` images, of which these are `rows` (LongTensor [B]); zeros elsewhere."""
        nowhere = [one.new_zeros(num_images, *one.shape[1:]) for one in self.maps]
        return ImageEmbeddings.of_maps(
            [zeros.index_copy(0, rows, one) for zeros, one in zip(nowhere, self.maps, strict=True)]
        )


@dataclass(frozen=True)
class KnownEmbeddings:
    """Embeddings of a batch's images in which something is segmented, computed before: U images, by row.

    rows: LongTensor [U], ascending
    """

    embeddings: ImageEmbeddings
    rows: Tensor


@dataclass(frozen=True)
class ConversationImages:
    """The images of N conversations, each in the order in which the conversation shows them.

    rows: LongTensor [N, I], rows of images among the B of a batch; TEXT_ONLY after a conversation's last image
    lengths: number of tokens of each of the B images
    prompt_ends: LongTensor [N], position of the last token of each conversation's first prompt, padding before the
        conversation not counted; only models that read images again under the prompt's guidance (CALICO) need it
    positions: LongTensor [axes, N, T], position of each token in models in whose sequences an image takes up a
        rectangle (M-RoPE: time, row and column); None: a token's position is its index
    """

    rows: Tensor
    lengths: tuple[int, ...]
    prompt_ends: Tensor | None = None
    positions: Tensor | None = None

    @classmethod
    def of_one_image(cls, num_conversations: int, length: int, device: torch.device) -> "ConversationImages":
        """Return the images of conversations that all show the same single image, which has `length` tokens."""
        return cls(torch.zeros(num_conversations, 1, dtype=torch.long, device=device), (length,))

    @classmethod
    def no_image(cls, num_conversations: int, device: torch.device) -> "ConversationImages":
        """Return the images of text-only conversations."""
        return cls(torch.full((num_conversations, 1), TEXT_ONLY, device=device), ())

    def __getitem__(self, conversations: Tensor) -> "ConversationImages":
        ends = None if self.prompt_ends is None else self.prompt_ends[conversations]
        positions = None if self.positions is None else self.positions[:, conversations]
        return ConversationImages(self.rows[conversations], self.lengths, ends, positions)

    def to(self, device: torch.device) -> "ConversationImages":
        """Move to a device."""
        ends, positions = (
            None if tensor is None else tensor.to(device, non_blocking=True)
            for tensor in (self.prompt_ends, self.positions)
        )
        return ConversationImages(self.rows.to(device, non_blocking=True), self.lengths, ends, positions)

    def positions_of(self, input_ids: Tensor) -> Tensor | None:
        """Return the positions [axes, N, T] of tokens [N, T], which may lack the end of the conversations."""
        return None if self.positions is None else self.positions[..., : input_ids.shape[1]]

    def num_tokens(self) -> Tensor:
        """Return the number of image tokens of each conversation, LongTensor [N]."""
        lengths = torch.tensor((*self.lengths, 0), device=self.rows.device)  # TEXT_ONLY, -1, reads the last
        return lengths[self.rows].sum(1)

    def take_tokens(self, image_tokens: Tensor) -> Tensor:
        """Return the tokens of all conversations' images, one after the other.

        Args:
            image_tokens: [B, n, D]; images with fewer than n tokens are padded at the end.

        Returns:
            [K, n, D] of the K images that conversations show; [tokens, D] if some image has fewer than n tokens.
        """
        shown = self.rows[self.rows != TEXT_ONLY]
        tokens = image_tokens[shown]
        if not self._has_padding(image_tokens):
            return tokens
        lengths = torch.tensor(self.lengths, device=shown.device)[shown]
        return tokens[torch.arange(tokens.shape[1], device=shown.device) < lengths[:, None]]

    def _has_padding(self, image_tokens: Tensor) -> bool:
        """Return whether some image has fewer tokens than `image_tokens` [B, n, D] holds of each."""
        return any(length != image_tokens.shape[1] for length in self.lengths)

    def pad_tokens(self, image_tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the tokens of each conversation's images in one row; every conversation has an image.

        Args:
            image_tokens: [B, n, D].

        Returns:
            [N, I * n, D], and which of them are padding, bool [N, I * n]; None: none of them.
        """
        num_rows, num_images = self.rows.shape
        tokens = image_tokens[self.rows.clamp(min=0)].flatten(1, 2)
        if num_images == 1 and not self._has_padding(image_tokens):
            return tokens, None
        lengths = torch.tensor((*self.lengths, 0), device=self.rows.device)[self.rows]  # [N, I]
        order = torch.arange(image_tokens.shape[1], device=self.rows.device)
        return tokens, (order >= lengths[..., None]).flatten(1)


@dataclass(frozen=True)
class TokenPlaces:
    """The places of A tokens among N conversations of T tokens; see `plum.models.batch_plan`.

    index: LongTensor [A], n * T + t, ascending
    queries: LongTensor [N, Q], the positions t of each conversation's chosen tokens, then of others; Q is the largest
        number of chosen tokens of a conversation
    query_index: LongTensor [A], n * Q + q, where the chosen tokens are among the queries
    """

    index: Tensor
    queries: Tensor
    query_index: Tensor


@dataclass(frozen=True)
class BatchPlan:
    """What the host knows about the tokens of a batch; see `plum.models.batch_plan`.

    labels, tags: the tensors of the batch that it describes; a plan of others is ignored
    supervised: LongTensor [K], places n * T + t of the states that predict a supervised token
    tagged: places of the tokens that have a tag
    num_tokens: number of tokens, padding left out
    """

    labels: Tensor
    tags: Tensor
    supervised: Tensor
    tagged: TokenPlaces
    num_tokens: int


@dataclass(frozen=True)
class Batch:
    """Collated samples. Sequences are right-padded.

    input_ids, attention_mask, labels, tags: LongTensor [N, T] (labels and tags: IGNORE_INDEX where unsupervised)
    spans: token ranges of the M phrases to segment
    clip_pixels: B images for the backbone (B may be 0): normalised float32 [B, 3, p, p] (LLaVA; uint8 on their way to a
        device), or a stock model's own
    sam_pixels [U, 3, P, P]: normalised float32 input of the segmenter; uint8 on its way to a device
    sam_rows: LongTensor [U], image row of each entry of sam_pixels: images with something to segment and no cached
        embedding; None: all images
    sam_sizes: LongTensor [U, 2], height and width of each of them inside its square; None: not known
    frames: B image sizes; shown: the images of each conversation
    masks: M bool tensors (H, W) in original-image pixels; ignore_masks: B bool tensors (H, W) or None
    part_maps: LongTensor [B, 4h, 4w], class at each low-resolution mask pixel; IGNORE_INDEX in padding and for images
        without a part map
    image_hashes, cached_embeddings: only with a cache of SAM features, the content hash of each of the B images and the
        embeddings of that one image if the cache has them
    plan: what the host knows about the tokens; None: it has to be found when it is needed, and a device waits for it
    """

    sample_ids: tuple[str, ...]
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    tags: Tensor
    spans: SpanBounds
    clip_pixels: Pixels
    sam_pixels: Tensor
    frames: tuple[ImageFrame, ...]
    shown: ConversationImages
    masks: tuple[Tensor, ...]
    ignore_masks: tuple[Tensor | None, ...]
    part_maps: Tensor
    sam_rows: Tensor | None = None
    sam_sizes: Tensor | None = None
    image_hashes: tuple[str, ...] = ()
    cached_embeddings: tuple[ImageEmbeddings | None, ...] = ()
    plan: BatchPlan | None = None

    def without_spans(self) -> "Batch":
        """Return the batch with nothing to segment; text, tags and SAM's input are kept."""
        return replace(self, spans=SpanBounds.none(self.spans.conversation.device), masks=())

    def without_sam(self) -> "Batch":
        """Return the batch with nothing to segment and no image for SAM."""
        nothing = self.without_spans()
        return replace(nothing, sam_pixels=self.sam_pixels[:0], sam_rows=nothing.spans.conversation)

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor to a device. Training moves all in one copy; see `plum.data.packed_batch`."""
        moved = _move(self, device, {})
        assert isinstance(moved, Batch)
        return moved


def _move(value: object, device: torch.device, moved: dict[int, Tensor]) -> object:
    """Move the tensors in dataclasses, mappings and tuples. A tensor that occurs twice is moved once and stays one."""
    if isinstance(value, Tensor):
        if id(value) not in moved:
            moved[id(value)] = value.to(device, non_blocking=True)
        return moved[id(value)]
    if isinstance(value, tuple):
        return tuple(_move(item, device, moved) for item in value)
    if isinstance(value, Mapping):
        return {name: _move(item, device, moved) for name, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _move(getattr(value, one.name), device, moved) for one in fields(value)})
    return value


@dataclass(frozen=True)
class ImageFeatures:
    """Features of B images, each encoded once by both towers.

    tokens: LLaVA's; embeddings: the segmenter's
    """

    tokens: ImageTokens
    embeddings: ImageEmbeddings


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
