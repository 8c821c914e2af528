from pathlib import Path

import pytest

from plum.training.config_file import load_train_config

CONFIGS = Path("configs")
ABLATION_BASE = CONFIGS / "ablations" / "base.yaml"


def test_overrides_and_overlays_win_in_order() -> None:
    config = load_train_config(
        ["--config", str(ABLATION_BASE), "--config", str(CONFIGS / "ablations" / "dice.yaml"), "--seed", "7"]
    )
    assert (config.losses.overlap, config.seed) == ("dice", 7)
    assert config.losses.kl == 0.1, "an overlay changes only the keys it names"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config", str(ABLATION_BASE), "--optimizer.lr", "1"], "optimizer.lr"),
        (["--config", str(ABLATION_BASE), "--engine.precision", "fp8"], "fp8"),
        (["--config", str(CONFIGS / "ablations" / "dice.yaml")], "run_dir"),
    ],
)
def test_bad_keys_are_named(arguments: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        load_train_config(arguments)


def test_unknown_key_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text(ABLATION_BASE.read_text().replace("num_updates", "num_updatess"))
    with pytest.raises(ValueError, match="num_updatess"):
        load_train_config(["--config", str(path)])


def test_paper_values_of_table_6() -> None:
    for name, updates in (("plum_13b_0shot", 25 * 500), ("plum_13b_ft", 4 * 500)):
        config = load_train_config(["--config", str(CONFIGS / f"{name}.yaml")])
        assert config.num_updates == updates
        losses, optimizer, engine, lora = config.losses, config.optimizer, config.engine, config.model.lora
        weights = (losses.language, losses.bio, losses.kl, losses.mask_overlap, losses.mask_bce)
        assert weights == (1.0, 2.0, 0.1, 8.0, 2.0)
        assert (losses.overlap, losses.tversky_alpha, losses.tversky_beta) == ("focal_tversky", 0.7, 0.3)
        assert (optimizer.learning_rate, optimizer.betas, optimizer.weight_decay) == (3e-4, (0.9, 0.95), 0.0)
        assert (optimizer.warmup_updates, optimizer.gradient_clip) == (100, 1.0)
        assert (engine.micro_batch_size, engine.accumulation, engine.precision) == (6, 10, "bf16")
        assert lora is not None
        assert (lora.rank, lora.alpha, lora.dropout, lora.target_modules) == (8, 16, 0.05, ("q_proj", "v_proj"))
        assert (config.model.sam.image_size, config.data.max_text_tokens) == (1024, 512)
