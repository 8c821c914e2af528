from pathlib import Path

import pytest

from partonomy.benchmarks.segmentation import SegmentationMode
from partonomy.harness.summary import GroupSummary, Summary
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.paper_tables.retention_table import load_quoted_retention, load_retention_runs, retention_table
from partonomy.table_format import TableFormat, render_table
from tests.partonomy.benchmark_world import ScriptedModel, make_config, refcoco_task, run_task


def summary(
    benchmark: str, value: float, is_base: bool = False, protocol: str = "llava_official", content: str = "x"
) -> Summary:
    model = {"model": "plum", "checkpoint": "runs/plum-7b", "base": is_base}
    config = {"model": model, "checkpoint_hash": "c0ffee", "content_hash": content, "limit": None}
    group = GroupSummary("all", 10, 10, 0, {}, {"accuracy": Estimate(value, value, value, 10)})
    return Summary(benchmark, "val", protocol, "vqa-1.0", "accuracy", {"config": config}, 1.0, {"all": group})


def test_the_papers_rows_with_their_changes() -> None:
    rows = retention_table([]).rows
    assert [row.cells[0] for row in rows] == ["LISA-13B", "PixelLM-13B", "LLaVA-13B", "PLUM-13B (ours)"]
    assert {row.group for row in rows} == {"paper (quoted)"}
    # the changes that the paper prints
    assert rows[0].cells[2:] == ("1.58 (-93.1%)", "1.33 (-97.4%)", "1.87 (-94.1%)")
    assert rows[1].cells[2:] == ("8.37 (-63.4%)", "21.72 (-57.6%)", "15.29 (-51.9%)")
    assert rows[2].cells[2:] == ("22.84", "51.27", "31.80")
    assert rows[3].cells[2:] == ("30.11 (+31.8%)", "39.18 (-23.6%)", "34.65 (+9.0%)")  # printed there as +8.9
    assert all(row.protocol == "quoted" for row in load_quoted_retention())


def test_runs_stand_under_their_own_backbone() -> None:
    runs = [
        summary("textvqa", 0.55),
        summary("textvqa", 0.5, is_base=True),
        summary("gqa", 0.6),
        summary("gqa", 0.3, protocol="partonomy_compat"),
    ]
    rows = retention_table(runs).rows[4:]
    assert [row.cells for row in rows] == [
        ("plum-7b, adapters off", "llava_official", "50.00", "-", "-"),
        ("plum-7b", "llava_official", "55.00 (+10.0%)", "60.00", "-"),
        ("plum-7b", "partonomy_compat", "-", "30.00", "-"),
    ]
    text = render_table(retention_table(runs), TableFormat.MARKDOWN)
    assert "adapters off" in text
    assert "Images that the model was trained on: textvqa unknown, gqa unknown." in text


def test_textvqa_without_ocr_says_so() -> None:
    runs = [summary("textvqa", 0.55, protocol="llava_official, no OCR tokens"), summary("gqa", 0.6)]
    (row,) = retention_table(runs).rows[4:]
    assert row.cells[1] == "llava_official, no OCR tokens"
    assert row.cells[2:] == ("55.00", "60.00", "-")


def test_what_does_not_compare_is_refused() -> None:
    with pytest.raises(ValueError, match=r"two runs report the same results \(gqa, llava_official\)"):
        retention_table([summary("gqa", 0.5), summary("gqa", 0.6)])
    with pytest.raises(ValueError, match="different items"):
        retention_table([summary("gqa", 0.5), summary("gqa", 0.6, is_base=True, content="y")])


def test_only_finished_runs_on_questions_are_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="output folder of a finished run"):
        load_retention_runs([tmp_path])
    task = refcoco_task(tmp_path, SegmentationMode.FORCED)
    run_task(task, make_config(task, tmp_path / "run"), ScriptedModel())
    with pytest.raises(ValueError, match="is a run on refcoco"):
        load_retention_runs([tmp_path / "run"])
    (tmp_path / "summary.json").write_text('{"protocol_version": "1"}')
    with pytest.raises(ValueError, match="not the summary of a run"):
        load_retention_runs([tmp_path])
