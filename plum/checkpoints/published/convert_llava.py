"""Converts published LLaVA and SAM weights to one saved folder that training starts from (`init_from`).

The folder does not contain PLUM's own heads: a run initialises them from its seed and reports it. Weights keep their
dtypes and pass through memory one shard at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from plum.checkpoints.model_config_io import describe_differences, write_model_config
from plum.checkpoints.published.llava_config import (
    SourceConfig,
    build_llava_config,
    choose_conversation,
    choose_fit,
    read_clip_config,
    read_source_config,
    vision_from_shapes,
)
from plum.checkpoints.published.llava_keys import (
    CLIP_LAYOUTS,
    EMBEDDING,
    HEAD,
    LAYOUTS,
    OWN_PROJECTOR,
    OWN_VISION,
    Layout,
    detect_layout,
)
from plum.checkpoints.published.llava_tokenizer import SourceTokenizer, read_source_tokenizer, require_image_delimiters
from plum.checkpoints.published.sam_weights import own_sam_name, read_sam_config, variant_name
from plum.checkpoints.published.source_files import SourceFiles, find_weight_files, open_weights
from plum.checkpoints.published.survey import (
    NameMap,
    Survey,
    append_rows,
    list_names,
    refuse_delta,
    require_expected,
    survey,
    translate,
)
from plum.checkpoints.store import CARD_FILE, MODEL_STEM, write_folder
from plum.checkpoints.weights import MAX_SHARD_BYTES, ShardWriter, list_tensors
from plum.config import Fit, LlavaConfig, ModelConfig, SamConfig, VisionConfig
from plum.inputs.conversation import TemplateName
from plum.models.backbones.llava import build_llava
from plum.models.segmenters.sam import build_sam
from plum.models.systems.special_tokens import with_special_tokens

ROW_MULTIPLE = 64
"""A vocabulary that has to grow is padded to a multiple of this, as llava-hf's was (32000 to 32064)."""


@dataclass(frozen=True)
class ConversionRequest:
    """What to convert.

    Attributes:
        llava: folder of a llava-hf or original checkpoint.
        sam: `sam_vit_{b,l,h}_*.pth`.
        clip: CLIP folder, for original checkpoints without CLIP inside.
        conversation: template the checkpoint was trained with; None: inferred from the checkpoint if possible.
        expected: a run's architecture, which the checkpoint must match.
        fit: how images became CLIP's square in its training; None: inferred from the checkpoint.
    """

    llava: Path
    sam: Path
    clip: Path | None = None
    conversation: TemplateName | None = None
    expected: ModelConfig | None = None
    fit: Fit | None = None


@dataclass(frozen=True)
class ConversionResult:
    """What was written: architecture and size, and notes on what was found and changed."""

    config: ModelConfig
    num_tensors: int
    num_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """Weight files, the mapping of their names, and their content."""

    files: SourceFiles
    own_name: NameMap
    found: Survey


@dataclass(frozen=True)
class _Plan:
    """Everything that is determined before anything is written."""

    parts: tuple[_Part, ...]
    config: ModelConfig
    tokenizer: SourceTokenizer
    notes: tuple[str, ...]


def convert_llava(request: ConversionRequest, destination: Path) -> ConversionResult:
    """Convert a checkpoint, strictly by name and shape.

    Everything is checked first. Writing is atomic: a temporary folder next to `destination` is written and renamed.

    Raises:
        FileNotFoundError: a file is missing.
        FileExistsError: `destination` exists.
        ValueError: a checkpoint is damaged, a delta, of an unknown layout or another architecture.
    """
    with write_folder(destination) as partial:
        plan = _make_plan(request)
        writer = ShardWriter(partial, MODEL_STEM, MAX_SHARD_BYTES)
        for name, tensor in _own_tensors(plan):
            writer.add(name, tensor)
        writer.finish()
        shapes = {name: saved.shape for name, saved in list_tensors(partial, MODEL_STEM).items()}
        assert shapes == _expected_shapes(plan.config.llava, plan.config.sam), "the written folder is not the model's"
        write_model_config(plan.config, partial)
        plan.tokenizer.tokenizer.save_pretrained(str(partial))
        (partial / CARD_FILE).write_text(_card(request, plan.notes), encoding="utf-8")
    return ConversionResult(plan.config, len(shapes), writer.total_bytes, plan.notes)


