"""Estimate the memory of a run: weights, gradients, optimizer and activations, by component and setting."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from plum.checkpoints.model_config_io import CONFIG_FILE
from plum.config import HfBackboneConfig, Quantization, Sam2Config, SpecialTokensConfig, stock_hf_config
from plum.doctor import decoder_costs, sam2_costs
from plum.doctor.activations import (
    FLOAT,
    adaptation_bytes,
    correspondence_bytes,
    decoder_bytes,
    feedback_bytes,
    final_norm_bytes,
    grid_size,
    image_token_bytes,
    layer_bytes,
    layers_bytes,
    loss_bytes,
    mask_sum_bytes,
    query_bytes,
    tagger_bytes,
    token_loss_bytes,
)
from plum.doctor.decoder_costs import DecoderBytes
from plum.doctor.workload import Assumptions, Workload, build_workload, training_dtype
from plum.losses.losses import LOGITS_OF_A_PIECE, MAX_WHOLE_LOGITS
from plum.models.backbones.hf import find_family
from plum.models.grounded_lmm import GroundedLMM
from plum.models.parameter_counts import parameters_by_component, shown_name
from plum.models.segmenters.sam import IMAGES_AT_ONCE
from plum.models.systems.registry import build_model
from plum.models.trainable import set_trainable
from plum.train_config import EngineConfig, TrainConfig
from plum.training.initialise import with_fit_of

NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256
"""bitsandbytes: one 8-bit scale per 64 weights, one float32 number per 256 scales."""
PACKED = "llava.language_model"
"""The component whose linear layers are quantized."""
EXACT = "calico.qformer"
"""The component that stays in float32."""
CONTEXT_BYTES = 2 * 10**9
"""Assumption: CUDA context, NCCL's buffers, cuBLAS workspaces."""
NUMBERS_PER_TOKEN = 12
"""Integers of a batch for each token: ids, mask, label and tag; twice ids, positions, branch and place."""
NUMBERS_OF_RECTANGLES = 7
"""Further ones where positions have three axes: those of the conversations, and twice two more."""
FRAGMENTATION = 0.05
"""Assumption: share of everything else that the allocator cannot use."""
HEADER = (
    "| model | GPUs | parameters | trained | weights | optimizer | gradients, buffers | activations | peak per GPU |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class ComponentMemory:
    """One component: its parameters, how many of them are trained, and the bytes of its weights on a GPU."""

    component: str
    num_parameters: int
    num_trained: int
    weight_bytes: int


@dataclass(frozen=True)
class StaticMemory:
    """Memory on every GPU that does not depend on the micro-batch, in bytes.

    Attributes:
        components: weights by component, frozen and trained.
        gradients: gradients accumulated over micro-batches, float32; this GPU's share under ZeRO-2, all otherwise.
        micro_batch_gradients: all gradients of one micro-batch, in the model's dtype, until the engine has them.
        gradient_buffers: buffers through which the engine reduces them after the backward pass.
        step_gradients: float32 copy of this GPU's share of the gradients during the optimizer's step.
        master_weights: float32 copy of this GPU's share of the trained weights; none where the model's own weights are
            updated (`plain`, and `ddp` in float32).
        moments: Adam's two moments of this GPU's share.
    """

    components: tuple[ComponentMemory, ...]
    gradients: int
    micro_batch_gradients: int
    gradient_buffers: int
    step_gradients: int
    master_weights: int
    moments: int

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(component.num_parameters for component in self.components)

    @property
    def num_trained(self) -> int:
        """Number of trained parameters."""
        return sum(component.num_trained for component in self.components)

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(component.weight_bytes for component in self.components)

    @property
    def resident(self) -> int:
        """Bytes that stay from step to step."""
        return self.weights + self.master_weights + self.moments


def count_static_memory(config: TrainConfig, num_gpus: int) -> StaticMemory:
    """Count the static memory of a rank.

    Args:
        config: the run; special tokens do not matter and may be unset.
        num_gpus: ranks over which ZeRO shards.
    """
    config = complete_backbone(config)
    return _count_static(config, num_gpus, build_without_memory(config))


def _count_static(config: TrainConfig, num_gpus: int, model: GroundedLMM) -> StaticMemory:
    components, largest = _count_components(config, model)
    trained = sum(component.num_trained for component in components)
    size, bucket = training_dtype(config).itemsize, min(config.engine.reduce_bucket_size, trained)
    if config.engine.kind == "plain":
        return StaticMemory(components, trained * FLOAT, 0, 0, 0, 0, 2 * trained * FLOAT)
    if config.engine.kind == "ddp":
        # Until the second update, the gradients lie beside the bucket that later holds them.
        masters = 0 if size == FLOAT else trained * FLOAT
        return StaticMemory(
            components, trained * FLOAT, trained * size, trained * FLOAT, 0, masters, 2 * trained * FLOAT
        )
    share = -(-trained // num_gpus)
    # A bucket, or a tensor too large for one, is copied to be reduced, and copied again if that changes its dtype.
    copies = max(bucket, largest) * (size if size == FLOAT else size + FLOAT)
    gradients, buffers, step = share * FLOAT, bucket * size + copies, share * FLOAT
    if size < FLOAT:
        step = 0  # accumulated in the dtype that the optimizer takes
    if config.engine.zero_stage == 1:
        gradients = trained * FLOAT
        if size < FLOAT:
            # DeepSpeed keeps the last micro-batch's gradients as well as the sum, and reduces the sum in one piece.
            gradients, buffers = trained * (FLOAT + size), trained * FLOAT
    return StaticMemory(
        components, gradients, trained * size, buffers, step, master_weights=share * FLOAT, moments=2 * share * FLOAT
    )


def complete_backbone(config: TrainConfig) -> TrainConfig:
    """Return the run with all sizes of its stock backbone: its own, or those of the model that it starts from.

    Raises:
        ValueError: neither has them, or the two differ.
    """
    backbone, base = config.model.hf, config.init_from
    if backbone is None:
        return config
    if base is not None and (Path(base) / CONFIG_FILE).is_file():
        return replace(config, model=with_fit_of(config.model, base))
    if not backbone.stock:
        raise ValueError(
            f"model.hf gives no sizes, and the model that it starts from is not there ({base or 'no init_from'}): "
            "adopt it first (plum adopt), or give its config.json as model.hf.stock"
        )
    return config


def build_without_memory(config: TrainConfig) -> GroundedLMM:
    """Build a run's model on the meta device, its trained parameters set.

    Args:
        config: the run, its backbone complete; special tokens do not matter and may be unset.
    """
    backbone = config.model.backbone
    tokens = backbone.special_tokens or SpecialTokensConfig(image=0, pad=0, eos=0)
    with torch.device("meta"):
        model = build_model(config.model.with_backbone(replace(backbone, special_tokens=tokens)))
    set_trainable(model, config.trainable)
    return model


def _count_components(config: TrainConfig, model: GroundedLMM) -> tuple[tuple[ComponentMemory, ...], int]:
    """Count parameters by component, and those of the largest trained tensor.

    The part pretext of the tiny recipe is not part of PLUM and is left out.
    """
    totals: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    size, largest = training_dtype(config).itemsize, 0
    for component, _, parameter in parameters_by_component(model):
        number = parameter.numel()
        totals[component] += number
        trained[component] += number * parameter.requires_grad
        largest = max(largest, number * parameter.requires_grad)
        is_packed = component == PACKED and parameter.ndim == 2 and not parameter.requires_grad
        kind = config.engine.base_quantization if is_packed else "none"
        element = FLOAT if component == EXACT else size
        weights[component] += _weight_bytes(number, parameter.shape[0], element, kind)
    components = tuple(
        ComponentMemory(shown_name(name, config.model), total, trained[name], weights[name])
        for name, total in totals.items()
    )
    return components, largest


def _weight_bytes(number: int, num_rows: int, size: int, kind: Quantization) -> int:
    """Return the bytes of a weight: dense, or quantized by bitsandbytes (int8: a float32 scale per row)."""
    if kind == "int8":
        return number + num_rows * FLOAT
    if kind == "nf4":
        scales = -(-number // NF4_BLOCK)
        return -(-number // 2) + scales + -(-scales // NF4_NESTED_BLOCK) * FLOAT
    return number * size


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps from the forward to the backward pass.

    Attributes:
        layers: layers of the language model (only their inputs with gradient checkpointing).
        token_loss: final norm and log-probabilities at supervised positions.
        tagger: span tagger and its loss.
        queries: query projection and KL term.
        masks: SAM's decoder, mask feedback.
        mask_losses: true masks at original resolution, low-resolution logits.
        images: what CALICO's own modules keep of images: correspondences, adaptation modules, trained projections.
    """

    layers: int
    token_loss: int
    tagger: int
    queries: int
    masks: int
    mask_losses: int
    images: int = 0

    @property
    def total(self) -> int:
        """Total number of bytes."""
        kept = self.layers + self.token_loss + self.tagger + self.queries + self.masks + self.mask_losses
        return kept + self.images


@dataclass(frozen=True)
class Phase:
    """A moment of a step, and the bytes then on the GPU in addition to weights and optimizer."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory estimate of one GPU."""

    num_gpus: int
    workload: Workload
    static: StaticMemory
    activations: Activations
    phases: tuple[Phase, ...]

    @property
    def busiest(self) -> Phase:
        """The phase with the peak."""
        return max(self.phases, key=lambda phase: phase.num_bytes)

    @property
    def allowance(self) -> int:
        """Assumed bytes for CUDA and the allocator."""
        return CONTEXT_BYTES + round(FRAGMENTATION * (self.static.resident + self.busiest.num_bytes))

    @property
    def peak(self) -> int:
        """Estimated peak in bytes."""
        return self.static.resident + self.busiest.num_bytes + self.allowance


def estimate_memory(config: TrainConfig, num_gpus: int, assumptions: Assumptions | None = None) -> MemoryEstimate:
    """Estimate the peak memory of one GPU.

    Args:
        config: the run; its weights are not needed.
        num_gpus: number of GPUs of the run.
        assumptions: assumptions about its data; None: the heaviest typical micro-batch.

    Raises:
        ValueError: a vision tower, or CALICO's Q-Former or DINOv2, is trained (the tiny recipe), or the projector of a
            stock model, or a decoder's layers differ in kind; nothing here covers their activations. Or a stock model's
            sizes are not known, or refused.
    """
    config = complete_backbone(config)
    trained, calico = config.trainable, config.model.calico
    if config.model.hf is not None and (own_attention := find_family(config.model.hf).own_attention):
        raise ValueError(
            f"{config.model.hf.model_type} has {own_attention}, so that its layers differ, and their activations are "
            "not measured yet; begin with engine.micro_batch_size 1 and read peak_memory_gb in metrics.jsonl"
        )
    if config.model.hf is not None and trained.projector:
        raise ValueError(
            f"memory is estimated for a frozen projector of {config.model.hf.model_type}: set trainable.projector to "
            "false"
        )
    if trained.vision_tower or trained.sam_image_encoder:
        raise ValueError(
            "memory is estimated for frozen vision towers: trainable.vision_tower and trainable.sam_image_encoder "
            "belong to the tiny recipe"
        )
    if calico is not None and (trained.qformer or trained.dino):
        raise ValueError(
            "memory is estimated for CALICO's frozen towers: trainable.qformer and trainable.dino belong to the tiny "
            "recipe"
        )
    work = build_workload(config, assumptions or Assumptions())
    model = build_without_memory(config)
    static = _count_static(config, num_gpus, model)
    decoder = _measure_decoder(config, work, model)
    activations = _activations(config, work, decoder)
    return MemoryEstimate(num_gpus, work, static, activations, _phases(config, work, static, activations, decoder))


def estimate_activations(config: TrainConfig, work: Workload) -> Activations:
    """Return the bytes that autograd keeps for one micro-batch.

    Args:
        config: the run; its weights are not needed.
        work: sizes of the micro-batch, from `build_workload(config, assumptions)`.

    Returns:
        Bytes by part of the model.
    """
    config = complete_backbone(config)
    return _activations(config, work, _measure_decoder(config, work, build_without_memory(config)))


def _measure_decoder(config: TrainConfig, work: Workload, model: GroundedLMM) -> DecoderBytes:
    """Return the bytes that autograd keeps of the decoder: LLaVA's by formula, a stock model's measured on its layers.

    Args:
        config: the run, its backbone complete.
        work: sizes of the micro-batch.
        model: from `build_without_memory`; only its dtype changes.
    """
    is_checkpointed = config.engine.gradient_checkpointing
    if config.model.hf is not None:
        return decoder_costs.decoder_bytes(model, work, training_dtype(config), is_checkpointed=is_checkpointed)
    language, lora = config.model.language, config.model.lora
    is_full = config.trainable.language_model == "full"
    kept = layers_bytes(
        language,
        lora,
        work,
        is_trained=is_full,
        are_embeddings_trained=is_full or config.trainable.embeddings or _are_image_tokens_trained(config),
        is_checkpointed=is_checkpointed,
    )
    layer = layer_bytes(language, lora, work, is_trained=is_full, is_first=False)
    return DecoderBytes(kept, layer, final_norm_bytes(language, work, is_trained=is_full))


def _activations(config: TrainConfig, work: Workload, decoder: DecoderBytes) -> Activations:
    """Return the bytes that autograd keeps for one micro-batch, given those of the decoder."""
    model, language = config.model, config.model.language
    are_embeddings_trained = config.trainable.language_model == "full" or config.trainable.embeddings
    sam = model.sam
    if isinstance(sam, Sam2Config):
        decoded = work.masks * sam2_costs.decoder_bytes(sam, training_dtype(config))
    else:
        decoded = work.masks * decoder_bytes(sam, work)
    # The first mask of each image of a conversation sees none.
    num_fed_back = work.masks - work.conversations * min(work.spans, work.images_per_conversation)
    if model.feedback.is_enabled:
        decoded += num_fed_back * feedback_bytes(model.sam, model.feedback, work)
    num_tagged = work.supervised if config.losses.bio_scope == "answer" else work.rows
    return Activations(
        layers=decoder.kept,
        token_loss=decoder.norm + token_loss_bytes(language, work, is_trained=are_embeddings_trained),
        tagger=0
        if model.tagger is None
        else tagger_bytes(language.hidden_size, model.tagger, work, num_tagged, _num_image_tokens(config, work)),
        queries=query_bytes(language.hidden_size, work, is_kl_pooled=config.losses.kl_reduction != "authors"),
        masks=decoded,
        mask_losses=work.masks * loss_bytes(model.sam, work),
        images=0 if model.calico is None else _image_bytes(config, work),
    )


def _num_image_tokens(config: TrainConfig, work: Workload) -> int:
    """Return the number of an image's tokens."""
    image = work.stock_image
    return config.model.of_llava.vision.num_image_tokens if image is None else image.num_tokens


def _are_image_tokens_trained(config: TrainConfig) -> bool:
    """Return whether the image's tokens need a gradient before CALICO's first layer."""
    calico = config.model.calico
    return calico is not None and (config.trainable.projector or calico.qformer is None)


def _image_bytes(config: TrainConfig, work: Workload) -> int:
    """Return the bytes that CALICO's own modules keep of images."""
    llava, calico = config.model.of_llava, config.model.calico
    assert calico is not None, "only CALICO has such modules"
    return (
        correspondence_bytes(llava, calico, work)
        + adaptation_bytes(llava, calico, work)
        + image_token_bytes(llava, calico, work, is_trained=config.trainable.projector)
    )


def _phases(
    config: TrainConfig, work: Workload, static: StaticMemory, activations: Activations, decoder: DecoderBytes
) -> tuple[Phase, ...]:
    """List the moments at which memory can peak, each with the bytes then on the GPU beyond the resident ones."""
    size = work.element_bytes
    inputs = _inputs_bytes(config, work)
    kept = inputs + activations.total
    logits = _logits_bytes(config, work)
    gradients = static.gradients + static.micro_batch_gradients
    phases = [
        Phase("SAM's image encoder", inputs + _sam_encoder_bytes(config, work)),
        Phase("losses", kept + logits.losses + mask_sum_bytes(work)),
        Phase("backward of the losses", kept + logits.backward + mask_sum_bytes(work) + gradients),
        Phase(
            "backward of the language model",
            inputs
            + activations.layers
            + activations.images
            + _layer_backward_bytes(config, work, decoder.layer)
            + gradients,
        ),
        Phase("reduction of the gradients", inputs + gradients + static.gradient_buffers),
        Phase("optimizer step", static.gradients + static.step_gradients),
    ]  # fmt: skip
    if config.model.hf is not None:
        phases.insert(0, Phase("the backbone's image encoder", inputs + decoder.encoder))
    if config.losses.kl > 0:
        teacher = work.rows * config.model.language.hidden_size * size + _layer_forward_bytes(config, work)
        teacher += _injected_bytes(config, work)
        phases.append(Phase("teacher's pass", kept - activations.mask_losses + logits.teacher + teacher))
    return tuple(phases)


@dataclass(frozen=True)
class _LogitsBytes:
    """Transient bytes of the logits of supervised tokens, beyond what the loss keeps, at three moments.

    losses: as they are computed; backward: of their gradients; teacher: while the teacher runs
    """

    losses: int
    backward: int
    teacher: int


def _logits_bytes(config: TrainConfig, work: Workload) -> _LogitsBytes:
    size, logits = work.element_bytes, work.supervised * config.model.language.vocab_size
    if logits <= MAX_WHOLE_LOGITS:
        # Raw and masked logits and, in 16 bits, their float32 copy.
        return _LogitsBytes(
            logits * (2 * size + (FLOAT if size < FLOAT else 0)), logits * (FLOAT + size), logits * 2 * size
        )
    # The masked logits are what is kept. The raw ones are gone when the pieces' float32 copies and log-probabilities
    # begin. In the backward pass, the gradients of all pieces lie beside the whole gradient that they become.
    pieces = LOGITS_OF_A_PIECE * FLOAT
    return _LogitsBytes(max(logits * size, 2 * pieces), logits * 2 * size + 3 * pieces, 0)


def batch_bytes(config: TrainConfig, work: Workload) -> int:
    """Return the bytes of a batch on its way to a GPU.

    Pixels and masks have a byte each (a stock model's pixels are float32), part maps an integer; so have the ids, masks
    and labels of tokens, and their places in the sequences of student and teacher.
    """
    sam, image = config.model.sam, work.stock_image
    numbers = NUMBERS_PER_TOKEN
    if image is None:
        of_backbone = 3 * config.model.of_llava.vision.image_size**2
    else:
        of_backbone = image.pixel_bytes
        numbers += NUMBERS_OF_RECTANGLES * image.has_rectangles
    pixels = work.images * (of_backbone + 3 * sam.image_size**2) + work.masks * work.image_pixels
    return pixels + 8 * (work.images * 16 * grid_size(sam) + numbers * work.rows)


def _inputs_bytes(config: TrainConfig, work: Workload) -> int:
    """Return the bytes of the batch itself, of its normalised pixels, and of the towers' features."""
    sam, width = config.model.sam, config.model.language.hidden_size
    pixels = work.images * 3 * sam.image_size**2 * FLOAT
    features = _num_image_tokens(config, work) * width
    if isinstance(config.model.backbone, HfBackboneConfig):
        features *= 1 + num_deep_features(config.model.backbone)
    else:
        pixels += work.images * 3 * config.model.backbone.vision.image_size**2 * FLOAT
    if isinstance(sam, Sam2Config):
        features += sam2_costs.embedding_elements(sam, is_decoder_trained=config.trainable.sam_mask_decoder)
    else:
        features += grid_size(sam) * sam.prompt_dim
    if config.model.calico is not None and config.model.calico.adaptation is not None:
        vision = config.model.of_llava.vision
        features += (vision.num_patches + 1) * vision.hidden_size  # what the adapted layers read
    return batch_bytes(config, work) + pixels + work.images * features * work.element_bytes


def num_deep_features(backbone: HfBackboneConfig) -> int:
    """Return how many features an image token has besides its embedding (Qwen3-VL's DeepStack)."""
    return len(getattr(stock_hf_config(backbone).vision_config, "deepstack_visual_indexes", ()))


def _injected_bytes(config: TrainConfig, work: Workload) -> int:
    """Return the bytes of the copy of these features that a pass holds, one per sequence and image."""
    backbone, image = config.model.backbone, work.stock_image
    if not isinstance(backbone, HfBackboneConfig) or image is None:
        return 0
    shown = work.images if work.is_shared else work.pairs
    width = config.model.language.hidden_size
    return shown * image.num_tokens * num_deep_features(backbone) * width * work.element_bytes


def _sam_encoder_bytes(config: TrainConfig, work: Workload) -> int:
    """Return the transient bytes of one global block without a graph: its attention, or the MLP if larger.

    A frozen encoder runs a few images at a time, or one if embeddings are kept. On a GPU SAM's attention has no bias:
    the scores of rows and columns widen queries, keys and values (`plum.models.segmenters.sam.FusedAttention`). Of
    SAM 2, its largest layer counts, of one image.
    """
    sam = config.model.sam
    if isinstance(sam, Sam2Config):
        return sam2_costs.encoder_elements(sam) * work.element_bytes
    cells = grid_size(sam)
    states = cells * sam.encoder_dim
    scores = 2 * sam.encoder_heads * cells * round(cells**0.5)
    # The block's input, its norm, queries, keys and values; the scores; all three and the result once more, widened.
    attention = 5 * states + scores + 4 * (states + scores)
    at_once = IMAGES_AT_ONCE if config.data.sam_feature_cache is None else 1
    return min(at_once, work.images) * max(attention, 10 * states) * work.element_bytes


def _layer_forward_bytes(config: TrainConfig, work: Workload) -> int:
    """Return the transient bytes of one decoder layer without a graph: its MLP with the norm's float32 copies."""
    language = config.model.language
    return work.places * (
        3 * (language.hidden_size + language.intermediate_size) * work.element_bytes + 2 * language.hidden_size * FLOAT
    )


def _layer_backward_bytes(config: TrainConfig, work: Workload, recomputed: int) -> int:
    """Return the transient bytes of a layer's backward pass, with gradient checkpointing also its recomputation.

    Args:
        config: the run.
        work: sizes of the micro-batch.
        recomputed: bytes that autograd keeps of one layer.
    """
    language = config.model.language
    workspace = work.places * (3 * language.intermediate_size * work.element_bytes + 2 * language.hidden_size * FLOAT)
    return workspace + (recomputed if config.engine.gradient_checkpointing else 0)


@dataclass(frozen=True)
class NamedRun:
    """A run and its name in a table."""

    name: str
    config: TrainConfig


def markdown_table(runs: Sequence[NamedRun], gpu_counts: Sequence[int], assumptions: Assumptions) -> str:
    """Return the README's table, GB of 10^9 bytes; every row is an estimate.

    Args:
        runs: the configurations, one row each.
        gpu_counts: numbers of GPUs, one column each.
        assumptions: assumptions about the data.
    """
    rows = [
        _row(run.name, estimate_memory(run.config, num_gpus, assumptions)) for run in runs for num_gpus in gpu_counts
    ]
    return "\n".join([*HEADER, *rows])


def _row(name: str, estimate: MemoryEstimate) -> str:
    static = estimate.static
    cells = (
        name,
        str(estimate.num_gpus),
        f"{static.num_parameters:,}",
        f"{static.num_trained:,}",
        _gigabytes(static.weights),
        _gigabytes(static.master_weights + static.moments),
        _gigabytes(static.gradients + static.micro_batch_gradients + static.gradient_buffers),
        _gigabytes(estimate.activations.total),
        _gigabytes(estimate.peak),
    )
    return f"| {' | '.join(cells)} |"


def _describe_engine(engine: EngineConfig) -> str:
    return f"{engine.kind}, ZeRO-{engine.zero_stage}" if engine.kind == "deepspeed" else engine.kind


def describe_estimate(config: TrainConfig, estimate: MemoryEstimate) -> str:
    """Return every part of one run's estimate, one line each, GB of 10^9 bytes."""
    work, static, activations = estimate.workload, estimate.static, estimate.activations
    engine = config.engine
    checkpointing = "with" if engine.gradient_checkpointing else "without"
    dtype = str(training_dtype(config)).removeprefix("torch.")
    lines = [
        f"Memory of each of {estimate.num_gpus} GPUs: {_gigabytes(estimate.peak)} GB, an estimate that no GPU has "
        "confirmed",
        f"  assumed micro-batch: {work.images} images, {work.conversations} conversations of {work.tokens} tokens, "
        f"{work.supervised} supervised tokens, {work.masks} masks of {work.image_pixels:,} pixels",
        f"  {_describe_engine(engine)}, {dtype}, {checkpointing} gradient checkpointing, "
        f"base_quantization {engine.base_quantization}",
        f"  {'weights':<34} {'parameters':>15} {'trained':>13} {'GB':>7}",
    ]
    for component in static.components:
        lines.append(
            f"    {component.component:<32} {component.num_parameters:>15,} {component.num_trained:>13,} "
            f"{_gigabytes(component.weight_bytes):>7}"
        )
    parts: tuple[tuple[str, int], ...] = (
        ("weights", static.weights),
        ("float32 master weights (share)", static.master_weights),
        ("Adam's moments (share)", static.moments),
        ("accumulated gradients, float32", static.gradients),
        ("gradients of a micro-batch", static.micro_batch_gradients),
        ("gradient buffers of the engine", static.gradient_buffers),
        ("activations: language model", activations.layers),
        ("activations: token loss", activations.token_loss),
        ("activations: tagger", activations.tagger),
        ("activations: queries, KL", activations.queries),
        ("activations: masks, feedback", activations.masks),
        ("activations: mask losses", activations.mask_losses),
    )
    if config.model.calico is not None:
        parts = (*parts, ("activations: CALICO's correspondences and adaptation", activations.images))
    lines += [f"  {name:<62} {_gigabytes(number):>9}" for name, number in parts]
    lines.append("  at the same time, in addition to weights and optimizer:")
    lines += [f"    {phase.name:<60} {_gigabytes(phase.num_bytes):>9}" for phase in estimate.phases]
    allowance = f"assumed: {_gigabytes(CONTEXT_BYTES)} for CUDA and NCCL, {FRAGMENTATION:.0%} lost by the allocator"
    lines.append(f"  {allowance:<62} {_gigabytes(estimate.allowance):>9}")
    return "\n".join(lines)


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f}"
