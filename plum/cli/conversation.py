"""The conversation of `python -m plum chat`."""

from pathlib import Path

import numpy as np

from partonomy.models.contract import Role, Turn
from plum.cli.show import format_answer, format_spans, write_prediction
from plum.inference.api import read_image
from plum.inference.predictor import MAX_NEW_TOKENS, Predictor


class Conversation:
    """A conversation about one image, and the folder in which its answers are saved.

    Args:
        predictor: the model.
        image: uint8 RGB (H, W, 3).
        output: folder for an overlay and a JSON file per answer, or None.
        max_new_tokens: maximum length of an answer.
    """

    def __init__(
        self, predictor: Predictor, image: np.ndarray, output: Path | None, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> None:
        self.predictor = predictor
        self.image = image
        self.output = output
        self.max_new_tokens = max_new_tokens
        self.turns: list[Turn] = []
        # Answers of earlier conversations in this folder stay.
        self.num_answers = 0 if output is None else len([*output.glob("answer_*.json")])

    def ask(self, question: str) -> str:
        """Answer in the context of all earlier turns; an empty answer and its question are not added to them.

        Returns:
            The text to show.

        Raises:
            ValueError: the conversation is full.
        """
        turns = [*self.turns, Turn(Role.USER, question)]
        prediction = self.predictor.generate(self.image, turns, self.max_new_tokens)
        self.num_answers += 1
        text = format_answer(prediction, self.max_new_tokens)
        if prediction.finish_reason == "length" and prediction.num_tokens != self.max_new_tokens:
            text += "\n(/reset begins a new conversation)"
        lines = [text or "(no answer)", format_spans(prediction)]
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
