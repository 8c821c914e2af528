"""Makes a finished run of predictions that another program has written, in the schema of `export-predictions`.

The files are read twice, one entry at a time: first to check the ids and to see which answers there are, then to score
each entry. A run is complete or not there: the records are written to a temporary file, which an error removes.
"""

import dataclasses
import json
import uuid
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partonomy.benchmarks.imported import Entry
from partonomy.benchmarks.task import AnyTask, Record, RecordCounts
from partonomy.files import RECORD_ERRORS, hash_files, is_integer, iterate_records, parse_json, reason_of, shorten
from partonomy.harness.provenance import ModelDescription, write_model_description
from partonomy.harness.records import StoredRecords, join_records, record_to_line
from partonomy.harness.run import check_ids, configure_run, finish_run, item_ids
from partonomy.harness.run_folder import (
    RECORDS_FILE,
    ImportedFile,
    ImportedPredictions,
    RunConfig,
    codec_of,
    remove_run,
    write_config,
)
from partonomy.harness.summary import Summary
from partonomy.locks import has_other_files, lock_folder
from partonomy.models.contract import AnswerMarks
from partonomy.progress import progress
from partonomy.sharding import Shard, parse_shard

ID_KEYS = ("question_id", "item_id")
MISSING_REASON = "the imported file has no prediction of it"
LINES_SUFFIX = ".jsonl"
"""Ending of files with an entry per line; any other file is one JSON list."""


@dataclass(frozen=True)
class Import:
    """A finished import.

    Attributes:
        summary: The run's summary; None for a shard.
        counts: Counts of all records.
        num_entries: Number of entries that were read.
        num_missing: Number of items without an entry; they count as failed.
        answers: Names of the answers that the files have; the model is taken not to support any other.
    """

    summary: Summary | None
    counts: RecordCounts
    num_entries: int
    num_missing: int
    answers: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """An entry's file and number, from 0, and the id that it names."""

    path: Path
    number: int
    item_id: str

    def error(self, error: Exception) -> ValueError:
        return ValueError(f"{self.path}: record {self.number} ({self.item_id!r}): {reason_of(error)}")


def import_predictions(
    config: RunConfig, files: Sequence[Path], *, protocol: str = "", shares_mask: bool = False, overwrite: bool = False
) -> Import:
    """Write a run folder whose records are the scored entries of the files.

    Args:
        config: The user's settings; what depends on data and files is filled in here.
        files: JSON lists, or lines of JSON (.jsonl); no item may be in two of them.
        protocol: How the predictions were made, in words.
        shares_mask: See `ImportedPredictions`.
        overwrite: Whether to replace the run in the output folder.

    Raises:
        FileNotFoundError: A file or the data are missing.
        FileExistsError: The output folder is not empty.
        BlockingIOError: Another process writes to it.
        ValueError: An entry is malformed, names no item of the benchmark, or names one a second time. The message names
            file and record.
    """
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not found; pass a file in the schema of export-predictions")
        if path.resolve().parent == Path(config.output).resolve():
            raise ValueError(f"{path} lies in the output folder; choose another --output")
    output = Path(config.output)
    _refuse_full(output, overwrite)
    hashes = tuple(ImportedFile(str(path), hash_files([path])) for path in files)
    task = config.load_task()
    check_ids(task)
    shard = Shard() if config.shard is None else parse_shard(config.shard)
    ids = item_ids(task, shard)
    survey = _survey(task, files, frozenset(ids))
    if not survey.answers and not survey.has_status:
        what = "no entry has an answer" if survey.offered else "there are no entries"
        raise ValueError(f"{', '.join(map(str, files))}: {what}; docs/import_predictions.md lists the keys")
    task, options = task.for_import(survey.offered)
    if options is not None:
        config = dataclasses.replace(config, options=options)
    config = dataclasses.replace(config, imported=ImportedPredictions(hashes, protocol, shares_mask))
    config = configure_run(config, task)
    with lock_folder(output):
        _refuse_full(output, overwrite)
        spool = output / f".imported.{uuid.uuid4().hex}.tmp"
        try:
            counts = _write_records(task, files, survey, ids, spool)
            codec = codec_of(task)
            remove_run(output)  # only now, so that a broken file costs no run
            absent = join_records([spool], ids, output / RECORDS_FILE, codec)
            assert not absent, f"every item has its record, but {absent[:3]} have none"
        finally:
            spool.unlink(missing_ok=True)
        write_config(output, config)
        marks = AnswerMarks(has_mask_per_phrase=not shares_mask)
        write_model_description(output, ModelDescription(config.model.model, None, None, marks), is_resumed=False)
        records = StoredRecords(output / RECORDS_FILE, codec)
        summary = finish_run(config, task, records) if shard.count == 1 else None
    num_lost = len({record.item_id for record in task.lost} & set(ids))
    num_missing = len(ids) - num_lost - survey.num_entries
    return Import(summary, counts, survey.num_entries, num_missing, tuple(sorted(survey.answers)))


