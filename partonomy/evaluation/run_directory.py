"""The output folder of an evaluation: config.json, records.jsonl (append-only until finished), summary.json.

Several ranks append to `records.rank<r>-of-<n>.jsonl` each; whoever completes the set merges them. A line that a killed
process left half-written is dropped on resume; any other damage is an error that names file and line.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from partonomy.benchmarks.partonomy import VERSION
from partonomy.evaluation.files import write_text_atomically
from partonomy.evaluation.record_json import record_from_line, record_to_line
from partonomy.evaluation.records import Record
from partonomy.evaluation.sharding import Rank

CONFIG_FILE = "config.json"
RECORDS_FILE = "records.jsonl"
SUMMARY_FILE = "summary.json"
MODEL_FILE = "model.json"
SHARD_PATTERN = "records.rank*-of-*.jsonl"
_FREE_TO_CHANGE = frozenset({"questions", "output", "checkpoint", "training_metrics"})
"""Config keys that may differ on resume: questions and checkpoint are compared by content hash instead of by path, and
the training's metrics are only drawn in the report."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What determines the numbers of a run; a resumed run must have the same.

    `checkpoint_hash` tells weights apart that were written to the same folder one after the other.
    """

    model: str
    checkpoint: str | None
    questions: str
    questions_hash: str
    output: str
    question_types: tuple[str, ...]
    limit: int | None
    generate: tuple[str, ...]
    part_whole: str
    seed: int
    device: str
    training_metrics: tuple[str, ...] = ()
    protocol_version: str = VERSION
    checkpoint_hash: str | None = None


def open_run(output: Path, config: EvaluationConfig, resume: bool, rank: Rank) -> None:
    """Prepare the folder, or refuse.

    Raises:
        FileExistsError: The folder holds results and `resume` is off.
        ValueError: The folder's run has another configuration; names the differing keys.
    """
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        _refuse_existing(output, rank)
    content = json.loads(json.dumps(dataclasses.asdict(config)))
    path = output / CONFIG_FILE
    if path.is_file():
        differing = _differing_keys(json.loads(path.read_text(encoding="utf-8")), content)
        has_records = any(record_files(output))
        if differing and (resume and has_records or rank.world_size > 1):
            raise ValueError(
                f"{path} is of a run with other settings: {', '.join(differing)}. Use the same settings, or another "
                "--output for a new run"
            )
        if not differing:
            return
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")


def record_path(output: Path, rank: Rank) -> Path:
    """Where a rank appends its records."""
    name = RECORDS_FILE if rank.world_size == 1 else f"records.rank{rank.index}-of-{rank.world_size}.jsonl"
    return output / name


def record_files(output: Path) -> tuple[Path, ...]:
    """Every file of the folder that may hold records."""
    merged = output / RECORDS_FILE
    return (*([merged] if merged.is_file() else []), *sorted(output.glob(SHARD_PATTERN)))


def read_records(path: Path) -> tuple[Record, ...]:
    """Read a record file; a last line without its newline (a process killed in the middle of it) is left out.

    Raises:
        ValueError: Another line is damaged; names file and line.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(record_from_line(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; delete that line and resume") from error
    return tuple(records)


def read_all_records(output: Path) -> dict[str, Record]:
    """All records of the folder by question id."""
    return {record.question_id: record for path in record_files(output) for record in read_records(path)}


def merge_records(output: Path, question_ids: Sequence[str]) -> tuple[Record, ...] | None:
    """Write `records.jsonl` in the order of the questions, if every question has its record; else return None.

    Idempotent and atomic, so that several ranks that finish together may all do it.

    Raises:
        ValueError: The folder holds records of other questions.
    """
    by_id = read_all_records(output)
    foreign = sorted(set(by_id) - set(question_ids))
    if foreign:
        raise ValueError(f"{output} holds records of questions that are not asked here: {foreign[:3]}")
    if len(by_id) < len(question_ids):
        return None
    records = tuple(by_id[question_id] for question_id in question_ids)
    write_text_atomically(output / RECORDS_FILE, "".join(record_to_line(record) + "\n" for record in records))
    return records


def remove_shards(output: Path) -> None:
    """Delete the ranks' files after their merge, when no rank is running any more."""
    for path in sorted(output.glob(SHARD_PATTERN)):
        path.unlink()


class RecordWriter:
    """Appends records, one line each, flushed at once."""

    def __init__(self, path: Path) -> None:
        _drop_partial_line(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Append one record."""
        self._file.write(record_to_line(record) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _refuse_existing(output: Path, rank: Rank) -> None:
    # With several ranks the others may have started already: their files of this world size are no obstacle.
    others = {record_path(output, Rank(index, rank.world_size)) for index in range(rank.world_size)}
    others.discard(record_path(output, rank))
    if (output / SUMMARY_FILE).is_file():
        raise FileExistsError(
            f"{output} holds finished results. Choose another --output, or pass --resume to read them again"
        )
    for path in record_files(output):
        if path not in others:
            raise FileExistsError(
                f"{path} holds records of an unfinished run. Pass --resume to continue it, or choose another --output"
            )


def _differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    keys = sorted((set(old) | set(new)) - _FREE_TO_CHANGE)
    return [f"{key} (was {old.get(key)!r}, now {new.get(key)!r})" for key in keys if old.get(key) != new.get(key)]


def _drop_partial_line(path: Path) -> None:
    """Cut a last line that was not written to its end."""
    if not path.is_file():
        return
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with path.open("r+b") as file:
            file.truncate(complete)
