"""Reads predictions that another program made, in the schema of `export-predictions`, into records.

`Task.import_record` turns an entry of the file into the item's record. By default the entry answers the requests that
the task asks about the item, as a model would: `masks` the masks, `reply` the words. A benchmark whose entries have
keys of their own reads them itself.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from partonomy.files import check_relative_path, check_text, is_integer, shorten
from partonomy.images import image_size, read_mask_image
from partonomy.masks import decode_mask, rle_from_coco
from partonomy.models.contract import AnswerMarks, AnswerRequest, Generation, MaskRequest, ReplyRequest, TaskRequest
from partonomy.structures import CharSpan

if TYPE_CHECKING:
    from partonomy.benchmarks.task import AnyTask, Picture, Record

MASKS, REPLY = "masks", "reply"
FAILED_REASON = "the file says that the model failed"
_BYTES_LITERAL = ("b'", 'b"')
"""Beginning of the text that str() makes of bytes; no COCO code begins so, because it has no quotes."""


@dataclass(frozen=True)
class Entry:
    """One entry of the file, and what the file has at all.

    Attributes:
        content: The entry's keys and values.
        folder: The file's folder; paths of masks are relative to it.
        offered: Names of the answers that any entry of the file has (`Task.answers_of`); the model is taken not to
            support any other.
    """

    content: Mapping[str, Any]
    folder: Path
    offered: frozenset[str]

    @property
    def status(self) -> str:
        """The status; "scored" if the entry names none.

        Raises:
            ValueError: There is no such status.
        """
        status = self.content.get("status")
        if status is None:
            return "scored"
        if status not in ("scored", "failed", "unsupported"):
            raise ValueError(f"'status' must be scored, failed or unsupported, got {shorten(status)}")
        return str(status)

    @property
    def reason(self) -> str:
        """Why the model failed, if it did."""
        reason = self.content.get("reason")
        return FAILED_REASON if reason is None or reason == "" else check_text(reason, "'reason'")

    def text(self, key: str) -> str | None:
        """Return a text; None if it is null or missing.

        Raises:
            ValueError: It is not a text.
        """
        value = self.content.get(key)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{key!r} must be a text or null, got {shorten(value)}")
        return value

    def masks(self, values: object, height: int, width: int, name: str) -> np.ndarray:
        """Read a list of masks; see `mask`.

        Returns:
            bool (N, H, W).

        Raises:
            ValueError: It is not a list of masks of this size.
        """
        if not isinstance(values, list):
            raise ValueError(f"{name} must be a list of masks, got {shorten(values)}")
        found = [self.mask(value, height, width, f"{name}[{number}]") for number, value in enumerate(values)]
        return np.stack(found) if found else np.zeros((0, height, width), dtype=bool)

    def mask(self, value: object, height: int, width: int, name: str) -> np.ndarray:
        """Read a mask: a COCO code or polygon (`rle_from_coco`), or the path of a PNG relative to the file.

        Args:
            value: The mask; null is an empty mask.
            height, width: The annotation's size, pixels.
            name: The value's place in the entry, for messages.

        Returns:
            bool (H, W).

        Raises:
            ValueError: It is not a mask, or has another size.
            FileNotFoundError: There is no such PNG.
        """
        if value is None:
            return np.zeros((height, width), dtype=bool)
        if isinstance(value, str):
            return read_mask_image(self.folder / check_relative_path(value, name), height, width, name)
        if isinstance(value, Mapping) and isinstance(value.get("counts"), str):
            value = {**value, "counts": _unquote(value["counts"], name)}
        return decode_mask(rle_from_coco(value, height, width, name))


def _unquote(counts: str, name: str) -> str | bytes:
    """Return the bytes of a code that str() has written as "b'...'"; any other code unchanged."""
    if not counts.startswith(_BYTES_LITERAL):
        return counts
    try:
        value = ast.literal_eval(counts)
    except (ValueError, SyntaxError) as error:
        shown = shorten(counts)
        raise ValueError(f"{name}: the counts {shown} are not the text of bytes; write counts.decode()") from error
    assert isinstance(value, bytes)  # of a literal that begins with b and a quote
    return value


def answers_of(content: Mapping[str, Any]) -> frozenset[str]:
    """Return which of the answers `masks` and `reply` an entry has.

    An empty list of masks is an answer, and so is a reply of null: the model said nothing.
    """
    is_there = {MASKS: content.get(MASKS) is not None, REPLY: REPLY in content}
    return frozenset(key for key, is_given in is_there.items() if is_given)


def picture_size(picture: "Picture") -> tuple[int, int]:
    """Return (height, width) of an item's masks, pixels.

    Raises:
        FileNotFoundError, ValueError: Only the image file knows the size, and it cannot be read.
    """
    if picture.height is None or picture.width is None:
        return image_size(picture.path)
    return picture.height, picture.width


def replay(task: "AnyTask", item: Any, entry: Entry) -> "Record":
    """Return an item's record, as the harness makes it of a model that answers what the entry says.

    Args:
        task: The task.
        item: The item.
        entry: Its entry.

    Raises:
        ValueError: The entry is malformed, or does not answer what the task asks.
    """
    if entry.status != "scored":
        return unanswered(task, item, entry)
    problem = ValueError("the task asks nothing about it")
    # A model with marks may be asked about other phrases; the number of masks says which of the two it was.
    for marks in (AnswerMarks(), AnswerMarks("imported")):
        try:
            record: Record = task.score(item, _drive(task, item, entry, marks))
        except NotImplementedError as error:
            return task.refuse(item, str(error))
        except _AnotherNumber as error:
            problem = error
        else:
            return record
    raise problem


def unanswered(task: "AnyTask", item: Any, entry: Entry) -> "Record":
    """Return the record of an entry whose status is not "scored"."""
    is_unsupported = entry.status == "unsupported"
    record: Record = task.refuse(item, entry.reason) if is_unsupported else task.fail(item, entry.reason)
    return record


class _AnotherNumber(ValueError):
    """The entry has another number of masks than phrases were asked about."""


def _drive(task: "AnyTask", item: Any, entry: Entry, marks: AnswerMarks) -> Any:
    """Answer what the task asks.

    Raises:
        _AnotherNumber: The entry has masks, and the task asks for none or for another number.
    """
    asking = task.ask(item, marks)
    is_asked_for_masks = False
    try:
        requests = next(asking)
        while True:
            is_asked_for_masks |= not isinstance(requests[0], ReplyRequest)
            requests = asking.send([_answer(item, entry, request) for request in requests])
    except StopIteration as stop:
        if not is_asked_for_masks and (masks := entry.content.get(MASKS)):
            number = len(masks) if isinstance(masks, list) else 1
            raise _AnotherNumber(f"'masks' has {number} masks, and no phrase was given to segment") from None
        return stop.value


def _answer(item: Any, entry: Entry, request: TaskRequest) -> Any:
    match request:
        case ReplyRequest():
            _require(entry, REPLY)
            return entry.text(REPLY) or ""
        case AnswerRequest():
            masks = _own_masks(item, entry)
            return Generation(entry.text(REPLY) or "", (CharSpan(0, 0),) * len(masks), masks, (1.0,) * len(masks))
        case MaskRequest():
            masks = _own_masks(item, entry)
            if len(masks) != len(request.spans):
                raise _AnotherNumber(
                    f"'masks' has {len(masks)} masks, and {len(request.spans)} phrases were given to segment"
                )
            return masks
        case _:
            raise NotImplementedError(f"predictions of this benchmark cannot be imported ({type(request).__name__})")


def _own_masks(item: Any, entry: Entry) -> np.ndarray:
    _require(entry, MASKS)
    height, width = picture_size(item.picture)
    return entry.masks(entry.content.get(MASKS), height, width, "'masks'")


def _require(entry: Entry, key: str) -> None:
    """Refuse an item without an answer.

    Raises:
        NotImplementedError: No entry of the file has this answer.
        ValueError: Others have it.
    """
    if key not in entry.offered:
        raise NotImplementedError(f"the file has no {key!r}")
    if key not in answers_of(entry.content):
        nothing = "an empty list" if key == MASKS else "an empty text"
        raise ValueError(f"{key!r} is missing; write {nothing} if the model gave none")


def read_scores(values: object, num_choices: int, name: str) -> tuple[Mapping[str, float], ...]:
    """Check the scores of choices: one log-probability per choice, or one object with them per choice.

    Raises:
        ValueError: There is another number of them, or one is not of this form.
    """
    if not isinstance(values, list) or len(values) != num_choices:
        raise ValueError(f"{name} must be a list with one entry for each of the {num_choices} choices")
    return tuple(_read_score(value, f"{name}[{number}]") for number, value in enumerate(values))


SCORE_KEYS = ("answer_log_prob", "answer_tokens", "conversation_log_prob", "conversation_tokens")


def _read_score(value: object, name: str) -> Mapping[str, float]:
    if _is_finite(value):
        return {SCORE_KEYS[0]: float(value)}  # type: ignore[arg-type]
    if not isinstance(value, Mapping) or set(value) not in ({SCORE_KEYS[0]}, set(SCORE_KEYS)):
        raise ValueError(
            f"{name} must be a log-probability or an object with {', '.join(SCORE_KEYS)}, got {shorten(value)}"
        )
    if not all(_is_finite(one) for one in value.values()):
        raise ValueError(f"{name} has a value that is not a finite number: {shorten(value)}")
    for key in ("answer_tokens", "conversation_tokens"):
        if key in value and (not is_integer(value[key]) or value[key] < 1):
            raise ValueError(f"{name}: {key!r} must be an integer of at least 1, got {shorten(value[key])}")
    return dict(value)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def find_choice(value: object, choices: Sequence[str], name: str) -> int | None:
    """Return the index of a choice that is given by its index, from 0, or by its text.

    Args:
        value: The index or the text; None if the model has not chosen.
        choices: The texts, in the order of `answer_choices`.
        name: The key, for messages.

    Raises:
        ValueError: There is no such choice, or several have this text.
    """
    if value is None:
        return None
    if is_integer(value):
        if not 0 <= value < len(choices):
            raise ValueError(f"{name} is {value}, and the choices have the indices 0 to {len(choices) - 1}")
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} must be the index or the text of a choice, got {shorten(value)}")
    found = [index for index, text in enumerate(choices) if text == value]
    found = found or [index for index, text in enumerate(choices) if _fold(text) == _fold(value)]
    if len(found) != 1:
        problem = "several choices have this text; give the index" if found else "no choice has this text"
        raise ValueError(f"{name} is {shorten(value)}: {problem}")
    return found[0]


def _fold(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
