"""Blind guesses from a run's records are those from its questions, and every report shows them."""

import dataclasses
from pathlib import Path

from partonomy.cli.results import report
from partonomy.datasets.store import load_questions
from partonomy.reporting.blind_tables import report_on_questions, report_on_run, run_table
from partonomy.reporting.loaded_run import load_run
from validate_partonomy import main


def run_model(model: str, questions: Path, output: Path) -> Path:
    main(["--model", model, "--questions", str(questions), "--output", str(output)])
    return output


def test_records_are_enough(question_file: Path, tmp_path: Path) -> None:
    expected = report_on_questions("set", load_questions(question_file).questions)
    run = run_model("oracle", question_file, tmp_path / "run")
    question_file.unlink()
    found = report_on_run(load_run(run))
    assert found is not None
    assert found.results == expected.results


def test_the_run_stands_beside_the_guesses(question_file: Path, tmp_path: Path) -> None:
    run = load_run(run_model("oracle", question_file, tmp_path / "run"))
    blind = report_on_run(run)
    assert blind is not None
    rows = {row.cells[0]: row.cells for row in run_table(run, blind).rows}
    own, chance = rows["identification"][1:3]
    assert own.startswith("100.0")
    assert chance == "20.0"
    assert rows["part_to_whole (object)"][1].startswith("100.0")
    assert len(rows) == 14, "ten types, two object questions, all types of both"


def test_every_report_shows_them(question_file: Path, tmp_path: Path) -> None:
    run = run_model("random", question_file, tmp_path / "run")
    report(str(run))
    page = (run / "report.html").read_text()
    assert "What a blind guess reaches" in page
    assert "Central choice" in page
    tiles = page.split("How to read this page")[0]
    assert tiles.count("guess from the choices alone") == 2, "beside parts and objects accuracy of the headline"


def test_a_run_without_choices_has_nothing_to_guess(question_file: Path, tmp_path: Path) -> None:
    run = load_run(run_model("oracle", question_file, tmp_path / "run"))
    assert report_on_run(dataclasses.replace(run, records=())) is None
