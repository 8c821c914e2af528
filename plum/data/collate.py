"""Collate samples into a batch: images for both towers, padded token rows, phrase positions, full-resolution masks."""

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
from plum.inputs.encoding import ConversationEncoder, EncodedConversation
from plum.inputs.image_transforms import ImageInputs, ImageTransform, build_image_transform, grid_classes
from plum.models.systems.registry import build_notation
from plum.models.systems.target_notation import TargetNotation
from plum.structures import IGNORE_INDEX, TEXT_ONLY, Batch, ImageFrame, Sample, SpanBounds
from plum.train_config import DataConfig


@dataclass(frozen=True)
class TokenRows:
    """Right-padded rows, each LongTensor [N, T], and their phrases."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    tags: Tensor
    spans: SpanBounds


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
        self.encoder = ConversationEncoder(
            tokenizer, model.llava.conversation, model.llava.vision.num_image_tokens, data.max_text_tokens
        )
        self.notation = build_notation(model)
        self.transform = build_image_transform(model)
        self.sam_features = sam_features

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
        rows = [
            self.encoder.encode(conversation, has_image=sample.image is not None, name=sample.sample_id)
            for sample in samples
            for conversation in sample.conversations
        ]
        tokens = pad_rows(rows, self.pad_id)
        pictured = [sample for sample in samples if sample.image is not None]
        hashes = self._hash_images(pictured)
        is_segmented = [_is_segmented(sample) for sample in pictured]
        known = self._find_embeddings(hashes, is_segmented)
        sam_rows = [i for i, asked in enumerate(is_segmented) if asked and (not known or known[i] is None)]
        inputs = [
            self.transform(sample.image, for_sam=i in sam_rows)
            for i, sample in enumerate(pictured)
            if sample.image is not None
        ]
        masks = [mask for sample in samples for row in sample.conversations for item in row for mask in item.masks]
        return Batch(
            sample_ids=tuple(sample.sample_id for sample in samples),
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            labels=tokens.labels,
            tags=tokens.tags,
            spans=tokens.spans,
            clip_pixels=stack_pixels([one.clip_pixels for one in inputs], self.transform.clip_size),
            sam_pixels=stack_pixels(
                [one.sam_pixels for one in inputs if one.sam_pixels is not None], self.transform.sam_size
            ),
            frames=tuple(one.frame for one in inputs),
            image_index=_image_index(samples),
            masks=tuple(torch.from_numpy(decode_mask(mask)) for mask in masks),
            ignore_masks=tuple(_to_tensor(sample.ignore_mask) for sample in pictured),
            part_maps=_part_maps(pictured, inputs, self.transform),
            sam_rows=torch.tensor(sam_rows, dtype=torch.long),
            image_hashes=hashes,
            cached_embeddings=known,
        )

    def _hash_images(self, pictured: Sequence[Sample]) -> tuple[str, ...]:
        if self.sam_features is None:
            return ()
        return tuple(hash_image(sample.image) for sample in pictured if sample.image is not None)

    def _find_embeddings(self, hashes: Sequence[str], is_segmented: Sequence[bool]) -> tuple[Tensor | None, ...]:
        if self.sam_features is None:
            return ()
        get = self.sam_features.get
        return tuple(get(digest) if asked else None for digest, asked in zip(hashes, is_segmented, strict=True))


def _is_segmented(sample: Sample) -> bool:
    """Return whether SAM has to encode the sample's image, for a phrase or for the tiny recipe's part pretext."""
    return sample.part_map is not None or any(item.masks for row in sample.conversations for item in row)


def check_sample(sample: Sample) -> None:
    """Check what the encoder cannot see.

    Raises:
        ValueError: the sample has no conversation, masks without an image, masks that do not pair with its phrases, or
            a mask or map that differs in size from the image; the message names the sample.
    """
    where = f"{sample.sample_id} ({sample.source})"
    if not sample.conversations:
        raise ValueError(f"{where}: the sample has no conversation")
    size = None if sample.image is None else sample.image.shape[:2]
    for exchange in (exchange for conversation in sample.conversations for exchange in conversation):
        if len(exchange.spans) != len(exchange.masks):
            raise ValueError(
                f"{where}: the answer {exchange.answer!r} has {len(exchange.spans)} phrases and "
                f"{len(exchange.masks)} masks"
            )
        if exchange.masks and size is None:
            raise ValueError(f"{where}: the answer {exchange.answer!r} has masks but the sample has no image")
        for mask in exchange.masks:
            _check_size(where, "a mask", (mask.height, mask.width), size)
    for what, array in (("the ignore mask", sample.ignore_mask), ("the part map", sample.part_map)):
        if array is not None:
            _check_size(where, what, array.shape, size)


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


def pad_rows(rows: Sequence[EncodedConversation], pad_id: int) -> TokenRows:
    """Pad encoded conversations on the right."""
    length = max(len(row.labels) for row in rows)
    spans = [(n, span.start, span.end) for n, row in enumerate(rows) for span in row.spans]
    bounds = torch.tensor(spans, dtype=torch.long).reshape(-1, 3)
    return TokenRows(
        input_ids=_padded([row.encoded.input_ids for row in rows], length, pad_id),
        attention_mask=_padded([(1,) * len(row.labels) for row in rows], length, 0),
        labels=_padded([row.labels for row in rows], length, IGNORE_INDEX),
        tags=_padded([row.tags for row in rows], length, IGNORE_INDEX),
        spans=SpanBounds(bounds[:, 0].contiguous(), bounds[:, 1].contiguous(), bounds[:, 2].contiguous()),
    )


def stack_pixels(pixels: Sequence[Tensor], size: int) -> Tensor:
    """Stack the inputs of one tower to [B, 3, size, size]; B may be 0."""
    return torch.stack(list(pixels)) if pixels else torch.zeros(0, 3, size, size)


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


def _check_size(where: str, what: str, found: tuple[int, ...], size: tuple[int, ...] | None) -> None:
    if found != size:
        expected = "no image" if size is None else f"an image of {size[0]} x {size[1]}"
        raise ValueError(f"{where}: {what} is {found[0]} x {found[1]} (height x width) on {expected}")


def _image_index(samples: Sequence[Sample]) -> Tensor:
    """Return the row of each conversation's image among the images of the batch."""
    index: list[int] = []
    image = 0
    for sample in samples:
        index += [TEXT_ONLY if sample.image is None else image] * len(sample.conversations)
        image += sample.image is not None
    return torch.tensor(index, dtype=torch.long)


def _to_tensor(mask: np.ndarray | None) -> Tensor | None:
    return None if mask is None else torch.from_numpy(np.ascontiguousarray(mask, dtype=bool))


def _part_maps(samples: Sequence[Sample], inputs: Sequence[ImageInputs], transform: ImageTransform) -> Tensor:
    n = transform.mask_size
    maps = [_part_map(sample.part_map, one.frame, transform) for sample, one in zip(samples, inputs, strict=True)]
    return torch.stack(maps) if maps else torch.zeros(0, n, n, dtype=torch.long)


def _part_map(part_map: np.ndarray | None, frame: ImageFrame, transform: ImageTransform) -> Tensor:
    if part_map is None:
        return torch.full((transform.mask_size, transform.mask_size), IGNORE_INDEX, dtype=torch.long)
    return grid_classes(part_map, frame, transform)
