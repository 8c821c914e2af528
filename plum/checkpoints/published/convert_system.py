"""Converts published checkpoints of systems with heads (LISA, M2SA, GLaMM, PLUM's authors) to whole saved models.

The system is recognised by the names of the tensors, and every name must be known: what is left out is listed with a
reason. A checkpoint is a merged folder, or what DeepSpeed's `zero_to_fp32` writes after a training with adapters, which
are merged in float32. Weights keep their dtypes otherwise, and pass through memory one shard at a time.

With `--system calico`, GLaMM's checkpoint is joined with the towers of CALICO: the result is CALICO before its
training, without the modules that it adds, which change nothing until they are trained.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from partonomy.files import read_json
from plum.checkpoints.model_config_io import CONFIG_FILE, has_heads_of_lisa
from plum.checkpoints.model_weights import empty_model
from plum.checkpoints.published.calico_towers import BlipFolder, DinoFolder, read_blip, read_dino
from plum.checkpoints.published.conversion import (
    Adapter,
    ConversionPlan,
    ConversionResult,
    Part,
    find_vision,
    grow_vocabulary,
    is_identity,
    require_parts,
    survey_part,
    vocabulary_notes,
    write_conversion,
)
from plum.checkpoints.published.llava_config import SourceConfig, build_llava_config, read_source_config
from plum.checkpoints.published.llava_keys import EMBEDDING, OWN_PROJECTOR, describe_dropped
from plum.checkpoints.published.llava_tokenizer import SourceTokenizer, read_source_tokenizer
from plum.checkpoints.published.sam_weights import OWN_PREFIX as OWN_SAM
from plum.checkpoints.published.sam_weights import own_sam_name, published_sam_name, sam_config_of, variant_name
from plum.checkpoints.published.source_files import SourceFiles, find_weight_files, open_weights
from plum.checkpoints.published.survey import list_names, refuse_delta
from plum.checkpoints.published.system_keys import (
    FEEDBACK_PREFIX,
    GLAMM,
    GLAMM_FOR_CALICO,
    PLUM,
    PLUM_WITHOUT_FEEDBACK,
    POOLER_PARTS,
    SystemLayout,
    adapter_of,
    detect_system,
    plain_name,
    with_llava,
)
from plum.checkpoints.published.system_request import LORA_ALPHA, SystemRequest, Targets
from plum.config import (
    CalicoConfig,
    FeedbackConfig,
    LlavaConfig,
    ModelConfig,
    SamConfig,
    SegTokenConfig,
    TaggerConfig,
    VisionConfig,
)
from plum.models.systems.special_tokens import with_special_tokens

SAM_BLOCKS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
TAGGER_BLOCK = "tagger.block.linear1.weight"
NUM_TAGS = 3


@dataclass(frozen=True)
class _Towers:
    """What reads images: parts with the checkpoint first, sizes, CALICO's own folders if any, and notes."""

    parts: tuple[Part, ...]
    vision: VisionConfig
    notes: tuple[str, ...]
    blip: BlipFolder | None = None
    dino: DinoFolder | None = None


def convert_system(request: SystemRequest, destination: Path) -> ConversionResult:
    """Convert a checkpoint, strictly by name and shape.

    Everything is checked first. Writing is atomic: a temporary folder next to `destination` is written and renamed.

    Raises:
        FileNotFoundError: a file is missing.
        FileExistsError: `destination` exists.
        ValueError: the system is not one that is converted, or the checkpoint is damaged, incomplete or a delta.
    """
    return write_conversion(lambda: _make_plan(request), destination)


