import csv
import dataclasses
import io
from collections import Counter
from pathlib import Path

import pytest

from partonomy.benchmarks.partonomy.metrics import MetricProtocol
from partonomy.benchmarks.partonomy.showing import length_accuracies
from partonomy.benchmarks.registry import BENCHMARKS
from partonomy.cli.results import tables
from partonomy.harness.summary import GroupSummary, Summary
from partonomy.metrics.multiple_choice import Selector
from partonomy.reporting.loaded_run import AnyRun, load_run
from partonomy.reporting.overview import overview, summary_notes
from partonomy.reporting.paper_tables.paper_table import PaperTableStyle
from partonomy.reporting.paper_tables.partonomy_tables import segmentation_results, text_results
from partonomy.reporting.tables import ALL_TABLES, AUTO, paper_table_runs, render_tables, result_tables, tidy_csv
from partonomy.structures import TABLE_TYPES, QuestionType
from partonomy.table_format import Table, TableFormat, render_table
from tests.partonomy.conftest import write_questions
from tests.partonomy.test_table_format import check_latex
from validate_partonomy import main

STYLE = PaperTableStyle()
BOTH = PaperTableStyle(tuple(MetricProtocol))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnyRun, ...]:
    """Finished runs of two built-in models on four images with a question of every type."""
    folder = tmp_path_factory.mktemp("runs")
    questions = write_questions(folder, tuple(QuestionType))
    for model in ("oracle", "empty"):
        main(["--model", model, "--questions", str(questions), "--output", str(folder / model)])
    return tuple(load_run(folder / model) for model in ("oracle", "empty"))


def cells_of(table: Table, protocol: str) -> tuple[str, ...]:
    """The numbers of the one run's row under a protocol."""
    (row,) = [row for row in table.rows if row.cells[1:3] == ("ours", protocol)]
    return row.cells[3:]


def test_the_overlap_with_training_stands_with_every_table(runs: tuple[AnyRun, ...]) -> None:
    # the built-in models were trained on nothing; four images
    words = "oracle: images of its questions that the model was trained on: 0 of 4."
    assert words in segmentation_results(runs, 2, STYLE).note
    assert words in text_results(runs, STYLE).note
    line = "Images of this benchmark that the model was trained on: 0 of 4"
    assert line in overview(runs[0].summary)
    own = [table for table in result_tables(runs, AUTO, STYLE) if "every metric" in table.title]
    assert all(line in table.note for table in own)
    older = dataclasses.replace(runs[0].summary, provenance={})
    assert line.replace("0 of 4", "unknown") in overview(older)


def test_every_row_tells_its_source_and_protocol(runs: tuple[AnyRun, ...]) -> None:
    segmentation, text = segmentation_results(runs, 2, BOTH), text_results(runs, STYLE)
    quoted, own = ("quoted", "paper"), [("ours", "ours"), ("ours", "authors")]
    assert [row.cells[1:3] for row in segmentation.rows] == [quoted] * 12 + own * 2
    assert [row.cells[1:3] for row in text.rows] == [quoted] * 11 + [("exact", "-")] + own[:1] * 2
    assert {row.group.split(":")[0] for row in segmentation.rows[:12]} == {"quoted from the paper"}
    oracle = next(row for row in text.rows if row.cells[0] == "oracle")
    assert set(oracle.cells[3:]) == {"100.0"}
    assert set(oracle.intervals[3:]) == {"100.0-100.0"}
    assert oracle.intervals[:3] == ("", "", "")
    assert text.note.startswith('Source "quoted": quoted')
    assert text.headings[3:7] == ("Identification P", "Identification R", "Identification A", "Intersection P")
    assert segmentation.title.endswith("Table 2; protocol of our rows: ours and authors")


def test_random_row_is_the_exact_expectation(runs: tuple[AnyRun, ...]) -> None:
    row = next(row for row in text_results(runs, STYLE).rows if row.cells[1] == "exact")
    # Five choices everywhere: every accuracy is 20; columns 5, 8, 11, then PA and OA of the part-whole types.
    assert [row.cells[index] for index in (5, 8, 11, 14, 15, 18, 19)] == ["20.0"] * 7


def test_intervals_can_be_left_out(runs: tuple[AnyRun, ...]) -> None:
    table = segmentation_results(runs, 2, PaperTableStyle(has_intervals=False))
    assert all(row.intervals == () for row in table.rows)
    assert "interval" not in table.note


