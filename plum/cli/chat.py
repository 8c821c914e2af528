"""`python -m plum chat`: a conversation about one image in the terminal."""

import argparse
from pathlib import Path

import numpy as np

from partonomy.models.contract import Role, Turn
from plum.cli.show import format_spans, write_prediction
from plum.inference.api import read_image
from plum.inference.partonomy_adapter import load_predictor
from plum.inference.predictor import Predictor

HELP = "Ask about the image. /reset clears the conversation, /image FILE loads another image, /history shows the "
HELP += "conversation, /quit ends."


class Conversation:
    """A conversation about one image, and the folder in which its answers are saved.

    Args:
        predictor: the model.
        image: uint8 RGB (H, W, 3).
        output: folder for an overlay and a JSON file per answer, or None.
    """

    def __init__(self, predictor: Predictor, image: np.ndarray, output: Path | None) -> None:
        self.predictor = predictor
        self.image = image
        self.output = output
        self.turns: list[Turn] = []
        # Answers of earlier conversations in this folder stay.
        self.num_answers = 0 if output is None else len([*output.glob("answer_*.json")])

    def ask(self, question: str) -> str:
        """Answer in the context of all earlier turns; an empty answer and its question are not added to them.

        Returns:
            The text to show.
        """
        turns = [*self.turns, Turn(Role.USER, question)]
        prediction = self.predictor.generate(self.image, turns)
        self.num_answers += 1
        lines = [prediction.text or "(no answer)", format_spans(prediction)]
        if self.output is not None:
            overlay, _ = write_prediction(prediction, self.image, self.output, f"answer_{self.num_answers:03d}")
            lines.append(f"overlay: {overlay}")
        if prediction.text:
            self.turns = [*turns, Turn(Role.ASSISTANT, prediction.text)]
        return "\n".join(lines)

    def reset(self) -> str:
        """Clear the conversation."""
        self.turns = []
        return "(conversation cleared)"

    def take_image(self, path: str) -> str:
        """Load another image and clear the conversation; a broken file changes nothing."""
        try:
            self.image = read_image(Path(path).expanduser())
        except (FileNotFoundError, ValueError) as error:
            return f"error: {error}"
        self.turns = []
        return f"({path}: {self.image.shape[1]} x {self.image.shape[0]} pixels; conversation cleared)"

    def history(self) -> str:
        """Return the conversation so far."""
        return "\n".join(f"{turn.role}: {turn.text}" for turn in self.turns) or "(nothing yet)"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("chat", help="chat about an image in the terminal; the model sees all earlier turns")
    parser.add_argument("--checkpoint", required=True, help="folder of a saved model")
    parser.add_argument("--image", required=True, type=Path, help="image file")
    parser.add_argument("--output", type=Path, help="folder to write an overlay and a JSON file per answer to")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    image = read_image(arguments.image)
    conversation = Conversation(load_predictor(arguments.checkpoint, arguments.device), image, arguments.output)
    print(HELP)
    while (line := _read_line()) not in (None, "/quit"):
        assert line is not None
        print(_reply(conversation, line))


def _reply(conversation: Conversation, line: str) -> str:
    command, _, rest = line.partition(" ")
    if command == "/image":
        return conversation.take_image(rest.strip())
    if line in ("/reset", "/new"):
        return conversation.reset()
    if line == "/history":
        return conversation.history()
    if line.startswith("/"):
        return f"error: {command} is not a command. {HELP}"
    try:
        return conversation.ask(line)
    except ValueError as error:  # e.g. a conversation that has become too long
        return f"error: {error}"


def _read_line() -> str | None:
    """Read the user's next line; None to end."""
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return None
        if line:
            return line
