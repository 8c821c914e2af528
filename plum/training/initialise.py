"""Start a run from a saved model's weights; the new architecture may add adapters, and add or drop optional modules.

The backbone must match exactly, even if the run's system differs from the saved one. Only adapters and optional heads
(tagger, feedback, early fusion) may differ; whatever starts afresh or is left behind is reported by name. The backbone
is built without memory and filled in the training dtype, so that a rank never holds more than the model in that dtype,
the fresh heads in float32 and the file being read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from plum.checkpoints.model_config_io import describe_differences, read_model_config
from plum.checkpoints.store import HEAD_PREFIX, has_heads, has_projector, is_projector, saved_tensors
from plum.checkpoints.weights import SavedTensor, copy_tensors, first_names
from plum.config import (
    CalicoConfig,
    HfBackboneConfig,
    LlavaConfig,
    ModelConfig,
    Quantization,
    SamConfig,
    SpecialTokensConfig,
    with_fit,
)
from plum.models.backbones.lora import is_adapter, name_without_adapters, reset_adapters
from plum.models.grounded_lmm import GroundedLMM
from plum.models.parameter_counts import component_of
from plum.models.segmenters.build import complete_sizes
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_added_rows, with_special_tokens
from plum.models.weightless import allocate_parameters

OPTIONAL = (
    "tagger",
    "feedback",
    "sam.early_fusion",
    "llava.adaptation",
    "llava.correspondence",
    "llava.patch_projection",
)
"""Modules of GroundedLMM that only some models have."""
LEAVABLE = ("llava.dino", "llava.qformer")
"""Modules that a run may leave behind, but not start afresh."""
COPIED = {"llava.adaptation.queries": "llava.qformer.queries"}
"""Tensors that start as a copy of another, by name, where the saved model lacks them."""
RESETTABLE = ("query_projection", *OPTIONAL)
"""Modules that a run may start afresh: the heads that a system adds to LLaVA and SAM."""


@dataclass(frozen=True)
class Placement:
    """How a model's weights are held: dtype, device, and quantization of the language model."""

    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    quantization: Quantization = "none"


@dataclass(frozen=True)
class InitialisedModel:
    """A model ready for training, and lines that say where its weights come from."""

    model: GroundedLMM
    notes: tuple[str, ...]


def with_fit_of(config: ModelConfig, init_from: str | None) -> ModelConfig:
    """Return a run's architecture, completed from the model it starts from.

    `llava.vision.fit` is the run's own, or else that model's. What `hf` leaves out is that model's.

    Raises:
        ValueError: `hf` names another value than the model; the message names the keys.
    """
    if init_from is not None and config.hf is not None:
        return replace(config, hf=_complete_stock(config.hf, init_from))
    if init_from is None or config.llava is None or config.llava.vision.fit is not None:
        return with_fit(config)
    saved = read_model_config(Path(init_from)).llava
    return with_fit(config, None if saved is None else saved.vision.fit)


def architecture_of(
    config: ModelConfig, init_from: str | None, tokenizer: PreTrainedTokenizerBase, added: Sequence[int]
) -> ModelConfig:
    """Return a run's whole architecture: completed from its start and its tokenizer, with rows for added tokens.

    Args:
        config: of the run.
        init_from: the saved model it starts from, if any.
        tokenizer: with the added tokens.
        added: ids of the tokens that the run adds.

    Raises:
        ValueError: see `with_fit_of` and `with_special_tokens`.
    """
    return with_special_tokens(with_added_rows(with_fit_of(config, init_from), tokenizer, added), tokenizer)


def _complete_stock(own: HfBackboneConfig, folder: str) -> HfBackboneConfig:
    """Return the saved stock model's configuration, with which everything that the run gives has to agree."""
    saved = read_model_config(Path(folder)).hf
    if saved is None:
        raise ValueError(f"model.hf is set, but {folder} has LLaVA as its backbone; adopt a stock model (plum adopt)")
    for key in ("stock", "image_processor", "processor"):
        if differing := sorted(_differing_keys(getattr(own, key), getattr(saved, key), f"model.hf.{key}")):
            raise ValueError(
                f"{', '.join(differing)} of this run and of {folder} differ; leave them out of the run's YAML"
            )
    return replace(saved, special_tokens=own.special_tokens)


def _differing_keys(own: Mapping[str, object], saved: Mapping[str, object], prefix: str) -> Iterator[str]:
    """Yield the keys of `own` that have another value in `saved`."""
    for key, value in own.items():
        other = saved.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from _differing_keys(value, other, f"{prefix}.{key}")
        elif value != other:
            yield f"{prefix}.{key}"


