"""`python -m plum segment`: ask one question about one image, or about several together."""

import argparse
from pathlib import Path

from plum.cli.commands import COMMANDS
from plum.cli.highlight_flags import add_highlight_flags, read_highlight
from plum.cli.model_flags import add_model_flags


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("segment", help=COMMANDS["segment"])
    parser.add_argument(
        "--image",
        required=True,
        type=Path,
        action="append",
        help="image file; repeat it to ask about several images together, which texts call (IMAGE1), (IMAGE2), ...",
    )
    parser.add_argument("--question", required=True, help="question about the image")
    add_highlight_flags(parser)
    parser.add_argument(
        "--output", required=True, type=Path, help="folder to write the overlay (PNG) and the masks (JSON) to"
    )
    add_model_flags(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from partonomy.models.contract import Role, Turn
    from plum.cli.show import describe_answer
    from plum.inference.api import read_image
    from plum.inference.highlight import answer_about
    from plum.inference.partonomy_adapter import load_predictor
    from plum.inference.predictor import default_new_tokens

    highlight = read_highlight(arguments)
    images = [read_image(path) for path in arguments.image]
    predictor = load_predictor(arguments.checkpoint, arguments.device, dtype=arguments.dtype)
    turns = (Turn(Role.USER, arguments.question),)
    limit = arguments.max_new_tokens or default_new_tokens(len(images))
    predictions = answer_about(predictor, images, turns, highlight, limit)
    stems = [path.stem for path in arguments.image]
    if len(set(stems)) < len(stems):
        stems = [f"{stem}_{number}" for number, stem in enumerate(stems, start=1)]
    print(describe_answer(predictions, images, limit, arguments.output, stems))
