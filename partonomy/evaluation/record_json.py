"""Records to JSON lines and back."""

import dataclasses
import json
import math
from typing import NoReturn

from pydantic import TypeAdapter, ValidationError

from partonomy.evaluation.records import ChoiceRecord, MaskRecord, Record
from partonomy.masks import rle_from_coco, rle_to_json
from partonomy.segmentation_checks import MAX_PIXELS, shorten

MAX_ID = 2**63 - 1
_ADAPTER = TypeAdapter(
    Record
)  # the dataclasses are the schema: every field of every record is checked against its type


def record_to_line(record: Record) -> str:
    """One line of JSON without its newline; field names are those of the dataclasses."""
    # `vars` of a dataclass are its fields in their order; dataclasses.asdict would copy all of them first
    return json.dumps(vars(record), default=vars, ensure_ascii=False, allow_nan=False)


def record_from_line(line: str) -> Record:
    """Read what `record_to_line` wrote; keys with a default may be missing (records of earlier versions).

    Raises:
        ValueError: The line is not JSON, its fields are not a record's, or a mask's code is damaged.
    """
    try:
        if "NaN" in line or "Infinity" in line:  # maybe in a text
            json.loads(line, parse_constant=_refuse_constant)
        record = _ADAPTER.validate_json(line, strict=True)
        _check(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise ValueError(f"not a record of an evaluation: {shorten(line)} ({reason})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a record of an evaluation: {shorten(line)} ({error})") from error
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _check(record: Record) -> None:
    """Check what the types do not say.

    Raises:
        ValueError: a choice that is not there, lists that do not match, a mask that cannot be decoded, impossible
            numbers of pixels.
    """
    if abs(record.image_id) > MAX_ID:
        raise ValueError(f"no image has the id {shorten(record.image_id)}")
    _check_finite(record.seconds, *(record.generation.confidences if record.generation else ()))
    _check_pixels(record.true_union_area, *(part.area for part in record.true_parts))
    for choice in (record.parts_choice, record.object_choice):
        if choice is not None:
            _check_choice(choice)
    generated = None if record.generation is None else record.generation.masks
    for masks in (record.segmentation, generated):
        if masks is not None:
            _check_masks(masks)


def _check_finite(*values: float) -> None:
    if not all(math.isfinite(value) for value in values):  # JSON can spell numbers that no float holds
        raise ValueError(f"a number is not finite: {shorten(values)}")


def _check_choice(choice: ChoiceRecord) -> None:
    num_choices = len(choice.texts)
    indices = [choice.correct_index, *(choice.listwise.order if choice.listwise else ())]
    if choice.selection is not None:
        indices += dataclasses.astuple(choice.selection)
    if not all(0 <= index < num_choices for index in indices):
        raise ValueError(f"there are {num_choices} choices, none at one of the positions {shorten(indices)}")
    if len(choice.labels) != num_choices or (choice.scores is not None and len(choice.scores) != num_choices):
        raise ValueError(f"there are {num_choices} choices, but another number of labels or scores")
    for score in choice.scores or ():
        _check_finite(score.answer_log_prob, score.conversation_log_prob)


def _check_masks(masks: MaskRecord) -> None:
    for number, rle in enumerate(masks.masks):
        rle_from_coco(rle_to_json(rle), rle.height, rle.width, f"predicted mask {number}")
    for pair in (*masks.paired, *masks.hungarian, *masks.greedy, *masks.union):
        _check_pixels(pair.union, pair.intersection)


def _check_pixels(*counts: int) -> None:
    if not all(0 <= count <= 2 * MAX_PIXELS for count in counts):  # a union has at most the pixels of its two masks
        raise ValueError(f"masks cannot have {shorten(counts)} pixels")
