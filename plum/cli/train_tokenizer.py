"""`python -m plum train-tokenizer`: train a tokenizer on everything that the sources can say about some data sets."""

import argparse
from pathlib import Path

from plum.cli.commands import COMMANDS
from plum.cli.model_flags import positive


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("train-tokenizer", help=COMMANDS["train-tokenizer"])
    parser.add_argument(
        "--datasets", required=True, nargs="+", type=Path, help="folders made by `python -m partonomy build`"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder to write the tokenizer to")
    parser.add_argument("--vocab_size", type=positive, default=1500, help="number of tokens (default: %(default)s)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from partonomy.locks import lock_folder
    from plum.data.tokenizer_texts import collect_texts
    from plum.inputs.tokenizer import train_tokenizer

    with lock_folder(arguments.output):
        tokenizer = train_tokenizer(collect_texts(arguments.datasets), arguments.vocab_size)
        tokenizer.save_pretrained(str(arguments.output))
    print(f"{len(tokenizer)} tokens -> {arguments.output}")
