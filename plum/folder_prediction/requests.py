"""What to ask about which image: files and folders of images, questions from the command line or a JSON or CSV file."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plum.highlight import NOTHING, Highlight, parse_char_range

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
COLUMNS = ("image", "question", "phrases", "char_ranges", "answer")


@dataclass(frozen=True)
class QuestionRequest:
    """One question and what to segment of its answer."""

    question: str
    highlight: Highlight = NOTHING


@dataclass(frozen=True)
class ImageRequest:
    """One image and its questions; `name` is its path below the folder that was given."""

    path: Path
    name: str
    questions: tuple[QuestionRequest, ...]

    def fingerprint(self) -> list[dict[str, Any]]:
        """The questions as plain values."""
        return [asdict(question) for question in self.questions]


@dataclass(frozen=True)
class _Row:
    """One record of a question file; `image` empty: it is for every image."""

    image: str
    request: QuestionRequest


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Image files by name: files themselves, and every image below a folder, in order of names.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no image.
        ValueError: two images have the same name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            if not files:
                raise FileNotFoundError(f"{path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
            named = {file.relative_to(path).as_posix(): file for file in files}
        elif path.exists():
            named = {path.name: path}
        else:
            raise FileNotFoundError(f"{path}: no such image or folder")
        if twice := sorted(found.keys() & named.keys()):
            raise ValueError(
                f"two images are named {twice[0]}: {found[twice[0]]} and {named[twice[0]]}; ask them apart"
            )
        found |= named
    return found


def build_requests(
    images: Mapping[str, Path], questions: Sequence[QuestionRequest], question_file: Path | None
) -> tuple[ImageRequest, ...]:
    """Questions of every image: those for all, then those of the file for all and for this one.

    Raises:
        FileNotFoundError: there is no such question file.
        ValueError: the file is broken or names an unknown image, or an image has no question.
    """
    rows = [] if question_file is None else read_question_file(question_file)
    unknown = [row.image for row in rows if row.image and row.image not in images]
    if unknown:
        raise ValueError(f"{question_file}: no image is named {unknown[0]!r} ({len(unknown)} such records)")
    requests = []
    for name, path in images.items():
        own = [row.request for row in rows if row.image in ("", name)]
        asked = (*questions, *own)
        if not asked:
            raise ValueError(f"{name} has no question: give --question, or a record for it in {question_file}")
        if double := [request for request, count in Counter(asked).items() if count > 1]:
            raise ValueError(f"{name} is asked the same twice: {double[0].question!r}")
        requests.append(ImageRequest(path, name, asked))
    return tuple(requests)


def read_question_file(path: Path) -> list[_Row]:
    """Read a JSON list of objects, or CSV with a header, with the keys of COLUMNS; all but `question` may be missing.

    In CSV phrases and ranges are separated by commas ("left wing, tail", "10:19, 24:29"); in JSON they are lists or
    such texts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a record is broken; names file and record.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such question file")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".csv":
        records: Any = list(csv.DictReader(text.splitlines()))
    else:
        try:
            records = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is neither CSV by its name nor JSON: {error}") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f'{path} holds no list of records, such as [{{"question": "What parts does it have?"}}]')
    return [_read_record(record, f"{path}, record {number}") for number, record in enumerate(records, start=1)]


def _read_record(record: object, where: str) -> _Row:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {record!r} is not an object with the keys {', '.join(COLUMNS)}")
    if unknown := sorted(str(key) for key in record if key not in COLUMNS):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(COLUMNS)}")
    texts = {key: record.get(key) or "" for key in ("image", "question", "answer")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"{where}: {key} is {value!r}, not a text")
    if not texts["question"].strip():
        raise ValueError(f"{where}: there is no question")
    try:
        ranges = tuple(parse_char_range(one) for one in _list_of_texts(record.get("char_ranges"), "char_ranges"))
        phrases = _list_of_texts(record.get("phrases"), "phrases")
        highlight = Highlight(phrases, ranges, texts["answer"] or None)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return _Row(texts["image"].strip(), QuestionRequest(texts["question"].strip(), highlight))


def _list_of_texts(value: object, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"{key} is {value!r}, not a list of texts")
    return tuple(item.strip() for item in items if item.strip())
