"""AdamW and its learning-rate schedule: linear warm-up, then decay to zero (PLUM paper, A.1 and Table 6)."""

import math
from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from plum.train_config import OptimizerConfig


def build_optimizer(parameters: Iterable[Parameter], config: OptimizerConfig) -> AdamW:
    """Return AdamW over `parameters`.

    As is usual, weight decay does not apply to vectors (norms, biases).
    """
    matrices: list[Parameter] = []
    vectors: list[Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate_factor(update: int, num_updates: int, config: OptimizerConfig) -> float:
    """Return the factor of the peak rate at the 0-based `update`.

    No update has rate 0: the first one has the factor 1 / warmup_updates, and the last one is still above zero.
    """
    if update < config.warmup_updates:
        return (update + 1) / config.warmup_updates
    remaining = (num_updates - update) / max(1, num_updates - config.warmup_updates)
    remaining = max(0.0, remaining)
    if config.decay == "cosine":
        return 0.5 * (1.0 - math.cos(math.pi * remaining))
    return remaining


def build_scheduler(optimizer: AdamW, num_updates: int, config: OptimizerConfig) -> LambdaLR:
    """Return the schedule over `num_updates` updates; only the engine steps it, once per update."""
    return LambdaLR(optimizer, lambda update: learning_rate_factor(update, num_updates, config))


def apply_schedule(optimizer: AdamW, scheduler: LambdaLR, config: OptimizerConfig, update: int) -> None:
    """Set the schedule of this run at the 0-based `update`, whatever a loaded checkpoint has put in its place.

    A resumed run may have another peak rate or number of updates; with the same ones this changes nothing.

    Raises:
        ValueError: The scheduler was built for another number of parameter groups.
    """
    scheduler.last_epoch = update
    scheduler.base_lrs = [config.learning_rate for _ in optimizer.param_groups]
    rates = [config.learning_rate * factor(update) for factor in scheduler.lr_lambdas]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"], group["initial_lr"] = rate, config.learning_rate
    scheduler._last_lr = [*rates]
