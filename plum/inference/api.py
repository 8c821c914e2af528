"""Python interface to a saved model: ask about an image, or highlight phrases of an answer and get their masks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from partonomy.images import image_size, load_image
from partonomy.models.contract import Role, Turn
from plum.inference.highlight import NOTHING, Highlight, answer_question, parse_char_range
from plum.inference.partonomy_adapter import load_predictor
from plum.inference.predictor import Prediction

QUESTION = "What visible parts does the object in the image have?"


class Plum:
    """A saved model; `plum.load` opens it.

    Args:
        folder: folder of a saved model.
        device: "auto", "cpu", "cuda", "cuda:1", ...
    """

    def __init__(self, folder: Path | str, device: str = "auto") -> None:
        self.predictor = load_predictor(str(folder), device)

    def ask(self, image: Path | str | np.ndarray, question: str, history: Sequence[Turn] = ()) -> Prediction:
        """Answer a question; the prediction holds text, spans and one mask per span.

        Args:
            image: a file, or uint8 RGB (H, W, 3).
            question: the user's words.
            history: earlier turns, user and assistant alternating.
        """
        return answer_question(self.predictor, read_image(image), (*history, Turn(Role.USER, question)), NOTHING)

    def highlight(
        self,
        image: Path | str | np.ndarray,
        answer: str,
        phrases: Sequence[str] = (),
        char_ranges: Sequence[str] = (),
        question: str = QUESTION,
    ) -> Prediction:
        """Segment phrases of a given answer.

        Args:
            image: a file, or uint8 RGB (H, W, 3).
            answer: any sentence about the image.
            phrases: phrases of the answer; "wheel#2" is the second "wheel".
            char_ranges: character ranges of the answer, such as "10:19".
            question: what the answer replies to.

        Raises:
            ValueError: a phrase is missing from the answer or occurs several times, or a range lies outside the answer.
        """
        highlight = Highlight(tuple(phrases), tuple(map(parse_char_range, char_ranges)), answer)
        return answer_question(self.predictor, read_image(image), (Turn(Role.USER, question),), highlight)


def read_image(image: Path | str | np.ndarray) -> np.ndarray:
    """Read an image file upright, uint8 RGB (H, W, 3); an array is returned as it is."""
    if isinstance(image, np.ndarray):
        return image
    return load_image(Path(image), *image_size(Path(image)))
