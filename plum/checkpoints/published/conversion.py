"""What every conversion shares: parts of published weights, read one file at a time and written under our names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from plum.checkpoints.model_config_io import write_model_config
from plum.checkpoints.published.llava_config import SourceConfig, read_clip_config, vision_from_shapes
from plum.checkpoints.published.llava_keys import (
    CLIP_LAYOUTS,
    EMBEDDING,
    HEAD,
    OWN_PROJECTOR,
    Layout,
    describe_dropped,
    detect_layout,
)
from plum.checkpoints.published.llava_tokenizer import SourceTokenizer
from plum.checkpoints.published.source_files import SourceFiles, find_weight_files, open_weights
from plum.checkpoints.published.survey import NameMap, Survey, append_rows, list_names, survey, translate
from plum.checkpoints.store import CARD_FILE, MODEL_STEM
from plum.checkpoints.weights import MAX_SHARD_BYTES, ShardWriter, list_tensors
from plum.config import ModelConfig, VisionConfig

ROW_MULTIPLE = 64
"""A vocabulary that has to grow is padded to a multiple of this, as llava-hf's was (32000 to 32064)."""


@dataclass(frozen=True)
class Adapter:
    """A low-rank change of a matrix: scale * up @ down, down [r, in], up [out, r]."""

    down: Tensor
    up: Tensor
    scale: float

    def merge(self, weight: Tensor) -> Tensor:
        """Return the changed matrix [out, in], summed in float32."""
        return weight.float() + (self.up.float() @ self.down.float()) * self.scale


@dataclass(frozen=True)
class Part:
    """Weight files, the mapping of their names, and their content.

    Attributes:
        files: where the tensors are.
        own_name: maps a published name to ours.
        found: what the files hold.
        adapters: adapters to merge, by our name of their matrix.
        split: our name of a published tensor that is cut along its rows into equal tensors, and their names.
    """

    files: SourceFiles
    own_name: NameMap
    found: Survey
    adapters: Mapping[str, Adapter] = field(default_factory=lambda: MappingProxyType({}))
    split: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))


def survey_part(files: SourceFiles, own_name: NameMap) -> Part:
    """Survey weight files under a mapping of names."""
    return Part(files, own_name, survey(files, own_name))


def find_vision(
    clip: Path | None, folder: Path, source: SourceConfig, layout: Layout, part: Part
) -> tuple[tuple[Part, ...], VisionConfig, tuple[str, ...]]:
    """Find CLIP inside a checkpoint or in its own folder.

    Args:
        clip: folder of CLIP, or None.
        folder: the checkpoint, for messages.
        source: its configuration.
        layout: its names.
        part: its weights.

    Returns:
        The parts so far, CLIP's sizes, and notes on where its weights are from and what of its folder is left out.

    Raises:
        ValueError: CLIP is missing, given twice, or another one than the checkpoint was trained with.
    """
    if layout.has_vision:
        if clip is not None:
            raise ValueError(f"{folder} holds its own CLIP weights: omit --clip")
        vision = source.vision or vision_from_shapes(part.found.shapes, source.select_layer)
        return (part,), vision, ("CLIP: from the LLaVA checkpoint",)
    if clip is None:
        name = source.vision_name or "openai/clip-vit-large-patch14"
        raise ValueError(f"{folder} holds no CLIP weights: give --clip FOLDER, a download of {name}")
    vision = read_clip_config(clip, source.select_layer)
    named_336 = "336" in source.vision_name
    if source.vision_name and named_336 != (vision.image_size == 336):
        raise ValueError(
            f"{source.path} was trained with {source.vision_name}, but {clip} is a CLIP for "
            f"{vision.image_size} px: give the folder of {source.vision_name}"
        )
    files = find_weight_files(clip)
    names = list_names(files)
    found = detect_layout(names, CLIP_LAYOUTS, str(clip))
    notes = (f"CLIP: from {clip}", *describe_dropped(found.reason_to_drop(name) for name in names))
    return (part, survey_part(files, found.own_name)), vision, notes


