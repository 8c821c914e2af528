"""What a model of a configuration costs: memory of its weights and of its training, FLOPs of one forward pass.

The MMR paper prints such numbers without saying how they were measured (Table 7); here they are counted from shapes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from partonomy.quoted_rows import read_quoted
from partonomy.table_format import ColumnGroup, Table, TableRow
from plum.config import SpecialTokensConfig
from plum.doctor.activations import FLOAT, grid_size
from plum.doctor.counted_flops import BackboneFlops
from plum.doctor.memory import NamedRun, StaticMemory, count_static_memory, estimate_memory
from plum.doctor.step_flops import NO_GRADIENT, TRAINED, decoder_flops, feedback_flops, sam_encoder_flops
from plum.doctor.workload import Assumptions
from plum.train_config import TrainConfig

FUSION = "sam.early_fusion"
"""The component whose every weight works once per cell of SAM's grid."""


@dataclass(frozen=True)
class Costs:
    """Costs of one configuration.

    Attributes:
        weight_bytes: bytes of all weights in float32.
        training_bytes: peak bytes of a GPU in training; None for configurations without an estimate.
        forward_flops: FLOPs of one image and one conversation, without gradients; None: as above.
    """

    weight_bytes: int
    training_bytes: int | None
    forward_flops: float | None


def count_costs(config: TrainConfig, num_gpus: int, num_tokens: int, num_masks: int) -> Costs:
    """Count the costs of a configuration.

    Args:
        config: the run; its weights are not needed.
        num_gpus: number of GPUs of the training.
        num_tokens: tokens of the conversation, image patches included.
        num_masks: masks of the answer.

    Raises:
        ValueError: `num_tokens` is not positive or more than the language model takes, or `num_masks` is negative.
    """
    language = config.model.language
    if not 0 < num_tokens <= language.max_positions:
        raise ValueError(f"--tokens {num_tokens}: 1 to {language.max_positions}, the language model's positions")
    if num_masks < 0:
        raise ValueError(f"--masks {num_masks}: at least 0")
    static = count_static_memory(config, num_gpus)
    try:
        training = estimate_memory(config, num_gpus, Assumptions()).peak
    except ValueError:  # it trains a vision tower, which no formula covers
        training = None
    flops = None
    if config.model.hf is None:  # the number of a stock model's image tokens depends on the image
        flops = forward_flops(config, _parameters(static)[FUSION], num_tokens, num_masks)
    return Costs(static.num_parameters * FLOAT, training, flops)


def forward_flops(config: TrainConfig, fusion_parameters: int, num_tokens: int, num_masks: int) -> float:
    """Return the FLOPs of one image and one conversation: all towers, LLaMA with its head, the masks of the answer.

    Adapters count as merged into the weights, and the head reads every token, as in LLaVA's own forward pass.
    """
    model = config.model
    vision, width = model.of_llava.vision, model.language.hidden_size
    backbone = BackboneFlops(model, SpecialTokensConfig(image=0, pad=0, eos=0), trainable=None)
    towers = backbone.of_images(torch.zeros(1, 3, vision.image_size, vision.image_size))
    towers += sam_encoder_flops(model.sam, NO_GRADIENT) + NO_GRADIENT * fusion_parameters * grid_size(model.sam)
    words = backbone.of_teacher_tokens(num_tokens, num_tokens * (num_tokens + 1) // 2) + backbone.of_reading
    words += num_tokens * backbone.of_prediction
    fed_back = max(0, num_masks - 1) if model.feedback.is_enabled else 0
    of_masks = num_masks * decoder_flops(model.sam) + fed_back * feedback_flops(model.sam)
    tagger = 0
    if model.tagger is not None:
        block = 4 * width**2 + 2 * width * model.tagger.feedforward_dim
        tagger = (2 * width**2 + (block if model.tagger.context != "none" else 0)) * num_tokens
    return towers + words + of_masks * NO_GRADIENT / TRAINED + NO_GRADIENT * tagger


def cost_table(runs: Sequence[NamedRun], num_gpus: int, num_tokens: int, num_masks: int) -> Table:
    """Return the rows of the MMR paper's Table 7, then one row per configuration.

    Raises:
        ValueError: See `count_costs`.
    """
    rows = [
        TableRow((row["method"], row["memory_gb"], "-", row["tflops"]), "paper (quoted)")
        for row in read_quoted("mmr_table7").rows
    ]
    for run in runs:
        costs = count_costs(run.config, num_gpus, num_tokens, num_masks)
        training = "-" if costs.training_bytes is None else f"{costs.training_bytes / 1e9:.2f}"
        flops = "-" if costs.forward_flops is None else f"{costs.forward_flops / 1e12:.2f}"
        cells = (run.name, f"{costs.weight_bytes / 1e9:.2f}", training, flops)
        rows.append(TableRow(cells, "counted from the configuration"))
    return Table(
        "Computational cost, as the MMR paper's Table 7",
        (ColumnGroup("", ("Method", "memory, GB", "training, GB", "TFLOPs")),),
        tuple(rows),
        "Memory of a configuration: all weights in float32 (GB of 10^9 bytes), without activations. Training: "
        f"estimated peak of each of {num_gpus} GPUs (plum doctor). TFLOPs: one forward pass; one image, {num_tokens} "
        f"tokens, number of masks: {num_masks}. The paper does not say how it measured, nor for how many tokens.",
    )


def _parameters(static: StaticMemory) -> Counter[str]:
    return Counter({component.component: component.num_parameters for component in static.components})
