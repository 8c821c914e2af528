"""Charts of the Partonomy/PLUM paper: scores by data set (Figure 4) and two scores over a weight (Figure 5b)."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.overview import find_estimate
from partonomy.reporting.paper_tables.partonomy_tables import (
    SEGMENTATION_TABLES,
    TABLE_SUBSETS,
    load_reference,
    segmentation_table,
)
from partonomy.structures import QuestionType
from partonomy.suggestions import did_you_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {"giou_micro_paired": "micro-gIoU (%)", "giou_macro_paired": "macro-gIoU (%)"}
"""Metrics of Figure 4 -> headings of its two panels."""
VALIDATION_TABLES = tuple(SEGMENTATION_TABLES.values())
"""Tables of the data sets with a validation split."""
PALETTE = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#000000")
"""Colours that stay apart for readers who do not see all of them (Paul Tol's bright scheme)."""
FILE_FORMATS = ("svg", "png", "pdf")
QUOTED_HATCH = "//"
SMALLEST_SHARE = 0.5
"""The linear part of the axis of weights, relative to the smallest one above 0."""


@dataclass(frozen=True)
class Bar:
    """A model's score on a data set: its value and the ends of its 95% interval, if there is one, in percent."""

    model: str
    dataset: str
    value: float
    low: float | None = None
    high: float | None = None
    is_quoted: bool = False


@dataclass(frozen=True)
class Line:
    """A quantity over a weight; points are (weight, value), weights ascending from 0."""

    name: str
    points: tuple[tuple[float, float], ...]


def validation_bars(runs: Sequence[AnyRun], metric: str, question_type: QuestionType) -> tuple[Bar, ...]:
    """Return the paper's rows on its three validation splits and the runs, those of each data set together.

    Args:
        runs: Runs on Partonomy's questions; one whose data set none of the paper's splits matches has its own group.
        metric: One of `METRICS`.
        question_type: The type whose score is drawn.

    Raises:
        ValueError: A run is on another benchmark or was not asked questions of the type.
    """
    bars = []
    for number in VALIDATION_TABLES:
        reference = load_reference(number)
        column = reference.columns.index(f"{question_type.value}_{metric}")
        for row in reference.rows:
            value = row.values[column]
            if value is not None:
                bars.append(Bar(row.method, reference.subset, value, is_quoted=True))
    datasets = [_dataset(run) for run in runs]
    for run, name, dataset in zip(runs, _model_names(runs, datasets), datasets, strict=True):
        estimate = _score(run, metric, question_type)
        value, low, high = (None if one is None else 100 * one for one in (estimate.value, estimate.low, estimate.high))
        assert value is not None  # `_score` has checked it
        bars.append(Bar(name, dataset, value, low, high))
    return tuple(bars)


def _score(run: AnyRun, metric: str, question_type: QuestionType) -> Estimate:
    if run.summary.benchmark != "partonomy":
        raise ValueError(
            f"{run.path} is a run on {run.summary.benchmark}; the chart shows runs on Partonomy's questions"
        )
    estimate = find_estimate(run.summary.groups.get(question_type.value), metric)
    if estimate.value is None:
        raise ValueError(
            f"{run.path} has no {metric} of {question_type.value} questions; choose another --question_type"
        )
    return estimate


def draw_validation(
    runs: Sequence[AnyRun],
    question_type: QuestionType,
    models: Sequence[str] | None = None,
    file_format: str = "svg",
) -> bytes:
    """Draw Figure 4: two panels of bars, micro- and macro-gIoU, grouped by data set.

    Args:
        runs: Runs on Partonomy's questions, any number.
        question_type: The type whose score is drawn.
        models: The paper's models to show; None shows all.
        file_format: One of `FILE_FORMATS`.

    Returns:
        The content of a file.

    Raises:
        ValueError: See `validation_bars`; or the paper has no such model.
    """
    figure = _figure(11, 7.2)
    known = {bar.model for bar in validation_bars((), next(iter(METRICS)), question_type)}
    unknown = sorted(set(models or ()) - known)
    if unknown:
        raise ValueError(
            f"the paper has no rows of {unknown[0]!r}; known: {', '.join(sorted(known))}"
            f"{did_you_mean(unknown[0], known)}"
        )
    axes = figure.subplots(2, 1, sharex=True)
    colours: dict[str, str] = {}
    for axis, (metric, heading) in zip(axes, METRICS.items(), strict=True):
        bars = validation_bars(runs, metric, question_type)
        shown = [bar for bar in bars if not bar.is_quoted or models is None or bar.model in models]
        for bar in shown:
            colours.setdefault(bar.model, PALETTE[len(colours) % len(PALETTE)])
        _draw_bars(axis, shown, colours)
        axis.set_ylabel(heading)
    handles, labels = axes[0].get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    figure.legend(by_label.values(), by_label.keys(), loc="outside right upper", fontsize=8, frameon=False)
    title = question_type.value.replace("_", " ")
    figure.suptitle(f"{title} questions on Partonomy's validation splits; hatched: quoted from the paper", fontsize=10)
    return _content(figure, file_format)


def _dataset(run: AnyRun) -> str:
    number = segmentation_table(run.dataset_name)
    return TABLE_SUBSETS[number] if number in VALIDATION_TABLES else run.dataset_name


def _model_names(runs: Sequence[AnyRun], datasets: Sequence[str]) -> tuple[str, ...]:
    """Name each run's model, so that a model has one name on all data sets and no two models share a name.

    A checkpoint is named by its folder or, if that is called "model", by its training run. Runs of one model on one
    data set are told apart by their own folders.
    """
    checkpoints = [run.config.model.checkpoint or run.config.model.model for run in runs]
    names = []
    for run, checkpoint in zip(runs, checkpoints, strict=True):
        path = Path(checkpoint)
        name = path.parent.name if path.name == "model" and path.parent.name else path.name
        names.append(f"{name}, adapters off" if run.summary.is_base else name)
    checkpoints_of = defaultdict(set)
    for name, checkpoint in zip(names, checkpoints, strict=True):
        checkpoints_of[name].add(checkpoint)
    names = [
        f"{name} ({checkpoint})" if len(checkpoints_of[name]) > 1 else name
        for name, checkpoint in zip(names, checkpoints, strict=True)
    ]
    keys = list(zip(names, datasets, strict=True))
    return tuple(
        f"{key[0]} ({run.path})" if keys.count(key) > 1 else key[0] for run, key in zip(runs, keys, strict=True)
    )


def _draw_bars(axis: "Axes", bars: Sequence[Bar], colours: Mapping[str, str]) -> None:
    """Draw the bars of one panel; a data set without a model has no gap for it."""
    datasets = list(dict.fromkeys(bar.dataset for bar in bars))
    start, middles = 0.0, []
    for dataset in datasets:
        members = [bar for bar in bars if bar.dataset == dataset]
        middles.append(start + (len(members) - 1) / 2)
        for place, bar in enumerate(members):
            axis.bar(
                start + place,
                bar.value,
                width=0.9,
                color=colours[bar.model],
                hatch=QUOTED_HATCH if bar.is_quoted else None,
                edgecolor="white",
                linewidth=0.5,
                label=f"{bar.model} (quoted)" if bar.is_quoted else bar.model,
            )
            top = bar.value
            if bar.low is not None and bar.high is not None:
                reach = [[bar.value - bar.low], [bar.high - bar.value]]
                axis.errorbar(start + place, bar.value, yerr=reach, color="black", linewidth=1, capsize=2)
                top = bar.high
            axis.annotate(
                f"{bar.value:.1f}", (start + place, top), (0, 2), textcoords="offset points", ha="center", fontsize=6
            )
        start += len(members) + 1
    axis.set_xticks(middles, datasets)
    axis.tick_params(axis="x", length=0)
    axis.set_ylim(0, 100)
    axis.grid(visible=True, axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def draw_two_lines(weight: str, left: Line, right: Line, file_format: str = "svg") -> bytes:
    """Draw two quantities over a weight, each with its own axis; the axis of weights is logarithmic above the smallest.

    Args:
        weight: Name of the weight.
        left: Quantity of the left axis, at least one point.
        right: Quantity of the right axis.
        file_format: One of `FILE_FORMATS`.

    Returns:
        The content of a file.
    """
    figure = _figure(6, 3.6)
    axis = figure.subplots()
    twin = axis.twinx()
    for one, line, colour, marker in ((axis, left, PALETTE[0], "o"), (twin, right, PALETTE[4], "s")):
        weights, values = [point[0] for point in line.points], [point[1] for point in line.points]
        one.plot(weights, values, color=colour, marker=marker, linewidth=1.4)
        one.set_ylabel(line.name, color=colour)
        one.tick_params(axis="y", labelcolor=colour)
        one.spines["top"].set_visible(False)
    weights = sorted({point[0] for line in (left, right) for point in line.points})
    above = [value for value in weights if value > 0]
    if above:
        axis.set_xscale("symlog", linthresh=SMALLEST_SHARE * above[0])
    axis.set_xticks(weights, [f"{value:g}" for value in weights])
    axis.minorticks_off()
    axis.set_xlabel(weight)
    axis.grid(visible=True, alpha=0.25)
    return _content(figure, file_format)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415  (a second to import; only charts need it)

    return Figure(figsize=(width, height), layout="constrained")


def _content(figure: "Figure", file_format: str) -> bytes:
    """Return the content of a file, which is the same in every process."""
    from matplotlib import rc_context  # noqa: PLC0415

    buffer = io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "partonomy"}):
        figure.savefig(buffer, format=file_format, metadata=dates.get(file_format), dpi=150)
    return buffer.getvalue()
