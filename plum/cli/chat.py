"""`python -m plum chat`: a conversation about one image, or several, in the terminal."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from plum.cli.commands import COMMANDS
from plum.cli.model_flags import add_model_flags

if TYPE_CHECKING:
    from plum.cli.conversation import Conversation

HELP = "Ask about the image. /reset clears the conversation, /image FILE loads another image, /add FILE shows one more "
HELP += "beside it, /history shows the conversation, /quit ends."


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("chat", help=COMMANDS["chat"])
    parser.add_argument(
        "--image", required=True, type=Path, action="append", help="image file; repeat it to talk about several"
    )
    parser.add_argument("--output", type=Path, help="folder to write an overlay and a JSON file per answer to")
    add_model_flags(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from plum.cli.conversation import Conversation
    from plum.inference.api import read_image
    from plum.inference.partonomy_adapter import load_predictor

    images = [read_image(path) for path in arguments.image]
    predictor = load_predictor(arguments.checkpoint, arguments.device, dtype=arguments.dtype)
    conversation = Conversation(predictor, images, arguments.output, arguments.max_new_tokens)
    print(HELP)
    while (line := _read_line()) not in (None, "/quit"):
        assert line is not None
        print(_reply(conversation, line))


def _reply(conversation: "Conversation", line: str) -> str:
    command, _, rest = line.partition(" ")
    if command in ("/image", "/add"):
        return conversation.take_image(rest.strip(), is_added=command == "/add")
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
