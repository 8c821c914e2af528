"""Tables of the papers' ablations: every number as quoted, and runs and files of tag accuracies beside them."""

import csv
import io
import json
import math
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.loaded_run import AnyRun, load_run
from partonomy.reporting.paper_tables.catalogue import PAPER_TABLES
from partonomy.reporting.paper_tables.long_tail_tables import find_subsets, subset_estimates
from partonomy.reporting.paper_tables.paper_table import PaperTableStyle
from partonomy.reporting.tables import ALL_TABLES, paper_table_runs
from partonomy.structures import QuestionType
from partonomy.table_format import Table
from tests.partonomy.conftest import write_questions
from tests.partonomy.reporting.conftest import World, run_model
from validate_partonomy import main as validate

STYLE = PaperTableStyle()
LABELS = ("method", "data", "source", "lambda_KL", "lambda_seg", "lambda_BCE", "LR")


def quoted(name: str) -> list[dict[str, str]]:
    text = resources.files("partonomy").joinpath(f"paper_rows/{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize(
    ("name", "num_rows", "num_numbers", "total"),
    # Counts and sums of all scores, taken from the texts of the papers and not from the files.
    [
        ("table12", 4, 12, 912.96),
        ("table13", 2, 10, 859.88),
        ("table14", 5, 10, 4.869),
        ("figure5a", 4, 8, 552.1),
        ("mmr_table6", 3, 24, 765.6),
        ("mmr_table7", 6, 12, 950.71),
        ("mmr_table8", 6, 12, 229.7),
        ("mmr_table9", 2, 4, 195.9),
        ("mmr_table10", 1, 6, 271.5),
        ("mmr_table11", 1, 6, 119.5),
    ],
)
def test_every_number_is_quoted(name: str, num_rows: int, num_numbers: int, total: float) -> None:
    rows = quoted(name)
    numbers = [float(value) for row in rows for column, value in row.items() if column not in LABELS]
    assert {row["source"] for row in rows} == {"quoted"}
    assert (len(rows), len(numbers)) == (num_rows, num_numbers)
    assert math.fsum(numbers) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "row", "column", "value"),
    [
        ("table12", 1, "I", "15.86"),
        ("table12", 3, "B", "6.68"),
        ("table13", 0, "giou_macro_paired", "79.86"),
        ("table13", 1, "O", "99.98"),
        ("table14", 1, "ciou", "0.506"),
        ("table14", 4, "lambda_KL", "8.0"),
        ("table14", 0, "LR", "3e-4"),
        ("figure5a", 2, "giou_micro_paired", "61.4"),
        ("mmr_table6", 0, "test_mixed_ciou", "27.1"),
        ("mmr_table6", 2, "val_giou", "27.9"),
        ("mmr_table7", 2, "tflops", "349.28"),
        ("mmr_table8", 3, "cityscapes_val", "41.3"),
        ("mmr_table9", 1, "reasonseg_ciou", "55.6"),
        ("mmr_table10", 0, "lower_giou", "39.4"),
        ("mmr_table11", 0, "upper_ciou", "24.8"),
    ],
)
def test_quoted_numbers(name: str, row: int, column: str, value: str) -> None:
    assert quoted(name)[row][column] == value


@pytest.fixture(scope="module")
def partonomy_run(tmp_path_factory: pytest.TempPathFactory) -> AnyRun:
    """A run of the constant model whose folder lies beside a file of tag accuracies and a training configuration."""
    folder = tmp_path_factory.mktemp("training")
    questions = write_questions(folder, (QuestionType.IDENTIFICATION_WITH_LABEL,))
    tags = {"O": 0.75, "B": 0.5, "I": None}
    entry = {"num_images": 4, "tags": tags, "tags_all_tokens": {**tags, "O": 1.0}}
    (folder / "teacher_forced.json").write_text(
        json.dumps({"part_vqa": {**entry, "tags": {"O": 0.1, "B": 0.2, "I": 0.3}}, "explanatory": entry})
    )
    validate(["--model", "random", "--questions", str(questions), "--output", str(folder / "validation")])
    return load_run(folder / "validation")


def run_cells(table: Table, run: AnyRun) -> dict[str, str]:
    row = next(row for row in table.rows if row.group == "runs" and row.cells[0] == run.name)
    return dict(zip(table.headings, row.cells, strict=True))


