from pathlib import Path

import pytest

from plum.training.config_file import load_train_config

BASE = Path(__file__).resolve().parents[3] / "configs" / "ablations" / "base.yaml"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_updates", "-3", "num_updates is -3, it must be at least 1"),
        ("save_every", "0", "save_every is 0, it must be at least 1"),
        ("stop_after_skipped", "0", "stop_after_skipped is 0, it must be at least 1"),
        ("engine.accumulation", "0", r"engine\.accumulation is 0"),
        ("model.lora.rank", "0", r"model\.lora\.rank is 0"),
        ("optimizer.learning_rate", "0", r"optimizer\.learning_rate is 0(\.0)?, it must be above 0"),
        ("optimizer.betas", "[0.9, 1.0]", r"optimizer\.betas is .*1\.0.*below 1"),
        ("losses.kl", "-0.1", r"losses\.kl is -0\.1, it must be at least 0"),
        (
            "engine.zero_stage",
            "3",
            r"engine\.zero_stage is 3, but this engine only runs stages 1 and 2: stage 3, like FSDP, .* depends on",
        ),
        (
            "engine.zero_stage",
            "0",
            r"engine\.zero_stage is 0, but this engine only runs stages 1 and 2: stage 0 neither skips",
        ),
        (
            "engine.zero_stage",
            "4",
            r"engine\.zero_stage is 4, but this engine only runs stages 1 and 2: DeepSpeed has no such stage",
        ),
        ("engine.reduce_bucket_size", "0", r"engine\.reduce_bucket_size is 0, it must be at least 1"),
    ],
)
def test_a_number_out_of_range_is_named_with_its_file(key: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_train_config(["--config", str(BASE), f"--{key}", value])
    assert str(BASE) in str(caught.value)


def test_what_may_be_zero_or_left_out_is_accepted() -> None:
    flags = ["--losses.kl", "0", "--optimizer.warmup_updates", "0", "--model.lora", "null", "--engine.num_workers", "0"]
    config = load_train_config(["--config", str(BASE), *flags])
    assert (config.losses.kl, config.optimizer.warmup_updates, config.model.lora) == (0.0, 0, None)


def test_a_pretext_out_of_range_is_named() -> None:
    flags = ["--config", str(BASE.parents[1] / "plum_tiny_stage0.yaml"), "--part_pretext.queries_per_image", "-1"]
    with pytest.raises(ValueError, match=r"part_pretext\.queries_per_image is -1, it must be at least 0"):
        load_train_config(flags)
