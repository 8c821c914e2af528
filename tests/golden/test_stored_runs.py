"""Folders that earlier code wrote are still read: by tables, compare, report, --resume and merge-runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from partonomy.__main__ import main as partonomy
from tests.golden.capture import MERGED_FILE, read_golden
from tests.golden.comparison import EXACT, NETWORK, check
from tests.golden.runs import benchmark_scores, partonomy_scores, untimed_records
from tests.golden.stored_runs import (
    FOLDER,
    TABLES,
    TABLES_FOLDER,
    copy_stored,
    merge_stored,
    print_table,
    run_stored,
)
from tests.golden.world import World

RESUMED = ("textvqa_base", "gqa")
OTHER_PROTOCOL = ("random", "damaged", "plum", "plum_listwise", "refcoco", "mmr_generate")
"""Runs of benchmarks whose counting has changed since."""


@pytest.fixture(autouse=True)
def _in_the_world(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_same_text(name: str) -> None:
    assert print_table(TABLES[name]) == (TABLES_FOLDER / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["random", "plum", "damaged"])
def test_report(name: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert partonomy(["report", str(FOLDER / name), "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "data:image" in text, "the questions and their photographs are found"
    asked = [record["question_id"] for record in untimed_records(FOLDER / name) if record["status"] == "scored"]
    assert any(question_id in text for question_id in asked)


@pytest.mark.parametrize("name", RESUMED)
def test_a_stopped_run_goes_on(world: World, tmp_path: Path, name: str) -> None:
    run = copy_stored(name, tmp_path)
    (run / "summary.json").unlink()
    lines = (run / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = len(lines) // 2
    (run / "records.jsonl").write_text("".join(lines[:kept]) + lines[kept][:50], encoding="utf-8")
    run_stored(name, run, "--resume")
    found, stored = untimed_records(run), untimed_records(FOLDER / name)
    assert found[:kept] == stored[:kept], "what is there is not asked again"
    assert [_identity(record) for record in found] == [_identity(record) for record in stored]
    check(_relative(benchmark_scores(world, run)), _relative(benchmark_scores(world, FOLDER / name)), NETWORK)


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize("name", OTHER_PROTOCOL)
def test_a_run_that_was_counted_otherwise_is_not_mixed_with_this_version(
    tmp_path: Path, name: str, is_finished: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_stored(name, tmp_path)
    if not is_finished:
        (run / "summary.json").unlink()
    with pytest.raises((SystemExit, RuntimeError)) as refusal:
        run_stored(name, run, "--resume")
    said = f"{refusal.value}{capsys.readouterr().err}"
    assert "protocol_version (was '" in said or "and the two do not mix" in said
    assert (run / "records.jsonl").read_bytes() == (FOLDER / name / "records.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["textvqa", "gqa"])
def test_a_finished_run_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    run = copy_stored(name, tmp_path)
    run_stored(name, run, "--resume")
    assert (run / "records.jsonl").read_bytes() == (FOLDER / name / "records.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["oracle", "pope"])
def test_shards_are_merged(world: World, tmp_path: Path, name: str) -> None:
    merged = merge_stored(name, tmp_path)
    asked = [_identity(record) for number in (1, 2) for record in untimed_records(FOLDER / f"{name}_shard{number}")]
    assert sorted(map(_identity, untimed_records(merged))) == sorted(asked)
    scores = (partonomy_scores if name == "oracle" else benchmark_scores)(world, merged)
    check(scores, read_golden(MERGED_FILE)[name], EXACT)


def _identity(record: dict[str, Any]) -> str:
    return str(record["question_id"] if "question_id" in record else record["item_id"])


def _relative(scores: dict[str, Any]) -> dict[str, Any]:
    """Reasons name images, relative to the world in the stored runs."""
    content: dict[str, Any] = json.loads(json.dumps(scores).replace("WORLD/", ""))
    return content
