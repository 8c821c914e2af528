"""YAML files and command-line overrides into a TrainConfig. Unknown and missing keys are refused."""

from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser

from plum.config import TrainConfig


def load_train_config(arguments: Sequence[str]) -> TrainConfig:
    """Return the configuration of `--config FILE [--config OVERLAY ...] [--key value ...]`; later ones win.

    Raises:
        ValueError: a key is unknown or missing, or a value has the wrong type; names it.
    """
    parser = build_parser()
    try:
        chosen = vars(parser.instantiate(parser.parse_args(list(arguments))))
    except ArgumentError as error:
        raise ValueError(f"{error} (see python train.py --help)") from error
    return TrainConfig(**{key: value for key, value in chosen.items() if key not in ("config", "local_rank")})


def build_parser() -> ArgumentParser:
    """Return train.py's parser."""
    parser = ArgumentParser(prog="train.py", description="Train a grounded multimodal model.", exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML of plum.config.TrainConfig; may be given several times")
    parser.add_class_arguments(TrainConfig)
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher; ignored")
    return parser
