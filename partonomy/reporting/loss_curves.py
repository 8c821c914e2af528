"""Loss curves of a model's training, read from its metrics.jsonl and drawn as inline SVG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from partonomy.files import match_json, parse_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS_FILE = "metrics.jsonl"
LOSS_PREFIX = "loss_"
ACCURACY_PREFIX = "accuracy_"
UNITS = {
    "total": "weighted sum",
    "language": "nats per token",
    "bio": "loss per token",
    "mask_overlap": "1 - overlap",
    "mask_bce": "nats per pixel",
    "kl": "nats",
    "part_pretext": "nats per pixel",
}
"""Losses of a run of plum -> what a value of them is; any other is a "loss"."""
ABBREVIATIONS = ("bio", "bce", "kl")
_SMOOTHING_SPAN = 21  # points in the moving average; curves of at least twice as many are smoothed
_MAX_POINTS = 600  # points of a drawn line, about two per pixel; more would only make the page larger


@dataclass(frozen=True)
class Curve:
    """One quantity over the updates of a training run; points are (update, value)."""

    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TrainingCurves:
    """The curves of one metrics file, losses and tag accuracies separately."""

    title: str
    losses: tuple[Curve, ...]
    accuracies: tuple[Curve, ...]


def find_metrics(checkpoint: Path) -> tuple[Path, ...]:
    """Find metrics files in a model's folder or in the run folder that contains it."""
    candidates = (checkpoint / METRICS_FILE, checkpoint.parent / METRICS_FILE)
    return tuple(path for path in candidates if path.is_file())


class _Update(msgspec.Struct):
    """What every line has."""

    update: int


def read_curves(path: Path) -> TrainingCurves:
    """Read a metrics file: JSON lines with the key `update`, `loss_*` and `accuracy_*`.

    Curves that are 0 throughout (disabled terms) are left out. A loss that is 0 at first (a term that joins later) is
    kept from its first nonzero value on.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not JSON or has no `update`.
    """
    values: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = match_json(parse_json(line.encode(), "not valid JSON"), dict[str, Any])
            update = match_json(entry, _Update).update
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not a training metric ({error}); delete the line") from error
        for key, value in entry.items():
            if key.startswith((LOSS_PREFIX, ACCURACY_PREFIX)) and isinstance(value, int | float):
                values.setdefault(key, []).append((update, float(value)))
    joined = {key: _from_start(points) if key.startswith(LOSS_PREFIX) else points for key, points in values.items()}
    curves = [Curve(key, tuple(points)) for key, points in joined.items() if any(value for _, value in points)]
    return TrainingCurves(
        path.resolve().parent.name,
        tuple(curve for curve in curves if curve.name.startswith(LOSS_PREFIX)),
        tuple(curve for curve in curves if curve.name.startswith(ACCURACY_PREFIX)),
    )


def draw_curves(curves: TrainingCurves) -> str:
    """Draw small charts, an SVG element for each loss and one for the accuracies, so that a narrow page stacks them.

    Text stays text, and what matplotlib draws black has the colour of the page's text, so that both follow the page.
    """
    from matplotlib import rc_context  # noqa: PLC0415  (a second to import; only the report needs it)

    charts = [
        _Chart(
            _title(curve.name), _unit(curve.name), (curve,), is_logarithmic=all(value > 0 for _, value in curve.points)
        )
        for curve in curves.losses
    ]
    if curves.accuracies:
        charts.append(_Chart("tag accuracy", "share of tokens", curves.accuracies, is_logarithmic=False))
    drawn = []
    for chart in charts:
        # The salt tells the elements of a page's charts apart, and makes them the same in every process.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{curves.title} {chart.title}"}):
            drawn.append(_draw(chart))
    return "\n".join(drawn)


@dataclass(frozen=True)
class _Chart:
    """Lines that share their axes."""

    title: str
    unit: str
    lines: tuple[Curve, ...]
    is_logarithmic: bool


def _title(name: str) -> str:
    words = name.removeprefix(LOSS_PREFIX).split("_")
    return " ".join([*(word.upper() if word in ABBREVIATIONS else word for word in words), "loss"])


def _unit(name: str) -> str:
    return UNITS.get(name.removeprefix(LOSS_PREFIX), "loss")


def _draw(chart: _Chart) -> str:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(3.4, 2.5), layout="constrained")
    axis = figure.subplots()
    for line in chart.lines:
        kept = _kept(len(line.points))
        updates = [line.points[index][0] for index in kept]
        raw = [value for _, value in line.points]
        label = line.name.removeprefix(ACCURACY_PREFIX)
        is_long = len(raw) >= 2 * _SMOOTHING_SPAN
        values = _smooth(raw) if is_long else raw
        (drawn,) = axis.plot(updates, [values[index] for index in kept], linewidth=1.4, label=label)
        if is_long:
            thin = [raw[index] for index in kept]
            axis.plot(updates, thin, linewidth=0.5, alpha=0.25, color=drawn.get_color())
    axis.set_title(chart.title, fontsize=10, pad=8)
    axis.set_xlabel("update", fontsize=8)
    axis.set_ylabel(f"{chart.unit}, log scale" if chart.is_logarithmic else chart.unit, fontsize=8)
    axis.tick_params(labelsize=8, which="both")
    axis.grid(visible=True, alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.locator_params(axis="x", nbins=5, integer=True)
    if len(chart.lines) > 1:
        axis.legend(fontsize=8, frameon=False)
    if chart.is_logarithmic:
        axis.set_yscale("log")
        _label_plainly(axis)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    picture = text[text.index("<svg") :].replace("#000000", "currentColor")
    # Text without a colour of its own is black.
    return picture.replace("<svg", f'<svg role="img" aria-label="{chart.title}" fill="currentColor"', 1)


def _label_plainly(axis: "Axes") -> None:
    """Label a log axis with plain numbers; matplotlib's powers of ten take a third of the figure's drawing time."""
    from matplotlib.ticker import LogFormatter  # noqa: PLC0415

    class PlainNumbers(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.yaxis.set_major_formatter(PlainNumbers())
    axis.yaxis.set_minor_formatter(PlainNumbers(minor_thresholds=(1, 0.4)))


def _from_start(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return list(dropwhile(lambda point: point[1] == 0.0, points))


def _kept(count: int) -> list[int]:
    """Return at most `_MAX_POINTS` evenly spaced indices of `count` points, including the first and the last."""
    if count <= _MAX_POINTS:
        return list(range(count))
    return [index * (count - 1) // (_MAX_POINTS - 1) for index in range(_MAX_POINTS)]


def _smooth(values: Sequence[float]) -> list[float]:
    """Compute the centred moving average; the window shrinks at both ends."""
    smoothed = []
    for index in range(len(values)):
        reach = min(_SMOOTHING_SPAN // 2, index, len(values) - 1 - index)
        window = values[index - reach : index + reach + 1]
        smoothed.append(sum(window) / len(window))
    return smoothed
