"""Joins runs of one configuration over parts of one question set into a finished run.

The records are joined, not their averages: put into the order of the questions they are those of a run in one process,
and the same code computes every number of the summary from them, so that it is the same to the last bit. Only the time
spent (`seconds`) differs, and where images lie: image paths become those of the questions that are read here.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from partonomy.benchmarks.partonomy.records import Record
from partonomy.benchmarks.partonomy.scoring import failed_record, invalid_record
from partonomy.datasets.store import load_questions
from partonomy.harness.item_records import ItemRecord
from partonomy.harness.provenance import MergedRun, read_model_description, write_merged_description
from partonomy.harness.ranks import select_questions, unreadable_id
from partonomy.harness.results import Summary
from partonomy.harness.run_directory import (
    EvaluationConfig,
    check_mergeable,
    read_all_records,
    read_config,
    write_config,
    write_records,
)
from partonomy.harness.runner import finish_run, protocol_of, question_types_of
from partonomy.structures import QuestionSet

MISSING_REASON = "no merged run holds a record of this question"
MAX_NAMED = 3
"""Question ids named in an error."""

RecordT = TypeVar("RecordT", Record, ItemRecord)


@dataclass(frozen=True)
class Merge:
    """A finished merge: its summary, and how many questions no run had answered."""

    summary: Summary
    num_missing: int


def merge_runs(runs: Sequence[Path], output: Path, questions: Path | None, allow_missing: bool) -> Merge:
    """Write a finished run from the records of several.

    Args:
        runs: Output folders of validate_partonomy.py, finished or not. They may overlap where their records agree.
        output: Folder of the merged run, empty or new.
        questions: The questions; None looks where the runs found them.
        allow_missing: Whether questions without a record count as failed instead of being refused.

    Raises:
        FileExistsError: The output folder is not empty.
        FileNotFoundError: A folder holds no run, or the questions are nowhere.
        ValueError: Runs differ in their settings or in a record, hold records of other questions, or lack some.
    """
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; choose another --output")
    configs = {path: read_config(path) for path in runs}
    check_mergeable(configs)
    question_set = _find_questions(questions, tuple(configs.values()))
    config = dataclasses.replace(next(iter(configs.values())), output=str(output), shard=None)
    records_of = {path: read_all_records(path) for path in configs}
    records, num_missing = _join(config, question_set, records_of, allow_missing)
    output.mkdir(parents=True, exist_ok=True)
    write_config(output, config)
    write_records(output, records)
    described = [
        MergedRun(str(path), configs[path].shard, len(own), read_model_description(path))
        for path, own in records_of.items()
    ]
    write_merged_description(output, described)
    return Merge(finish_run(config, question_set, records), num_missing)


def _find_questions(questions: Path | None, configs: Sequence[EvaluationConfig]) -> QuestionSet:
    candidates = [Path(config.questions) for config in configs] if questions is None else [questions]
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        raise FileNotFoundError(f"{candidates[0]}: the questions of the runs are not here; name them with --questions")
    question_set = load_questions(found, invalid="collect")
    if question_set.content_hash != configs[0].questions_hash:
        raise ValueError(f"{found}: not the questions of the runs, or changed since; name those with --questions")
    return question_set


def _join(
    config: EvaluationConfig,
    question_set: QuestionSet,
    records_of: Mapping[Path, Mapping[str, Record]],
    allow_missing: bool,
) -> tuple[tuple[Record, ...], int]:
    """The records of all questions in their order, and how many had to be made up as failed."""
    protocol = protocol_of(config)
    selection = select_questions(question_set, question_types_of(config), config.limit)
    found = unite_records(records_of)
    foreign = sorted(set(found) - set(selection.question_ids))
    if foreign:
        raise ValueError(f"the runs hold {len(foreign)} records of questions not asked here: {foreign[:MAX_NAMED]}")
    missing = [question_id for question_id in selection.question_ids if question_id not in found]
    if missing and not allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(selection.question_ids)} questions have no record, e.g. {missing[:MAX_NAMED]}: "
            "finish the runs (--resume), name all of them, or pass --allow_missing to count these questions as failed"
        )
    records = []
    for question in selection.questions:
        record = found.get(question.question_id) or failed_record(question, protocol, MISSING_REASON)
        records.append(dataclasses.replace(record, image_path=str(question.image_path)))
    for invalid in selection.invalid:
        records.append(found.get(unreadable_id(invalid)) or invalid_record(invalid, protocol))
    return tuple(records), len(missing)


def unite_records(records_of: Mapping[Path, Mapping[str, RecordT]]) -> dict[str, RecordT]:
    """All records by id; what several runs answered must have the same record in each, time and place apart.

    Raises:
        ValueError: Two runs differ in a record.
    """
    united: dict[str, RecordT] = {}
    source: dict[str, Path] = {}
    for path, records in records_of.items():
        for record_id, record in records.items():
            if record_id not in united:
                united[record_id], source[record_id] = record, path
                continue
            differing = _differing_fields(united[record_id], record)
            if differing:
                raise ValueError(
                    f"{source[record_id]} and {path} answer the question {record_id} differently "
                    f"({', '.join(differing)}); leave one of them out"
                )
    return united


def _differing_fields(first: Record | ItemRecord, second: Record | ItemRecord) -> list[str]:
    """Fields in which two records of one question differ, those of time and place apart."""
    names = [entry.name for entry in dataclasses.fields(first) if entry.name not in ("seconds", "image_path")]
    return [name for name in names if getattr(first, name) != getattr(second, name)]
