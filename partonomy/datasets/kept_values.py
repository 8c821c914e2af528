"""Keeps what published records say beyond the project's own form, so that an export writes it again.

A record file may hold more than its questions: keys of its authors' (`answer_operations`) or of other tools, parts in
another order than in the text, several codes of a part, or polygons. The own form has no place for them: a part is the
union of its codes, as the authors read the file (AnselBlume/partonomy, `explanatory_seg_dataset.py`: "Union masks under
the same part name"), and its parts stand in the order of the text. An import therefore writes `published.jsonl`: for
each record, the values in which it differs from the record that an export would write of its question.

Lines are either `{"segmentations_sha256", "segmentations"}`, once for all records that repeat them, or
`{"question_id", "values", "absent", "segmentations_sha256"}`. `build.json` names the file by its hash, so that a file
left over from an earlier data set is not taken for this one's. If annotations or questions were edited after the
import, an export writes their masks and parts, not those of the record file.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from partonomy.files import (
    RECORD_ERRORS,
    check_text,
    convert_json,
    hash_files,
    open_atomically,
    parse_json,
    printable,
    reason_of,
    shorten,
)

KEPT_FILE = "published.jsonl"
BUILD_KEY = "kept_values"
IMPORT_CURE = "import the record file again"
SEGMENTATIONS, IMAGE_PATH, ANSWER_PARTS = "segmentations", "image_path", "answer_parts"
RENAMED = "published_"
"""Prefix of a record's own key that an entry of predictions needs for itself."""
NUM_SHOWN_KEYS = 20


@dataclass(frozen=True)
class KeptSegmentations:
    """A record's segmentations as they stand in the file, with the hash that identifies them."""

    sha256: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class KeptValues:
    """The values in which a record differs from the one that an export would write.

    Attributes:
        values: the record's own values, except the segmentations.
        absent: keys that an export writes and the record lacks.
        segmentations: the segmentations; None if an export writes the same.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    segmentations: KeptSegmentations | None = None

    def __bool__(self) -> bool:
        return bool(self.values or self.absent or self.segmentations)

    def restore(self, record: Mapping[str, Any], image_path: Path, folder: Path) -> dict[str, Any]:
        """Return an exported record with these values: the record as its file had it.

        Args:
            record: the record of `question_to_record`.
            image_path: the image file. The kept spelling of its path is used only if it leads to this file from
                `folder`.
            folder: the folder of the new record file.

        Returns:
            A new record, JSON values.
        """
        restored = {key: value for key, value in record.items() if key not in self.absent} | dict(self.values)
        spelling = self.values.get(IMAGE_PATH)
        if spelling is not None and (folder / spelling).resolve() != image_path.resolve():
            restored[IMAGE_PATH] = record[IMAGE_PATH]
        if self.segmentations is not None:
            restored[SEGMENTATIONS] = dict(self.segmentations.content)
        return restored


NOTHING = KeptValues()


def find_kept(
    content: Mapping[str, Any], written: Mapping[str, Any], segmentations: KeptSegmentations | None
) -> KeptValues:
    """Return what a record says otherwise than the record that an export would write of its question.

    Args:
        content: the record of the file.
        written: the record of `question_to_record`, without its segmentations.
        segmentations: the record's segmentations if an export would write others.

    Raises:
        RecursionError: a value is nested too deeply to be written again.
    """
    values = {
        key: value
        for key, value in content.items()
        if key != SEGMENTATIONS and (key not in written or not is_same_json(value, written[key]))
    }
    absent = tuple(key for key in written if key not in content and key != SEGMENTATIONS)
    json.dumps(values)
    return KeptValues(values, absent, segmentations) if values or absent or segmentations else NOTHING


def is_same_json(first: object, second: object) -> bool:
    """Return whether two values are the same JSON value: 1, 1.0 and true differ, the order of keys does not count."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def rename_clashes(record: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the keys of an entry added; the record's own keys of the same name get a prefix."""
    renamed: dict[str, Any] = {}
    for key, value in record.items():
        name = key
        while name in entry or (name != key and (name in record or name in renamed)):
            name = RENAMED + name
        renamed[name] = value
    return renamed | dict(entry)


@dataclass
class KeptCounts:
    """Counts of records by what is kept of them; they add up over shards.

    Attributes:
        keys: records by key that no question has.
        num_reordered: records whose `answer_parts` stand in another order than in the text.
        num_united: records with parts of several codes.
        num_united_parts: parts of several codes, added up over these records.
    """

    keys: Counter[str] = field(default_factory=Counter)
    num_reordered: int = 0
    num_united: int = 0
    num_united_parts: int = 0

    def add(self, kept: KeptValues) -> None:
        """Count a record."""
        self.keys.update(printable(key) for key in kept.values if key not in (IMAGE_PATH, ANSWER_PARTS))
        self.num_reordered += ANSWER_PARTS in kept.values
        masks = kept.segmentations.content.values() if kept.segmentations is not None else ()
        num_parts = sum(len(codes) > 1 for codes in masks)
        self.num_united += bool(num_parts)
        self.num_united_parts += num_parts

    def describe(self) -> tuple[str, ...]:
        """Return the lines for the user; none if every record is one that an export writes."""
        lines = []
        if self.keys:
            shown = [f"{key!r} ({count})" for key, count in sorted(self.keys.items())[:NUM_SHOWN_KEYS]]
            more = f" and {len(self.keys) - len(shown)} more" if len(self.keys) > len(shown) else ""
            lines.append(f"keys without a meaning here, by number of records: {', '.join(shown)}{more}")
        if self.num_reordered:
            lines.append(f"records whose 'answer_parts' do not follow the order of the text: {self.num_reordered}")
        if self.num_united:
            lines.append(
                f"records with parts of several codes: {self.num_united} ({self.num_united_parts} parts; each part is "
                "scored as the union of its codes)"
            )
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "keys": dict(sorted(self.keys.items())),
            "reordered": self.num_reordered,
            "united": self.num_united,
            "united_parts": self.num_united_parts,
        }

    def __iadd__(self, other: "KeptCounts") -> "KeptCounts":
        self.keys.update(other.keys)
        self.num_reordered += other.num_reordered
        self.num_united += other.num_united
        self.num_united_parts += other.num_united_parts
        return self


