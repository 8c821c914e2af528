"""The CALICO paper's numbers beside runs on MixedParts."""

import csv
import io
from pathlib import Path

import pytest

from partonomy.quoted_rows import read_quoted
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.paper_tables.catalogue import PAPER_TABLES
from partonomy.reporting.paper_tables.paper_table import PaperTableStyle
from partonomy.reporting.tables import AUTO, result_tables, tidy_csv
from tests.partonomy.benchmarks.test_mixed_parts import OracleModel, config_of, pairs, run

__all__ = ["pairs"]  # the fixture
TASKS = ("common_objects", "common_parts", "unique_parts")


def test_the_means_are_those_of_the_tasks() -> None:
    rows = {(row["method"], row["task"]): row for row in read_quoted("mixedparts").rows}
    assert len(rows) == 13
    for name in ("ap50", "miou", "recall", "ss", "siou"):
        mean = sum(float(rows["CALICO", task][name]) for task in TASKS) / 3
        assert float(rows["CALICO", "mean"][name]) == pytest.approx(mean, abs=0.051)


def test_the_first_versions_means_and_its_swapped_columns() -> None:
    rows = read_quoted("mixedparts_v1").rows
    of_method: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        of_method.setdefault(row["method"], {})[row["task"]] = dict(row)
    assert {len(found) for found in of_method.values()} == {4}
    for found in of_method.values():
        for name in ("printed_miou", "printed_ap50", "recall", "ss", "siou"):
            mean = sum(float(found[task][name]) for task in TASKS) / 3
            assert float(found["mean"][name]) == pytest.approx(mean, abs=0.051)
    second = {row["method"]: row for row in read_quoted("mixedparts").rows}["VLPart (zero-shot)"]
    first = of_method["Multi-Image VLPart"]["mean"]
    assert abs(float(first["printed_ap50"]) - float(second["miou"])) < 1.5
    assert abs(float(first["printed_miou"]) - float(second["ap50"])) < 1.5
    # A recall of r at IoU 0.5 forces a mean IoU of about r/2 over the true masks, which the printed mIoU violates.
    objects = of_method["Multi-Image VLPart"]["common_objects"]
    assert float(objects["printed_miou"]) < float(objects["recall"]) / 2 < float(objects["printed_ap50"])


def test_runs_stand_below_the_quoted_rows(pairs: Path, tmp_path: Path) -> None:  # noqa: F811
    run(config_of(pairs, tmp_path / "run"), OracleModel())
    loaded = load_run(tmp_path / "run")
    table = result_tables([loaded], AUTO, PaperTableStyle())[0]
    own = [row for row in table.rows if row.group == "measured here"]
    assert [row.cells[3] for row in own] == ["mean", *TASKS]
    assert {cell for row in own for cell in row.cells[4:]} == {"100.0"}
    assert {row.cells[1] for row in table.rows if row.group != "measured here"} == {"quoted"}
    rows = list(csv.DictReader(io.StringIO(tidy_csv([loaded], "mixedparts", PaperTableStyle()))))
    assert [row["value"] for row in rows if row["method"] == "CALICO" and row["metric"] == "unique_parts_ss"] == [
        "80.1"
    ]
    assert PAPER_TABLES["mixedparts"].holds(loaded)
