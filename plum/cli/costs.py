"""`python -m plum costs`: memory and FLOPs of configurations beside the rows of the MMR paper's Table 7."""

import argparse
from pathlib import Path

from partonomy.table_format import TableFormat, render_table
from plum.cli.commands import COMMANDS

OVERLAY_MARK = "+"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("costs", help=COMMANDS["costs"])
    parser.add_argument(
        "configs",
        nargs="+",
        metavar="FILE[+OVERLAY...]",
        help="YAML files of runs, with overlays after plus signs",
    )
    parser.add_argument("--gpus", type=int, default=4, help="number of GPUs of the training (default: %(default)s)")
    parser.add_argument(
        "--tokens",
        type=int,
        default=2048,
        help="tokens of the conversation, image patches included (default: %(default)s, all that LLaMA 1 takes)",
    )
    parser.add_argument("--masks", type=int, default=1, help="masks of the answer (default: %(default)s)")
    parser.add_argument(
        "--format",
        choices=[entry.value for entry in TableFormat],
        default=TableFormat.TEXT.value,
        help="form of the table (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from plum.doctor.costs import cost_table
    from plum.doctor.memory import NamedRun
    from plum.training.config_file import load_train_config

    if arguments.gpus < 1:
        raise ValueError(f"--gpus {arguments.gpus}: at least 1")
    runs = []
    for word in arguments.configs:
        paths = [Path(part) for part in word.split(OVERLAY_MARK)]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such configuration; correct the path")
        config = load_train_config([flag for path in paths for flag in ("--config", str(path))])
        runs.append(NamedRun(OVERLAY_MARK.join(path.stem for path in paths), config))
    table = cost_table(runs, arguments.gpus, arguments.tokens, arguments.masks)
    print(render_table(table, TableFormat(arguments.format)))
