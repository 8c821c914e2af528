"""The summary of a run: counts, reasons and metrics with 95% intervals by group, and their provenance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from partonomy.benchmarks.task import ALL, AnyTask, Record
from partonomy.files import RECORD_ERRORS, match_json, parse_json, reason_of, write_json
from partonomy.harness.run_folder import SCHEMA, upgrade_config
from partonomy.metrics.bootstrap import Estimate, bootstrap_metrics
from partonomy.models.contract import AnswerMarks

MAX_REASON = 300


@dataclass(frozen=True)
class GroupSummary:
    """Counts and metrics of one group (Partonomy: question type). `num_expected = num_scored + num_failed` always.

    `reasons` counts why items failed or, for a group without items, why none could be asked. `num_tied` counts the
    items whose best answers tie; `summary.json` names it only if there are any.
    """

    name: str
    num_expected: int
    num_scored: int
    num_failed: int
    reasons: Mapping[str, int]
    metrics: Mapping[str, Estimate]
    num_tied: int = 0

    def __post_init__(self) -> None:
        if self.num_expected != self.num_scored + self.num_failed:
            raise ValueError(
                f"{self.name}: {self.num_expected} items are not {self.num_scored} scored and {self.num_failed} failed"
            )


@dataclass(frozen=True)
class Summary:
    """The content of `summary.json`.

    Attributes:
        benchmark, split, protocol, protocol_version, headline: See Task.
        provenance: Everything needed to repeat the run, as JSON values.
        seconds_total: Sum of the records' seconds over all processes and resumed parts; the cost of the items rather
            than the duration of the command.
        groups: Groups by name, in the order of tables.
        notes: Further facts that a reader of the scores has to know.
    """

    benchmark: str
    split: str
    protocol: str
    protocol_version: str
    headline: str
    provenance: Mapping[str, Any]
    seconds_total: float
    groups: Mapping[str, GroupSummary]
    notes: tuple[str, ...] = ()

    @property
    def num_expected(self) -> int:
        """Number of items of the run."""
        return sum(group.num_expected for group in self.groups.values())

    @property
    def num_failed(self) -> int:
        """Number of items that were not scored."""
        return sum(group.num_failed for group in self.groups.values())

    @property
    def reasons(self) -> Mapping[str, int]:
        """Number of items that were not scored, by reason."""
        counts = Counter[str]()
        for group in self.groups.values():
            if group.num_expected:  # of a group without items, the reasons say why none was asked
                counts.update(group.reasons)
        return counts

    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """The metrics of a benchmark that is not divided into groups."""
        return self.groups[ALL].metrics

    @property
    def is_base(self) -> bool:
        """Whether the model's adapters were off."""
        return bool(self.config["model"].get("base", False))

    @property
    def model_label(self) -> str:
        """The model's checkpoint folder, or its name, for rows of tables."""
        model = self.config["model"]
        name = str(model["model"]) if model["checkpoint"] is None else Path(model["checkpoint"]).name
        off = (
            ("imported", self.is_imported),
            ("adapters off", self.is_base),
            ("feedback off", model.get("no_feedback", False)),
        )
        return ", ".join([name, *(words for words, is_off in off if is_off)])

    @property
    def is_imported(self) -> bool:
        """Whether another program has made the predictions (`import-predictions`)."""
        return self.config.get("imported") is not None

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's settings, as config.json has them."""
        config: Mapping[str, Any] = self.provenance["config"]
        return config


def summarize(task: AnyTask, records: Sequence[Record], provenance: Mapping[str, Any], seed: int) -> Summary:
    """Compute every metric of a run from its records.

    Args:
        task: The task that was asked.
        records: One per item, in item order; they may be in a file.
        provenance: Provenance of the numbers.
        seed: Seed of the bootstrap over images; each group is resampled from it.
    """
    groups = {}
    for group in task.groups(records):
        metrics = bootstrap_metrics(group.metrics, np.random.default_rng(seed))
        num_scored = group.num_expected - group.num_failed
        groups[group.name] = GroupSummary(
            group.name, group.num_expected, num_scored, group.num_failed, group.reasons, metrics, group.num_tied
        )
    total = sum(group.num_expected for group in groups.values())
    assert total == len(records), f"there are {len(records)} records, but the groups have {total}"
    return Summary(
        task.benchmark,
        task.split,
        task.protocol,
        task.VERSION,
        task.headline,
        provenance,
        sum(record.seconds for record in records),
        groups,
        task.notes(records),
    )


def write_summary(summary: Summary, path: Path) -> None:
    """Write `summary.json` atomically."""
    write_json(path, summary_to_json(summary), indent=2)


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """Convert a summary to its JSON schema; a metric that counted nothing has null value and bounds."""
    return {
        "schema": SCHEMA,
        "benchmark": summary.benchmark,
        "split": summary.split,
        "protocol": summary.protocol,
        "protocol_version": summary.protocol_version,
        "headline": summary.headline,
        "notes": list(summary.notes),
        "provenance": dict(summary.provenance),
        "seconds_total": summary.seconds_total,
        "groups": {
            name: {
                "num_expected": entry.num_expected,
                "num_scored": entry.num_scored,
                "num_failed": entry.num_failed,
                **({"num_tied": entry.num_tied} if entry.num_tied else {}),
                "reasons": dict(entry.reasons),
                "metrics": {
                    metric: {"value": estimate.value, "ci95": [estimate.low, estimate.high], "n": estimate.count}
                    for metric, estimate in entry.metrics.items()
                },
            }
            for name, entry in summary.groups.items()
        },
    }