def build_from(
    config: ModelConfig, folder: str, placement: Placement, reset_modules: Iterable[str] = ()
) -> InitialisedModel:
    """Build a model and fill it with a saved one's weights; see `initialise_from`.

    Fresh heads and adapters are initialised in float32 and then rounded. DeepSpeed would do the same to a float32
    model, since its float32 master copies start from the rounded weights.
    """
    model = build_model(config, is_backbone_empty=True, quantization=placement.quantization)
    # bitsandbytes packs weights as they move to the device, so they are read on the CPU.
    device = torch.device("cpu") if placement.quantization != "none" else placement.device
    for network in (model.llava, model.sam):
        allocate_parameters(network, placement.dtype, device)
    reset_adapters(model.llava)
    notes = initialise_from(model, folder, reset_modules)
    return InitialisedModel(model.to(placement.dtype), tuple(notes))


def initialise_from(model: GroundedLMM, folder: str, reset_modules: Iterable[str] = ()) -> list[str]:
    """Copy the weights of a saved model into `model`, one tensor at a time.

    Args:
        model: freshly built; changed in place.
        folder: a saved model.
        reset_modules: names from RESETTABLE; these modules keep their fresh weights.

    Returns:
        Lines that say what was copied, what starts afresh and what was left behind.

    Raises:
        FileNotFoundError: a file of the saved model is missing.
        ValueError: a module cannot be reset, or the architectures differ in more than optional parts.
    """
    reset = tuple(reset_modules)
    if unknown := sorted(set(reset) - set(RESETTABLE)):
        raise ValueError(f"reset_modules: {unknown} cannot be reset; choose from {list(RESETTABLE)}")
    require_same_backbone(model.config, folder)
    saved = saved_tensors(folder)
    targets: list[tuple[Tensor, str]] = []
    fresh: Counter[str] = Counter()
    used: set[str] = set()
    is_base = not any(name.startswith(HEAD_PREFIX) for name in saved)
    lacks_projector = model.config.calico is not None and not has_projector(folder)
    if lacks_projector:  # f_image of a converted start whose BLIP has another language model; built without memory
        _start_afresh(model.llava.stock.model.multi_modal_projector)
    first = first_names(model)
    for name, tensor in model.state_dict().items():
        # Continued adapters are saved under their own names; a base without adapters, under names without the wrapping.
        source = name if name in saved else name_without_adapters(name)
        is_reset = _part_of(name) in reset
        if name in COPIED and (is_reset or source not in saved):
            source, is_reset = COPIED[name], False
        used.update((source, name_without_adapters(name)))  # trained weights may hide a base's tensor of that name
        if first[name] != name:  # a tied tensor, under whose first name trained weights are saved
            continue
        if is_reset or source not in saved:
            if not is_reset and not _may_be_missing(name, is_base) and not (lacks_projector and is_projector(name)):
                raise ValueError(f"{folder} has no {source}; it is a checkpoint of another architecture")
            fresh[_part_of(name)] += 1
        elif saved[source].shape != tuple(tensor.shape) and not _is_grown(model.config, name, tensor, saved[source]):
            part = _part_of(name)
            raise ValueError(
                f"{folder}: {source} is {saved[source].shape}, this run needs {tuple(tensor.shape)}"
                + (f"; add {part} to reset_modules to start it afresh" if part in RESETTABLE else "")
            )
        else:
            targets.append((tensor, source))
    left = Counter(_part_of(name) for name in saved if name not in used)
    if forbidden := sorted(set(left) - {*OPTIONAL, *LEAVABLE}):
        raise ValueError(
            f"{folder} has weights that this run cannot hold ({forbidden}); merge adapters first: python -m plum export"
        )
    copy_tensors(targets, saved)
    return [
        f"Copied {len(targets)} tensors from {folder}",
        f"Starting afresh: {_describe(fresh)}",
        f"Left behind: {_describe(left)}",
    ]


def _is_grown(config: ModelConfig, name: str, own: Tensor, saved: SavedTensor) -> bool:
    """Return whether a tensor is an embedding of a stock model for which the run has more rows than the saved one."""
    is_embedding = own.ndim == 2 and name.startswith("llava.") and component_of(name) == "llava.embeddings"
    if config.hf is None or not is_embedding:
        return False
    return saved.shape[1:] == tuple(own.shape[1:]) and saved.shape[0] < len(own)


