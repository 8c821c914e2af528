"""Records to JSON lines and back."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import msgspec

from partonomy.evaluation.records import ChoiceRecord, MaskRecord, Record
from partonomy.masks import find_sound_masks, rle_from_coco, rle_to_json
from partonomy.segmentation_checks import MAX_PIXELS, shorten
from partonomy.structures import RLE

MAX_ID = 2**63 - 1
LINES_PER_BATCH = 256
_DECODER = msgspec.json.Decoder(Record)  # the dataclasses are the schema: every field is checked against its type


def record_to_line(record: Record) -> str:
    """One line of JSON without its newline; field names are those of the dataclasses."""
    # `vars` of a dataclass are its fields in their order; dataclasses.asdict would copy all of them first
    return json.dumps(vars(record), default=vars, ensure_ascii=False, allow_nan=False)


def record_from_line(line: str | bytes) -> Record:
    """Read what `record_to_line` wrote; keys with a default may be missing (records of earlier versions).

    Raises:
        ValueError: The line is not JSON, its fields are not a record's, or a mask's code is damaged.
    """
    try:
        record = _decode(line)
        for number, rle in enumerate(_masks(record)):
            rle_from_coco(rle_to_json(rle), rle.height, rle.width, f"predicted mask {number}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a record of an evaluation: {shorten(line)} ({error})") from error
    return record


def read_records(path: Path) -> tuple[Record, ...]:
    """Read a record file; a last line without its newline (a process killed in the middle of it) is left out.

    Raises:
        ValueError: Another line is damaged; names file and line.
    """
    return tuple(record for record, _ in iterate_records(path))


def iterate_records(path: Path) -> Iterator[tuple[Record, int]]:
    """Go through a record file as `read_records` does; with every record comes the length of its line in bytes."""
    num_read = 0
    with path.open("rb") as file:
        while lines := list(islice(file, LINES_PER_BATCH)):
            if not lines[-1].endswith(b"\n"):
                lines.pop()
            yield from zip(_read_batch(lines, path, first_line=num_read + 1), map(len, lines), strict=True)
            num_read += len(lines)


def decode_checked(line: bytes) -> Record:
    """Read a line that was checked before."""
    return _DECODER.decode(line)


def _read_batch(lines: Sequence[bytes], path: Path, first_line: int) -> list[Record]:
    """The records of some lines. All their masks are checked at once; one by one only if something is wrong."""
    try:
        records = [_decode(line) for line in lines]
        if all(find_sound_masks([mask for record in records for mask in _masks(record)])):
            return records
    except (ValueError, RecursionError):
        records = []
    for number, line in enumerate(lines, start=first_line):
        try:
            record_from_line(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; delete that line and resume") from error
    return records


def _decode(line: str | bytes) -> Record:
    """A record that was checked but for the codes of its masks."""
    record = _DECODER.decode(line)
    _check(record)
    return record


def _masks(record: Record) -> Iterable[RLE]:
    """Every predicted mask."""
    generated = None if record.generation is None else record.generation.masks
    return chain.from_iterable(masks.masks for masks in (record.segmentation, generated) if masks is not None)


def _check(record: Record) -> None:
    """Check what the types do not say, the codes of masks apart.

    Raises:
        ValueError: a choice that is not there, lists that do not match, impossible numbers of pixels.
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
            _check_pairs(masks)


def _check_finite(*values: float) -> None:
    if not all(math.isfinite(value) for value in values):  # JSON can spell numbers that no float holds
        raise ValueError(f"a number is not finite: {shorten(values)}")


def _check_choice(choice: ChoiceRecord) -> None:
    num_choices = len(choice.texts)
    indices = [choice.correct_index, *(choice.listwise.order if choice.listwise else ())]
    if choice.selection is not None:
        chosen = choice.selection
        indices += (chosen.sequence, chosen.answer_mean, chosen.conversation_mean)
    if not all(0 <= index < num_choices for index in indices):
        raise ValueError(f"there are {num_choices} choices, none at one of the positions {shorten(indices)}")
    if len(choice.labels) != num_choices or (choice.scores is not None and len(choice.scores) != num_choices):
        raise ValueError(f"there are {num_choices} choices, but another number of labels or scores")
    for score in choice.scores or ():
        _check_finite(score.answer_log_prob, score.conversation_log_prob)


def _check_pairs(masks: MaskRecord) -> None:
    pairs = (*masks.paired, *masks.hungarian, *masks.greedy, *masks.union)
    _check_pixels(*[pair.union for pair in pairs])  # no intersection is larger, see `PairStatistics`


def _check_pixels(*counts: int) -> None:
    if not all(0 <= count <= 2 * MAX_PIXELS for count in counts):  # a union has at most the pixels of its two masks
        raise ValueError(f"masks cannot have {shorten(counts)} pixels")
