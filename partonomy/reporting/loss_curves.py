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
    """Draw small charts, one per loss and one for the accuracies, as one SVG element."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (a second to import; only the report needs it)

    charts: list[tuple[str, Sequence[Curve]]] = [
        (curve.name.removeprefix(LOSS_PREFIX).replace("_", " "), (curve,)) for curve in curves.losses
    ]
    if curves.accuracies:
        charts.append(("tag accuracy", curves.accuracies))
    columns = 4
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(12, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (title, lines) in zip(axes, charts, strict=False):
        for line in lines:
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
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7, which="both")
        axis.grid(visible=True, alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axis.legend(fontsize=7, frameon=False)
        if title != "tag accuracy" and min(value for _, value in lines[0].points) > 0:
            axis.set_yscale("log")
            _label_plainly(axis)
    for axis in list(figure.axes)[len(charts) :]:
        axis.set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


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