def _make_plan(request: ConversionRequest) -> _Plan:
    source = read_source_config(request.llava)
    files = find_weight_files(request.llava)
    layout = detect_layout(list_names(files), LAYOUTS, str(request.llava))
    llava = _Part(files, layout.own_name, survey(files, layout.own_name))
    refuse_delta(request.llava, llava.found)
    parts, vision, vision_note = _find_vision(request, source, layout, llava)
    conversation, reason = choose_conversation(source, layout, request.conversation)
    fit, fit_reason = choose_fit(source, conversation, request.fit)
    llava_config = build_llava_config(source, layout, replace(vision, fit=fit), conversation)
    sam_config = read_sam_config(request.sam)
    sam_files = SourceFiles(request.sam.parent, (request.sam,), {})
    parts = (*parts, _Part(sam_files, own_sam_name, survey(sam_files, own_sam_name)))
    _require_model(parts, layout, request, llava_config, sam_config)
    tokenizer = read_source_tokenizer(request.llava)
    if source.has_image_delimiters:
        require_image_delimiters(tokenizer.tokenizer, str(request.llava))
    num_rows = llava_config.language.vocab_size
    grown = _grown_vocabulary(num_rows, len(tokenizer.tokenizer))
    language = replace(llava_config.language, vocab_size=grown)
    config = ModelConfig(llava=replace(llava_config, language=language), sam=sam_config, lora=None)
    config = with_special_tokens(config, tokenizer.tokenizer)
    if request.expected is not None:
        _require_same(config, request.expected)
    notes = (
        f"Layout: {layout.name}",
        vision_note,
        f"SAM: {variant_name(sam_config)}, {sam_config.image_size} px",
        f"Conversation template: {conversation} ({reason})",
        f"CLIP's square: {fit} ({fit_reason})",
        *_vocabulary_notes(tokenizer, num_rows, grown),
    )
    return _Plan(parts, config, tokenizer, notes)


def _find_vision(
    request: ConversionRequest, source: SourceConfig, layout: Layout, llava: _Part
) -> tuple[tuple[_Part, ...], VisionConfig, str]:
    """Return the parts so far, CLIP's sizes and a note on where its weights are from."""
    if layout.has_vision:
        if request.clip is not None:
            raise ValueError(f"{request.llava} holds its own CLIP weights: omit --clip")
        vision = source.vision or vision_from_shapes(llava.found.shapes, source.select_layer)
        return (llava,), vision, "CLIP: from the LLaVA checkpoint"
    if request.clip is None:
        name = source.vision_name or "openai/clip-vit-large-patch14"
        raise ValueError(f"{request.llava} holds no CLIP weights: give --clip FOLDER, a download of {name}")
    vision = read_clip_config(request.clip, source.select_layer)
    named_336 = "336" in source.vision_name
    if source.vision_name and named_336 != (vision.image_size == 336):
        raise ValueError(
            f"{source.path} was trained with {source.vision_name}, but {request.clip} is a CLIP for "
            f"{vision.image_size} px: give the folder of {source.vision_name}"
        )
    files = find_weight_files(request.clip)
    clip = detect_layout(list_names(files), CLIP_LAYOUTS, str(request.clip))
    return (llava, _Part(files, clip.own_name, survey(files, clip.own_name))), vision, f"CLIP: from {request.clip}"


def _require_model(
    parts: tuple[_Part, ...], layout: Layout, request: ConversionRequest, llava: LlavaConfig, sam: SamConfig
) -> None:
    """Compare every checkpoint with the model of its own sizes."""
    expected = _expected_shapes(llava, sam)
    if llava.projector == "linear":
        expected = {name: shape for name, shape in expected.items() if not _is_identity(name)}
    of_sam = {name: shape for name, shape in expected.items() if name.startswith(own_sam_name(""))}
    of_vision = {name: shape for name, shape in expected.items() if name.startswith(OWN_VISION)}
    others = {name: shape for name, shape in expected.items() if name not in of_sam}
    if layout.has_vision:
        require_expected(parts[0].found, others, str(request.llava), layout.published_name)
    else:
        others = {name: shape for name, shape in others.items() if name not in of_vision}
        require_expected(parts[0].found, others, str(request.llava), layout.published_name)
        require_expected(parts[1].found, of_vision, str(request.clip), lambda name: name.removeprefix(OWN_VISION))
    require_expected(parts[-1].found, of_sam, str(request.sam), lambda name: name.removeprefix(own_sam_name("")))


