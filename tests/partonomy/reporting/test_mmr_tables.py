"""The MMR paper's rows as quoted, and runs beside them."""

import csv
import math
from importlib import resources
from pathlib import Path

import pytest

from partonomy.harness.summary import GroupSummary, Summary, write_summary
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.paper_tables.mmr_tables import load_mmr_runs, mmr_table, table_of
from partonomy.table_format import Table, TableFormat, render_table


def quoted(number: int) -> list[dict[str, str]]:
    text = resources.files("partonomy").joinpath(f"paper_rows/mmr_table{number}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def make_run(benchmark: str, split: str, protocol: str = "teacher_forced") -> Summary:
    estimate = Estimate(0.5, 0.4, 0.6, 7)
    model = {"model": "plum", "checkpoint": "runs/a/model", "base": False}
    config = {"model": model, "checkpoint_hash": "c0", "limit": None, "content_hash": None}
    provenance = {"config": config, "dataset": {"name": f"{benchmark} {split}", "content_hash": "0"}}
    group = GroupSummary("all", 7, 7, 0, {}, {"giou": estimate, "ciou": estimate})
    return Summary(benchmark, split, protocol, "multi-target-1.0", "giou", provenance, 1.0, {"all": group})


@pytest.mark.parametrize(
    ("number", "num_rows", "num_numbers", "num_dashes", "total"),
    # Counts and sums of all numbers, taken from the text of the paper and not from the files.
    [(2, 10, 80, 0, 2054.6), (3, 13, 90, 14, 5981.8), (4, 6, 48, 0, 2235.3), (5, 12, 72, 0, 1803.4)],
)
def test_every_number_is_quoted(number: int, num_rows: int, num_numbers: int, num_dashes: int, total: float) -> None:
    rows = quoted(number)
    cells = [value for row in rows for name, value in row.items() if name not in ("method", "source")]
    assert {row["source"] for row in rows} == {"quoted"}
    numbers = [float(cell) for cell in cells if cell]
    assert (len(rows), len(numbers), len(cells) - len(numbers)) == (num_rows, num_numbers, num_dashes)
    assert math.fsum(numbers) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize(
    ("number", "method", "column", "value"),
    [
        (2, "M2SA-7B", "test_part_only_giou", "13.5"),
        (2, "LISA-Llama2-13B (tr)", "val_ciou", "33.4"),
        (2, "GSVA-7B (tr)", "test_mixed_ciou", "34.5"),
        (3, "X-Decoder", "refcocog_val", "64.6"),
        (3, "GLaMM", "refcoco+_testA", "78.7"),
        (4, "M2SA-Llama2-13B", "multirefcocog_test", "65.8"),
        (5, "UniRES", "testB_object_and_part", "41.7"),
        (5, "M2SA-7B", "val_part", "22.4"),
    ],
)
def test_quoted_numbers(number: int, method: str, column: str, value: str) -> None:
    assert next(row for row in quoted(number) if row["method"] == method)[column] == value


def cells_of(table: Table, method: str) -> dict[str, str]:
    row = next(row for row in table.rows if row.cells[0] == method)
    return dict(zip(table.headings, row.cells, strict=True))


def test_runs_stand_beside_the_papers_rows() -> None:
    runs = [make_run("mmr", "val"), make_run("mmr", "test_mixed"), make_run("mmr", "val", "generate")]
    table = mmr_table(2, runs)
    assert [row.group for row in table.rows] == ["paper (quoted)"] * 10 + ["runs"] * 2
    forced = cells_of(table, "model")
    assert forced["Protocol"] == "teacher_forced"
    assert (forced["val giou"], forced["test_mixed ciou"], forced["test_obj_only giou"]) == ("50.0", "50.0", "-")
    assert cells_of(table, "M2SA-7B")["val giou"] == "27.8"
    text = render_table(table, TableFormat.TEXT)
    assert "generate" in text
    assert "40.0" in text  # the interval


def test_every_benchmark_has_its_table() -> None:
    assert [table_of(name) for name in ("mmr", "refcoco+", "multirefcocog", "refcocom", "reasonseg")] == [
        2,
        3,
        4,
        5,
        None,
    ]
    parts = mmr_table(5, [make_run("refcocom", "val_part", "forced"), make_run("refcocom", "val", "forced")])
    assert cells_of(parts, "model")["val part"] == cells_of(parts, "model")["val object_and_part"] == "50.0"
    assert cells_of(mmr_table(4, [make_run("multirefcoco", "testA")]), "model")["multirefcoco testA"] == "50.0"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"two runs report the same results \(mmr val, teacher_forced\); pass only "
        r"one",
    ):
        mmr_table(2, [make_run("mmr", "val"), make_run("mmr", "val")])
    for name, split in (("pope", "all"), ("mmr", "train"), ("refcocom", "odd")):
        (tmp_path / name).mkdir()
        write_summary(make_run(name, split), tmp_path / name / "summary.json")
        with pytest.raises(ValueError, match=f"is a run on {name} {split}, which none of the tables includes"):
            load_mmr_runs([tmp_path / name])
