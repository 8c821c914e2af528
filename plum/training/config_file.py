"""YAML files and command-line overrides into a TrainConfig. Unknown and missing keys are refused."""

from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser

from partonomy.cli.config_files import config_files
from plum.train_config import TrainConfig
from plum.training.config_checks import check_losses, check_ranges


def load_train_config(arguments: Sequence[str]) -> TrainConfig:
    """Return the configuration of `--config FILE [--config OVERLAY ...] [--key value ...]`; later ones win.

    Raises:
        ValueError: a key is unknown or missing, a value of the wrong type or out of range; names it and the files.
    """
    parser = build_parser()
    try:
        chosen = vars(parser.instantiate(parser.parse_args(list(arguments))))
        config = TrainConfig(**{key: value for key, value in chosen.items() if key not in ("config", "local_rank")})
        check_ranges(config)
        check_losses(config)
    except (ArgumentError, ValueError) as error:
        where = " + ".join(config_files(arguments)) or "no --config FILE given"
        raise ValueError(f"{where}: {error} (see python train.py --help)") from error
    return config


def build_parser() -> ArgumentParser:
    """Return train.py's parser."""
    parser = ArgumentParser(prog="train.py", description="Train a grounded multimodal model.", exit_on_error=False)
    parser.add_argument(
        "--config", action="config", help="YAML of plum.train_config.TrainConfig; may be given several times"
    )
    parser.add_class_arguments(TrainConfig)
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher; ignored")
    return parser
