"""`python -m plum segment`: ask one question about one image."""

import argparse
from pathlib import Path

from plum.cli.commands import COMMANDS
from plum.cli.highlight_flags import add_highlight_flags, read_highlight
from plum.cli.model_flags import add_model_flags


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("segment", help=COMMANDS["segment"])
    parser.add_argument("--image", required=True, type=Path, help="image file")
    parser.add_argument("--question", required=True, help="question about the image")
    add_highlight_flags(parser)
    parser.add_argument(
        "--output", required=True, type=Path, help="folder to write the overlay (PNG) and the masks (JSON) to"
    )
    add_model_flags(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from partonomy.models.contract import Role, Turn
    from plum.cli.show import format_answer, format_spans, write_prediction
    from plum.inference.api import read_image
    from plum.inference.highlight import answer_question
    from plum.inference.partonomy_adapter import load_predictor

    highlight = read_highlight(arguments)
    image = read_image(arguments.image)
    predictor = load_predictor(arguments.checkpoint, arguments.device, dtype=arguments.dtype)
    turns = (Turn(Role.USER, arguments.question),)
    prediction = answer_question(predictor, image, turns, highlight, arguments.max_new_tokens)
    overlay, record = write_prediction(prediction, image, arguments.output, arguments.image.stem)
    print(format_answer(prediction, arguments.max_new_tokens))
    print(format_spans(prediction))
    print(f"overlay: {overlay}\nmasks:   {record}")
