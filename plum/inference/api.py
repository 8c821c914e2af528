"""Python interface to a saved model: ask about an image, or highlight phrases of an answer and get their masks.

model = plum.load("runs/quickstart/model")
prediction = model.ask("photo.jpg", "What visible parts does the object in the image have?")
prediction.phrases, prediction.masks, prediction.boxes
prediction.plot()
prediction.save("out")
"""

from collections.abc import Sequence
from pathlib import Path

from partonomy.models.contract import Role, Turn
from plum.inference.highlight import NOTHING, Highlight, answer_question, parse_char_range
from plum.inference.image_prediction import ImagePrediction
from plum.inference.partonomy_adapter import load_predictor
from plum.inference.predictor import MAX_NEW_TOKENS
from plum.inference.read_images import AnyImage, read_image

QUESTION = "What visible parts does the object in the image have?"


class Plum:
    """A saved model; `plum.load` opens it.

    Args:
        folder: folder of a saved model, or its name on the Hugging Face Hub.
        device: "auto", "cpu", "cuda", "cuda:1", "mps", ...
        dtype: "auto" (bfloat16 on a GPU, float32 elsewhere), "float32", "bfloat16" or "float16".
    """

    def __init__(self, folder: Path | str, device: str = "auto", dtype: str = "auto") -> None:
        self.predictor = load_predictor(str(folder), device, dtype=dtype)

    def ask(
        self,
        image: AnyImage,
        question: str,
        history: Sequence[Turn] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> ImagePrediction:
        """Answer a question and segment the phrases that the answer tags.

        Args:
            image: see `AnyImage`.
            question: the user's words.
            history: earlier turns, user and assistant alternating.
            max_new_tokens: maximum length of the answer in tokens; `finish_reason` says whether it was reached.

        Returns:
            The answer's text, and for each of its S tagged phrases a mask of the image's height and width.

        Raises:
            FileNotFoundError, ValueError: the image cannot be read, or the conversation is full.
        """
        return self._answer(image, (*history, Turn(Role.USER, question)), NOTHING, max_new_tokens)

    def segment(
        self,
        image: AnyImage,
        question: str = QUESTION,
        phrases: Sequence[str] = (),
        char_ranges: Sequence[str] = (),
        answer: str | None = None,
        *,
        force: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> ImagePrediction:
        """Do what `python -m plum segment` does: answer, and segment what the answer tags or what is highlighted.

        Args:
            image: see `AnyImage`.
            question: the user's words.
            phrases: phrases of the answer to segment; "wheel#2" is the second "wheel".
            char_ranges: character ranges of the answer to segment, such as "10:19".
            answer: segment the phrases in this answer instead of the model's own.
            force: segment the phrases in an answer that is built from them.
            max_new_tokens: maximum length of the model's own answer, in tokens.

        Returns:
            The answer's text, and for each of its S phrases a mask of the image's height and width.

        Raises:
            FileNotFoundError: there is no such image file.
            ValueError: the image cannot be read, or see `highlight`.
        """
        highlight = Highlight(tuple(phrases), tuple(map(parse_char_range, char_ranges)), answer, force)
        return self._answer(image, (Turn(Role.USER, question),), highlight, max_new_tokens)

    def highlight(
        self,
        image: AnyImage,
        answer: str,
        phrases: Sequence[str] = (),
        char_ranges: Sequence[str] = (),
        question: str = QUESTION,
    ) -> ImagePrediction:
        """Segment phrases of a given answer.

        Args:
            image: see `AnyImage`.
            answer: any sentence about the image.
            phrases: phrases of the answer; "wheel#2" is the second "wheel".
            char_ranges: character ranges of the answer, such as "10:19".
            question: what the answer replies to.

        Returns:
            The answer, and for each of the S phrases a mask of the image's height and width.

        Raises:
            ValueError: a phrase is missing from the answer or occurs several times, or a range lies outside the answer.
        """
        return self.segment(image, question, phrases, char_ranges, answer)

    def _answer(
        self, image: AnyImage, turns: Sequence[Turn], highlight: Highlight, max_new_tokens: int
    ) -> ImagePrediction:
        pixels = read_image(image)
        return ImagePrediction.of(pixels, answer_question(self.predictor, pixels, turns, highlight, max_new_tokens))
