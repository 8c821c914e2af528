"""Collate samples into a batch: images for both towers, padded token rows, phrase positions, full-resolution masks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from partonomy.images import hash_image
from partonomy.masks import decode_mask
from plum.config import ModelConfig
from plum.data.sam_feature_cache import SamFeatureCache
from plum.inputs.encoders import build_encoder
from plum.inputs.encoding import EncodedConversation, EncodedText, ImageSlot
from plum.inputs.image_transforms import ImageInputs, ImageTransform, build_image_transform, grid_classes
from plum.models.backbones.hf import shares_prefixes
from plum.models.batch_plan import plan_batch
from plum.models.systems.registry import build_notation
from plum.models.systems.target_notation import TargetNotation
from plum.structures import (
    IGNORE_INDEX,
    TEXT_ONLY,
    Batch,
    ConversationImages,
    ImageEmbeddings,
    ImageFrame,
    Sample,
    SpanBounds,
)
from plum.train_config import DataConfig


@dataclass(frozen=True)
class TokenRows:
    """Right-padded rows, each LongTensor [N, T], their phrases, and where the first prompts end, LongTensor [N].

    positions: LongTensor [axes, N, T]; None: a token's position is its index
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    tags: Tensor
    spans: SpanBounds
    prompt_ends: Tensor
    positions: Tensor | None


class Collator:
    """Builds batches; one per run, picklable for loader processes."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: ModelConfig,
        data: DataConfig,
        sam_features: SamFeatureCache | None = None,
    ) -> None:
        assert tokenizer.pad_token_id is not None, "load the tokenizer with plum.inputs.tokenizer.load_tokenizer"
        self.pad_id = int(tokenizer.pad_token_id)
        self.encoder = build_encoder(model, tokenizer, data.max_text_tokens)
        self.notation = build_notation(model)
        self.transform = build_image_transform(model, tokenizer)
        # A model that runs every conversation by itself needs no common layout of them.
        self.special_tokens = model.backbone.special_tokens if shares_prefixes(model.backbone) else None
        adaptation = None if model.calico is None else model.calico.adaptation
        self.is_guided = adaptation is not None and adaptation.follows_prompt
        self.has_teacher = model.lora is not None and model.seg_token is None
        self.sam_features = sam_features

    def sending_bytes(self) -> "Collator":
        """Return this collator with images as uint8; `ImageTransform.normalise` normalises them on their device."""
        collator = copy.copy(self)
        collator.transform = replace(self.transform, as_bytes=True)
        return collator

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples.

        Args:
            samples: one or more, each with at least one conversation.

        Raises:
            ValueError: masks or maps differ in size from the image, masks do not pair with phrases, a phrase falls on
                no token, or a conversation is too long; the message names the sample.
        """
        for sample in samples:
            check_sample(sample)
        samples = [write_targets(sample, self.notation) for sample in samples]
        pictures = [_Picture(sample, number) for sample in samples for number in range(len(sample.images))]
        hashes = self._hash_images(pictures)
        is_segmented = [picture.is_segmented for picture in pictures]
        known = self._find_embeddings(hashes, is_segmented)
        sam_rows = [i for i, asked in enumerate(is_segmented) if asked and (not known or known[i] is None)]
        inputs = [self.transform(picture.image, for_sam=i in sam_rows) for i, picture in enumerate(pictures)]
        slots = [one.slot or self.encoder.slot() for one in inputs]
        rows = self._encode(samples, slots)
        tokens = pad_rows(rows, self.pad_id, _images_of_targets(samples))
        masks = [mask for sample in samples for row in sample.conversations for item in row for mask in item.masks]
        batch = Batch(
            sample_ids=tuple(sample.sample_id for sample in samples),
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            labels=tokens.labels,
            tags=tokens.tags,
            spans=tokens.spans,
            clip_pixels=self.transform.stack(inputs),
            sam_pixels=stack_pixels(
                [one.sam_pixels for one in inputs if one.sam_pixels is not None], self.transform.sam_size
            ),
            frames=tuple(one.frame for one in inputs),
            shown=ConversationImages(
                _rows_of_images(samples), tuple(slot.num_tokens for slot in slots), tokens.prompt_ends, tokens.positions
            ),
            masks=tuple(torch.from_numpy(decode_mask(mask)) for mask in masks),
            ignore_masks=tuple(_to_tensor(picture.ignore_mask) for picture in pictures),
            part_maps=_part_maps(pictures, inputs, self.transform),
            sam_rows=torch.tensor(sam_rows, dtype=torch.long),
            sam_sizes=torch.tensor([inputs[row].frame.resized for row in sam_rows], dtype=torch.long).view(-1, 2),
            image_hashes=hashes,
            cached_embeddings=known,
        )
        is_guided, has_teacher = self.is_guided, self.has_teacher
        return plan_batch(batch, self.special_tokens, by_prompt=is_guided, has_teacher=has_teacher)

    def _encode(self, samples: Sequence[Sample], slots: Sequence[ImageSlot]) -> list[EncodedConversation]:
        """Encode all conversations; `slots` are those of all samples' images, one after the other."""
        rows: list[EncodedConversation] = []
        first = 0
        for sample in samples:
            own = slots[first : first + len(sample.images)]
            first += len(own)
            rows += [self.encoder.encode(one, own, name=sample.sample_id) for one in sample.conversations]
        return rows

    def _hash_images(self, pictures: Sequence["_Picture"]) -> tuple[str, ...]:
        if self.sam_features is None:
            return ()
        return tuple(hash_image(picture.image) for picture in pictures)

    def _find_embeddings(
        self, hashes: Sequence[str], is_segmented: Sequence[bool]
    ) -> tuple[ImageEmbeddings | None, ...]:
        if self.sam_features is None:
            return ()
        get = self.sam_features.get
        return tuple(get(digest) if asked else None for digest, asked in zip(hashes, is_segmented, strict=True))


