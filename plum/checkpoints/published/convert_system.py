"""Converts published checkpoints of systems with heads (LISA, M2SA, GLaMM, PLUM's authors) to whole saved models.

The system is recognised by the names of the tensors, and every name must be known: what is left out is listed with a
reason. A checkpoint is a merged folder, or what DeepSpeed's `zero_to_fp32` writes after a training with adapters, which
are merged in float32. Weights keep their dtypes otherwise, and pass through memory one shard at a time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from partonomy.files import read_json
from plum.checkpoints.model_config_io import CONFIG_FILE, has_heads_of_lisa
from plum.checkpoints.model_weights import empty_model
from plum.checkpoints.published.conversion import (
    Adapter,
    Part,
    find_vision,
    grow_vocabulary,
    is_identity,
    survey_part,
    vocabulary_notes,
    write_conversion,
)
from plum.checkpoints.published.llava_config import SourceConfig, read_source_config
from plum.checkpoints.published.llava_keys import EMBEDDING, OWN_VISION, describe_dropped
from plum.checkpoints.published.llava_tokenizer import SourceTokenizer, read_source_tokenizer
from plum.checkpoints.published.sam_weights import OWN_PREFIX as OWN_SAM
from plum.checkpoints.published.sam_weights import own_sam_name, sam_config_of, variant_name
from plum.checkpoints.published.source_files import SourceFiles, find_weight_files, open_weights
from plum.checkpoints.published.survey import list_names, refuse_delta, require_expected
from plum.checkpoints.published.system_keys import (
    FEEDBACK_PREFIX,
    GLAMM,
    PLUM,
    PLUM_WITHOUT_FEEDBACK,
    POOLER_PARTS,
    SystemLayout,
    adapter_of,
    detect_system,
    plain_name,
    with_llava,
)
from plum.checkpoints.store import write_folder
from plum.config import (
    FeedbackConfig,
    LlavaConfig,
    ModelConfig,
    PositionDtype,
    SamConfig,
    SegTokenConfig,
    TaggerConfig,
    VisionConfig,
)
from plum.models.systems.special_tokens import with_special_tokens

Targets = Literal["many", "single"]
LORA_ALPHA = 16
"""`lora_alpha` of the training scripts of LISA, M2SA and PLUM; checkpoints do not state it."""
SAM_BLOCKS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
TAGGER_BLOCK = "tagger.block.linear1.weight"
NUM_TAGS = 3


@dataclass(frozen=True)
class SystemRequest:
    """What to convert.

    Attributes:
        source: folder of a checkpoint, or one weight file of `zero_to_fp32`.
        clip: CLIP folder, if the checkpoint holds no CLIP.
        sam: `sam_vit_{b,l,h}_*.pth`, for a checkpoint that lacks SAM's image encoder or another of its three parts.
        base: folder of the LLaVA that the training began with, if the source has no config.json and no tokenizer.
        targets: [SEG] tokens of an answer; None: the system's own way, one for LISA, one per phrase for M2SA and GLaMM.
        lora_alpha: scale of adapters, times their rank; None: `LORA_ALPHA`.
        keeps_feedback: keep the mask feedback of PLUM's authors, which their evaluation turns off.
        position_dtype: arithmetic of SAM's positional encoding; the authors' code computes it in bfloat16.
    """

    source: Path
    clip: Path | None = None
    sam: Path | None = None
    base: Path | None = None
    targets: Targets | None = None
    lora_alpha: int | None = None
    keeps_feedback: bool = False
    position_dtype: PositionDtype = SamConfig.position_dtype


@dataclass(frozen=True)
class SystemResult:
    """What was written: architecture and size, and notes on what was found, changed and left out."""

    config: ModelConfig
    num_tensors: int
    num_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """Everything that is determined before anything is written."""

    parts: tuple[Part, ...]
    config: ModelConfig
    tokenizer: SourceTokenizer
    notes: tuple[str, ...]


def convert_system(request: SystemRequest, destination: Path) -> SystemResult:
    """Convert a checkpoint, strictly by name and shape.

    Everything is checked first. Writing is atomic: a temporary folder next to `destination` is written and renamed.

    Raises:
        FileNotFoundError: a file is missing.
        FileExistsError: `destination` exists.
        ValueError: the system is not one that is converted, or the checkpoint is damaged, incomplete or a delta.
    """
    with write_folder(destination) as partial:
        plan = _make_plan(request)
        written = write_conversion(
            partial,
            plan.parts,
            plan.config,
            expected=_shapes_of(plan.config),
            tokenizer=plan.tokenizer,
            card=_card(request, plan.notes),
        )
    return SystemResult(plan.config, *written, plan.notes)


def _make_plan(request: SystemRequest) -> _Plan:
    files = _weight_files(request.source)
    names = list_names(files)
    system = _find_system(request, names)
    folder = _folder_of_config(request)
    source = read_source_config(folder)
    main = survey_part(files, system.own_name)
    refuse_delta(request.source, main.found)
    _require_aliases(system, names, files, main)
    adapters = _read_adapters(system, files, request.lora_alpha)
    main = replace(main, adapters=adapters, split=POOLER_PARTS)
    parts, vision, vision_notes = find_vision(request.clip, request.source, source, system.llava, main)
    parts, sam_note = _add_sam(request, parts)
    is_base = request.base is not None
    tokenizer = read_source_tokenizer(folder, system.marks, is_base)
    llava = _llava_config(source, system, vision, main)
    if is_base:
        llava = replace(llava, language=replace(llava.language, vocab_size=main.found.shapes[EMBEDDING][0]))
        _require_rows(request, llava.language.vocab_size, tokenizer)
    if system.name == GLAMM.name and tokenizer.is_legacy:
        llava = replace(llava, conversation="glamm_legacy")
    config = _model_config(request, system, llava, parts)
    _require_model(parts, system, request, config)
    num_rows = llava.language.vocab_size
    config = with_special_tokens(grow_vocabulary(config, len(tokenizer.tokenizer)), tokenizer.tokenizer)
    notes = (
        f"System: {system.name}, with {system.llava.name}",
        *vision_notes,
        f"SAM: {variant_name(config.sam)}, {config.sam.image_size} px, {sam_note}",
        f"SAM's positional encoding: {config.sam.position_dtype} (the authors' code computes it in its model's dtype, "
        "usually bfloat16; --position_dtype)",
        f"Conversation template: {config.llava.conversation}; CLIP's square: {llava.vision.fit} (its training's)",
        *_adapter_notes(adapters, request.lora_alpha),
        *_target_notes(config, request.targets),
        *_tagger_notes(config),
        *_tokenizer_notes(system, tokenizer),
        *_dropped_notes(system, names),
        *vocabulary_notes(tokenizer, num_rows, config.llava.language.vocab_size),
    )
    return _Plan(parts, config, tokenizer, notes)


def _weight_files(source: Path) -> SourceFiles:
    return SourceFiles(source.parent, (source,), {}) if source.is_file() else find_weight_files(source)


def _folder_of_config(request: SystemRequest) -> Path:
    """Return the folder of config.json and tokenizer."""
    has_own = request.source.is_dir() and (request.source / CONFIG_FILE).is_file()
    if has_own and request.base is not None:
        raise ValueError(f"{request.source} has its own {CONFIG_FILE} and tokenizer: omit --base")
    if not has_own and request.base is None:
        raise ValueError(
            f"{request.source} has no {CONFIG_FILE} and no tokenizer: give --base LLAVA_FOLDER, the LLaVA that its "
            "training began with"
        )
    return request.base or request.source


def _find_system(request: SystemRequest, names: Sequence[str]) -> SystemLayout:
    """Recognise the system, and refuse options that it does not have."""
    config = request.source / CONFIG_FILE
    is_like_lisa = request.source.is_dir() and config.is_file() and has_heads_of_lisa(read_json(config))
    system = detect_system(names, request.source, is_like_lisa)
    if system is not PLUM:
        if request.keeps_feedback:
            raise ValueError(f"{request.source} is {system.name}, which has no mask feedback: omit --feedback")
        return with_llava(system, names, request.source)
    if request.keeps_feedback and not any(plain_name(name).startswith(FEEDBACK_PREFIX) for name in names):
        raise ValueError(f"{request.source} was trained without mask feedback: omit --feedback")
    if request.targets is not None:
        raise ValueError(f"{request.source} is {system.name}, which writes no [SEG]: omit --targets")
    return with_llava(PLUM if request.keeps_feedback else PLUM_WITHOUT_FEEDBACK, names, request.source)


def _require_aliases(system: SystemLayout, names: Sequence[str], files: SourceFiles, main: Part) -> None:
    """Check that second names of a tensor hold what the first holds."""
    repeated = {name: own for name in names if (own := system.alias_of(name)) is not None}
    if not repeated:
        return
    wanted = set(repeated.values())
    originals = _read_some(files, lambda name: main.own_name(name) in wanted)
    by_own = {main.own_name(name): tensor for name, tensor in originals.items()}
    for name, tensor in _read_some(files, lambda name: name in repeated).items():
        first = by_own.get(repeated[name])
        if first is None or not torch.equal(first, tensor):
            raise ValueError(
                f"{files.folder}: {name} should repeat {system.published_name(repeated[name])}, but "
                f"{'that is missing' if first is None else 'differs from it'}: not the authors' code?"
            )


def _read_some(files: SourceFiles, is_wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read the wanted tensors of all files, by published name."""
    found: dict[str, Tensor] = {}
    for path in files.files:
        with open_weights(path) as file:
            found |= {name: file.read(name) for name in file.names if is_wanted(name)}
    return found