def require_same_backbone(own: ModelConfig, folder: str) -> None:
    """Refuse a saved model whose fixed parts differ.

    A token that only one of the two models writes is no difference. Over a converted base, a run chooses its own
    conversation template and fit: they only prepare the inputs, and the authors, too, train with others than LLaVA did.
    It also chooses the arithmetic of SAM's positional encoding.

    Args:
        own: this run's architecture, special tokens included.
        folder: the saved model.

    Raises:
        FileNotFoundError: the saved model has no config.json.
        ValueError: something differs; the message names every key with both values.
    """
    saved = read_model_config(Path(folder))
    if own.hf is not None and saved.hf is not None:
        own = replace(own, hf=_vocabulary_alike(own.hf, saved.hf))
    own = with_fit_of(own, folder)
    own = replace(own, sam=complete_sizes(own.sam))
    if not has_heads(folder) and isinstance(own.sam, SamConfig) and isinstance(saved.sam, SamConfig):
        own = replace(own, sam=replace(own.sam, position_dtype=saved.sam.position_dtype))
    if own.llava is not None and saved.llava is not None:
        own = replace(own, llava=_llava_alike(own, saved.llava, is_base=not has_heads(folder)))
    neutral = replace(
        own,
        system=saved.system,
        seg_token=saved.seg_token,
        tagger=saved.tagger,
        feedback=saved.feedback,
        lora=saved.lora,
        calico=_calico_alike(own.calico, saved.calico),
    )
    if type(own.backbone) is type(saved.backbone):
        neutral = neutral.with_backbone(replace(own.backbone, special_tokens=_suppressed_alike(own, saved)))
    if differences := describe_differences(saved, neutral):
        raise ValueError(
            f"{folder} differs from this run's model in (key: saved, this run's) {'; '.join(differences)}; copy the "
            f"values of its config.json into the run's YAML"
        )
    if saved.lora is not None and saved.lora != own.lora:
        raise ValueError(
            f"{folder} has adapters {saved.lora}, but this run has {own.lora}; merge them first: python -m plum export"
        )


def _llava_alike(own: ModelConfig, saved: LlavaConfig, is_base: bool) -> LlavaConfig:
    """Return the run's LLaVA with the saved one's values of what the run may choose."""
    llava = own.of_llava
    if is_base:
        vision = replace(llava.vision, fit=saved.vision.fit)
        llava = replace(llava, vision=vision, conversation=saved.conversation)
    if own.calico is not None and own.calico.qformer is None:  # the Q-Former is left behind, and its number of tokens
        llava = replace(llava, vision=replace(llava.vision, num_query_tokens=saved.vision.num_query_tokens))
    return llava


def _calico_alike(own: CalicoConfig | None, saved: CalicoConfig | None) -> CalicoConfig | None:
    """Return the run's CALICO with the saved model's optional modules, which may differ."""
    if own is None or saved is None:
        return own
    dino, qformer = own.dino or saved.dino, own.qformer or saved.qformer  # see LEAVABLE
    if dino is not None and saved.dino is not None:
        dino = replace(dino, facet=saved.dino.facet)  # which features are read is the run's choice
    return replace(own, correspondence=saved.correspondence, adaptation=saved.adaptation, dino=dino, qformer=qformer)


def _vocabulary_alike(own: HfBackboneConfig, saved: HfBackboneConfig) -> HfBackboneConfig:
    """Return the run's stock model with the saved one's number of embedding rows, if it differs in nothing else."""
    grown = saved.with_vocabulary(own.language.vocab_size)
    return replace(own, stock=saved.stock) if own.stock == grown.stock else own


def _suppressed_alike(own: ModelConfig, saved: ModelConfig) -> SpecialTokensConfig | None:
    """Return the run's special tokens with the saved model's list of ids that are not text."""
    tokens, others = own.backbone.special_tokens, saved.backbone.special_tokens
    return tokens if tokens is None or others is None else replace(tokens, suppressed=others.suppressed)


def _may_be_missing(name: str, is_base: bool) -> bool:
    """Say whether a tensor may start afresh: adapters and optional heads may; over a converted base, all heads may."""
    return is_adapter(name) or _part_of(name) in (RESETTABLE if is_base else OPTIONAL)


def _start_afresh(projector: nn.Module) -> None:
    """Give a linear layer, in any dtype, the weights of a new one."""
    assert isinstance(projector, nn.Linear), "CALICO's f_image is one layer"
    fresh = nn.Linear(projector.in_features, projector.out_features)
    projector.load_state_dict(fresh.state_dict())


def _part_of(name: str) -> str:
    if is_adapter(name):
        return "adapters"
    if is_projector(name):
        return "llava.projector"
    first = name.split(".", 1)[0]
    return next((module for module in (*RESETTABLE, *LEAVABLE) if name.startswith(f"{module}.")), first)


def _describe(parts: Counter[str]) -> str:
    return ", ".join(f"{part} ({count} tensors)" for part, count in sorted(parts.items())) or "nothing"