def write_conversion(
    partial: Path,
    parts: Sequence[Part],
    config: ModelConfig,
    *,
    expected: Mapping[str, tuple[int, ...]],
    tokenizer: SourceTokenizer,
    card: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> tuple[int, int]:
    """Write a whole folder from checked parts, one published file in memory at a time.

    Args:
        partial: the empty folder to write.
        parts: the weights.
        config: the model's architecture, its vocabulary already grown.
        expected: shapes that the written tensors must have, by our names.
        tokenizer: the checkpoint's.
        card: Markdown, written to README.md.
        max_shard_bytes: largest file to write.

    Returns:
        Numbers of tensors and of bytes.
    """
    writer = ShardWriter(partial, MODEL_STEM, max_shard_bytes)
    for name, tensor in own_tensors(parts, config):
        writer.add(name, tensor)
    writer.finish()
    shapes = {name: saved.shape for name, saved in list_tensors(partial, MODEL_STEM).items()}
    assert shapes == dict(expected), "the written folder is not the model's"
    write_model_config(config, partial)
    tokenizer.tokenizer.save_pretrained(str(partial))
    (partial / CARD_FILE).write_text(card, encoding="utf-8")
    return len(shapes), writer.total_bytes


def own_tensors(parts: Sequence[Part], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor under our name, file by file; embeddings get the rows that `config` has."""
    num_rows = config.llava.language.vocab_size
    for part in parts:
        for path in part.files.files:
            with open_weights(path) as file:
                for name in file.names:
                    own = translate(part.own_name, name, path)
                    if own is None:
                        continue
                    tensor = file.read(name)
                    if own in part.adapters:
                        tensor = part.adapters[own].merge(tensor)
                    if own in (EMBEDDING, HEAD) and len(tensor) < num_rows:
                        tensor = append_rows(tensor, num_rows)
                    if pieces := part.split.get(own):
                        yield from zip(pieces, tensor.chunk(len(pieces)), strict=True)
                    else:
                        yield own, tensor
                    if config.llava.projector == "linear" and own == f"{OWN_PROJECTOR}linear_1.bias":
                        yield from _identity(len(tensor), tensor.dtype)


def is_identity(name: str) -> bool:
    """Return whether a tensor is of the second projector layer, which LLaVA v1 lacks."""
    return name.startswith(f"{OWN_PROJECTOR}linear_2.")


def _identity(size: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield the second projector layer, which replaces LLaVA v1's missing one (see `build_llava`)."""
    yield f"{OWN_PROJECTOR}linear_2.weight", torch.eye(size, dtype=dtype)
    yield f"{OWN_PROJECTOR}linear_2.bias", torch.zeros(size, dtype=dtype)


def grow_vocabulary(config: ModelConfig, num_tokens: int) -> ModelConfig:
    """Return the configuration with enough embedding rows for a tokenizer."""
    num_rows = config.llava.language.vocab_size
    grown = num_rows if num_tokens <= num_rows else -(-num_tokens // ROW_MULTIPLE) * ROW_MULTIPLE
    language = replace(config.llava.language, vocab_size=grown)
    return replace(config, llava=replace(config.llava, language=language))


def vocabulary_notes(tokenizer: SourceTokenizer, num_rows: int, grown: int) -> tuple[str, ...]:
    """Say which tokens and rows were added."""
    ids = tokenizer.tokenizer.get_vocab()
    tokens = ", ".join(f"{token} = {ids[token]}" for token in tokenizer.added_tokens)
    notes = [f"Tokens added: {tokens or 'none'}"]
    if grown > num_rows:
        notes.append(f"Embedding rows appended: {num_rows} to {grown - 1}, each the mean of the others")
    if grown > len(tokenizer.tokenizer):
        notes.append(f"Rows without a token, never generated by the model: {len(tokenizer.tokenizer)} to {grown - 1}")
    return tuple(notes)