def _read_adapters(system: SystemLayout, files: SourceFiles, alpha: int | None) -> dict[str, Adapter]:
    """Read the factors of all adapters (some tens of MB), by our name of the matrix that they change."""
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _read_some(files, lambda name: adapter_of(name) is not None).items():
        found = adapter_of(name)
        assert found is not None
        own = system.own_name(found.target)
        if own is not None:
            factors.setdefault(own, {})[found.side] = tensor
    if alpha is not None and not factors:
        raise ValueError(f"{files.folder} has no adapters: omit --lora_alpha")
    adapters = {}
    for own, sides in factors.items():
        if sides.keys() != {"A", "B"} or len(sides["A"]) != sides["B"].shape[1]:
            raise ValueError(
                f"{files.folder}: the adapter of {system.published_name(own)} has factors of the shapes "
                f"{ {side: tuple(tensor.shape) for side, tensor in sides.items()} }: an incomplete file?"
            )
        adapters[own] = Adapter(sides["A"], sides["B"], (alpha or LORA_ALPHA) / len(sides["A"]))
    return adapters


def _add_sam(request: SystemRequest, parts: tuple[Part, ...]) -> tuple[tuple[Part, ...], str]:
    """Take those of SAM's three parts that the checkpoint lacks from SAM's own file."""
    held = parts[0].found.shapes
    missing = tuple(block for block in SAM_BLOCKS if not any(name.startswith(own_sam_name(block)) for name in held))
    if request.sam is None:
        if missing:
            raise ValueError(
                f"{request.source} lacks SAM's {', '.join(block[:-1] for block in missing)}: give --sam "
                "sam_vit_h_4b8939.pth"
            )
        return parts, "from the checkpoint"
    if not missing:
        raise ValueError(f"{request.source} holds its own SAM: omit --sam")
    files = SourceFiles(request.sam.parent, (request.sam,), {})

    def own_name(name: str) -> str | None:
        return own_sam_name(name) if name.startswith(missing) else None

    note = f"{', '.join(block[:-1] for block in missing)} from {request.sam}"
    return (*parts, survey_part(files, own_name)), note


