"""Reads questions and answers of one's own with the masks of the phrases that the answers name.

A file is a JSON list, or has a JSON object a line, of records such as

    {"image": "a.jpg", "question": "What parts does it have?", "answer": "It has a left wing and a wheel.",
     "phrases": ["left wing", "wheel"], "masks": [RLE, POLYGONS or "masks/a_wheel.png"]}

`image` and the image files of masks are relative to the file's folder. A mask is a COCO run-length code, a list of
polygons, or an image file of two values, of which 0 is the background; it has the image's size. "wheel#2" is the second
"wheel" of the answer. `phrases` and `masks` may be left out for an answer without masks. In place of question, answer,
phrases and masks a record may have `conversation`, a list of objects with these keys.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partonomy.files import (
    RECORD_ERRORS,
    check_text,
    iterate_records,
    parse_json,
    reason_of,
    shorten,
    write_text_atomically,
)
from partonomy.images import image_size, read_mask_image
from partonomy.masks import encode_mask, rle_from_coco
from partonomy.structures import RLE, CharSpan
from plum.inputs.phrase_places import locate_highlights
from plum.structures import Exchange

EXCHANGE_KEYS = ("question", "answer", "phrases", "masks")
KEYS = ("image", "conversation", *EXCHANGE_KEYS)


@dataclass(frozen=True)
class GroundedImage:
    """An image of the file with its conversations.

    Attributes:
        path: the image file.
        height: in pixels.
        width: in pixels.
        conversations: each a tuple of exchanges.
    """

    path: Path
    height: int
    width: int
    conversations: tuple[tuple[Exchange, ...], ...]


def read_grounded_answers(path: Path) -> tuple[GroundedImage, ...]:
    """Read a file; the records of an image become its conversations.

    Returns:
        The images in the order of their first records.

    Raises:
        FileNotFoundError: the file, an image or a mask is missing; the message names file and record.
        ValueError: a record is broken, or there is none; the message names file and record.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; correct the path")
    found: defaultdict[Path, list[tuple[Exchange, ...]]] = defaultdict(list)
    sizes: dict[Path, tuple[int, int]] = {}
    for number, record in enumerate(_iterate_records(path), start=1):
        where = f"{path}, record {number}"
        try:
            image = _read_image_path(record, path.parent)
            if image not in sizes:
                sizes[image] = image_size(image)
            found[image].append(tuple(_read_exchanges(record, path.parent, sizes[image])))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where}: {error}") from error
        except RECORD_ERRORS as error:
            raise ValueError(f"{where}: {reason_of(error)}") from error
    if not found:
        raise ValueError(f"{path} holds no record")
    return tuple(GroundedImage(image, *sizes[image], tuple(found[image])) for image in found)


def split_grounded_answers(path: Path, sides: tuple[Path, Path], held_out_share: float, seed: int) -> tuple[int, int]:
    """Write the records of a file into two others by image; no image is in both.

    Files that are there already must be the same. Their paths lead to the same images and masks.

    Args:
        path: the file.
        sides: the files to write: training, held out.
        held_out_share: share of the images that are held out; at least one image.
        seed: seed of the choice.

    Returns:
        The number of images on either side.

    Raises:
        FileNotFoundError, ValueError: see `read_grounded_answers`.
        ValueError: the share leaves a side empty, or a file that is there is another.
    """
    images = [image.path for image in read_grounded_answers(path)]
    number = max(1, round(held_out_share * len(images)))
    if not 0 < held_out_share < 1 or number >= len(images):
        raise ValueError(f"{path}: a held-out share of {held_out_share} of {len(images)} images leaves a side empty")
    order = np.random.default_rng(seed).permutation(len(images))
    held_out = {images[place] for place in order[:number]}
    kept: tuple[list[Any], list[Any]] = ([], [])
    for record in _iterate_records(path):
        image = path.parent / record["image"]
        kept[image in held_out].append(_moved(record, path.parent, sides[0].parent))
    for side, records in zip(sides, kept, strict=True):
        side.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(records, ensure_ascii=False, indent=1) + "\n"
        if not side.exists():
            write_text_atomically(side, text)
        elif side.read_text(encoding="utf-8") != text:
            raise ValueError(f"{side} is of other records, or of another share or seed; delete it, or write elsewhere")
    return len(images) - number, number