@pytest.mark.parametrize("name", ["13", "5a"])
def test_a_partonomy_run_stands_beside_the_variants(partonomy_run: AnyRun, name: str) -> None:
    table = PAPER_TABLES[name].render([partonomy_run], STYLE)
    cells = run_cells(table, partonomy_run)
    metrics = partonomy_run.summary.groups["identification_with_label"].metrics
    for heading, metric in (("micro-gIoU", "giou_micro_paired"), ("macro-gIoU", "giou_macro_paired")):
        value = metrics[metric].value
        assert value is not None
        assert cells[heading] == f"{100 * value:.1f}"
    assert [cells.get(tag) for tag in "BIO"] == (["50.0", "-", "75.0"] if name == "13" else [None] * 3)
    assert sum(row.group == "paper (quoted)" for row in table.rows) == len(
        quoted("table13" if name == "13" else "figure5a")
    )


def test_without_a_file_of_tags_there_is_a_dash(partonomy_run: AnyRun, tmp_path: Path) -> None:
    shutil.copytree(partonomy_run.path, tmp_path / "a" / "validation")
    run = load_run(tmp_path / "a" / "validation")
    assert [run_cells(PAPER_TABLES["13"].render([run], STYLE), run)[tag] for tag in "BIO"] == ["-"] * 3


def test_loss_weights_come_from_the_training_folder(benchmarks: World, tmp_path: Path) -> None:
    run = benchmarks.pairs["reasonseg"].worse
    table = PAPER_TABLES["14"].render([run], STYLE)
    cells = run_cells(table, run)
    assert [row.cells[2:] for row in table.rows[:1]] == [("2.0", "2.0", "0.1", "3e-4", "0.385", "0.331")]
    assert (cells["lambda_KL"], cells["LR"]) == ("-", "-"), "a built-in model has no training folder"
    assert cells["gIoU"] == f"{run.summary.metrics['giou'].value:.3f}"
    assert cells["cIoU"] == f"{run.summary.metrics['ciou'].value:.3f}"
    trained = replace(
        run, config=replace(run.config, model=replace(run.config.model, checkpoint=str(tmp_path / "model")))
    )
    (tmp_path / "config.yaml").write_text(
        "losses: {kl: 0.1, mask_overlap: 6.0, mask_bce: 2.0}\noptimizer: {learning_rate: 0.0003}\n"
    )
    cells = run_cells(PAPER_TABLES["14"].render([trained], STYLE), trained)
    assert [cells[name] for name in ("lambda_KL", "lambda_seg", "lambda_BCE", "LR")] == ["0.1", "6", "2", "0.0003"]
    (tmp_path / "config.yaml").write_text("losses: {kl: 0.1}\n")
    with pytest.raises(ValueError, match=r"config.yaml: not the configuration of a training run \(KeyError"):
        PAPER_TABLES["14"].render([trained], STYLE)


def test_fractions_are_percentages_in_tidy_data() -> None:
    rows = list(PAPER_TABLES["14"].quoted())
    assert [row.value for row in rows[:2]] == ["38.5000", "33.1000"]
    assert rows[0].method == "PLUM, 2.0, 2.0, 0.1, 3e-4"


