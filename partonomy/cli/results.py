"""`python -m partonomy tables`, `compare`, `report` and `export-predictions`."""

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
    """Print the results of finished runs of any benchmark, on request in the layout of a paper's table.

    Args:
        runs: Output folders of finished runs.
        table: 2, 3, 4, 5, 9, 10, 11 (Partonomy/PLUM paper) or mmr2 to mmr5 (MMR paper): that table alone, every run
            beside the rows quoted from the paper. auto: every metric of the runs; first, for Partonomy, table 3 and the
            segmentation table of each run's data set (by its name: paco 9, partimagenet 10, pascal 11, others 2), and
            for ReasonSeg, table 4. all: every table of a paper for the runs' benchmarks, then every metric.
        protocol: Of Partonomy. ours: failed questions score 0, answer of the highest sequence probability. authors: as
            the authors' code counts (failed questions left out, answer of the highest mean over the conversation).
            both: one row each.
        no_intervals: Leave out the 95% intervals below the values (text, markdown, latex).
        format: text, markdown, latex (booktabs) or csv. csv is tidy: one line per row of a table, group and metric,
            with the columns table, method, dataset, source (quoted, ours, exact), protocol, question_type (the group),
            metric, value, low, high (percent) and n; without the accuracy by answer length.
        output: File to write instead of printing.

    Raises:
        ValueError: Unknown table, protocol or format, or a table does not hold a run.
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
    """Print how run B differs from run A on the same items of a benchmark: paired intervals, items that changed.

    Args:
        run_a: Output folder of a finished run.
        run_b: Another one, on the same items. Differences are B minus A.
        metric: Metrics of summary.json, separated by commas; default all of them. For Partonomy: micro- and macro-gIoU
            (paired), accuracy of parts and objects, and F1 of the part names in the model's own answers.
        show: How many items of each kind of change to print.
        seed: Of the bootstrap over images.
        output: File for all changed items: .csv (one line each) or .json (the differences too).

    Raises:
        ValueError: The runs are of different benchmarks or were asked other items, or a metric is unknown.
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
    run: str, output: str | None = None, baselines: Sequence[str] = (), training_metrics: Sequence[str] = ()
) -> None:
    """Write one self-contained HTML page about a finished run.

    Args:
        run: Output folder of a finished run of any benchmark.
        output: HTML file; default report.html in the run's folder.
        baselines: Output folders of other runs on the same items, shown beside it.
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
    """Write the replies and masks of a finished run as a JSON list, one entry per item.

    An entry has item_id, group, image, prompt, status, reason, reply (null where the answer was given) and masks (COCO
    RLE). For Partonomy it is the question's published record and, beside it, what the model answered.

    Args:
        run: Output folder of a finished run of any benchmark.
        output: File to write (.json).
        overwrite: Replace an existing file.
    """
    target = Path(output)
    if target.suffix != ".json":
        raise ValueError(f"{target}: the predictions are JSON; give a name that ends in .json")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists already; pass --overwrite or another --output")
    loaded = load_run(Path(run))
    summary = write_predictions(loaded, target)
    items = loaded.task.WORDS.items
    print(f"{target}: predictions for {summary.num_written} {items}")
    if summary.unreadable:
        print(f"  {len(summary.unreadable)} records have none: their {items} could not be read (see summary.json)")


def _known(what: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")
    return value
