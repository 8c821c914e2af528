"""The conversation of `python -m plum chat`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from partonomy.models.contract import Role, Turn
from plum.cli.show import describe_answer
from plum.inference.api import read_image
from plum.inference.predictor import Predictor, default_new_tokens
from plum.inputs.conversation import image_name


class Conversation:
    """A conversation about one image or several, and the folder in which its answers are saved.

    Args:
        predictor: the model.
        images: each uint8 RGB (H, W, 3).
        output: folder for an overlay and a JSON file per answer and image, or None.
        max_new_tokens: maximum length of an answer; None: `default_new_tokens`.
    """

    def __init__(
        self,
        predictor: Predictor,
        images: Sequence[np.ndarray],
        output: Path | None,
        max_new_tokens: int | None = None,
    ) -> None:
        self.predictor = predictor
        self.images = list(images)
        self.output = output
        self.max_new_tokens = max_new_tokens
        self.turns: list[Turn] = []
        # Answers of earlier conversations in this folder stay.
        earlier = [] if output is None else [path.stem.split("_")[1] for path in output.glob("answer_*.json")]
        self.num_answers = len(set(earlier))

    def ask(self, question: str) -> str:
        """Answer in the context of all earlier turns; an empty answer and its question are not added to them.

        Returns:
            The text to show.

        Raises:
            ValueError: the conversation is full.
        """
        turns = [*self.turns, Turn(Role.USER, question)]
        limit = self.max_new_tokens or default_new_tokens(len(self.images))
        predictions = self.predictor.generate_about(self.images, turns, limit)
        answer = predictions[0]
        self.num_answers += 1
        stem = f"answer_{self.num_answers:03d}"
        stems = [stem] if len(predictions) == 1 else [f"{stem}_image{n}" for n in range(1, len(predictions) + 1)]
        shown = describe_answer(predictions, self.images, limit, self.output, stems)
        if answer.finish_reason == "length" and answer.num_tokens != limit:
            shown += "\n(/reset begins a new conversation)"
        if answer.text:
            self.turns = [*turns, Turn(Role.ASSISTANT, answer.text)]
        return shown

    def reset(self) -> str:
        """Clear the conversation."""
        self.turns = []
        return "(conversation cleared)"

    def take_image(self, path: str, *, is_added: bool = False) -> str:
        """Load another image, alone or beside the others, and clear the conversation; a broken file changes nothing."""
        try:
            image = read_image(Path(path).expanduser())
        except (FileNotFoundError, ValueError) as error:
            return f"error: {error}"
        self.images = [*self.images, image] if is_added else [image]
        self.turns = []
        name = f"{image_name(len(self.images) - 1)} " if is_added else ""
        return f"({name}{path}: {image.shape[1]} x {image.shape[0]} pixels; conversation cleared)"

    def history(self) -> str:
        """Return the conversation so far."""
        return "\n".join(f"{turn.role}: {turn.text}" for turn in self.turns) or "(nothing yet)"
