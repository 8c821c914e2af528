"""The table of a comparison reads summaries of today's code and of earlier versions."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from partonomy.harness.summary import read_summary, write_summary
from partonomy.metrics.bootstrap import Estimate
from scripts.ablation_table import (
    PAIR_METRICS,
    TABLES,
    Comparison,
    compare,
    describe_findings,
    holm,
    main,
    read_value,
)
from tests.golden.stored_runs import FOLDER

COLUMNS = {column.heading: column for columns in TABLES["sisters"].values() for column in columns}


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize(
    ("heading", "stored", "group", "metric"),
    [
        ("parts accuracy", "plum", "identification_with_label", "parts_accuracy"),
        ("giou", "mmr_generate", "all", "giou"),
    ],
)
def test_numbers_are_those_of_the_summary(  # noqa: PLR0917  (pytest passes by name)
    tmp_path: Path, heading: str, stored: str, group: str, metric: str, is_old: bool
) -> None:
    column = COLUMNS[heading]
    target = tmp_path / column.file
    target.parent.mkdir(parents=True)
    shutil.copy(FOLDER / stored / "summary.json", target)
    assert "schema" not in json.loads(target.read_text())
    summary = read_summary(target)
    if not is_old:
        write_summary(summary, target)
    value = summary.groups[group].metrics[metric].value
    assert value is not None
    assert read_value(tmp_path, column) == value


def test_an_interval_of_three_seeds_by_hand() -> None:
    """Mean .02, deviation .01, so that the half width is 4.3027 x .01 / sqrt(3) and t is 3.4641."""
    one = compare("dice", "B", [0.01, 0.02, 0.03])
    assert one is not None
    assert (one.low, one.high) == pytest.approx((0.02 - 0.024841, 0.02 + 0.024841), abs=1e-6)
    assert one.p_value == pytest.approx(0.0742, abs=1e-4)
    assert compare("dice", "B", [0.01]) is None
    assert compare("dice", "B", [0.25, 0.25]) is None, "two equal differences are no certainty"


def test_holm_by_hand() -> None:
    """Of p-values .01, .02, .03, .005: times 4, 3, 2 and 1 from the smallest on, never falling."""
    given = [Comparison(name, "B", 0.1, 0.2, p) for name, p in (("a", 0.01), ("b", 0.02), ("c", 0.03), ("d", 0.005))]
    adjusted = holm(given)
    assert [one.variant for one, _ in adjusted] == ["d", "a", "b", "c"]
    assert [p for _, p in adjusted] == pytest.approx([0.02, 0.03, 0.04, 0.04])
    text = describe_findings([*given, *[Comparison("e", "B", -0.1, 0.2, 0.9)] * 6])
    assert text.startswith("4 of 10 intervals exclude 0; 0.5 would by chance")
    assert text.endswith(":\n- none")  # .005 x 10 is .05: not below it
    assert "- d, B: [+0.100, +0.200], p = 0.02" in describe_findings(given)


def test_pairs_have_a_table_per_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Means over seeds and differences paired by seed, of summaries alone."""
    mixed = read_summary(FOLDER / "mmr_generate" / "summary.json")
    for variant, values in {"calico": (0.5, 0.6), "mi_lisa": (0.4, 0.45)}.items():
        for seed, value in enumerate(values, 1):
            names = [
                f"{task}{name}"
                for task in ("", "common_objects_", "common_parts_", "unique_parts_")
                for _, name in PAIR_METRICS
            ]
            metrics = {name: Estimate(value + number / 100, 0.0, 1.0, 9) for number, name in enumerate(names)}
            group = replace(mixed.groups["all"], metrics=metrics)
            (tmp_path / f"{variant}_seed{seed}").mkdir()
            write_summary(replace(mixed, groups={"all": group}), tmp_path / f"{variant}_seed{seed}" / "summary.json")
    main(tmp_path, "calico", TABLES["pairs"])
    printed = capsys.readouterr().out
    assert printed.count("| variant | seeds | AP50 | mIoU | recall | SS | S-IoU |") == 4
    assert "| calico | 2 | 0.550 | 0.560 | 0.570 | 0.580 | 0.590 |" in printed
    assert "| calico | 2 | 0.700 | 0.710 | 0.720 | 0.730 | 0.740 |" in printed.split("Unique parts")[1]
    low, high = -0.125 - 12.7062 * 0.025, -0.125 + 12.7062 * 0.025  # differences -.10 and -.15, one degree of freedom
    assert f"| mi_lisa | 2 | 0.425 [{low:+.3f}, {high:+.3f}] |" in printed