def test_protocols_differ_where_a_question_failed(question_file: Path, tmp_path: Path) -> None:
    (tmp_path / "image3.png").unlink()
    main(["--model", "oracle", "--questions", str(question_file), "--output", str(tmp_path / "run")])
    run = load_run(tmp_path / "run")
    text, segmentation = text_results([run], BOTH), segmentation_results([run], 2, BOTH)
    # Three of four images are answered correctly; the authors' code leaves the fourth out. The answers have 1, 2 and 3
    # parts. The fourth would have 4, whose masks are missing: micro-gIoU is 6 / 10, macro-gIoU 3 / 4.
    assert cells_of(text, "ours")[2] == "75.0"
    assert cells_of(text, "authors")[:3] == ("100.0", "100.0", "100.0")
    assert cells_of(segmentation, "ours")[1:3] == ("60.0", "75.0")
    assert cells_of(segmentation, "authors")[1:3] == ("100.0", "100.0")
    assert "oracle (run): 10 of its questions failed." in text.note


def test_a_run_stands_in_the_table_of_its_data_set(runs: tuple[AnyRun, ...], tmp_path: Path) -> None:
    (tmp_path / "paco").mkdir()
    questions = write_questions(tmp_path / "paco", TABLE_TYPES).rename(tmp_path / "paco" / "paco_qa_pairs.json")
    main(["--model", "empty", "--questions", str(questions), "--output", str(tmp_path / "paco_run")])
    several = (*runs, load_run(tmp_path / "paco_run"))
    auto = paper_table_runs(several, AUTO)
    names = {table.name: [run.name for run in members] for table, members in auto}
    assert names == {
        "2": ["oracle", "empty"],
        "3": ["oracle", "empty", "empty (paco_run)"],
        "9": ["empty (paco_run)"],
    }
    every = {table.name: members for table, members in paper_table_runs(several, ALL_TABLES)}
    assert list(every) == ["2", "3", "9", "10", "11"]
    assert every["10"] == ()
    assert [(table.name, members) for table, members in paper_table_runs(several, "10")] == [("10", several)]
    # Two question sets in table 3: one row of random guesses for each.
    labels = [row.cells[0] for row in text_results(several, STYLE).rows if row.cells[1] == "exact"]
    assert labels == ["random guess on test_qa_pairs", "random guess on paco_qa_pairs"]


def test_all_prints_every_quoted_row(runs: tuple[AnyRun, ...]) -> None:
    tables_of_all = result_tables(runs[:1], ALL_TABLES, STYLE)
    quoted = [sum(row.cells[1] == "quoted" for row in table.rows) for table in tables_of_all[:5]]
    assert quoted == [12, 11, 8, 8, 8]
    assert len(tables_of_all) == 7  # the run's own metrics, and accuracy by length
    assert [len(result_tables(runs, choice, STYLE)) for choice in ("2", "3", "auto")] == [1, 1, 6]


@pytest.mark.parametrize("choice", ["3", "auto"])
def test_latex_of_runs(runs: tuple[AnyRun, ...], choice: str) -> None:
    for table in result_tables(runs, choice, BOTH):
        check_latex(render_table(table, TableFormat.LATEX))


