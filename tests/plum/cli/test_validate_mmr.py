"""`plum validate` on MMR, multi-referring RefCOCO and RefCOCOm, for models of every system."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from partonomy.__main__ import main as partonomy
from partonomy.benchmarks.mmr import MultiTargetTask
from partonomy.benchmarks.segmentation import SegmentationTask
from plum.checkpoints.store import save_pretrained
from plum.cli.main import main
from tests.plum.data.miniature_world import miniature
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.models.systems.sisters_world import make_sister, seg_tokenizer, sister_config
from tests.plum.predictor_world import make_model

System = Literal["plum", "lisa", "m2sa"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[System, str]:
    folder = tmp_path_factory.mktemp("saved")
    save_pretrained(make_model(), byte_level(), folder / "plum", "A random model.")
    lisa = make_sister(sister_config("lisa", "single"))
    save_pretrained(lisa, seg_tokenizer(), folder / "lisa", "A random model.")
    save_pretrained(make_sister(sister_config("m2sa")), seg_tokenizer(), folder / "m2sa", "A random model.")
    return {"plum": str(folder / "plum"), "lisa": str(folder / "lisa"), "m2sa": str(folder / "m2sa")}


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a random model writes at length would take long."""
    for task in (SegmentationTask, MultiTargetTask):
        monkeypatch.setattr(task, "MAX_NEW_TOKENS", 4)


def validate(checkpoint: str, output: Path, *arguments: str) -> dict[str, Any]:
    flags = ["--root", str(miniature()), "--checkpoint", checkpoint, "--output", str(output), "--device", "cpu"]
    assert main(["validate", *arguments, *flags]) == 0
    path = output / "summary.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content | content["groups"]["all"] if content else {}


@pytest.mark.parametrize("mode", ["teacher_forced", "generate", "union"])
@pytest.mark.parametrize("system", ["plum", "lisa", "m2sa"])
def test_every_mode_for_every_system(
    checkpoints: dict[System, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], system: System, mode: str
) -> None:
    summary = validate(checkpoints[system], tmp_path / "run", "mmr", "--mode", mode)
    assert (summary["num_expected"], summary["num_failed"], summary["protocol"]) == (4, 0, mode)
    printed = capsys.readouterr().out
    assert f"mmr val (%), {mode}, model" in printed
    assert ("[SEG]" in printed) == (system != "plum")
    assert ('Masks: only the "union" metrics' in printed) == (system == "lisa")  # one [SEG] for a whole answer
    assert main(["mmr-tables", str(tmp_path / "run")]) == 0
    assert "LISA-Llama2-13B (tr)" in capsys.readouterr().out
    metrics = summary["metrics"]
    assert {"giou", "ciou", "giou_object", "ciou_part", "giou_mixed", "giou_single", "ciou_multiple"} <= set(metrics)
    if mode == "teacher_forced":
        assert metrics["missing_masks"]["value"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "num_items"),
    [
        (("mmr", "--split", "test_mixed"), 8),
        (("mmr", "--split", "test_obj_only"), 2),
        (("mmr", "--split", "test_part_only"), 4),
        (("multirefcoco", "--split", "val"), 1),
        (("multirefcocog", "--split", "test", "--mode", "union"), 2),
        (("refcocom", "--split", "testA_part"), None),
        (("refcocom", "--split", "testB", "--mode", "generated", "--limit", "2"), 2),
    ],
)
def test_the_miniature_has_every_split(
    checkpoints: dict[System, str], tmp_path: Path, arguments: tuple[str, ...], num_items: int | None
) -> None:
    summary = validate(checkpoints["plum"], tmp_path / "run", *arguments)
    assert summary["num_failed"] == 0
    assert summary["num_expected"] == num_items or num_items is None
    assert summary["headline"] == ("ciou" if arguments[0].startswith("multi") else "giou")


def test_another_file_and_shards(checkpoints: dict[System, str], tmp_path: Path) -> None:
    records = [
        record
        for split in ("val", "test_mixed")
        for record in json.loads((miniature() / "MMR" / f"MMR_{split}.json").read_text())
    ]
    (tmp_path / "mine.json").write_text(json.dumps(records))
    arguments = ("mmr", "--annotations", str(tmp_path / "mine.json"))
    whole = validate(checkpoints["plum"], tmp_path / "whole", *arguments)
    assert whole["num_expected"] == 12
    parts = [str(tmp_path / "part1"), str(tmp_path / "part2")]
    for number, part in enumerate(parts, start=1):
        assert validate(checkpoints["plum"], Path(part), *arguments, "--shard", f"{number}/2") == {}
    assert partonomy(["merge-runs", *parts, "--output", str(tmp_path / "merged")]) == 0
    content = json.loads((tmp_path / "merged" / "summary.json").read_text())
    merged = content | content["groups"]["all"]
    assert (merged["metrics"], merged["notes"]) == (whole["metrics"], whole["notes"])


def test_a_split_of_other_benchmarks_is_refused(
    checkpoints: dict[System, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--root", str(miniature()), "--checkpoint", checkpoints["plum"], "--output", str(tmp_path / "run")]
    assert main(["validate", "mmr", "--split", "testA", *flags]) == 1
    assert "mmr has no split 'testA'" in capsys.readouterr().err
