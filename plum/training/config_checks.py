"""Ranges of a run's settings, checked before anything is loaded. Types and names are the YAML parser's work."""

from functools import reduce

from plum.config import TrainConfig

AT_LEAST_ONE = (
    "num_updates",
    "log_every",
    "save_every",
    "engine.micro_batch_size",
    "engine.accumulation",
    "data.max_text_tokens",
    "data.conversations_per_image",
    "model.lora.rank",
)
ABOVE_ZERO = ("optimizer.learning_rate", "optimizer.gradient_clip", "losses.kl_sigma")
NOT_NEGATIVE = (
    "engine.num_workers",
    "optimizer.warmup_updates",
    "optimizer.weight_decay",
    "losses.language",
    "losses.bio",
    "losses.kl",
    "losses.mask_overlap",
    "losses.mask_bce",
)


def check_ranges(config: TrainConfig) -> None:
    """Check the numbers of a configuration.

    Raises:
        ValueError: a setting is out of range; names it and its value.
    """
    for keys, smallest, may_equal in ((AT_LEAST_ONE, 1, True), (ABOVE_ZERO, 0, False), (NOT_NEGATIVE, 0, True)):
        for key in keys:
            value = _read(config, key)
            if value is not None and not (value >= smallest if may_equal else value > smallest):
                raise ValueError(f"{key} is {value}, it must be {'at least' if may_equal else 'above'} {smallest}")
    if not all(0 <= beta < 1 for beta in config.optimizer.betas):
        raise ValueError(f"optimizer.betas is {config.optimizer.betas}, each must be at least 0 and below 1")
    if config.engine.zero_stage not in (0, 1, 2):
        raise ValueError(f"engine.zero_stage is {config.engine.zero_stage}, this engine runs 0, 1 and 2")


def _read(config: TrainConfig, key: str) -> float | None:
    """Value of a dotted key; None where a group on the way to it is null."""
    value: object = reduce(lambda group, name: None if group is None else getattr(group, name), key.split("."), config)
    assert value is None or isinstance(value, int | float), key
    return value
