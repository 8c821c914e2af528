"""`python -m partonomy tables`, `report` and `export-predictions`."""

from collections.abc import Sequence
from pathlib import Path

from partonomy.evaluation.loaded_run import load_run
from partonomy.evaluation.predictions import write_predictions
from partonomy.evaluation.report import write_report
from partonomy.evaluation.table_format import TableFormat
from partonomy.evaluation.tables import render_tables


def tables(runs: list[str], format: str = "text", output: str | None = None) -> None:
    """Print the results of finished runs in the layout of the paper's tables, beside the rows quoted from it.

    Args:
        runs: Output folders of validate_partonomy.py.
        format: text, markdown, latex or csv.
        output: File to write instead of printing.

    Raises:
        ValueError: Unknown format.
        FileNotFoundError: A folder holds no finished run.
    """
    known = [entry.value for entry in TableFormat]
    if format not in known:
        raise ValueError(f"unknown table format {format!r}; known: {', '.join(known)}")
    text = render_tables([load_run(Path(run)) for run in runs], TableFormat(format))
    if output is None:
        print(text, end="")
    else:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(text, encoding="utf-8")
        print(f"Written: {output}")


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