@dataclass(frozen=True)
class _Picture:
    """Image `number` of a sample."""

    sample: Sample
    number: int

    @property
    def image(self) -> np.ndarray:
        return self.sample.images[self.number]

    @property
    def ignore_mask(self) -> np.ndarray | None:
        return None if self.number else self.sample.ignore_mask

    @property
    def part_map(self) -> np.ndarray | None:
        return None if self.number else self.sample.part_map

    @property
    def is_segmented(self) -> bool:
        """Whether SAM has to encode the image, for a phrase or for the tiny recipe's part pretext."""
        return self.part_map is not None or any(
            exchange.image_of(target, len(self.sample.images)) == self.number
            for conversation in self.sample.conversations
            for exchange in conversation
            for target in range(len(exchange.masks))
        )


def check_sample(sample: Sample) -> None:
    """Check what the encoder cannot see.

    Raises:
        ValueError: the sample has no conversation, masks without an image, masks that do not pair with its phrases, or
            a mask or map that differs in size from its image, or an image that the sample lacks; the message names the
            sample.
    """
    where = f"{sample.sample_id} ({sample.source})"
    if not sample.conversations:
        raise ValueError(f"{where}: the sample has no conversation")
    sizes = [image.shape[:2] for image in sample.images]
    for exchange in (exchange for conversation in sample.conversations for exchange in conversation):
        if len(exchange.spans) != len(exchange.masks):
            raise ValueError(
                f"{where}: the answer {exchange.answer!r} has {len(exchange.spans)} phrases and "
                f"{len(exchange.masks)} masks"
            )
        if exchange.masks and not sizes:
            raise ValueError(f"{where}: the answer {exchange.answer!r} has masks but the sample has no image")
        if exchange.images and len(exchange.images) != len(exchange.masks):
            raise ValueError(
                f"{where}: the answer {exchange.answer!r} has {len(exchange.masks)} masks and names the images of "
                f"{len(exchange.images)}"
            )
        for target, mask in enumerate(exchange.masks):
            number = exchange.image_of(target, len(sizes))
            if not 0 <= number < len(sizes):
                raise ValueError(
                    f"{where}: a mask of the answer {exchange.answer!r} belongs to image {number} (from 0), but the "
                    f"sample has {len(sizes)} images"
                )
            _check_size(where, "a mask", (mask.height, mask.width), sizes[number])
    for what, array in (("the ignore mask", sample.ignore_mask), ("the part map", sample.part_map)):
        if array is not None:
            _check_size(where, what, array.shape, sizes[0] if sizes else None)


