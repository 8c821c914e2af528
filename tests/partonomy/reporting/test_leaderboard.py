"""The page over many runs."""

import re
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.reporting.compare import compare_runs
from partonomy.reporting.leaderboard import make_boards
from partonomy.reporting.loaded_run import AnyRun, load_run
from tests.partonomy.reporting.browser import open_page
from tests.partonomy.reporting.conftest import World
from tests.partonomy.reporting.test_every_benchmark import read_page
from tests.partonomy.reporting.test_report import run_model


@pytest.fixture
def question_runs(question_file: Path, tmp_path: Path) -> list[AnyRun]:
    """Three runs on the same questions."""
    return [load_run(run_model(name, question_file, tmp_path / name)) for name in ("random", "oracle", "empty")]


def test_differences_are_those_of_a_comparison(question_runs: list[AnyRun]) -> None:
    random, oracle, empty = question_runs
    (board,) = make_boards(question_runs, oracle)
    assert [row.is_reference for row in board.rows] == [False, True, False]
    assert all(cell.difference is None for cell in board.rows[1].cells)
    for row, run in ((board.rows[0], random), (board.rows[2], empty)):
        expected = {(one.group, one.metric): one.difference for one in compare_runs(oracle, run).differences}
        assert len(row.cells) == len(board.columns) == 10, "two metrics of the five types of the paper"
        for column, cell in zip(board.columns, row.cells, strict=True):
            assert cell.estimate == run.summary.groups[column.group].metrics[column.metric]
            assert cell.difference is not None
            assert cell.difference.value == expected[column.group, column.metric].value
    assert all(cell.is_significant for cell in board.rows[2].cells[:5]), "no masks against the true ones"
    (board,) = make_boards(question_runs, None)
    assert board.rows[0].is_reference


def test_other_items_and_benchmarks_have_tables_of_their_own(benchmarks: World, question_runs: list[AnyRun]) -> None:
    pairs = benchmarks.pairs
    runs = [pairs["mmr"].oracle, question_runs[0], pairs["gqa"].worse, pairs["mmr"].worse, pairs["mmr_union"].oracle]
    boards = make_boards(runs, question_runs[0])
    assert [[row.run for row in board.rows] for board in boards] == [[runs[0], runs[3], runs[4]], [runs[1]], [runs[2]]]
    assert [row.remark for row in boards[0].rows] == ["", "", "other protocol than the reference: not compared"]
    assert all(cell.difference is None for cell in boards[0].rows[2].cells)
    assert boards[0].columns[0].metric == runs[0].summary.headline


def test_the_page_is_sorted_by_a_click(question_runs: list[AnyRun], tmp_path: Path) -> None:
    output = tmp_path / "pages" / "board.html"
    folders = [str(run.path) for run in question_runs]
    assert main(["leaderboard", *folders, "--output", str(output), "--reference", folders[2]]) == 0
    page = read_page(output)
    assert not re.search(r"(?:src|href)=.https?:", page)
    assert page.count("Images of this benchmark that the model was trained on: 0 of 4") == 3
    for width in (390, 1400):
        with open_page(output, width) as opened:
            names = "nodes => nodes.map(node => node.dataset.value)"
            first = "tbody td:first-child"
            assert opened.eval_on_selector_all(first, names) == ["random", "oracle", "empty"]
            heading = opened.locator("th button", has_text="identification with label").first
            heading.click()
            assert opened.eval_on_selector_all(first, names) == ["oracle", "random", "empty"]
            heading.click()
            assert opened.eval_on_selector_all(first, names)[-1] == "oracle"
            opened.locator("th button", has_text="Run").click()
            assert opened.eval_on_selector_all(first, names) == ["empty", "oracle", "random"]
            assert opened.evaluate("document.documentElement.scrollWidth") == width


def test_imported_runs_and_their_protocol_are_marked(
    question_file: Path, question_runs: list[AnyRun], tmp_path: Path
) -> None:
    predictions, imported = tmp_path / "predictions.json", tmp_path / "imported"
    assert main(["export-predictions", str(question_runs[1].path), "--output", str(predictions)]) == 0
    flags = ["--questions", str(question_file), "--output", str(imported), "--name", "theirs"]
    assert main(["import-predictions", str(predictions), *flags, "--protocol", "read aloud"]) == 0
    output = tmp_path / "board.html"
    assert main(["leaderboard", str(question_runs[0].path), str(imported), "--output", str(output)]) == 0
    page = read_page(output)
    assert page.count('<span class="badge imported">imported</span>') == 1
    assert page.count('<span class="badge measured">measured</span>') == 1
    assert "; read aloud</td>" in page
    assert "Imported predictions, made by another program" in page


def test_mistakes_are_named(question_runs: list[AnyRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _ = (str(run.path) for run in question_runs)
    page = ["--output", str(tmp_path / "page.html")]
    for words, message in (
        ([first, "--output", str(tmp_path / "page.csv")], "choose a name that ends in .html"),
        ([first, first, *page], "is named twice"),
        ([first, "--reference", second, *page], "is none of the runs"),
        ([str(tmp_path / "nothing"), *page], "nothing"),
    ):
        capsys.readouterr()
        assert main(["leaderboard", *words]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
