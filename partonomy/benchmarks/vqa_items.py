"""Questions with short answers about an image: the item, the two protocols, and where their files lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from partonomy.datasets.files import check_text
from partonomy.segmentation_checks import is_integer, shorten

SHORT_ANSWER = "Answer the question using a single word or phrase."
MAX_NEW_TOKENS = 128


class VqaProtocol(StrEnum):
    """How questions are put and answers scored.

    `llava_official` is LLaVA-1.5's evaluation (instruction on a line of its own, official metrics). `partonomy_compat`
    is that of the Partonomy authors' code behind their Table 5: the instruction follows after a space, TextVQA without
    OCR tokens, the first 5,000 GQA questions, POPE's categories pooled, and `vqa_text.compat_score` for all three.
    Paper: nothing of this is said. Their released decoding also keeps special tokens; here: they are left out.
    """

    LLAVA_OFFICIAL = "llava_official"
    PARTONOMY_COMPAT = "partonomy_compat"


@dataclass(frozen=True)
class VqaItem:
    """A question about an image.

    Attributes:
        item_id: Unique within benchmark and split.
        image_id: The same for all items of one image.
        image_path: The image file.
        question: As the file has it.
        answers: Right answers: ten people's (TextVQA), one, or a short and a long one.
        group: Part of the benchmark that is also scored alone; empty without parts.
        ocr_tokens: What an OCR system read in the image; None without it.
    """

    item_id: str
    image_id: str
    image_path: Path
    question: str
    answers: tuple[str, ...]
    group: str = ""
    ocr_tokens: tuple[str, ...] | None = None


def short_answer_prompt(question: str, protocol: VqaProtocol, instruction: str = SHORT_ANSWER) -> str:
    """The question with its instruction, on a new line or after a space."""
    separator = "\n" if protocol is VqaProtocol.LLAVA_OFFICIAL else " "
    return f"{question}{separator}{instruction}"


def find_file(root: Path, candidates: Sequence[str]) -> Path:
    """The first of several places under `root` that holds a file.

    Raises:
        FileNotFoundError: None does; names all of them.
    """
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise FileNotFoundError(f"{root}: found none of {', '.join(candidates)}; put the file there or pass another --root")


def find_folder(root: Path, candidates: Sequence[str]) -> Path:
    """The first of several places under `root` that is a folder.

    Raises:
        FileNotFoundError: None is; names all of them.
    """
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    raise FileNotFoundError(
        f"{root}: found none of the folders {', '.join(candidates)}; put the images there or pass another --root"
    )


def read_question_id(value: object) -> str:
    """An id as a text; it may be a whole number.

    Raises:
        ValueError: It is something else.
    """
    return str(value) if is_integer(value) else check_text(value, "'question_id'")


def read_texts(values: object, name: str) -> tuple[str, ...]:
    """A list of texts, of which some may be empty.

    Raises:
        ValueError: It is something else, or a text cannot be written in UTF-8.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} must be a list of texts, got {shorten(values)}")
    for value in filter(None, values):
        check_text(value, f"one of {name}")
    return tuple(values)


def check_unique(items: Sequence[VqaItem], path: Path) -> tuple[VqaItem, ...]:
    """Return the items.

    Raises:
        ValueError: There are none, or two share an id.
    """
    if not items:
        raise ValueError(f"{path}: holds no question")
    seen: set[str] = set()
    for item in items:
        if item.item_id in seen:
            raise ValueError(f"{path}: two questions have the id {item.item_id!r}; ids must be unique")
        seen.add(item.item_id)
    return tuple(items)