def _llava_config(source: SourceConfig, system: SystemLayout, vision: VisionConfig, main: Part) -> LlavaConfig:
    projector = system.llava.projector
    assert projector is not None, "a LLaVA layout has a projector"
    if source.projector not in (None, projector):
        raise ValueError(
            f"{source.path}: the projector is {source.projector!r}, but the weights hold {projector!r} "
            f"({system.llava.name})"
        )
    assert EMBEDDING in main.found.shapes, "it is an anchor of every layout"
    return LlavaConfig(
        vision=replace(vision, fit="crop"),
        language=source.language,
        projector=projector,
        conversation=system.conversation,
    )


def _require_rows(request: SystemRequest, num_rows: int, tokenizer: SourceTokenizer) -> None:
    """Check that the base's tokenizer with the marks has as many tokens as the weights have rows."""
    num_tokens = len(tokenizer.tokenizer) - len(tokenizer.added_tokens)
    if num_tokens != num_rows:
        raise ValueError(
            f"{request.source} has {num_rows} embedding rows, but the tokenizer of {request.base} has {num_tokens} "
            "tokens with those that the training adds: give the base that it began with"
        )


def _model_config(
    request: SystemRequest, system: SystemLayout, llava: LlavaConfig, parts: Sequence[Part]
) -> ModelConfig:
    """Derive the heads' sizes from the tensors; what shapes do not show are constants of the authors' code."""
    shapes = {name: shape for part in parts for name, shape in part.found.shapes.items()}
    sam = _sam_config(request, shapes)
    no_feedback = FeedbackConfig(is_enabled=False)
    if system.system != "plum":
        targets = request.targets or ("single" if system.name == "LISA" else "many")
        marks = SegTokenConfig(targets, system.has_phrase_tags)
        return ModelConfig(
            llava, sam, tagger=None, feedback=no_feedback, lora=None, system=system.system, seg_token=marks
        )
    classes = shapes.get("tagger.classifier.weight", (NUM_TAGS,))[0]
    if classes != NUM_TAGS:
        raise ValueError(
            f"{request.source} was trained with pred_binary_span, which has {classes} logit per token; only taggers of "
            "the three BIO tags are converted"
        )
    has_block = TAGGER_BLOCK in shapes
    tagger = TaggerConfig(
        context="bidirectional" if has_block else "none",
        feedforward_dim=shapes[TAGGER_BLOCK][0] if has_block else TaggerConfig.feedforward_dim,
        order="block_first",
    )
    feedback = FeedbackConfig(position_in="keys_and_values") if request.keeps_feedback else no_feedback
    return ModelConfig(llava, sam, tagger=tagger, feedback=feedback, lora=None, system=system.system)


