"""`python -m plum chat`: a conversation about one image, or several, in the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

from plum.cli.model_flags import ModelFlags

if TYPE_CHECKING:
    from plum.cli.conversation import Conversation

HELP = "Ask about the image. /reset clears the conversation, /image FILE loads another image, /add FILE shows one more "
HELP += "beside it, /history shows the conversation, /quit ends."


def chat(*, image: tuple[Path, ...], model: ModelFlags, output: Path | None = None) -> None:
    """Chat about an image in the terminal; the model sees all earlier turns.

    Args:
        image: image file; several to talk about them together
        model: the model.
        output: folder to write an overlay and a JSON file per answer to

    Raises:
        FileNotFoundError: an image or the checkpoint does not exist.
        ValueError: an image cannot be read, or the checkpoint holds no model.
    """
    from plum.cli.conversation import Conversation
    from plum.inference.api import read_image
    from plum.inference.partonomy_adapter import load_predictor

    images = [read_image(path) for path in image]
    predictor = load_predictor(model.checkpoint, model.device, dtype=model.dtype)
    conversation = Conversation(predictor, images, output, model.max_new_tokens)
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
