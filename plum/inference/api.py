"""Python interface to a saved model: ask about an image, or highlight phrases of an answer and get their masks."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from partonomy.images import image_size, load_image
from partonomy.models.contract import Role, Turn
from plum.inference.highlight import NOTHING, Highlight, answer_question, parse_char_range
from plum.inference.partonomy_adapter import load_predictor
from plum.inference.predictor import MAX_NEW_TOKENS, Prediction

QUESTION = "What visible parts does the object in the image have?"

AnyImage = Path | str | bytes | Image.Image | np.ndarray
"""An image file's path, its content, a PIL image, or uint8 RGB (H, W, 3), grey (H, W) or RGBA (H, W, 4)."""


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
    ) -> Prediction:
        """Answer a question; the prediction holds text, spans and one mask per span.

        Args:
            image: see `AnyImage`.
            question: the user's words.
            history: earlier turns, user and assistant alternating.
            max_new_tokens: maximum length of the answer; `Prediction.finish_reason` says whether it was reached.

        Raises:
            FileNotFoundError, ValueError: the image cannot be read, or the conversation is full.
        """
        turns = (*history, Turn(Role.USER, question))
        return answer_question(self.predictor, read_image(image), turns, NOTHING, max_new_tokens)

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
    ) -> Prediction:
        """Do what `python -m plum segment` does: answer, and segment what the answer tags or what is highlighted.

        Args:
            image: see `AnyImage`.
            question: the user's words.
            phrases: phrases of the answer to segment; "wheel#2" is the second "wheel".
            char_ranges: character ranges of the answer to segment, such as "10:19".
            answer: segment the phrases in this answer instead of the model's own.
            force: segment the phrases in an answer that is built from them.
            max_new_tokens: maximum length of the model's own answer.

        Raises:
            FileNotFoundError: there is no such image file.
            ValueError: the image cannot be read, or see `highlight`.
        """
        highlight = Highlight(tuple(phrases), tuple(map(parse_char_range, char_ranges)), answer, force)
        turns = (Turn(Role.USER, question),)
        return answer_question(self.predictor, read_image(image), turns, highlight, max_new_tokens)

    def highlight(
        self,
        image: AnyImage,
        answer: str,
        phrases: Sequence[str] = (),
        char_ranges: Sequence[str] = (),
        question: str = QUESTION,
    ) -> Prediction:
        """Segment phrases of a given answer.

        Args:
            image: see `AnyImage`.
            answer: any sentence about the image.
            phrases: phrases of the answer; "wheel#2" is the second "wheel".
            char_ranges: character ranges of the answer, such as "10:19".
            question: what the answer replies to.

        Raises:
            ValueError: a phrase is missing from the answer or occurs several times, or a range lies outside the answer.
        """
        return self.segment(image, question, phrases, char_ranges, answer)


def read_image(image: AnyImage) -> np.ndarray:
    """Read an image upright as uint8 RGB (H, W, 3).

    Args:
        image: see `AnyImage`. A PIL image and the content of a file are turned by their EXIF orientation, as files are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, or an array of another type or shape.
    """
    match image:
        case np.ndarray():
            return _read_array(image)
        case Image.Image():
            return _read_pil(image)
        case bytes() | bytearray() | memoryview():
            return _read_bytes(bytes(image))
        case str() | Path():
            return load_image(Path(image), *image_size(Path(image)))
    raise ValueError(
        f"an image must be a path, bytes, a PIL image or a uint8 array, got {type(image).__module__}."
        f"{type(image).__name__}"
    )


def _read_array(image: np.ndarray) -> np.ndarray:
    """Return an array as RGB."""
    is_image = image.dtype == np.uint8 and image.size > 0
    if is_image and image.ndim == 3 and image.shape[2] == 3:
        return image
    if is_image and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 4))):
        plane = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        return np.array(Image.fromarray(plane).convert("RGB"))
    raise ValueError(
        f"an array must be uint8 RGB (H, W, 3), grey (H, W) or RGBA (H, W, 4), got {image.dtype} {image.shape}; for "
        "values from 0 to 1: (255 * array).round().astype(numpy.uint8)"
    )


def _read_pil(image: Image.Image) -> np.ndarray:
    """Return a PIL image as RGB; values of more than 8 bits are scaled as those of a file are."""
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGB", "RGBA", "L"):
            return _read_array(np.array(upright))
        if not upright.mode.startswith(("I", "F")):
            return np.array(upright.convert("RGB"))
        with tempfile.TemporaryDirectory(prefix="plum_image_") as folder:
            path = Path(folder) / "image.tiff"  # keeps 16 and 32 bits
            upright.save(path)
            return load_image(path, upright.height, upright.width)
    except (OSError, SyntaxError) as error:  # PIL decodes the file only now, which may be damaged
        raise ValueError(f"the PIL image cannot be read ({error})") from error


def _read_bytes(content: bytes) -> np.ndarray:
    """Return the content of an image file as RGB, through a file: so it is read as any file."""
    with tempfile.TemporaryDirectory(prefix="plum_image_") as folder:
        path = Path(folder) / "image"
        path.write_bytes(content)
        try:
            return load_image(path, *image_size(path))
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise ValueError(f"the {len(content)} bytes given as an image: {reason}") from error
