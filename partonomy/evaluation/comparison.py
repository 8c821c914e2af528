"""Two runs on the same questions: paired differences with intervals, and the questions whose outcome changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.benchmarks.partonomy import metric_names
from partonomy.evaluation.aggregate import metric_ratios, unsupported_capabilities
from partonomy.evaluation.flips import (
    ChoiceChange,
    IouChange,
    Outcome,
    RecordPair,
    choice_changes,
    iou_changes,
    type_name,
)
from partonomy.evaluation.loaded_run import LoadedRun
from partonomy.evaluation.records import Capability, Record
from partonomy.metrics.bootstrap import Estimate, ImageRatio, paired_differences
from partonomy.questions.question_types import QuestionType

DEFAULT_METRICS = (
    "giou_micro_paired",
    "giou_macro_paired",
    "parts_accuracy",
    "objects_accuracy",
    "generated_parts_f1",
)
KNOWN_METRICS = frozenset(metric_names(QuestionType.WHOLE_TO_PART))
"""Every metric of a summary: the part-whole types have them all."""
_MAX_NAMED = 3
"""Differing questions named in an error."""


@dataclass(frozen=True)
class MetricDifference:
    """One metric of one question type under two runs.

    Attributes:
        question_type: Key of the summary.
        metric: Name of the metric.
        first: Its value in the first run, None where nothing was counted.
        second: In the second.
        difference: Second minus first with its 95% interval; `count` is the number of images.
    """

    question_type: str
    metric: str
    first: float | None
    second: float | None
    difference: Estimate

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval lies on one side of 0; None where nothing can be compared."""
        if self.difference.low is None or self.difference.high is None:
            return None
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Attributes:
        first: Name of the first run.
        second: Name of the second run.
        differences: Per question type that both runs asked, and metric.
        choices: Every multiple-choice question that both runs asked, also those that did not flip.
        iou_changes: Questions whose mean paired IoU differs, largest change first.
        only_first: Question types that only the first run asked.
        only_second: Those that only the second run asked.
        warnings: Settings that differ between the runs.
    """

    first: str
    second: str
    differences: tuple[MetricDifference, ...]
    choices: tuple[ChoiceChange, ...]
    iou_changes: tuple[IouChange, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def flips(self) -> tuple[ChoiceChange, ...]:
        """The multiple-choice questions that only one run answered correctly."""
        return tuple(choice for choice in self.choices if choice.outcome in (Outcome.LOST, Outcome.GAINED))


@dataclass(frozen=True)
class _RatioPair:
    """Every metric of one question type in either run, as sums over the same images."""

    first: Mapping[str, ImageRatio]
    second: Mapping[str, ImageRatio]


def compare_runs(first: LoadedRun, second: LoadedRun, metrics: Sequence[str], seed: int) -> Comparison:
    """Compare the second run with the first, from their records.

    Args:
        first: The run to start from.
        second: The other one; differences are second minus first.
        metrics: Names of metrics.
        seed: Of the bootstrap over images. Each type is resampled from it, with the same resamples for both runs and
            for every metric.

    Raises:
        ValueError: A metric is unknown, or the runs were not asked the same questions.
    """
    unknown = sorted(set(metrics) - KNOWN_METRICS)
    if unknown:
        raise ValueError(f"unknown metric {', '.join(unknown)}; known: {', '.join(sorted(KNOWN_METRICS))}")
    if first.dataset_hash != second.dataset_hash:
        raise ValueError(
            f"the runs were asked other questions: {first.path} those of {first.dataset_name} "
            f"({first.dataset_hash[:12]}), {second.path} those of {second.dataset_name} ({second.dataset_hash[:12]})"
        )
    mine, others = _by_type(first.records), _by_type(second.records)
    pairs = {name: _pair_up(name, first, second, mine[name], others[name]) for name in mine if name in others}
    every_pair = [pair for group in pairs.values() for pair in group]
    refused_first, refused_second = (unsupported_capabilities(run.records) for run in (first, second))
    refused = refused_first | refused_second
    ratios = {
        name: _RatioPair(
            metric_ratios([pair.first for pair in group], refused_first),
            metric_ratios([pair.second for pair in group], refused_second),
        )
        for name, group in pairs.items()
    }
    return Comparison(
        first.name,
        second.name,
        tuple(entry for name in pairs for entry in _differences(name, ratios[name], metrics, seed)),
        () if Capability.CHOICES in refused else choice_changes(every_pair),
        () if Capability.MASKS in refused else iou_changes(every_pair),
        tuple(name for name in mine if name not in others),
        tuple(name for name in others if name not in mine),
        _warnings(first, second),
    )


def _by_type(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(type_name(record), []).append(record)
    return groups


def _pair_up(
    name: str, first: LoadedRun, second: LoadedRun, mine: Sequence[Record], others: Sequence[Record]
) -> list[RecordPair]:
    """The records of one type by question, in the order of the first run.

    Raises:
        ValueError: One run has a question that the other has not, or places it in another image.
    """
    by_id = {record.question_id: record for record in others}
    known = {record.question_id for record in mine}
    for run, missing in (
        (first, [record.question_id for record in mine if record.question_id not in by_id]),
        (second, [question_id for question_id in by_id if question_id not in known]),
    ):
        if missing:
            more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
            raise ValueError(
                f"the runs were asked other questions: of type {name}, {run.path} alone has "
                f"{', '.join(missing[:_MAX_NAMED])}{more}; was the other run with another --limit, or "
                "without some images (its summary.json counts the reasons)?"
            )
    pairs = [RecordPair(record, by_id[record.question_id]) for record in mine]
    moved = [pair.first.question_id for pair in pairs if pair.first.image_id != pair.second.image_id]
    if moved:
        raise ValueError(f"question {moved[0]} of type {name} is about another image in {second.path}")
    return pairs


def _differences(name: str, ratios: _RatioPair, metrics: Sequence[str], seed: int) -> list[MetricDifference]:
    before, after = ratios.first, ratios.second
    names = [metric for metric in metrics if metric in before and metric in after]
    differences = paired_differences(
        [after[metric] for metric in names], [before[metric] for metric in names], np.random.default_rng(seed)
    )
    return [
        MetricDifference(name, metric, before[metric].value, after[metric].value, difference)
        for metric, difference in zip(names, differences, strict=True)
    ]


def _warnings(first: LoadedRun, second: LoadedRun) -> tuple[str, ...]:
    """Settings that change what a number means."""
    settings = {
        "protocol version": (first.summary.protocol_version, second.summary.protocol_version),
        "first answer of part-whole questions (--part_whole)": (
            first.summary.provenance["config"]["part_whole"],
            second.summary.provenance["config"]["part_whole"],
        ),
    }
    return tuple(
        f"the runs differ in the {name}: {before} and {after}"
        for name, (before, after) in settings.items()
        if before != after
    )
