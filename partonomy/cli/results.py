"""`python -m partonomy tables | compare | report | export-predictions`: show and export finished runs."""

from collections.abc import Sequence
from pathlib import Path

from partonomy.benchmarks.partonomy.metrics import MetricProtocol
from partonomy.files import write_text_atomically
from partonomy.reporting.compare import check_output, compare_runs, render_comparison, write_comparison
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.paper_tables.paper_table import PaperTableStyle
from partonomy.reporting.predictions import write_predictions
from partonomy.reporting.report import write_report
from partonomy.reporting.tables import AUTO, TABLE_CHOICES, render_tables, tidy_csv
from partonomy.table_format import TableFormat

BOTH = "both"


def tables(
    runs: list[str],
    *,
    table: str = AUTO,
    protocol: str = "ours",
    no_intervals: bool = False,
    format: str = "text",
    output: str | None = None,
) -> None:
    """Print the results of finished runs of any benchmark, also in the layout of a paper's table.

    Args:
        runs: Output folders of finished runs.
        table: auto prints every metric of the runs; for Partonomy, it first prints table 3 and the segmentation table
            of each run's data set (by its name: paco 9, partimagenet 10, pascal 11, others 2), and for ReasonSeg, table
            4. 2, 3, 4, 5, 9, 10, 11 (Partonomy/PLUM paper) and mmr2 to mmr5 (MMR paper) print that table alone, with
            the runs next to the paper's rows. all prints every paper's table for the runs' benchmarks, then every
            metric.
        protocol: Partonomy only. ours scores failed questions 0 and takes the answer with the highest sequence
            probability. authors counts as the authors' code does: failed questions and missing masks are left
            out, macro-gIoU has one value per question, and the answer with the highest mean over the conversation is
            taken. both prints one row for each.
        no_intervals: Leave out the 95% confidence intervals below the values (text, markdown, latex).
        format: text, markdown, latex (booktabs) or csv. csv is tidy data with one line per table row, group and metric.
            Its columns are table, method, dataset, source (quoted, ours, exact), protocol, question_type (the group),
            metric, value, low, high (percent) and n. It leaves out the accuracy by answer length.
        output: File to write instead of printing.

    Raises:
        ValueError: The table, the protocol or the format is unknown, or a table cannot show a run's benchmark.
        FileNotFoundError: A folder holds no finished run.
    """
    choice = _known("table", table, TABLE_CHOICES)
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
        write_text_atomically(Path(output), text)
        print(f"Written: {output}")


def compare(
    run_a: str, run_b: str, *, metric: str = "", show: int = 10, seed: int = 0, output: str | None = None
) -> None:
    """Compare two runs on the same items of a benchmark: differences with paired intervals, and items that changed.

    Args:
        run_a: Output folder of a finished run.
        run_b: Output folder of another finished run on the same items. Differences are B minus A.
        metric: Comma-separated metrics of summary.json; default all. Partonomy's default is micro- and macro-gIoU
            (paired), the accuracy of parts and objects, and the F1 of the part names in the model's own answers.
        show: Maximum number of items to print for each kind of change.
        seed: Seed of the bootstrap over images.
        output: File to write with all changed items, as .csv (one line each) or .json (also the differences).

    Raises:
        ValueError: The runs belong to different benchmarks or were asked different items, or a metric is unknown.
        FileNotFoundError: A folder holds no finished run.
    """
    if show < 0:
        raise ValueError(f"--show must be at least 0, got {show}")
    if output is not None:
        check_output(Path(output))
    metrics = tuple(name.strip() for name in metric.split(",") if name.strip())
    comparison = compare_runs(load_run(Path(run_a)), load_run(Path(run_b)), metrics, seed)
    print(render_comparison(comparison, show), end="")
    if output is not None:
        write_comparison(comparison, Path(output))
        print(f"\nWritten: {output}")


def report(
    run: str,
    output: str | None = None,
    baselines: list[str] | str | None = None,
    training_metrics: list[str] | str | None = None,
) -> None:
    """Write a self-contained HTML page about a finished run.

    Args:
        run: Output folder of a finished run of any benchmark.
        output: HTML file to write; default report.html in the run's folder.
        baselines: Output folders of other runs on the same items, to compare with; a path, or a list in brackets.
        training_metrics: metrics.jsonl files of the model's training, for the loss curves; a path, or a list in
            brackets. By default, those that the run recorded, or else those next to its checkpoint.
    """
    target = Path(run) / "report.html" if output is None else Path(output)
    write_report(
        load_run(Path(run)),
        [load_run(path) for path in _paths(baselines)],
        _paths(training_metrics),
        target,
    )
    print(f"Written: {target}")


def export_predictions(run: str, output: str, overwrite: bool = False) -> None:
    """Write the replies and masks of a finished run as a JSON list, one entry per item.

    An entry has item_id, group, image, prompt, status, reason, reply (null if the answer was given) and masks (COCO
    RLE). Partonomy's entries are the published records of the questions, with the model's answers added.

    Args:
        run: Output folder of a finished run of any benchmark.
        output: JSON file to write.
        overwrite: Replace an existing file.
    """
    target = Path(output)
    if target.suffix != ".json":
        raise ValueError(f"{target}: predictions are written as JSON; choose a name that ends in .json")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: already exists; pass --overwrite or choose another --output")
    loaded = load_run(Path(run))
    summary = write_predictions(loaded, target)
    items = loaded.task.WORDS.items
    print(f"{target}: predictions for {summary.num_written} {items}")
    if summary.unreadable:
        print(f"  {len(summary.unreadable)} records have no prediction; their {items} could not be read (summary.json)")


def _paths(given: list[str] | str | None) -> list[Path]:
    """Return the paths of a flag that takes one path or a list."""
    return [Path(path) for path in ([given] if isinstance(given, str) else given or ())]


def _known(what: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")
    return value
