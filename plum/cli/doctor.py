"""`python -m plum doctor`: check installation, weights and data of a run, and estimate its memory."""

import argparse
from pathlib import Path

from plum.cli.commands import COMMANDS
from plum.cli.model_flags import positive
from plum.doctor.assumptions import Assumptions


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help=COMMANDS["doctor"])
    runs = parser.add_mutually_exclusive_group(required=True)
    runs.add_argument("--config", nargs="+", type=Path, help="YAML file of a run and its overlays, as for train.py")
    runs.add_argument(
        "--table", nargs="+", type=Path, help="YAML files of runs; print their memory as a Markdown table"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML files")
    memory = parser.add_argument_group("memory")
    memory.add_argument("--gpus", nargs="+", type=int, help="numbers of GPUs (default: those of this machine, or 1)")
    memory.add_argument("--zero_stage", type=int, choices=(1, 2), help="override engine.zero_stage")
    memory.add_argument(
        "--text_tokens", type=int, help="tokens of the longest conversation (default: data.max_text_tokens)"
    )
    memory.add_argument("--supervised_tokens", type=int, help="number of answer tokens among them (default: all)")
    memory.add_argument(
        "--spans",
        type=int,
        default=Assumptions.spans_per_conversation,
        help="number of masks per conversation (default: %(default)s)",
    )
    memory.add_argument(
        "--image_size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        default=Assumptions.image_size,
        help="height and width of the images in pixels (default: %(default)s)",
    )
    memory.add_argument(
        "--images_per_conversation",
        type=positive,
        help="images of a conversation (default: 2 for pairs, otherwise 1)",
    )
    weights = parser.add_argument_group("weights and known answers")
    weights.add_argument(
        "--hash_cache",
        type=Path,
        default=None,
        help="JSON file that caches the hashes of weight files (default: in ~/.cache/plum)",
    )
    weights.add_argument(
        "--answers", type=Path, help="JSON file of known answers; compare the model's answer to one question with it"
    )
    weights.add_argument("--record_answer", action="store_true", help="add the model's answer to the file of --answers")
    weights.add_argument("--checkpoint", type=Path, help="model to ask (default: the run's model, or init_from)")
    weights.add_argument("--image", type=Path, help="image to ask about (default: a drawn one)")
    weights.add_argument("--question", help="question to ask (default: the parts that the object has)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from plum.cli.doctor_checks import examine

    examine(arguments)
