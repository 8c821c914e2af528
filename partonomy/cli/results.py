"""`python -m partonomy tables`, `compare`, `report` and `export-predictions`."""

from collections.abc import Sequence
from pathlib import Path

from partonomy.benchmarks.partonomy.metrics import MetricProtocol
from partonomy.reporting.compare import DEFAULT_METRICS, check_output, compare_runs, render_comparison, write_comparison
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.paper_tables import PaperTableStyle
from partonomy.reporting.predictions import write_predictions
from partonomy.reporting.report import write_report
from partonomy.reporting.tables import TableChoice, render_tables, tidy_csv
from partonomy.table_format import TableFormat

BOTH = "both"


def tables(
    runs: list[str],
    *,
    table: str = "auto",
    protocol: str = "ours",
    no_intervals: bool = False,
    format: str = "text",
    output: str | None = None,
) -> None:
    """Print the results of finished runs in the layout of the paper's tables, beside the rows quoted from it.

    Args:
        runs: Output folders of validate_partonomy.py.
        table: 2, 3, 9, 10 or 11: that table of the paper alone, with every run in it. auto: table 3 and the
            segmentation table of each run's data set (by its name: paco 9, partimagenet 10, pascal 11, others 2), then
            each run's own metrics. all: all five tables, then the same.
        protocol: ours: failed questions score 0, answer of the highest sequence probability. authors: as the authors'
            code counts (failed questions left out, answer of the highest mean over the conversation). both: one row
            each.
        no_intervals: Leave out the 95% intervals of our rows in the paper's tables (text, markdown, latex).
        format: text, markdown, latex (booktabs) or csv. csv is tidy: one line per row of a table, question type and
            metric, with the columns table, method, dataset, source (quoted, ours, exact), protocol, question_type,
            metric, value, low, high (percent) and n; without the accuracy by answer length.
        output: File to write instead of printing.

    Raises:
        ValueError: Unknown table, protocol or format.
        FileNotFoundError: A folder holds no finished run.
    """
    choice = TableChoice(_known("table", table, [entry.value for entry in TableChoice]))
    known = [entry.value for entry in MetricProtocol]
    name = _known("protocol", protocol, [*known, BOTH])
    protocols = tuple(MetricProtocol) if name == BOTH else (MetricProtocol(name),)
    table_format = TableFormat(_known("table format", format, [entry.value for entry in TableFormat]))
    style = PaperTableStyle(protocols, has_intervals=not no_intervals)
    loaded = [load_run(Path(run)) for run in runs]
    if table_format is TableFormat.CSV:
        text = tidy_csv(loaded, choice, style)
    else:
        text = render_tables(loaded, choice, style, table_format)
    if output is None:
        print(text, end="")
    else:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(text, encoding="utf-8")
        print(f"Written: {output}")


def compare(
    run_a: str, run_b: str, *, metric: str = "", show: int = 10, seed: int = 0, output: str | None = None
) -> None:
    """Print how run B differs from run A on the same questions, with paired intervals and the questions that flipped.

    Args:
        run_a: Output folder of validate_partonomy.py.
        run_b: Another one, on the same questions. Differences are B minus A.
        metric: Metrics of summary.json, separated by commas; default micro- and macro-gIoU (paired), accuracy of parts
            and objects, and F1 of the part names in the model's own answers.
        show: How many questions of each kind of change to print.
        seed: Of the bootstrap over images.
        output: File for all changed questions: .csv (one line each) or .json (the differences too).

    Raises:
        ValueError: The runs were asked other questions, or a metric is unknown.
        FileNotFoundError: A folder holds no finished run.
    """
    if show < 0:
        raise ValueError(f"--show must be at least 0, got {show}")
    if output is not None:
        check_output(Path(output))
    metrics = tuple(name.strip() for name in metric.split(",") if name.strip()) or DEFAULT_METRICS
    comparison = compare_runs(load_run(Path(run_a)), load_run(Path(run_b)), metrics, seed)
    print(render_comparison(comparison, show), end="")
    if output is not None:
        write_comparison(comparison, Path(output))
        print(f"\nWritten: {output}")


def report(
    run: str, output: str | None = None, baselines: Sequence[str] = (), training_metrics: Sequence[str] = ()
) -> None:
    """Write one self-contained HTML page about a finished run.

    Args:
        run: Output folder of validate_partonomy.py.
        output: HTML file; default report.html in the run's folder.
        baselines: Output folders of other runs on the same questions, shown as rows beside it.
        training_metrics: metrics.jsonl files of the model's training, for the loss curves; default those that the run
            recorded, or those found beside its checkpoint.
    """
    target = Path(run) / "report.html" if output is None else Path(output)
    write_report(
        load_run(Path(run)),
        [load_run(Path(baseline)) for baseline in baselines],
        [Path(path) for path in training_metrics],
        target,
    )
    print(f"Written: {target}")


def export_predictions(run: str, output: str, overwrite: bool = False) -> None:
    """Write the answers and masks of a finished run as a JSON list in the published record's schema.

    Args:
        run: Output folder of validate_partonomy.py.
        output: File to write (.json).
        overwrite: Replace an existing file.
    """
    target = Path(output)
    if target.suffix != ".json":
        raise ValueError(f"{target}: the predictions are JSON; give a name that ends in .json")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists already; pass --overwrite or another --output")
    summary = write_predictions(load_run(Path(run)), target)
    print(f"{target}: predictions for {summary.num_written} questions")
    if summary.unreadable:
        print(f"  {len(summary.unreadable)} records have none: their questions could not be read (see summary.json)")


def _known(what: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")
    return value
