"""Peak memory of one GPU for a training configuration: an estimate, from formulas that are checked on tiny models.

Weights, gradients and optimizer are exact sums. Activations are formulas over the shapes of a micro-batch, checked
against what torch saves. What lives for a moment (gradients of activations, the frozen towers, losses), and the
allowance for CUDA and the allocator, are estimates that only a GPU can confirm.
"""

from dataclasses import dataclass

from plum.doctor.language_activations import (
    FLOAT,
    final_norm_bytes,
    layer_bytes,
    layers_bytes,
    query_bytes,
    tagger_bytes,
    token_loss_bytes,
)
from plum.doctor.mask_activations import decoder_bytes, feedback_bytes, grid_size, loss_bytes, mask_sum_bytes
from plum.doctor.static_memory import StaticMemory, count_static_memory
from plum.doctor.workload import Assumptions, Workload, build_workload
from plum.train_config import TrainConfig

CONTEXT_BYTES = 2 * 10**9
"""Assumed: CUDA context, NCCL's buffers, cuBLAS workspaces."""
FRAGMENTATION = 0.05
"""Assumed: share of everything else that the allocator cannot use."""


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps from the forward to the backward pass.

    Attributes:
        layers: of the language model (their inputs alone with gradient checkpointing).
        token_loss: final norm and log-probabilities at supervised positions.
        tagger: span tagger and its loss.
        queries: query projection and KL term.
        masks: SAM's decoder, mask feedback.
        mask_losses: true masks at original resolution, low-resolution logits.
    """

    layers: int
    token_loss: int
    tagger: int
    queries: int
    masks: int
    mask_losses: int

    @property
    def total(self) -> int:
        """Everything that is kept."""
        return self.layers + self.token_loss + self.tagger + self.queries + self.masks + self.mask_losses


@dataclass(frozen=True)
class Phase:
    """A moment of a step, and what lies on the GPU then beside weights and optimizer, in bytes."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one GPU."""

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
        """Assumed cost of CUDA and of the allocator."""
        return CONTEXT_BYTES + round(FRAGMENTATION * (self.static.resident + self.busiest.num_bytes))

    @property
    def peak(self) -> int:
        """Estimated peak."""
        return self.static.resident + self.busiest.num_bytes + self.allowance


def estimate_memory(config: TrainConfig, num_gpus: int, assumptions: Assumptions | None = None) -> MemoryEstimate:
    """Estimate the peak of one GPU.

    Args:
        config: the run; its weights are not needed.
        num_gpus: how many GPUs it will have.
        assumptions: about its data; None: the heaviest usual micro-batch.

    Raises:
        ValueError: a vision tower is trained (the tiny recipe), whose activations no formula here covers.
    """
    if config.trainable.vision_tower or config.trainable.sam_image_encoder:
        raise ValueError(
            "memory is estimated for frozen vision towers: trainable.vision_tower and trainable.sam_image_encoder are "
            "of the tiny recipe"
        )
    work = build_workload(config, assumptions or Assumptions())
    static = count_static_memory(config, num_gpus)
    activations = estimate_activations(config, work)
    return MemoryEstimate(num_gpus, work, static, activations, _phases(config, work, static, activations))


def estimate_activations(config: TrainConfig, work: Workload) -> Activations:
    """Return the bytes that autograd keeps of one micro-batch."""
    model = config.model
    language, lora = model.llava.language, model.lora
    is_full = config.trainable.language_model == "full"
    are_embeddings_trained = is_full or config.trainable.embeddings
    decoded = work.masks * decoder_bytes(model.sam, work)
    num_fed_back = work.masks - (work.conversations if work.spans else 0)
    if model.feedback.is_enabled:
        decoded += num_fed_back * feedback_bytes(model.sam, model.feedback.num_heads, work)
    return Activations(
        layers=layers_bytes(
            language, lora, work, is_trained=is_full, is_checkpointed=config.engine.gradient_checkpointing
        ),
        token_loss=final_norm_bytes(language, work, is_trained=is_full)
        + token_loss_bytes(language, work, is_trained=are_embeddings_trained),
        tagger=0 if model.tagger is None else tagger_bytes(language.hidden_size, model.tagger, work),
        queries=query_bytes(language.hidden_size, work),
        masks=decoded,
        mask_losses=work.masks * loss_bytes(model.sam, work),
    )


