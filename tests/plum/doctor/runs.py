"""Configurations of runs for the doctor's tests."""

from pathlib import Path

from plum.config import ModelConfig
from plum.train_config import DataConfig, EngineConfig, SourceConfig, TrainConfig
from plum.training.config_file import load_train_config

CONFIGS = Path(__file__).parents[3] / "configs"


def tiny_run(model: ModelConfig, engine: EngineConfig | None = None, folder: Path = Path("x")) -> TrainConfig:
    """A run of a tiny model."""
    return TrainConfig(
        run_dir=str(folder / "run"),
        model=model,
        data=DataConfig(sources=(SourceConfig("explanatory", str(folder / "data")),)),
        engine=engine or EngineConfig(),
    )


def shipped(name: str) -> TrainConfig:
    """A configuration of the configs folder."""
    return load_train_config(["--config", str(CONFIGS / f"{name}.yaml")])