def _sam_config(request: SystemRequest, shapes: Mapping[str, tuple[int, ...]]) -> SamConfig:
    sam = {name.removeprefix(OWN_SAM): shape for name, shape in shapes.items() if name.startswith(OWN_SAM)}
    try:
        return replace(sam_config_of(sam), position_dtype=request.position_dtype)
    except KeyError as error:
        raise ValueError(f"{request.source} lacks SAM's tensor {error}: an incomplete download?") from error


def _shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a whole model's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in empty_model(config).state_dict().items()}


def _require_model(parts: Sequence[Part], system: SystemLayout, request: SystemRequest, config: ModelConfig) -> None:
    """Compare every checkpoint with the model of its own sizes."""
    expected = _shapes_of(config)
    if config.llava.projector == "linear":
        expected = {name: shape for name, shape in expected.items() if not is_identity(name)}
    for joint, pieces in POOLER_PARTS.items():
        if pieces[0] in expected:
            rows, *rest = [expected.pop(piece) for piece in pieces][0]
            expected[joint] = (rows * len(pieces), *rest)
    elsewhere: dict[str, tuple[int, ...]] = {}
    if not system.llava.has_vision:
        of_vision = _beginning_with((OWN_VISION,), expected)
        require_expected(parts[1].found, of_vision, str(request.clip), lambda name: name.removeprefix(OWN_VISION))
        elsewhere |= of_vision
    if request.sam is not None:
        blocks = tuple(own_sam_name(block) for block in SAM_BLOCKS)
        held = [block for block in blocks if _beginning_with((block,), parts[-1].found.shapes)]
        of_sam = _beginning_with(tuple(held), expected)
        require_expected(parts[-1].found, of_sam, str(request.sam), lambda name: name.removeprefix(OWN_SAM))
        elsewhere |= of_sam
    others = {name: shape for name, shape in expected.items() if name not in elsewhere}
    require_expected(parts[0].found, others, str(request.source), system.published_name)
    for own, adapter in parts[0].adapters.items():
        if expected.get(own) != (len(adapter.up), adapter.down.shape[1]):
            raise ValueError(
                f"{request.source}: the adapter of {system.published_name(own)} is for a matrix "
                f"{(len(adapter.up), adapter.down.shape[1])}, which is {expected.get(own, 'missing')}"
            )


