"""The summary of a run: counts, reasons and metrics with 95% intervals per question type, and where they come from."""

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from partonomy.benchmarks.partonomy.metrics import metric_names, metric_ratios, unsupported_capabilities
from partonomy.benchmarks.partonomy.records import Capability, Record, Status
from partonomy.benchmarks.partonomy.steps import VERSION
from partonomy.files import RECORD_ERRORS, parse_json, write_text_atomically
from partonomy.metrics.bootstrap import Estimate, ImageRatio, bootstrap_ratios
from partonomy.metrics.part_embedding import NameMatcher
from partonomy.structures import QuestionType, SkippedType

UNKNOWN_TYPE = "unknown"
"""Summary key of unreadable records that do not name a question type."""
MAX_REASON = 300


@dataclass(frozen=True)
class TypeSummary:
    """Counts and metrics of one question type. `num_expected = num_scored + num_failed` holds always.

    `reasons` counts why questions failed or, for a type without questions, why none could be asked.
    """

    name: str
    num_expected: int
    num_scored: int
    num_failed: int
    reasons: Mapping[str, int]
    metrics: Mapping[str, Estimate]

    def __post_init__(self) -> None:
        assert self.num_expected == self.num_scored + self.num_failed, f"{self.name}: a question was lost"


@dataclass(frozen=True)
class Summary:
    """What `summary.json` holds.

    `provenance` is free-form JSON. `seconds_total` sums the records' seconds over all processes and resumed parts: it
    is the cost of the questions, not the time that the command took.
    """

    protocol_version: str
    provenance: Mapping[str, Any]
    seconds_total: float
    question_types: Mapping[str, TypeSummary]


_ADAPTER = TypeAdapter(Summary)


def summarize(
    records: Sequence[Record],
    question_types: Sequence[QuestionType],
    skipped: Sequence[SkippedType],
    provenance: Mapping[str, Any],
    seed: int,
    *,
    matcher: NameMatcher | None = None,
) -> Summary:
    """Compute every metric of a run from its records.

    Args:
        records: One per question.
        question_types: The types that were to be asked; each gets an entry, also without questions.
        skipped: Why instances yielded no question.
        provenance: Where the numbers come from.
        seed: Of the bootstrap.
        matcher: Adds the text metrics with embedding matching.
    """
    unsupported = unsupported_capabilities(records)
    seconds, places = 0.0, defaultdict[QuestionType | None, list[int]](list)
    for place, record in enumerate(records):
        seconds += record.seconds
        places[record.question_type].append(place)
    names = [*question_types, *([None] if None in places else [])]
    summaries = {}
    for question_type in names:  # the records of one type at a time: they may be in a file
        of_type = [_fail_if_inconsistent(records[place], unsupported) for place in places[question_type]]
        reasons = _reasons(of_type, question_type, skipped)
        ratios = metric_ratios(of_type, unsupported, matcher)
        metrics = _estimate_all(ratios, metric_names(question_type, matcher is not None), seed)
        num_scored = sum(record.is_scored for record in of_type)
        name = UNKNOWN_TYPE if question_type is None else question_type.value
        summaries[name] = TypeSummary(name, len(of_type), num_scored, len(of_type) - num_scored, reasons, metrics)
    assert sum(entry.num_expected for entry in summaries.values()) == len(records), "a record has a type not asked for"
    return Summary(VERSION, provenance, seconds, summaries)


def write_summary(summary: Summary, path: Path) -> None:
    """Write `summary.json` in one step."""
    write_text_atomically(path, json.dumps(summary_to_json(summary), indent=2, ensure_ascii=False) + "\n")


def read_summary(path: Path) -> Summary:
    """Read `summary.json`.

    Raises:
        FileNotFoundError: The run has no summary, e.g. because it has not finished.
        ValueError: The file is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; is this the output folder of a finished validation?")
    data = parse_json(path.read_bytes(), f"{path}: not valid JSON")
    try:
        summary = _summary_from_json(data)
        # Every field against its type.
        _ADAPTER.validate_json(json.dumps(dataclasses.asdict(summary), allow_nan=False), strict=True)
    except (*RECORD_ERRORS, AssertionError) as error:
        raise ValueError(
            f"{path}: not the summary of a validation ({str(error)[:MAX_REASON]}); resume the run to restore it"
        ) from error
    return summary


def _summary_from_json(data: Mapping[str, Any]) -> Summary:
    return Summary(
        data["protocol_version"],
        data["provenance"],
        data["seconds_total"],
        {
            name: TypeSummary(
                name,
                entry["num_expected"],
                entry["num_scored"],
                entry["num_failed"],
                entry["reasons"],
                {
                    metric: Estimate(value["value"], value["ci95"][0], value["ci95"][1], value["n"])
                    for metric, value in entry["metrics"].items()
                },
            )
            for name, entry in data["question_types"].items()
        },
    )


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """The summary's published schema; a metric of which nothing was counted has value and bounds null."""
    return {
        "protocol_version": summary.protocol_version,
        "provenance": dict(summary.provenance),
        "seconds_total": summary.seconds_total,
        "question_types": {
            name: {
                "num_expected": entry.num_expected,
                "num_scored": entry.num_scored,
                "num_failed": entry.num_failed,
                "reasons": dict(entry.reasons),
                "metrics": {
                    metric: {
                        "value": estimate.value,
                        "ci95": [estimate.low, estimate.high],
                        "n": estimate.count,
                    }
                    for metric, estimate in entry.metrics.items()
                },
            }
            for name, entry in summary.question_types.items()
        },
    }


def _fail_if_inconsistent(record: Record, unsupported: frozenset[Capability]) -> Record:
    """A question refused by a model that answered others of its kind has failed; it scores 0 in what it refused."""
    refused = [capability.value for capability in record.unsupported if capability not in unsupported]
    if not refused or not record.is_scored:
        return record
    reason = f"NotImplementedError for {', '.join(refused)}, which the model offers on other questions"
    return dataclasses.replace(record, status=Status.FAILED, reason=reason)


def _estimate_all(ratios: Mapping[str, ImageRatio], names: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Every named metric with its interval; a metric that the records lack counts nothing."""
    present = [name for name in names if name in ratios]
    estimates = bootstrap_ratios([ratios[name] for name in present], np.random.default_rng(seed))
    by_name = dict(zip(present, estimates, strict=True))
    return {name: by_name.get(name, Estimate(None, None, None, 0)) for name in names}


def _reasons(
    records: Sequence[Record], question_type: QuestionType | None, skipped: Sequence[SkippedType]
) -> dict[str, int]:
    """Reasons of failures, most frequent first; without questions, the reasons why none could be made."""
    if records:
        counts = Counter(record.reason for record in records if not record.is_scored)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    not_asked = {entry.reason: entry.count for entry in skipped if entry.question_type == question_type}
    return not_asked or {"the questions contain none of this type": 0}