def read_summary(path: Path) -> Summary:
    """Read `summary.json`; summaries by earlier versions of the code are converted to the current format.

    Raises:
        FileNotFoundError: The run has no summary, e.g. because it has not finished.
        ValueError: The file is not a summary.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; is this the output folder of a finished run?")
    content = parse_json(path.read_bytes(), f"{path}: not valid JSON")
    try:
        return _from_json(_upgrade(content, path))
    except (*RECORD_ERRORS, AssertionError, AttributeError) as error:
        raise ValueError(
            f"{path}: not the summary of a run ({reason_of(error)[:MAX_REASON]}); resume the run to restore it"
        ) from error


Count = Annotated[int, msgspec.Meta(ge=0)]
Number = int | float | None


class _Metric(msgspec.Struct):
    """A metric of a group."""

    value: Number
    ci95: tuple[Number, Number]
    n: Count


class _Group(msgspec.Struct):
    """A group; its metrics are checked one by one, so that an error names the metric."""

    num_expected: Count
    num_scored: Count
    num_failed: Count
    reasons: dict[str, Count]
    metrics: dict[str, Any]
    num_tied: Count = 0


class _Content(msgspec.Struct):
    """The content of `summary.json`; its groups are checked one by one, so that an error names the group."""

    benchmark: str
    split: str
    protocol: str
    protocol_version: str
    headline: str
    provenance: dict[str, Any]
    seconds_total: int | float
    groups: dict[str, Any]
    notes: tuple[str, ...]


class _Model(msgspec.Struct):
    """What tables read of the model's settings."""

    model: str
    checkpoint: str | None
    base: bool = False


class _Config(msgspec.Struct):
    """What tables read of a run's settings."""

    model: _Model
    content_hash: str | None


class _Dataset(msgspec.Struct):
    """What tables read of the description of the data."""

    name: str
    content_hash: str


class _Provenance(msgspec.Struct):
    """What tables read of the provenance."""

    config: _Config
    dataset: _Dataset
    answer_marks: AnswerMarks = AnswerMarks()


class _Provenanced(msgspec.Struct):
    """Checks the provenance with its place in the file."""

    provenance: _Provenance


def _from_json(data: Mapping[str, Any]) -> Summary:
    read = match_json(data, _Content)
    match_json(data, _Provenanced)
    return Summary(
        read.benchmark,
        read.split,
        read.protocol,
        read.protocol_version,
        read.headline,
        provenance=read.provenance,
        seconds_total=float(read.seconds_total),
        groups={name: _group_from_json(name, entry) for name, entry in read.groups.items()},
        notes=read.notes,
    )


def _group_from_json(name: str, entry: object) -> GroupSummary:
    try:
        group = match_json(entry, _Group)
    except ValueError as error:
        raise ValueError(f"groups: {name}: {error}") from error
    metrics = {}
    for metric, value in group.metrics.items():
        try:
            read = match_json(value, _Metric)
        except ValueError as error:
            raise ValueError(f"groups: {name}: metrics: {metric}: {error}") from error
        metrics[metric] = Estimate(read.value, *read.ci95, read.n)
    counts = (group.num_expected, group.num_scored, group.num_failed)
    return GroupSummary(name, *counts, group.reasons, metrics, group.num_tied)


def _upgrade(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Convert a summary by an earlier version to the current format."""
    schema = content.get("schema", 1)
    if schema == SCHEMA:
        return content
    if schema != 1:
        raise ValueError(f"written by a later version of this code (schema {schema}); update the code")
    config = upgrade_config(content["provenance"]["config"], path)
    provenance = {**content["provenance"], "config": config}
    common = {
        "schema": SCHEMA,
        "benchmark": config["benchmark"],
        "protocol": config["protocol"],
        "protocol_version": config["protocol_version"],
        "provenance": provenance,
        "seconds_total": content["seconds_total"],
        "notes": content.get("notes", []),
    }
    if "question_types" in content:
        name = provenance["dataset"]["name"]
        return common | {"split": name, "headline": "giou_micro_paired", "groups": content["question_types"]}
    metrics = {
        metric: {"value": value["value"], "ci95": [value["low"], value["high"]], "n": value["count"]}
        for metric, value in content["metrics"].items()
    }
    counts = {name: content[name] for name in ("num_expected", "num_scored", "num_failed", "reasons")}
    provenance["dataset"] = {
        "name": f"{content['benchmark']} {content['split']}",
        "num_items": provenance["num_items"],
        "content_hash": config["content_hash"],
    }
    states = provenance.get("code") or [{"commit": None, "is_modified": None}]
    provenance |= {"code_commit": states[-1]["commit"], "code_is_modified": states[-1]["is_modified"]}
    model = provenance.get("model")
    if isinstance(model, dict):
        provenance |= {
            name: model.get(key) for name, key in (("model", "name"), ("dtype", "dtype"), ("device", "device"))
        }
    return common | {
        "split": content["split"],
        "headline": content["headline"],
        "groups": {ALL: counts | {"metrics": metrics}},
    }
