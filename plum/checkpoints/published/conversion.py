"""What every conversion shares: parts of published weights, read one file at a time and written under our names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    OWN_VISION,
    Layout,
    describe_dropped,
    detect_layout,
)
from plum.checkpoints.published.llava_tokenizer import SourceTokenizer
from plum.checkpoints.published.source_files import SourceFiles, find_weight_files, open_weights
from plum.checkpoints.published.survey import (
    NameMap,
    Survey,
    append_rows,
    list_names,
    require_expected,
    survey,
    translate,
)
from plum.checkpoints.store import CARD_FILE, MODEL_STEM, write_folder
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
        where: folder or file, for messages.
        files: where the tensors are.
        own_name: maps a published name to ours.
        published_name: maps our name to the published one, for messages.
        found: what the files hold.
        prefixes: beginnings of the names of the tensors that this part has to provide; empty: all that no other part
            provides.
        adapters: adapters to merge, by our name of their matrix.
        split: our name of a published tensor that is cut along its rows into equal tensors, and their names.
        unbatched: our names of tensors that are published with a leading dimension of 1, which is removed.
    """

    where: str
    files: SourceFiles
    own_name: NameMap
    published_name: NameMap
    found: Survey
    prefixes: tuple[str, ...] = ()
    adapters: Mapping[str, Adapter] = field(default_factory=lambda: MappingProxyType({}))
    split: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    unbatched: frozenset[str] = frozenset()


def survey_part(
    where: Path, files: SourceFiles, own_name: NameMap, published_name: NameMap, prefixes: tuple[str, ...] = ()
) -> Part:
    """Survey weight files under a mapping of names; see `Part`."""
    return Part(str(where), files, own_name, published_name, survey(files, own_name), prefixes)


def require_parts(parts: Sequence[Part], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare every part with the tensors that it has to provide.

    Args:
        parts: the weights.
        expected: names and shapes of all tensors that the parts provide together.

    Raises:
        ValueError: a part lacks a tensor, or has another one or one of another shape; the message uses published names.
    """
    rest = dict(expected)
    for part in sorted(parts, key=lambda part: not part.prefixes):
        own = {name: shape for name, shape in rest.items() if not part.prefixes or name.startswith(part.prefixes)}
        rest = {name: shape for name, shape in rest.items() if name not in own}
        require_expected(part.found, _as_published(part, own), part.where, part.published_name)
    assert not rest, "some part provides what no other does"


def _as_published(part: Part, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return shapes of a part's tensors before they are cut and unbatched."""
    published = {name: (1, *shape) if name in part.unbatched else shape for name, shape in shapes.items()}
    for joint, pieces in part.split.items():
        if pieces[0] in published:
            rows, *rest = [published.pop(piece) for piece in pieces][0]
            published[joint] = (rows * len(pieces), *rest)
    return published


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
    vision_part = survey_part(clip, files, found.own_name, lambda name: name.removeprefix(OWN_VISION), (OWN_VISION,))
    notes = (f"CLIP: from {clip}", *describe_dropped(found.reason_to_drop(name) for name in names))
    return (part, vision_part), vision, notes


@dataclass(frozen=True)
class ConversionPlan:
    """Everything that is determined before anything is written.

    Attributes:
        parts: the weights, checked.
        config: the model's architecture, its vocabulary already grown.
        expected: shapes that the written tensors must have, by our names.
        tokenizer: the checkpoint's.
        notes: what was found and changed.
        card: Markdown, written to README.md.
    """

    parts: tuple[Part, ...]
    config: ModelConfig
    expected: Mapping[str, tuple[int, ...]]
    tokenizer: SourceTokenizer
    notes: tuple[str, ...]
    card: str


@dataclass(frozen=True)
class ConversionResult:
    """What was written: architecture and size, and notes on what was found, changed and left out."""

    config: ModelConfig
    num_tensors: int
    num_bytes: int
    notes: tuple[str, ...]


def write_conversion(
    make_plan: Callable[[], ConversionPlan], destination: Path, max_shard_bytes: int = MAX_SHARD_BYTES
) -> ConversionResult:
    """Check everything, then write a whole folder, one published file in memory at a time.

    Writing is atomic: a temporary folder next to `destination` is written and renamed.

    Args:
        make_plan: reads and checks the sources.
        destination: the folder to write.
        max_shard_bytes: largest file to write.

    Raises:
        FileExistsError: `destination` exists.
    """
    with write_folder(destination) as partial:
        plan = make_plan()
        writer = ShardWriter(partial, MODEL_STEM, max_shard_bytes)
        for name, tensor in own_tensors(plan.parts, plan.config):
            writer.add(name, tensor)
        writer.finish()
        shapes = {name: saved.shape for name, saved in list_tensors(partial, MODEL_STEM).items()}
        assert shapes == dict(plan.expected), "the written folder is not the model's"
        write_model_config(plan.config, partial)
        plan.tokenizer.tokenizer.save_pretrained(str(partial))
        (partial / CARD_FILE).write_text(plan.card, encoding="utf-8")
    return ConversionResult(plan.config, len(shapes), writer.total_bytes, plan.notes)


def own_tensors(parts: Sequence[Part], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor under our name, file by file; embeddings get the rows that `config` has."""
    num_rows = config.language.vocab_size
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
                        yield own, tensor[0] if own in part.unbatched else tensor
                    if config.of_llava.projector == "linear" and own == f"{OWN_PROJECTOR}linear_1.bias":
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
    num_rows = config.language.vocab_size
    grown = num_rows if num_tokens <= num_rows else -(-num_tokens // ROW_MULTIPLE) * ROW_MULTIPLE
    language = replace(config.language, vocab_size=grown)
    return replace(config, llava=replace(config.of_llava, language=language))


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
