"""Converts published LLaVA and SAM weights to one saved folder that training starts from (`init_from`).

The folder does not contain PLUM's own heads: a run initialises them from its seed and reports it. Weights keep their
dtypes and pass through memory one shard at a time.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from plum.checkpoints.model_config_io import describe_differences
from plum.checkpoints.published.conversion import (
    ConversionPlan,
    ConversionResult,
    find_vision,
    grow_vocabulary,
    is_identity,
    require_parts,
    survey_part,
    vocabulary_notes,
    write_conversion,
)
from plum.checkpoints.published.llava_config import (
    build_llava_config,
    choose_conversation,
    choose_fit,
    read_source_config,
)
from plum.checkpoints.published.llava_keys import LAYOUTS, describe_dropped, detect_layout
from plum.checkpoints.published.llava_tokenizer import read_source_tokenizer, require_image_delimiters
from plum.checkpoints.published.sam_weights import own_sam_name, published_sam_name, read_sam_config, variant_name
from plum.checkpoints.published.source_files import SourceFiles, find_weight_files
from plum.checkpoints.published.survey import list_names, refuse_delta
from plum.checkpoints.weights import MAX_SHARD_BYTES
from plum.config import Fit, LlavaConfig, ModelConfig, SamConfig
from plum.inputs.conversation import TemplateName
from plum.models.backbones.llava import build_llava
from plum.models.segmenters.sam import build_sam
from plum.models.systems.special_tokens import with_special_tokens


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


def convert_llava(request: ConversionRequest, destination: Path) -> ConversionResult:
    """Convert a checkpoint, strictly by name and shape.

    Everything is checked first. Writing is atomic: a temporary folder next to `destination` is written and renamed.

    Raises:
        FileNotFoundError: a file is missing.
        FileExistsError: `destination` exists.
        ValueError: a checkpoint is damaged, a delta, of an unknown layout or another architecture.
    """
    return write_conversion(lambda: _make_plan(request), destination, MAX_SHARD_BYTES)


def _make_plan(request: ConversionRequest) -> ConversionPlan:
    source = read_source_config(request.llava)
    files = find_weight_files(request.llava)
    names = list_names(files)
    layout = detect_layout(names, LAYOUTS, str(request.llava))
    llava = survey_part(request.llava, files, layout.own_name, layout.published_name)
    refuse_delta(request.llava, llava.found)
    parts, vision, vision_notes = find_vision(request.clip, request.llava, source, layout, llava)
    conversation, reason = choose_conversation(source, layout, request.conversation)
    fit, fit_reason = choose_fit(source, conversation, request.fit)
    llava_config = build_llava_config(source, layout, replace(vision, fit=fit), conversation)
    sam_config = read_sam_config(request.sam)
    sam_files = SourceFiles(request.sam.parent, (request.sam,), {})
    parts = (*parts, survey_part(request.sam, sam_files, own_sam_name, published_sam_name, (own_sam_name(""),)))
    expected = _expected_shapes(llava_config, sam_config)
    is_linear = llava_config.projector == "linear"
    require_parts(parts, {n: shape for n, shape in expected.items() if not (is_linear and is_identity(n))})
    tokenizer = read_source_tokenizer(request.llava)
    if source.has_image_delimiters:
        require_image_delimiters(tokenizer.tokenizer, str(request.llava))
    num_rows = llava_config.language.vocab_size
    config = grow_vocabulary(ModelConfig(llava=llava_config, sam=sam_config, lora=None), len(tokenizer.tokenizer))
    config = with_special_tokens(config, tokenizer.tokenizer)
    if request.expected is not None:
        _require_same(config, request.expected)
    notes = (
        f"Layout: {layout.name}",
        *vision_notes,
        f"SAM: {variant_name(sam_config)}, {sam_config.image_size} px",
        f"Conversation template: {conversation} ({reason})",
        f"CLIP's square: {fit} ({fit_reason})",
        *describe_dropped(layout.reason_to_drop(name) for name in names),
        *vocabulary_notes(tokenizer, num_rows, config.language.vocab_size),
    )
    grown = _expected_shapes(config.of_llava, sam_config)
    return ConversionPlan(parts, config, grown, tokenizer, notes, _card(request, notes))


def _expected_shapes(llava: LlavaConfig, sam: SamConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors that a base holds: everything but PLUM's heads."""
    with torch.device("meta"):
        modules = {"llava": build_llava(llava, None), "sam": build_sam(sam)}
    return {
        f"{prefix}.{name}": tuple(tensor.shape)
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def _require_same(config: ModelConfig, expected: ModelConfig) -> None:
    """Compare with a run's configuration; heads, adapters, token ids, template and fit are the run's own."""
    own = config.of_llava
    llava = replace(
        expected.of_llava,
        special_tokens=own.special_tokens,
        conversation=own.conversation,
        vision=replace(expected.of_llava.vision, fit=own.vision.fit),
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


def _card(request: ConversionRequest, notes: tuple[str, ...]) -> str:
    lines = "\n".join(f"- {note}" for note in notes)
    return (
        f"LLaVA of `{request.llava}` and SAM of `{request.sam.name}` under plum's names, made by `python -m plum "
        "convert-llava`.\nPLUM's heads are not in this folder: train from it (`init_from`).\n\n"
        f"{lines}\n\nThe weights keep their licences: LLaMA's and LLaVA's, CLIP's (MIT), SAM's (Apache 2.0).\n"
    )