def _expected_shapes(llava: LlavaConfig, sam: SamConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors that a base holds: everything but PLUM's heads."""
    with torch.device("meta"):
        modules = {"llava": build_llava(llava, None), "sam": build_sam(sam)}
    return {
        f"{prefix}.{name}": tuple(tensor.shape)
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def _own_tensors(plan: _Plan) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the base, file by file."""
    num_rows = plan.config.llava.language.vocab_size
    for part in plan.parts:
        for path in part.files.files:
            with open_weights(path) as file:
                for name in file.names:
                    own = translate(part.own_name, name, path)
                    if own is None:
                        continue
                    tensor = file.read(name)
                    if own in (EMBEDDING, HEAD) and len(tensor) < num_rows:
                        tensor = append_rows(tensor, num_rows)
                    yield own, tensor
                    if plan.config.llava.projector == "linear" and own == f"{OWN_PROJECTOR}linear_1.bias":
                        yield from _identity(len(tensor), tensor.dtype)


def _is_identity(name: str) -> bool:
    return name.startswith(f"{OWN_PROJECTOR}linear_2.")


def _identity(size: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield the second projector layer, which replaces LLaVA v1's missing one (see `build_llava`)."""
    yield f"{OWN_PROJECTOR}linear_2.weight", torch.eye(size, dtype=dtype)
    yield f"{OWN_PROJECTOR}linear_2.bias", torch.zeros(size, dtype=dtype)


def _grown_vocabulary(num_rows: int, num_tokens: int) -> int:
    """Return how many embedding rows are needed."""
    return num_rows if num_tokens <= num_rows else -(-num_tokens // ROW_MULTIPLE) * ROW_MULTIPLE


def _require_same(config: ModelConfig, expected: ModelConfig) -> None:
    """Compare with a run's configuration; heads, adapters, token ids, template and fit are the run's own."""
    own = config.llava
    llava = replace(
        expected.llava,
        special_tokens=own.special_tokens,
        conversation=own.conversation,
        vision=replace(expected.llava.vision, fit=own.vision.fit),
    )
    neutral = replace(
        expected,
        llava=llava,
        tagger=config.tagger,
        feedback=config.feedback,
        lora=config.lora,
        system=config.system,
        seg_token=config.seg_token,
    )
    if differences := describe_differences(config, neutral):
        name, other = variant_name(config.sam), variant_name(expected.sam)
        sam = f" (the SAM file is {name}, the configuration's {other})" if name != other else ""
        raise ValueError(
            f"the checkpoints differ from the configuration in (key: checkpoint, configuration) "
            f"{'; '.join(differences)}{sam}"
        )


def _vocabulary_notes(tokenizer: SourceTokenizer, num_rows: int, grown: int) -> tuple[str, ...]:
    """Say which tokens and rows were added."""
    ids = tokenizer.tokenizer.get_vocab()
    tokens = ", ".join(f"{token} = {ids[token]}" for token in tokenizer.added_tokens)
    notes = [f"Tokens added: {tokens or 'none'}"]
    if grown > num_rows:
        notes.append(f"Embedding rows appended: {num_rows} to {grown - 1}, each the mean of the others")
    if grown > len(tokenizer.tokenizer):
        notes.append(f"Rows without a token, never generated by the model: {len(tokenizer.tokenizer)} to {grown - 1}")
    return tuple(notes)


def _card(request: ConversionRequest, notes: tuple[str, ...]) -> str:
    lines = "\n".join(f"- {note}" for note in notes)
    return (
        f"LLaVA of `{request.llava}` and SAM of `{request.sam.name}` under plum's names, made by `python -m plum "
        "convert-llava`.\nPLUM's heads are not in this folder: train from it (`init_from`).\n\n"
        f"{lines}\n\nThe weights keep their licences: LLaMA's and LLaVA's, CLIP's (MIT), SAM's (Apache 2.0).\n"
    )