def _iterate_records(path: Path) -> Iterator[Any]:
    """Yield the records of a JSON list, or of a file with a JSON object a line (.jsonl)."""
    if path.suffix != ".jsonl":
        yield from iterate_records(path)
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield parse_json(line, f"{path}, line {number}: not valid JSON")


def _moved(record: Mapping[str, Any], before: Path, after: Path) -> dict[str, Any]:
    """Return a record whose paths are relative to another folder."""

    def move(name: object) -> object:
        return os.path.relpath(before / name, after) if isinstance(name, str) else name

    content = dict(record)
    if "image" in content:
        content["image"] = move(content["image"])
    if "masks" in content:
        content["masks"] = [move(mask) for mask in content["masks"]]
    if "conversation" in content:
        content["conversation"] = [_moved(one, before, after) for one in content["conversation"]]
    return content


def _read_image_path(record: object, folder: Path) -> Path:
    if not isinstance(record, Mapping):
        raise ValueError(f"{shorten(record)} is no object with the keys {', '.join(KEYS)}")
    if unknown := sorted(str(key) for key in record if key not in KEYS):
        raise ValueError(f"unknown key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
    path = folder / check_text(record.get("image"), "'image'")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: image file not found; 'image' is relative to the file's folder")
    return path


def _read_exchanges(record: Mapping[str, Any], folder: Path, size: tuple[int, int]) -> Iterator[Exchange]:
    if "conversation" not in record:
        yield _read_exchange(record, folder, size)
        return
    if both := [key for key in EXCHANGE_KEYS if key in record]:
        raise ValueError(f"give {both[0]!r} or 'conversation', not both")
    conversation = record["conversation"]
    if not isinstance(conversation, Sequence) or isinstance(conversation, str) or not conversation:
        raise ValueError(f"'conversation' must be a list of questions and answers, got {shorten(conversation)}")
    for one in conversation:
        if not isinstance(one, Mapping) or not set(one) <= set(EXCHANGE_KEYS):
            raise ValueError(f"{shorten(one)} must be an object with the keys {', '.join(EXCHANGE_KEYS)}")
        yield _read_exchange(one, folder, size)


def _read_exchange(record: Mapping[str, Any], folder: Path, size: tuple[int, int]) -> Exchange:
    question, answer = (check_text(record.get(key), f"'{key}'") for key in ("question", "answer"))
    phrases, masks = (_read_list(record.get(key, []), key) for key in ("phrases", "masks"))
    if len(phrases) != len(masks):
        raise ValueError(f"{len(phrases)} phrases and {len(masks)} masks: each phrase needs one mask")
    spans = locate_highlights(answer, [check_text(phrase, "a phrase") for phrase in phrases])
    codes = [_read_mask(mask, folder, size, phrase) for mask, phrase in zip(masks, phrases, strict=True)]
    targets = sorted(zip(spans, codes, strict=True), key=lambda target: target[0].start)
    _require_apart([span for span, _ in targets], answer)
    return Exchange(question, answer, tuple(span for span, _ in targets), tuple(mask for _, mask in targets))


def _read_list(value: object, key: str) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{key!r} must be a list, got {shorten(value)}")
    return value


def _read_mask(mask: object, folder: Path, size: tuple[int, int], phrase: str) -> RLE:
    height, width = size
    if not isinstance(mask, str):
        return rle_from_coco(mask, height, width, f"the mask of {phrase!r}")
    path = folder / check_text(mask, f"the mask of {phrase!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: mask file not found; a mask's path is relative to the file's folder")
    return encode_mask(read_mask_image(path, height, width, f"the mask of {phrase!r}"))


def _require_apart(spans: Sequence[CharSpan], answer: str) -> None:
    """Refuse phrases that overlap: each word has one tag."""
    for first, second in zip(spans, spans[1:], strict=False):
        if second.start < first.end:
            one, other = (answer[span.start : span.end] for span in (first, second))
            raise ValueError(f"the phrases {one!r} and {other!r} overlap in the answer")
