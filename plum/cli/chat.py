"""`python -m plum chat`: a conversation about one image in the terminal."""

import argparse
from pathlib import Path

from partonomy.evaluation.model_api import Role, Turn
from plum.cli.show import format_spans, read_image, write_prediction
from plum.partonomy_adapter import load_predictor

HELP = "Ask about the image. /new starts over, /quit ends."


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("chat", help="talk about an image in the terminal; earlier turns are remembered")
    parser.add_argument("--checkpoint", required=True, help="folder of a saved model")
    parser.add_argument("--image", required=True, type=Path, help="image file")
    parser.add_argument("--output", type=Path, help="folder for an overlay and a JSON file per answer")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    image = read_image(arguments.image)
    predictor = load_predictor(arguments.checkpoint, arguments.device)
    turns: list[Turn] = []
    num_answers = 0
    print(HELP)
    while (question := _read_question()) is not None:
        if question == "/new":
            turns = []
            continue
        turns.append(Turn(Role.USER, question))
        prediction = predictor.generate(image, turns)
        print(prediction.text or "(no answer)")
        print(format_spans(prediction))
        num_answers += 1
        if arguments.output is not None:
            overlay, _ = write_prediction(prediction, image, arguments.output, f"answer_{num_answers:03d}")
            print(f"overlay: {overlay}")
        if prediction.text:
            turns.append(Turn(Role.ASSISTANT, prediction.text))
        else:  # an empty answer cannot be part of the history
            turns.pop()


def _read_question() -> str | None:
    """Read the user's next words; None to end."""
    while True:
        try:
            question = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return None
        if question == "/quit":
            return None
        if question:
            return question
