"""Bytes of weights, gradients and optimizer on one GPU, counted on the meta device: no weights are needed."""

from collections import Counter
from dataclasses import dataclass, replace

import torch

from plum.config import Quantization, SpecialTokensConfig
from plum.doctor.workload import training_dtype
from plum.models.parameter_counts import parameters_by_component
from plum.models.registry import build_model
from plum.models.trainable import set_trainable
from plum.train_config import TrainConfig

FLOAT = 4
NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256
"""bitsandbytes: one 8-bit scale per 64 weights, one float32 number per 256 scales."""
PACKED = "llava.language_model"
"""The component whose linear layers a quantized base packs."""


@dataclass(frozen=True)
class ComponentMemory:
    """One component: parameters, how many of them are trained, and bytes of its weights on a GPU."""

    component: str
    num_parameters: int
    num_trained: int
    weight_bytes: int


@dataclass(frozen=True)
class StaticMemory:
    """What lies on every GPU before the first forward pass.

    Attributes:
        components: weights by component, frozen and trained.
        gradients: accumulated over micro-batches, float32; this GPU's share under ZeRO-2, whole otherwise.
        micro_batch_gradients: those of one micro-batch, whole, in the model's dtype, until DeepSpeed has them.
        gradient_buffers: through which DeepSpeed reduces them, after the backward pass.
        step_gradients: float32 copy of this GPU's share of the gradients, during the optimizer's step.
        master_weights: float32 copy of this GPU's share of the trained weights (DeepSpeed alone).
        moments: Adam's two, of this GPU's share.
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
        """All parameters of the model."""
        return sum(component.num_parameters for component in self.components)

    @property
    def num_trained(self) -> int:
        """Those with gradients."""
        return sum(component.num_trained for component in self.components)

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(component.weight_bytes for component in self.components)

    @property
    def resident(self) -> int:
        """What stays from step to step."""
        return self.weights + self.master_weights + self.moments


def count_static_memory(config: TrainConfig, num_gpus: int) -> StaticMemory:
    """Count what a rank holds.

    Args:
        config: the run. Special tokens do not matter and may be unset.
        num_gpus: ranks over which ZeRO shards.
    """
    components, largest = _count_components(config)
    trained = sum(component.num_trained for component in components)
    size, bucket = training_dtype(config).itemsize, config.engine.reduce_bucket_size
    if config.engine.kind == "plain":
        return StaticMemory(components, trained * FLOAT, 0, 0, 0, 0, 2 * trained * FLOAT)
    share = -(-trained // num_gpus)
    # A bucket, or a tensor too large for one, is copied to be reduced, and once more where that changes its dtype.
    copies = max(bucket, largest) * (size if size == FLOAT else size + FLOAT)
    gradients, buffers, step = share * FLOAT, bucket * size + copies, share * FLOAT
    if size < FLOAT:
        step = 0  # accumulated in the form the optimizer takes
    if config.engine.zero_stage == 1:
        gradients = trained * FLOAT
        if size < FLOAT:
            # DeepSpeed keeps the last micro-batch's gradients beside the sum, and reduces the sum in one piece.
            gradients, buffers = trained * (FLOAT + size), trained * FLOAT
    return StaticMemory(
        components, gradients, trained * size, buffers, step, master_weights=share * FLOAT, moments=2 * share * FLOAT
    )


def _count_components(config: TrainConfig) -> tuple[tuple[ComponentMemory, ...], int]:
    """Count parameters by component, and those of the largest trained tensor.

    The part pretext of the tiny recipe is not PLUM's and left out.
    """
    tokens = config.model.llava.special_tokens or SpecialTokensConfig(image=0, pad=0, eos=0)
    with torch.device("meta"):
        model = build_model(replace(config.model, llava=replace(config.model.llava, special_tokens=tokens)))
    set_trainable(model, config.trainable)
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
        weights[component] += _weight_bytes(number, parameter.shape[0], size, kind)
    components = tuple(ComponentMemory(name, total, trained[name], weights[name]) for name, total in totals.items())
    return components, largest


def _weight_bytes(number: int, num_rows: int, size: int, kind: Quantization) -> int:
    """Bytes of a weight: dense, or packed by bitsandbytes (int8: a float32 scale per row)."""
    if kind == "int8":
        return number + num_rows * FLOAT
    if kind == "nf4":
        scales = -(-number // NF4_BLOCK)
        return -(-number // 2) + scales + -(-scales // NF4_NESTED_BLOCK) * FLOAT
    return number * size