def _make_plan(request: SystemRequest) -> ConversionPlan:
    files = _weight_files(request.source)
    names = list_names(files)
    system = _find_system(request, names)
    folder = _folder_of_config(request)
    source = read_source_config(folder)
    main = survey_part(request.source, files, system.own_name, system.published_name)
    refuse_delta(request.source, main.found)
    _require_aliases(system, names, files, main)
    adapters = _read_adapters(system, files, request.lora_alpha)
    main = replace(main, adapters=adapters, split=POOLER_PARTS)
    towers = _find_towers(request, source, system, main)
    parts, sam_note = _add_sam(request, towers.parts)
    is_base = request.base is not None
    tokenizer = read_source_tokenizer(folder, system.marks, is_base)
    llava = _llava_config(source, system, towers, main)
    if is_base:
        llava = replace(llava, language=replace(llava.language, vocab_size=main.found.shapes[EMBEDDING][0]))
        _require_rows(request, llava.language.vocab_size, tokenizer)
    if system.name == GLAMM.name and tokenizer.is_legacy:
        llava = replace(llava, conversation="glamm_legacy")
    config = _model_config(request, system, llava, parts, towers)
    _require_model(parts, system, request, config, towers)
    num_rows = llava.language.vocab_size
    config = with_special_tokens(grow_vocabulary(config, len(tokenizer.tokenizer)), tokenizer.tokenizer)
    notes = (
        f"System: {config.system}, from {system.name} with {system.llava.name}"
        if request.system
        else f"System: {system.name}, with {system.llava.name}",
        *towers.notes,
        f"SAM: {variant_name(config.sam)}, {config.sam.image_size} px, {sam_note}",
        f"SAM's positional encoding: {request.position_dtype} (the authors' code computes it in its model's dtype, "
        "usually bfloat16; --position_dtype)",
        f"Conversation template: {config.of_llava.conversation}; CLIP's square: {llava.vision.fit} (its training's)",
        *_adapter_notes(adapters, request.lora_alpha),
        *_target_notes(config, request.targets),
        *_tagger_notes(config),
        *_tokenizer_notes(system, tokenizer),
        *_dropped_notes(system, names),
        *vocabulary_notes(tokenizer, num_rows, config.language.vocab_size),
    )
    return ConversionPlan(parts, config, _shapes_of(config, towers), tokenizer, notes, _card(request, notes))


def _find_towers(request: SystemRequest, source: SourceConfig, system: SystemLayout, main: Part) -> _Towers:
    """Find CLIP, or for CALICO EVA-CLIP, Q-Former and DINOv2."""
    if request.system is None:
        parts, vision, notes = find_vision(request.clip, request.source, source, system.llava, main)
        return _Towers(parts, vision, notes)
    assert request.blip is not None, "checked with the options"
    blip = read_blip(request.blip, source.language)
    dino = None if request.dino is None else read_dino(request.dino)
    parts = (main, blip.part, *(() if dino is None else (dino.part,)))
    dino_notes = ("DINOv2: none (--dino)",) if dino is None else dino.notes
    return _Towers(parts, blip.vision, (*blip.notes, *dino_notes), blip, dino)


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
    _require_options_of_calico(request)
    config = request.source / CONFIG_FILE
    is_like_lisa = request.source.is_dir() and config.is_file() and has_heads_of_lisa(read_json(config))
    system = detect_system(names, request.source, is_like_lisa)
    if request.system is not None:
        if system is not GLAMM:
            raise ValueError(f"{request.source} is {system.name}: --system {request.system} starts from GLaMM")
        system = GLAMM_FOR_CALICO
    if system is not PLUM:
        if request.keeps_feedback:
            raise ValueError(f"{request.source} is {system.name}, which has no mask feedback: omit --feedback")
        return with_llava(system, names, request.source)
    if request.keeps_feedback and not any(plain_name(name).startswith(FEEDBACK_PREFIX) for name in names):
        raise ValueError(f"{request.source} was trained without mask feedback: omit --feedback")
    if request.targets is not None:
        raise ValueError(f"{request.source} is {system.name}, which writes no [SEG]: omit --targets")
    return with_llava(PLUM if request.keeps_feedback else PLUM_WITHOUT_FEEDBACK, names, request.source)


def _require_options_of_calico(request: SystemRequest) -> None:
    """Refuse options that contradict each other."""
    if request.system is None:
        if request.blip is not None or request.dino is not None:
            raise ValueError("--blip and --dino belong to CALICO: add --system calico, or omit them")
        return
    if request.blip is None:
        raise ValueError("--system calico needs --blip FOLDER, a download of Salesforce/instructblip-vicuna-7b")
    if request.clip is not None:
        raise ValueError("--system calico reads images with the EVA-CLIP of --blip: omit --clip")
    if request.targets is not None:
        raise ValueError("--system calico writes a [SEG] for each mask: omit --targets")


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
    blocks = tuple(own_sam_name(block) for block in missing)
    return (*parts, survey_part(request.sam, files, own_name, published_sam_name, blocks)), note


def _llava_config(source: SourceConfig, system: SystemLayout, towers: _Towers, main: Part) -> LlavaConfig:
    assert EMBEDDING in main.found.shapes, "it is an anchor of every layout"
    if towers.blip is None:
        return build_llava_config(source, system.llava, replace(towers.vision, fit="crop"), system.conversation)
    llava = build_llava_config(source, system.llava, towers.vision, system.conversation)
    return replace(llava, projector="linear")  # f_image in place of GLaMM's projector