def test_tidy_csv(runs: tuple[AnyRun, ...]) -> None:
    rows = list(csv.DictReader(io.StringIO(tidy_csv(runs, "3", BOTH))))
    keys = [(row["method"], row["source"], row["protocol"], row["question_type"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys)
    # 17 columns: 11 quoted rows, one of random guesses, two runs under two protocols.
    assert Counter(row["source"] for row in rows) == {"quoted": 11 * 17, "exact": 17, "ours": 2 * 2 * 17}
    assert {row["table"] for row in rows} == {"3"}
    by_key = dict(zip(keys, rows, strict=True))
    empty = by_key["empty", "ours", "ours", "identification_with_label", "parts_accuracy"]
    # All five choices tie.
    assert (empty["value"], empty["n"], empty["dataset"]) == ("20.0000", "4", "test_qa_pairs")
    assert float(empty["low"]) == float(empty["high"]) == 20
    random = by_key["Random", "quoted", "paper", "positive_with_label", "parts_precision"]
    assert (random["value"], random["low"], random["n"], random["dataset"]) == ("44.1", "", "", "Partonomy-Core")


def test_tidy_csv_of_auto_holds_every_metric(runs: tuple[AnyRun, ...]) -> None:
    rows = list(csv.DictReader(io.StringIO(tidy_csv(runs[:1], AUTO, BOTH))))
    own = [row for row in rows if row["source"] == "ours"]
    assert len(own) == sum(len(entry.metrics) for entry in runs[0].summary.groups.values())
    assert {row["table"] for row in own} == {"", "2", "3"}
    assert {row["protocol"] for row in own} == {"ours", "authors"}
    assert not any(row["metric"].startswith("authors_") for row in own)
    assert {row["table"] for row in own if row["question_type"] == "positive"} == {""}


def test_accuracy_by_length(runs: tuple[AnyRun, ...]) -> None:
    rows = length_accuracies(runs[1].of_group("identification"))[Selector.SEQUENCE]
    # All five choices tie in every question.
    assert [(row.num_parts, row.num_questions, row.num_correct) for row in rows] == [
        (1, 1, 0.2),
        (2, 1, 0.2),
        (3, 1, 0.2),
        (4, 1, 0.2),
    ]


@pytest.mark.parametrize("table_format", list(TableFormat))
def test_command_writes_every_format(runs: tuple[AnyRun, ...], tmp_path: Path, table_format: TableFormat) -> None:
    output = tmp_path / "tables.out"
    tables([str(run.path) for run in runs], protocol="both", format=table_format.value, output=str(output))
    is_tidy = table_format is TableFormat.CSV
    auto = AUTO
    expected = tidy_csv(runs, auto, BOTH) if is_tidy else render_tables(runs, auto, BOTH, table_format)
    assert output.read_text() == expected
    assert "oracle" in expected


def test_command_prints_one_table(runs: tuple[AnyRun, ...], capsys: pytest.CaptureFixture[str]) -> None:
    tables([str(runs[0].path)], table="11", no_intervals=True)
    text = capsys.readouterr().out
    assert text.startswith("Segmentation (gIoU, %), layout of the paper's Table 11; protocol of our rows: ours\n")
    assert "100.0-100.0" not in text
    assert text.count("quoted  ") == 8


def test_unknown_settings_and_missing_run_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known: text, markdown, latex, csv"):
        tables([], format="html")
    with pytest.raises(ValueError, match="unknown table '6'; known: 2, 3, 9, 10, 11, 4, 5, mmr2, .*, 12, all, auto"):
        tables([], table="6")
    with pytest.raises(ValueError, match="unknown protocol 'mine'; known: ours, authors, both"):
        tables([], protocol="mine")
    with pytest.raises(FileNotFoundError, match="output folder of a finished run"):
        tables([str(tmp_path)])


def test_notes_name_what_sets_a_run_apart(question_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "part"
    flags = ["--limit", "2", "--part_whole", "predicted"]
    main(["--model", "oracle", "--questions", str(question_file), "--output", str(output), *flags])
    note = text_results([load_run(output)], STYLE).note
    assert "oracle (part): at most 2 questions of each type (--limit)." in note
    assert "oracle (part): the second part-whole question follows the model's own first choice." in note
    assert "questions failed" not in note
    assert "own first choice (the authors' code gives the correct one)." in text_results([load_run(output)], BOTH).note


def test_long_lists_of_reasons_are_cut_and_counted() -> None:
    reasons = {f"image{number}.jpg: lost": 1 for number in range(8)}
    entry = GroupSummary("positive", 9, 1, 8, reasons, {})
    text = overview(Summary("partonomy", "set", "", "1", "", {}, 0.0, {"positive": entry}))
    assert text.count("positive: 1 failed: ") == 5
    assert "positive: 3 more reasons, see summary.json" in text


def test_full_run_has_no_caveat(runs: tuple[AnyRun, ...]) -> None:
    note = text_results(runs, BOTH).note
    assert note.endswith("Random guess: exact expectation over the choices.")
    assert note.count("oracle:") == 1, "the overlap with training alone"


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_marks_are_named_where_scores_depend_on_them(benchmark: str) -> None:
    """Short answers have neither log-probabilities nor masks, which marks such as [SEG] change."""
    provenance = {"answer_marks": {"note": "answers carry [SEG]"}}
    notes = summary_notes(Summary(benchmark, "val", "", "1", "", provenance, 0.0, {}))
    assert ("Protocol: answers carry [SEG]" in notes) == (benchmark not in ("textvqa", "gqa", "pope"))