def _phases(config: TrainConfig, work: Workload, static: StaticMemory, activations: Activations) -> tuple[Phase, ...]:
    """List the moments at which memory can peak; each with everything that lives then beside the static part."""
    language = config.model.llava.language
    size, logits = work.element_bytes, work.supervised * language.vocab_size
    inputs = _inputs_bytes(config, work)
    kept = inputs + activations.total
    # Raw and masked logits and, in 16 bits, their float32 copy.
    losses = logits * (2 * size + (FLOAT if size < FLOAT else 0)) + mask_sum_bytes(work)
    of_logits = logits * (FLOAT + size) + mask_sum_bytes(work)
    gradients = static.gradients + static.micro_batch_gradients
    phases = [
        Phase("SAM's image encoder", inputs + _sam_encoder_bytes(config, work)),
        Phase("losses", kept + losses),
        Phase("backward of the losses", kept + of_logits + gradients),
        Phase(
            "backward of the language model",
            inputs + activations.layers + _layer_backward_bytes(config, work) + gradients,
        ),
        Phase("reduction of the gradients", inputs + gradients + static.gradient_buffers),
        Phase("optimizer step", static.gradients + static.step_gradients),
    ]  # fmt: skip
    if config.losses.kl > 0:
        teacher = work.rows * language.hidden_size * size + _layer_forward_bytes(config, work)
        phases.append(Phase("teacher's pass", kept - activations.mask_losses + logits * 2 * size + teacher))
    return tuple(phases)


def _inputs_bytes(config: TrainConfig, work: Workload) -> int:
    """Return the batch itself and what the towers make of it."""
    vision, sam = config.model.llava.vision, config.model.sam
    pixels = work.images * 3 * (vision.image_size**2 + sam.image_size**2) * FLOAT
    features = vision.num_image_tokens * config.model.llava.language.hidden_size + grid_size(sam) * sam.prompt_dim
    masks = work.masks * work.image_pixels
    return pixels + masks + work.images * features * work.element_bytes + 4 * 8 * work.rows


def _sam_encoder_bytes(config: TrainConfig, work: Workload) -> int:
    """Transient memory of one global block without a graph: attention with its bias, or the MLP, whichever is more.

    The bias of the relative positions [B, heads, h w, h w] is the most of it.
    """
    sam = config.model.sam
    cells = grid_size(sam)
    states = cells * sam.encoder_dim
    attention = 6 * states + sam.encoder_heads * cells * cells + 2 * sam.encoder_heads * cells * round(cells**0.5)
    return work.images * max(attention, 10 * states) * work.element_bytes


def _layer_forward_bytes(config: TrainConfig, work: Workload) -> int:
    """Transient memory of one decoder layer without a graph: its MLP with the norm's float32 copies."""
    language = config.model.llava.language
    return work.places * (
        3 * (language.hidden_size + language.intermediate_size) * work.element_bytes + 2 * language.hidden_size * FLOAT
    )


def _layer_backward_bytes(config: TrainConfig, work: Workload) -> int:
    """Transient memory of one layer's backward pass; with gradient checkpointing its recomputed activations too."""
    language = config.model.llava.language
    workspace = work.places * (3 * language.intermediate_size * work.element_bytes + 2 * language.hidden_size * FLOAT)
    if not config.engine.gradient_checkpointing:
        return workspace
    is_full = config.trainable.language_model == "full"
    recomputed = layer_bytes(language, config.model.lora, work, is_trained=is_full, is_first=False)
    return workspace + recomputed