def _beginning_with(prefixes: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}


def _adapter_notes(adapters: Mapping[str, Adapter], alpha: int | None) -> tuple[str, ...]:
    if not adapters:
        return ()
    ranks = sorted({len(adapter.down) for adapter in adapters.values()})
    origin = "as chosen" if alpha is not None else "the authors' default, which checkpoints do not state; --lora_alpha"
    return (
        f"Adapters merged in float32: {len(adapters)} matrices, rank {', '.join(map(str, ranks))}, alpha "
        f"{alpha or LORA_ALPHA} ({origin})",
    )


def _target_notes(config: ModelConfig, chosen: Targets | None) -> tuple[str, ...]:
    if config.seg_token is None:
        return ()
    reason = "as chosen" if chosen is not None else "as in its training; --targets"
    return (f"seg_token.targets: {config.seg_token.targets} ({reason})",)


def _tagger_notes(config: ModelConfig) -> tuple[str, ...]:
    if config.tagger is None:
        return ()
    heads = f"{config.tagger.num_heads} heads, the default of the authors' code, which shapes do not show"
    feedback = (
        "kept, although the authors' evaluation turns it off on loading"
        if config.feedback.is_enabled
        else ("off, as in the authors' evaluation, which turns it off on loading; --feedback keeps it")
    )
    return (f"Tagger: block first, {config.tagger.context}, {heads}", f"Mask feedback: {feedback}")


def _tokenizer_notes(system: SystemLayout, tokenizer: SourceTokenizer) -> tuple[str, ...]:
    if system.name == GLAMM.name and tokenizer.is_legacy:
        return ("Tokenizer: legacy is not false, so no lone word mark follows the image (template glamm_legacy)",)
    if not system.marks.is_stripped or tokenizer.is_legacy or system.name == GLAMM.name:
        return ()
    return (
        "Tokenizer: legacy is false, and the slow tokenizer of transformers 4.31 then reads a first piece that is not "
        "in its vocabulary without the word mark as <unk>; here it is read as ordinary pieces",
    )


def _dropped_notes(system: SystemLayout, names: Iterable[str]) -> tuple[str, ...]:
    """List what is left out, with the reasons."""
    notes = [*describe_dropped(system.reason_to_drop(name) for name in names)]
    if repeated := [name for name in names if system.reason_to_drop(name) is None and system.alias_of(name)]:
        notes.append(
            f"Left out: {len(repeated)} second names of SAM's tensors, equal to the first ({repeated[0]}, ...)"
        )
    return tuple(notes)


def _card(request: SystemRequest, notes: tuple[str, ...]) -> str:
    lines = "\n".join(f"- {note}" for note in notes)
    return (
        f"The checkpoint `{request.source}` under plum's names, made by `python -m plum convert`.\n\n{lines}\n\n"
        "The weights keep their licences: those of the checkpoint's authors, LLaMA's and LLaVA's, CLIP's (MIT), SAM's "
        "(Apache 2.0).\n"
    )
