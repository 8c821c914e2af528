"""`python -m partonomy tables | compare | report | leaderboard | chart | export-...`: show and export finished runs."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from partonomy.benchmarks.partonomy.metrics import MetricProtocol
from partonomy.files import open_atomically, write_text_atomically
from partonomy.reporting.charts import FILE_FORMATS, draw_validation
from partonomy.reporting.compare import check_output, compare_runs, render_comparison, write_comparison
from partonomy.reporting.leaderboard import write_leaderboard
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.paper_tables.paper_table import PaperTableStyle
from partonomy.reporting.paper_tables.tag_table import TAG_TABLE, tag_table, tidy_tag_rows
from partonomy.reporting.predictions import write_predictions
from partonomy.reporting.report import write_report
from partonomy.reporting.report_browser import MAX_PICTURES
from partonomy.reporting.result_exports import SAMPLES_FILE, annotations_path, write_coco_results, write_fiftyone
from partonomy.reporting.tables import AUTO, TABLE_CHOICES, render_tables, tidy_csv, write_tidy
from partonomy.row_commands import command_lines, read_row_commands
from partonomy.structures import TABLE_TYPES, QuestionType
from partonomy.suggestions import unknown_names
from partonomy.table_format import TableFormat, render_table

BOTH = "both"
NO_MODELS = "none"
COCO, FIFTYONE = "coco", "fiftyone"
EXPORT_FORMATS = (COCO, FIFTYONE)


def tables(
    runs: list[str] | None = None,
    *,
    table: str = AUTO,
    protocol: str = "ours",
    no_intervals: bool = False,
    commands: bool = False,
    format: str = "text",
    output: str | None = None,
) -> None:
    """Print the results of finished runs of any benchmark, also in the layout of a paper's table.

    Args:
        runs: Output folders of finished runs; for table 12, files of `python -m plum teacher-forced` or their folders.
        table: auto prints every metric of the runs; for Partonomy, it first prints table 3 and the segmentation table
            of each run's data set (by its name: paco 9, partimagenet 10, pascal 11, others 2), for ReasonSeg table 4,
            and for MixedParts its table. 2, 3, 4, 5, 5a (Figure 5a), 9 to 14 (Partonomy/PLUM paper), mmr2 to mmr6 and
            mmr8 to mmr11 (MMR paper), and mixedparts (CALICO paper) print that table alone, with the runs next to the
            paper's rows; c4 prints how often a run repeats masks and how its errors carry on (appendix C.4, which has
            no numbers). all prints the tables of all papers for the runs' benchmarks, except those of ablations (5a,
            c4, 12 to 14, mmr6, mmr9 to mmr11), then every metric.
        protocol: Partonomy only. ours scores failed questions 0 and takes the answer with the highest sequence
            probability. authors counts as the authors' code does: failed questions and missing masks are left
            out, macro-gIoU has one value per question, and the answer with the highest mean over the conversation is
            taken. both prints one row for each.
        no_intervals: Leave out the 95% confidence intervals below the values (text, markdown, latex).
        commands: Print below the table, for each of the paper's rows, the command that would make it, "import only" or
            "weights not published" (text, markdown; tables 2 to 5, 9 to 11 and mmr2 to mmr5). Without runs, it prints
            these alone. docs/reproduce.md has them all.
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
    names = runs or []
    if not names and not commands:
        raise ValueError("there are no runs to tabulate; name their folders")
    below = _commands_text(choice, table_format) if commands else ""
    if not names and commands:
        text = below
    else:
        own = _tag_text(names, table_format) if choice == TAG_TABLE else _run_text(names, choice, style, table_format)
        text = f"{own}\n{below}" if below else own
    if output is None:
        print(text, end="")
    else:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(Path(output), text)
        print(f"Written: {output}")


def _commands_text(choice: str, table_format: TableFormat) -> str:
    """Return the commands of the paper's rows.

    Raises:
        ValueError: The table has none, or the format cannot show them.
    """
    listed = read_row_commands().tables
    if choice not in listed:
        raise ValueError(f"--commands needs a --table of {', '.join(listed)}, not {choice}")
    if table_format not in (TableFormat.TEXT, TableFormat.MARKDOWN):
        raise ValueError(f"--commands needs --format text or markdown, not {table_format}")
    lines = "\n".join(command_lines(listed[choice]))
    return f"```text\n{lines}\n```\n" if table_format is TableFormat.MARKDOWN else f"{lines}\n"


def _run_text(runs: Sequence[str], choice: str, style: PaperTableStyle, table_format: TableFormat) -> str:
    loaded = [load_run(Path(run)) for run in runs]
    if table_format is TableFormat.CSV:
        return tidy_csv(loaded, choice, style)
    return render_tables(loaded, choice, style, table_format)


def _tag_text(files: Sequence[str], table_format: TableFormat) -> str:
    paths = [Path(file) for file in files]
    if table_format is TableFormat.CSV:
        return write_tidy(tidy_tag_rows(paths))
    return render_table(tag_table(paths), table_format) + "\n"


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
    max_pictures: int = MAX_PICTURES,
) -> None:
    """Write a self-contained HTML page about a finished run.

    All items can be browsed. A run of more than 3,000 items writes them into the folder OUTPUT_cases beside the page.

    Args:
        run: Output folder of a finished run of any benchmark.
        output: HTML file to write; default report.html in the run's folder.
        baselines: Output folders of other runs on the same items, to compare with; repeatable, or a list in brackets.
        training_metrics: metrics.jsonl files of the model's training, for the loss curves; repeatable, or a list in
            brackets. By default, those that the run recorded, or else those next to its checkpoint.
        max_pictures: Number of images that are drawn in the list of all items; 0 draws none.

    Raises:
        ValueError: max_pictures is negative, or a baseline was asked other items.
        FileExistsError: Something else has the name of the folder.
    """
    if max_pictures < 0:
        raise ValueError(f"--max_pictures must be at least 0, got {max_pictures}")
    target = Path(run) / "report.html" if output is None else Path(output)
    write_report(
        load_run(Path(run)),
        [load_run(path) for path in _paths(baselines)],
        _paths(training_metrics),
        target,
        max_pictures,
    )
    print(f"Written: {target}")


