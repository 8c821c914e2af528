"""The table of a comparison reads summaries of today's code and of earlier versions."""

import json
import shutil
from pathlib import Path

import pytest

from partonomy.harness.summary import read_summary, write_summary
from scripts.ablation_table import TABLES, read_value
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