@pytest.mark.parametrize(
    ("name", "run", "num_quoted"), [("mmr6", "mmr", 3), ("mmr9", "reasonseg", 2), ("14", "reasonseg", 5)]
)
def test_runs_stand_in_tables_that_are_named(
    benchmarks: World, capsys: pytest.CaptureFixture[str], name: str, run: str, num_quoted: int
) -> None:
    member = benchmarks.pairs[run].oracle
    assert main(["tables", str(member.path), "--table", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    start, end = lines.index("[paper (quoted)]"), lines.index("[runs]")
    assert end - start - 1 == num_quoted
    assert lines[end + 1].split()[0] in member.name
    assert "100.0" in lines[end + 1] or "1.000" in lines[end + 1]
    named = {table.name for table, _ in paper_table_runs([member], ALL_TABLES)}
    assert name not in named, "an ablation is not every run's"


def test_a_run_on_other_data_is_refused(benchmarks: World, capsys: pytest.CaptureFixture[str]) -> None:
    for name, run in (("mmr9", "refcoco"), ("13", "mmr"), ("14", "textvqa"), ("mmr10", "mmr"), ("mmr6", "refcoco")):
        assert main(["tables", str(benchmarks.pairs[run].oracle.path), "--table", name]) == 1
        assert f"which table {name} does not include" in capsys.readouterr().err


# ---- frequent and rare categories of MMR


@pytest.mark.parametrize(("name", "split"), [("mmr10", "test_obj_only"), ("mmr11", "test_part_only")])
def test_frequent_and_rare_categories(
    benchmarks: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, split: str
) -> None:
    run = run_model(benchmarks.data, tmp_path / "run", "random", "mmr", "--split", split)
    subsets, found = find_subsets(run.records), subset_estimates(run)
    counts: dict[str, int] = {}
    for record in run.records:
        for target in record.truths:
            counts[target] = counts.get(target, 0) + 1
    assert not set(subsets.frequent) & set(subsets.rare)
    assert min(counts[one] for one in subsets.frequent) >= max(counts[one] for one in subsets.rare)
    for subset, names in (("upper", subsets.frequent), ("lower", subsets.rare)):
        outcomes = [one for record in run.records if set(names) & set(record.truths) for one in record.targets]
        assert outcomes
        assert found[f"{subset}_giou"].value == pytest.approx(sum(one.iou for one in outcomes) / len(outcomes))
        union = sum(one.union for one in outcomes)
        assert found[f"{subset}_ciou"].value == pytest.approx(sum(one.intersection for one in outcomes) / union)
    assert found["total_giou"] == run.summary.metrics["giou"]
    assert main(["tables", str(run.path), "--table", name]) == 0
    printed = capsys.readouterr().out
    assert f"upper {', '.join(subsets.frequent)} (" in printed
    assert main(["tables", str(run.path), "--table", name, "--format", "csv"]) == 0
    rows = [row for row in csv.DictReader(io.StringIO(capsys.readouterr().out)) if row["source"] == "ours"]
    by_key = {(row["question_type"], row["metric"]): row["value"] for row in rows}
    assert set(by_key) == {(group, metric) for group in ("all", "upper", "lower") for metric in ("giou", "ciou")}
    lower: Estimate = found["lower_giou"]
    assert lower.value is not None
    assert float(by_key["lower", "giou"]) == pytest.approx(100 * lower.value, abs=1e-4)


# ---- tag accuracies


def write_tags(folder: Path, **entries: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "teacher_forced.json").write_text(json.dumps(entries))
    return folder


def test_tag_accuracies_stand_beside_the_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = {"O": 0.9, "B": 0.25, "I": None}
    folder = write_tags(
        tmp_path / "causal", explanatory={"num_images": 3, "tags": tags, "tags_all_tokens": tags | {"O": 1}}
    )
    assert main(["tables", str(folder), str(folder / "teacher_forced.json"), "--table", "12"]) == 0
    lines = capsys.readouterr().out.splitlines()
    own = [line.split() for line in lines if line.startswith("causal")]
    assert [words[-3:] for words in own] == [["25.0", "-", "90.0"], ["25.0", "-", "100.0"]] * 2
    assert sum(line.startswith("PLUM (") for line in lines) == 4
    assert main(["tables", str(folder), "--table", "12", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["source"] for row in rows] == ["quoted"] * 12 + ["ours"] * 6
    assert (rows[-1]["metric"], rows[-1]["value"]) == ("O", "100.0000")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "has no kinds of conversation"),
        ('{"a": 3}', "a: not a result of"),
        ('{"a": {"num_images": 1}}', "a: not a result of"),
        ('{"a": {"num_images": 1, "tags": {"O": 2, "B": 0, "I": 0}, "tags_all_tokens": {}}}', "lies between 0 and 1"),
        ('{"a": {"num_images": 1, "tags": {"O": "x", "B": 0, "I": 0}, "tags_all_tokens": {}}}', "a: not a result of"),
        ('{"a": {"num_images": null, "tags": {}, "tags_all_tokens": {}}}', "a: not a result of"),
    ],
)
def test_a_damaged_file_of_tags_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "teacher_forced.json").write_text(content)
    assert main(["tables", str(tmp_path), "--table", "12"]) == 1
    error = capsys.readouterr().err
    assert "teacher_forced.json" in error
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_file_of_tags_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", str(tmp_path), "--table", "12"]) == 1
    assert "write it with `python -m plum teacher-forced --output" in capsys.readouterr().err