def leaderboard(runs: list[str], *, output: str, reference: str | None = None) -> None:
    """Write one HTML page over many runs of any benchmarks: intervals, paired differences, provenance; sortable.

    Runs on the same items share a table. Imported runs and their protocol are marked.

    Args:
        runs: Output folders of finished runs.
        output: HTML file to write.
        reference: One of the runs; the others on the same items are compared with it. Default: the first of a table.

    Raises:
        ValueError: The name of the output does not end in .html, a run is named twice, or the reference is none of the
            runs.
        FileNotFoundError: A folder holds no finished run.
    """
    target = Path(output)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{target}: a leaderboard is an HTML page; choose a name that ends in .html")
    loaded = [load_run(Path(run)) for run in runs]
    chosen = None
    if reference is not None:
        wanted = Path(reference).resolve()
        chosen = next((run for run in loaded if run.path.resolve() == wanted), None)
        if chosen is None:
            raise ValueError(f"--reference {reference} is none of the runs: {', '.join(runs)}")
    write_leaderboard(loaded, chosen, target)
    print(f"Written: {target}")


def chart(
    runs: list[str],
    *,
    output: str,
    question_type: str = QuestionType.IDENTIFICATION_WITH_LABEL.value,
    models: str = "",
) -> None:
    """Draw bars of micro- and macro-gIoU by data set (the paper's Figure 4), runs beside the paper's models.

    Args:
        runs: Output folders of finished runs on Partonomy's questions. A run whose data set is named like one of the
            paper's validation splits (paco, partimagenet, pascal) joins its group; any other has its own.
        output: File to write: .svg, .png or .pdf.
        question_type: Question type whose masks are scored.
        models: Comma-separated names of the paper's models to show, as in its Tables 9 to 11; default all, "none" for
            no one.
    """
    target = Path(output)
    file_format = _known("ending of --output", target.suffix.removeprefix(".").lower(), FILE_FORMATS)
    kind = QuestionType(_known("question type", question_type, [entry.value for entry in TABLE_TYPES]))
    chosen = None if not models else [name.strip() for name in models.split(",") if name.strip() != NO_MODELS]
    content = draw_validation([load_run(Path(run)) for run in runs], kind, chosen, file_format)
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(target) as file:
        file.write(content)
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


def export_results(run: str, *, format: str, output: str, overwrite: bool = False) -> None:
    """Write a finished run's masks as COCO results or as a FiftyOne data set.

    coco writes a results JSON (image_id, category_id, segmentation, bbox, score) and, beside it, the truth that it
    refers to as NAME.annotations.json; pycocotools reads both. Every item is a COCO image of its own. All scores are 1.
    fiftyone writes a folder of the type FiftyOneDataset; it needs the package fiftyone.

    Args:
        run: Output folder of a finished run; its data must still be at their original location.
        format: coco or fiftyone.
        output: JSON file (coco) or folder (fiftyone) to write.
        overwrite: Replace existing files, or the folder of a FiftyOne data set.

    Raises:
        ValueError: The format is unknown, the output has another ending, or the run has no masks or changed data.
        FileExistsError: The output exists.
    """
    target = Path(output)
    is_coco = _known("format", format, EXPORT_FORMATS) == COCO
    if is_coco and target.suffix != ".json":
        raise ValueError(f"{target}: COCO results are JSON; choose a name that ends in .json")
    if not is_coco and target.suffix == ".json":
        raise ValueError(f"{target}: a FiftyOne data set is a folder; choose a name without .json")
    for path in (target, annotations_path(target)) if is_coco else (target,):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path}: already exists; pass --overwrite or choose another --output")
    if not is_coco and target.exists() and not (target / SAMPLES_FILE).is_file():
        raise FileExistsError(f"{target}: exists and is not a FiftyOne data set, so it is not replaced")
    if not is_coco and importlib.util.find_spec("fiftyone") is None:
        raise ValueError("--format fiftyone needs the package fiftyone: pip install fiftyone")
    loaded = load_run(Path(run))
    counts = (write_coco_results if is_coco else write_fiftyone)(loaded, target)
    items = loaded.task.WORDS.items
    print(f"{target}: {counts.num_masks} masks of {counts.num_items} {items}")
    if is_coco:
        print(f"{annotations_path(target)}: their truth")
    if counts.num_empty:
        print(f"  {counts.num_empty} of the masks are empty: they have no detection, and the field `empty` names them")
    if counts.num_left_out:
        print(f"  {counts.num_left_out} {items} are left out; they could not be read (summary.json)")


def _paths(given: list[str] | str | None) -> list[Path]:
    """Return the paths of a flag that takes one path or a list."""
    return [Path(path) for path in ([given] if isinstance(given, str) else given or ())]


def _known(what: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(unknown_names(what, [value], known))
    return value
