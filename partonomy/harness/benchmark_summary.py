"""The summary of a run on a benchmark beyond Partonomy: counts, reasons, metrics with intervals, provenance."""

import datetime
import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from partonomy.files import write_text_atomically
from partonomy.harness.answer_marks import MARKS_KEY, marks_lines, marks_provenance
from partonomy.harness.item_records import ItemRecord
from partonomy.harness.provenance import PACKAGES, read_code_states, read_merged, read_model_description
from partonomy.harness.training_overlap import OVERLAP_KEY, overlap_line
from partonomy.metrics.bootstrap import Estimate
from partonomy.table_format import (
    ColumnGroup,
    Table,
    TableFormat,
    TableRow,
    format_percent,
    render_table,
)

MAX_REASONS = 5


@dataclass(frozen=True)
class BenchmarkSummary:
    """What `summary.json` holds. `num_expected = num_scored + num_failed` holds always.

    Attributes:
        protocol: How the items were asked and scored; the mode for segmentation.
        headline: The metric by which the benchmark is usually quoted.
        is_base: Whether the adapters were off.
        reasons: Why items failed, most frequent first.
        seconds_total: Sum over the items, of all processes and resumed parts.
        provenance: Free-form JSON.
        notes: What a reader of the scores has to know besides.
    """

    benchmark: str
    split: str
    protocol: str
    headline: str
    is_base: bool
    num_expected: int
    num_scored: int
    num_failed: int
    reasons: Mapping[str, int]
    metrics: Mapping[str, Estimate]
    seconds_total: float
    provenance: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_expected != self.num_scored + self.num_failed:
            raise ValueError(f"{self.num_expected} items are not {self.num_scored} scored and {self.num_failed} failed")
        if self.headline not in self.metrics:
            raise ValueError(f"there is no metric {self.headline!r}")


_ADAPTER = TypeAdapter(BenchmarkSummary)


def write_benchmark_summary(summary: BenchmarkSummary, path: Path) -> None:
    """Write `summary.json` in one step."""
    write_text_atomically(path, json.dumps(asdict(summary), indent=2, ensure_ascii=False) + "\n")


def read_benchmark_summary(path: Path) -> BenchmarkSummary:
    """Read `summary.json`.

    Raises:
        FileNotFoundError: The run has not finished, or there is none.
        ValueError: The file is the summary of something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; is this the output folder of a finished `plum validate`?")
    try:
        return _ADAPTER.validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        raise ValueError(f"{path}: not the summary of `plum validate` ({place}: {first['msg']})") from error


def count_reasons(records: Sequence[ItemRecord]) -> dict[str, int]:
    """Why items failed, most frequent first."""
    counts = Counter(record.reason for record in records if record.reason is not None)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def gather_item_provenance(
    output: Path, config: Mapping[str, Any], overlap: Mapping[str, int | None], num_items: int
) -> dict[str, Any]:
    """Everything needed to repeat the run, as JSON-ready values."""
    model = read_model_description(output)
    return {
        "config": dict(config),
        "num_items": num_items,
        OVERLAP_KEY: dict(overlap),
        MARKS_KEY: marks_provenance(None if model is None else model.marks),
        "code": [asdict(state) for state in read_code_states(output)],
        "model": None if model is None else asdict(model),
        "merged_from": read_merged(output),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def benchmark_overview(summary: BenchmarkSummary) -> str:
    """Every metric with its interval, the headline first; protocol or mode stands above them."""
    names = [summary.headline, *(name for name in summary.metrics if name != summary.headline)]
    rows = []
    for name in names:
        estimate = summary.metrics[name]
        interval = "" if estimate.value is None else f"{format_percent(estimate.low)} - {format_percent(estimate.high)}"
        rows.append(TableRow((name, format_percent(estimate.value), interval, str(estimate.count))))
    model = "adapters off" if summary.is_base else "model"
    limit = summary.provenance["config"]["settings"]["limit"]
    cut = "" if limit is None else f", only the first {limit} items"
    title = f"{summary.benchmark} {summary.split} (%), {summary.protocol}, {model}{cut}"
    lines = [f"{count} failed: {reason}" for reason, count in list(summary.reasons.items())[:MAX_REASONS]]
    counts = f"{summary.num_expected} items, {summary.num_failed} failed"
    # log-probabilities and masks are what marks matter to; questions with short answers have neither
    marks = [] if summary.provenance["config"]["settings"]["mode"] is None else marks_lines(summary.provenance)
    note = "\n".join([counts, *summary.notes, overlap_line(summary.provenance), *marks, *lines])
    columns = (ColumnGroup("", ("metric", "value", "95% interval", "counted")),)
    return render_table(Table(title, columns, tuple(rows), note), TableFormat.TEXT)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