class StoredCounts(msgspec.Struct):
    """The form of `KeptCounts` in JSON (`KeptCounts.to_json`)."""

    keys: dict[str, int]
    reordered: int
    united: int
    united_parts: int

    def to_counts(self) -> KeptCounts:
        """Return the counts."""
        return KeptCounts(Counter(self.keys), self.reordered, self.united, self.united_parts)


class KeptWriter:
    """Writes kept values line by line; the same segmentations only once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written: set[str] = set()
        self.num_lines = 0

    def write(self, question_id: str, kept: KeptValues) -> None:
        """Write the values of a question, if any."""
        if not kept:
            return
        stored = kept.segmentations
        if stored is not None and stored.sha256 not in self._written:
            self._written.add(stored.sha256)
            self._write_line({"segmentations_sha256": stored.sha256, SEGMENTATIONS: stored.content})
        self._write_line(
            {
                "question_id": question_id,
                "values": kept.values,
                "absent": kept.absent,
                "segmentations_sha256": None if stored is None else stored.sha256,
            }
        )

    def _write_line(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content).encode("ascii") + b"\n")
        self.num_lines += 1


@contextmanager
def write_kept(folder: Path) -> Iterator[KeptWriter]:
    """Write a data set folder's kept values; there is no file if there are none."""
    path = folder / KEPT_FILE
    with open_atomically(path) as file:
        writer = KeptWriter(file)
        yield writer
    if not writer.num_lines:
        path.unlink()


def describe_kept(folder: Path, counts: KeptCounts, content: Sequence[Path]) -> dict[str, Any]:
    """Return the entry of `build.json` for the kept values in a folder; empty if there are none.

    Args:
        folder: the data set folder.
        counts: counts of the kept values.
        content: the files of annotations and questions that they belong to.
    """
    path = folder / KEPT_FILE
    hashes = {"sha256": hash_files([path]), "content_sha256": hash_files(content)} if path.is_file() else {}
    return {BUILD_KEY: {**hashes, **counts.to_json()}} if hashes else {}


@dataclass(frozen=True)
class KeptOfFolder:
    """A folder's kept values by question id.

    `is_edited`: annotations or questions are no longer those of the import; segmentations and the order of
    `answer_parts` are then left out.
    """

    values: Mapping[str, KeptValues] = field(default_factory=dict)
    is_edited: bool = False


def kept_counts(build: Mapping[str, Any], path: Path) -> KeptCounts:
    """Read the counts of kept values from the content of `build.json`.

    Raises:
        ValueError: the entry is broken; the message names the file.
    """
    if BUILD_KEY not in build:
        return KeptCounts()
    return convert_json(build[BUILD_KEY], StoredCounts, f"{path}: {BUILD_KEY!r}", IMPORT_CURE).to_counts()


def read_kept(folder: Path, build: Mapping[str, Any], content: Sequence[Path]) -> KeptOfFolder:
    """Read a folder's kept values.

    Args:
        folder: the data set folder.
        build: content of its `build.json`.
        content: its files of annotations and questions.

    Raises:
        FileNotFoundError: `build.json` names kept values, but there is no file.
        ValueError: the file is broken, or not the one that was written with `build.json`.
    """
    if BUILD_KEY not in build:
        return KeptOfFolder()
    path = folder / KEPT_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; import the record file again")
    entry = build[BUILD_KEY]
    if not isinstance(entry, Mapping) or entry.get("sha256") != hash_files([path]):
        raise ValueError(f"{path}: not the file that the import wrote; import the record file again")
    is_edited = entry.get("content_sha256") != hash_files(content)
    segmentations: dict[str, KeptSegmentations] = {}
    kept: dict[str, KeptValues] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            row = parse_json(line, f"{path}, line {number}: not a JSON object")
            try:
                if "question_id" not in row:
                    sha256 = check_text(row["segmentations_sha256"], "'segmentations_sha256'")
                    segmentations[sha256] = KeptSegmentations(sha256, dict(row[SEGMENTATIONS]))
                    continue
                key, values = row["segmentations_sha256"], dict(row["values"])
                if is_edited:
                    values.pop(ANSWER_PARTS, None)
                masks = None if key is None or is_edited else segmentations[key]
                name = check_text(row["question_id"], "'question_id'")
                absent = row["absent"]
                if not isinstance(absent, list) or not all(isinstance(one, str) for one in absent):
                    raise ValueError(f"'absent' must be a list of keys, got {shorten(absent)}")
                kept[name] = KeptValues(values, tuple(absent), masks)
            except RECORD_ERRORS as error:
                raise ValueError(f"{path}, line {number}: {reason_of(error)}; import the record file again") from error
    return KeptOfFolder(kept, is_edited)


def count_kept(kept: Iterable[KeptValues]) -> KeptCounts:
    """Count the records of an import."""
    counts = KeptCounts()
    for one in kept:
        counts.add(one)
    return counts
