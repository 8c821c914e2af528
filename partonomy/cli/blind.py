"""`python -m partonomy blind`: the accuracy of guesses that see only the choices."""

import dataclasses
import json
from pathlib import Path

from partonomy.datasets.store import load_questions
from partonomy.files import write_text_atomically
from partonomy.reporting.blind_tables import (
    overview_table,
    report_on_questions,
    report_on_run,
    rule_table,
    run_table,
    size_table,
)
from partonomy.reporting.loaded_run import load_run
from partonomy.suggestions import unknown_names
from partonomy.table_format import Table, TableFormat, render_table


def blind(
    questions: list[str] | None = None, format: str = "text", output: str | None = None, run: str | None = None
) -> None:
    """Print the accuracy of guesses that see neither image nor question, to find hints in the wrong answers.

    For each question type, the first table compares chance with the central choice, the best fixed rule (length, number
    and frequency of parts, position, alphabet, edit distance) and a regression fitted on other images. Further tables
    list every rule, and the same accuracies by the number of parts in the right answer. A place that right answers
    always have in the file is said once, and no rule uses it.

    Args:
        questions: Folders made by build, or published record files (.json).
        format: text, markdown, latex or csv.
        output: JSON file to write as well, with every number and its confidence interval.
        run: Folder of a run: print its accuracies beside those of the guesses on the same choices.

    Raises:
        ValueError: The format is unknown, a set has no questions, the run asked for no choice, or nothing is given.
    """
    known = [entry.value for entry in TableFormat]
    if format not in known:
        raise ValueError(unknown_names("table format", [format], known))
    if questions is None and run is None:
        raise ValueError("name question sets, or a run (--run FOLDER)")
    if run is not None:
        print(render_table(_beside(run), TableFormat(format)))
    if not questions:
        return
    reports = []
    for path in questions:
        loaded = load_questions(Path(path), invalid="collect")
        reports.append(report_on_questions(_set_name(path, dict(loaded.build)), loaded.questions))
        if loaded.invalid and format == TableFormat.TEXT:
            print(f"{path}: {len(loaded.invalid)} unreadable questions are left out (run lists them)")
    tables = [overview_table(reports)]
    for report in reports:
        subjects = dict.fromkeys(result.subject for result in report.results)
        tables += [*(rule_table(report, subject) for subject in subjects), size_table(report)]
    print("\n\n".join(render_table(table, TableFormat(format)) for table in tables))
    if output is not None:
        content = [dataclasses.asdict(report) for report in reports]
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(Path(output), json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _beside(run: str) -> Table:
    loaded = load_run(Path(run))
    report = report_on_run(loaded) if loaded.summary.benchmark == "partonomy" else None
    if report is None:
        raise ValueError(f"{run}: the run asked for no choice, so there is nothing to guess")
    return run_table(loaded, report)


def _set_name(path: str, build: dict[str, object]) -> str:
    """Return the path, and the method of its wrong answers if known."""
    config = build.get("config")
    mutation = config.get("mutation") if isinstance(config, dict) else None
    return f"{path} ({mutation})" if mutation else path