def write_targets(sample: Sample, notation: TargetNotation) -> Sample:
    """Write a sample's answers in the system's notation, with one mask per target.

    Raises:
        ValueError: the sample's text holds a mark of the notation; the message names the sample.
    """
    try:
        conversations = tuple(
            tuple(notation.write(exchange).exchange for exchange in conversation)
            for conversation in sample.conversations
        )
    except ValueError as error:
        raise ValueError(f"{sample.sample_id} ({sample.source}): {error}") from error
    return replace(sample, conversations=conversations)


def pad_rows(rows: Sequence[EncodedConversation], pad_id: int, images: Sequence[int] = ()) -> TokenRows:
    """Pad encoded conversations on the right.

    Args:
        rows: N conversations.
        pad_id: id of padding.
        images: row of each span's image, spans of all conversations one after the other; empty: there is no span.
    """
    length = max(len(row.labels) for row in rows)
    spans = [(n, span.start, span.end) for n, row in enumerate(rows) for span in row.spans]
    bounds = [(*span, image) for span, image in zip(spans, images, strict=True)]
    return TokenRows(
        input_ids=_padded([row.encoded.input_ids for row in rows], length, pad_id),
        attention_mask=_padded([(1,) * len(row.labels) for row in rows], length, 0),
        labels=_padded([row.labels for row in rows], length, IGNORE_INDEX),
        tags=_padded([row.tags for row in rows], length, IGNORE_INDEX),
        spans=SpanBounds(*torch.tensor(bounds, dtype=torch.long).reshape(-1, 4).T.contiguous()),
        prompt_ends=torch.tensor([row.encoded.prompt_end for row in rows], dtype=torch.long),
        positions=pad_positions([row.encoded for row in rows]),
    )


def stack_pixels(pixels: Sequence[Tensor], size: int) -> Tensor:
    """Stack the inputs of one tower to [B, 3, size, size]; B may be 0."""
    return torch.stack(list(pixels)) if pixels else torch.zeros(0, 3, size, size)


def pad_positions(rows: Sequence[EncodedText]) -> Tensor | None:
    """Return the positions of rows padded on the right, [axes, N, T]; None: a token's position is its index."""
    length = max(len(row.input_ids) for row in rows)
    found = [row.positions() for row in rows]
    known = [positions for positions in found if positions is not None]
    if not known:
        return None
    padded = [np.pad(positions, ((0, 0), (0, length - positions.shape[1]))) for positions in known]
    return torch.from_numpy(np.stack(padded, axis=1))


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


def _check_size(where: str, what: str, found: tuple[int, ...], size: tuple[int, ...] | None) -> None:
    if found != size:
        expected = "no image" if size is None else f"an image of {size[0]} x {size[1]}"
        raise ValueError(f"{where}: {what} is {found[0]} x {found[1]} (height x width) on {expected}")


def _rows_of_images(samples: Sequence[Sample]) -> Tensor:
    """Return the rows [N, I] of each conversation's images among the images of the batch."""
    most = max(1, *(len(sample.images) for sample in samples))
    rows: list[list[int]] = []
    first = 0
    for sample in samples:
        own = range(first, first + len(sample.images))
        rows += [[*own, *[TEXT_ONLY] * (most - len(own))]] * len(sample.conversations)
        first += len(own)
    return torch.tensor(rows, dtype=torch.long)


def _images_of_targets(samples: Sequence[Sample]) -> list[int]:
    """Return the row of each target's image among the images of the batch."""
    rows: list[int] = []
    first = 0
    for sample in samples:
        rows += [
            first + exchange.image_of(target, len(sample.images))
            for conversation in sample.conversations
            for exchange in conversation
            for target in range(len(exchange.spans))
        ]
        first += len(sample.images)
    return rows


def _to_tensor(mask: np.ndarray | None) -> Tensor | None:
    return None if mask is None else torch.from_numpy(np.ascontiguousarray(mask, dtype=bool))


def _part_maps(pictures: Sequence[_Picture], inputs: Sequence[ImageInputs], transform: ImageTransform) -> Tensor:
    n = transform.mask_size
    maps = [_part_map(picture.part_map, one.frame, transform) for picture, one in zip(pictures, inputs, strict=True)]
    return torch.stack(maps) if maps else torch.zeros(0, n, n, dtype=torch.long)


def _part_map(part_map: np.ndarray | None, frame: ImageFrame, transform: ImageTransform) -> Tensor:
    if part_map is None:
        return torch.full((transform.mask_size, transform.mask_size), IGNORE_INDEX, dtype=torch.long)
    return grid_classes(part_map, frame, transform)