def _refuse_full(output: Path, overwrite: bool) -> None:
    if not overwrite and output.exists() and has_other_files(output):
        raise FileExistsError(f"{output} is not empty; choose another --output, or pass --overwrite to start anew")


def iterate_entries(path: Path) -> Iterator[Any]:
    """Yield the entries of a file, one at a time.

    Raises:
        ValueError: The file is not JSON of either form; the message names file and record.
    """
    if path.suffix != LINES_SUFFIX:
        yield from iterate_records(path, is_strict=True)
        return
    with path.open("rb") as file, progress(path.stat().st_size, path.name, "B") as shown:
        for number, line in enumerate(file):
            shown.update(len(line))
            if line.strip():
                yield parse_json(line, f"{path}, line {number + 1}: not valid JSON")


def _iterate(files: Sequence[Path]) -> Iterator[tuple[_Place, Mapping[str, Any]]]:
    for path in files:
        for number, content in enumerate(iterate_entries(path)):
            if not isinstance(content, Mapping):
                raise ValueError(f"{path}: record {number}: an entry must be an object, got {shorten(content)}")
            found = [content[key] for key in ID_KEYS if content.get(key) is not None]
            name = str(found[0]) if found and is_integer(found[0]) else found[0] if found else None
            if not isinstance(name, str):
                raise ValueError(f"{path}: record {number}: {' or '.join(map(repr, ID_KEYS))} is missing or no text")
            yield _Place(path, number, name), content


@dataclass(frozen=True)
class _Survey:
    """What the files have.

    Attributes:
        offered: For each group, the answers that its entries have.
        places: The place of each item among the task's items, by its id.
        numbers: For each item, the number of its entry in its file, from 0; -1 for none.
        has_status: Whether any entry says whether the model has failed.
    """

    offered: Mapping[str, frozenset[str]]
    places: Mapping[str, int]
    numbers: "array[int]"
    has_status: bool

    @property
    def answers(self) -> frozenset[str]:
        """The answers that any entry has."""
        return frozenset[str]().union(*self.offered.values())

    @property
    def num_entries(self) -> int:
        """Number of items with an entry."""
        return sum(number >= 0 for number in self.numbers)


def _survey(task: AnyTask, files: Sequence[Path], wanted: frozenset[str]) -> _Survey:
    """Check the ids of all entries.

    Raises:
        ValueError: An entry names no item, or an item that an earlier one names.
    """
    places = {item.item_id: place for place, item in enumerate(task.items)}
    offered: dict[str, frozenset[str]] = {}
    numbers, has_status = array("q", [-1]) * len(places), False
    for place, content in _iterate(files):
        found = places.get(place.item_id)
        if found is None or place.item_id not in wanted:
            name = f"{task.benchmark} {task.split}".strip()
            why = "names no item of" if found is None else "names an item of another shard of"
            raise place.error(ValueError(f"the id {why} {name}; import it with the data that it was made for"))
        if numbers[found] >= 0:
            raise place.error(ValueError(f"the id occurs twice, first in record {numbers[found]}; keep one of them"))
        numbers[found] = place.number
        has_status = has_status or content.get("status") is not None
        group = task.items[found].group
        try:
            offered[group] = offered.get(group, frozenset()) | task.answers_of(content)
        except ValueError as error:
            raise place.error(error) from error
    return _Survey(offered, places, numbers, has_status)


def _write_records(
    task: AnyTask, files: Sequence[Path], survey: _Survey, ids: Sequence[str], spool: Path
) -> RecordCounts:
    """Write the record of every item of the run, in the order of the entries, then those of items without one."""
    counts = RecordCounts()
    with spool.open("wb") as file:
        for record in _records(task, files, survey, ids):
            counts.add(record)
            file.write((record_to_line(record) + "\n").encode("utf-8", errors="backslashreplace"))
    return counts


def _records(task: AnyTask, files: Sequence[Path], survey: _Survey, ids: Sequence[str]) -> Iterator[Record]:
    offered = survey.answers
    for place, content in _iterate(files):
        item = task.items[survey.places[place.item_id]]
        try:
            yield task.import_record(item, Entry(content, place.path.parent, offered))
        except RECORD_ERRORS as error:
            raise place.error(error) from error
    lost = {record.item_id: record for record in task.lost}
    for item_id in ids:
        if item_id in lost:
            yield lost[item_id]
        elif survey.numbers[survey.places[item_id]] < 0:
            yield task.fail(task.items[survey.places[item_id]], MISSING_REASON)


def read_options_text(text: str | None) -> Mapping[str, Any]:
    """Read the benchmark's options, a JSON object of its flags without dashes.

    Raises:
        ValueError: It is not a JSON object.
    """
    try:
        options = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"--options is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"--options must be a JSON object of the benchmark's flags, got {text}")
    return options