def _require_rows(request: SystemRequest, num_rows: int, tokenizer: SourceTokenizer) -> None:
    """Check that the base's tokenizer with the marks has as many tokens as the weights have rows."""
    num_tokens = len(tokenizer.tokenizer) - len(tokenizer.added_tokens)
    if num_tokens != num_rows:
        raise ValueError(
            f"{request.source} has {num_rows} embedding rows, but the tokenizer of {request.base} has {num_tokens} "
            "tokens with those that the training adds: give the base that it began with"
        )


def _model_config(
    request: SystemRequest, system: SystemLayout, llava: LlavaConfig, parts: Sequence[Part], towers: _Towers
) -> ModelConfig:
    """Derive the heads' sizes from the tensors; what shapes do not show are constants of the authors' code."""
    shapes = {name: shape for part in parts for name, shape in part.found.shapes.items()}
    sam = _sam_config(request, shapes)
    no_feedback = FeedbackConfig(is_enabled=False)
    if towers.blip is not None:
        return ModelConfig(
            llava=llava,
            sam=sam,
            tagger=None,
            feedback=no_feedback,
            lora=None,
            system="calico",
            seg_token=SegTokenConfig(has_phrase_tags=True, unnamed_image="none"),
            calico=CalicoConfig(
                embedding_size=towers.blip.embedding_size,
                qformer=towers.blip.qformer,
                dino=None if towers.dino is None else towers.dino.config,
                adaptation=None,
            ),
        )
    if system.system != "plum":
        targets = request.targets or ("single" if system.name == "LISA" else "many")
        marks = SegTokenConfig(targets, system.has_phrase_tags)
        return ModelConfig(
            llava=llava, sam=sam, tagger=None, feedback=no_feedback, lora=None, system=system.system, seg_token=marks
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
    return ModelConfig(llava=llava, sam=sam, tagger=tagger, feedback=feedback, lora=None, system=system.system)


def _sam_config(request: SystemRequest, shapes: Mapping[str, tuple[int, ...]]) -> SamConfig:
    sam = {name.removeprefix(OWN_SAM): shape for name, shape in shapes.items() if name.startswith(OWN_SAM)}
    try:
        return replace(sam_config_of(sam), position_dtype=request.position_dtype)
    except KeyError as error:
        raise ValueError(f"{request.source} lacks SAM's tensor {error}: an incomplete download?") from error


def _shapes_of(config: ModelConfig, towers: _Towers) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors that the result holds: a whole model's, but for an f_image to train."""
    lacks_projection = towers.blip is not None and not towers.blip.has_projection
    return {
        name: tuple(tensor.shape)
        for name, tensor in empty_model(config).state_dict().items()
        if not (lacks_projection and name.startswith(OWN_PROJECTOR))
    }


def _require_model(
    parts: Sequence[Part], system: SystemLayout, request: SystemRequest, config: ModelConfig, towers: _Towers
) -> None:
    """Compare every checkpoint with the model of its own sizes."""
    expected = _shapes_of(config, towers)
    if config.of_llava.projector == "linear":
        expected = {name: shape for name, shape in expected.items() if not is_identity(name)}
    require_parts(parts, expected)
    for own, adapter in parts[0].adapters.items():
        if expected.get(own) != (len(adapter.up), adapter.down.shape[1]):
            raise ValueError(
                f"{request.source}: the adapter of {system.published_name(own)} is for a matrix "
                f"{(len(adapter.up), adapter.down.shape[1])}, which is {expected.get(own, 'missing')}"
            )


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
    if request.system is not None:
        return (
            f"CALICO before its training: `{request.source}` with the towers of CALICO under plum's names, made by "
            "`python -m plum convert`.\nTrain from it (`init_from`): its parts have not been trained together.\n\n"
            f"{lines}\n\nThe weights keep their licences: those of the checkpoint's authors, LLaMA's and LLaVA's, "
            "BLIP-2's or InstructBLIP's, SAM's and DINOv2's (Apache 2.0).\n"
        )
    return (
        f"The checkpoint `{request.source}` under plum's names, made by `python -m plum convert`.\n\n{lines}\n\n"
        "The weights keep their licences: those of the checkpoint's authors, LLaMA's and LLaVA's, CLIP's (MIT), SAM's "
        "(Apache 2.0).\n"
    )
