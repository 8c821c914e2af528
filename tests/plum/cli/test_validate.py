import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from partonomy.__main__ import main as partonomy
from partonomy.benchmarks.segmentation import SegmentationTask
from partonomy.benchmarks.vqa import VqaTask
from partonomy.harness.run_folder import read_config
from partonomy.models.contract import ReplyRequest
from plum.checkpoints.store import save_pretrained
from plum.cli.main import main
from plum.config import LoraConfig
from plum.inference.question_batch import QuestionBatch
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from tests.partonomy.benchmarks.vqa_world import write_gqa, write_pope, write_textvqa
from tests.plum.cli.benchmark_folders import write_segmentation_root
from tests.plum.data.miniature_world import miniature
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.unsigned import unsigned_lines


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    tokenizer = byte_level()
    config = with_special_tokens(tiny_model_config(len(tokenizer), lora=LoraConfig(rank=2)), tokenizer)
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_pretrained(build_model(config), tokenizer, folder, "A random model.")
    return str(folder)


@pytest.fixture
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a random model writes at length would take long."""
    for task in (SegmentationTask, VqaTask):
        monkeypatch.setattr(task, "MAX_NEW_TOKENS", 4)


def say(monkeypatch: pytest.MonkeyPatch, reply: str) -> None:
    """Put words in the model's mouth."""

    def answer(batch: QuestionBatch, requests: Sequence[ReplyRequest], max_new_tokens: int) -> list[str]:
        assert max_new_tokens == 4
        return [reply] * len(requests)

    monkeypatch.setattr(QuestionBatch, "reply", answer)


def validate(checkpoint: str, root: Path, output: Path, *arguments: str) -> int:
    flags = ["--root", str(root), "--checkpoint", checkpoint, "--output", str(output), "--device", "cpu"]
    return main(["validate", *arguments, *flags])


def read_summary(output: Path) -> dict[str, Any]:
    """The summary, with the counts and metrics of its one group beside it."""
    content: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return content | content["groups"]["all"]


@pytest.mark.usefixtures("_short_answers")
@pytest.mark.parametrize("mode", ["forced", "generated"])
@pytest.mark.parametrize("benchmark", ["refcoco", "refcocog", "reasonseg"])
def test_segmentation(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], benchmark: str, mode: str
) -> None:
    write_segmentation_root(tmp_path / "data")
    output = tmp_path / "run"
    assert validate(checkpoint, tmp_path / "data", output, benchmark, "--split", "val", "--mode", mode) == 0
    named = ", target named" if (benchmark, mode) == ("reasonseg", "forced") else ""
    assert f"{benchmark} val (%), {mode}{named}, model" in capsys.readouterr().out
    summary = read_summary(output)
    assert (summary["num_expected"], summary["num_failed"]) == (2, 0)
    records = [json.loads(line) for line in (output / "records.jsonl").read_text().splitlines()]
    ious = [record["mask"]["intersection"] / max(record["mask"]["union"], 1) for record in records]
    assert summary["metrics"]["giou"]["value"] == pytest.approx(np.mean(ious))
    assert all((record["reply"] is None) == (mode == "forced") for record in records)


@pytest.mark.usefixtures("_short_answers")
def test_forced_masks_are_those_of_the_predictor(checkpoint: str, tmp_path: Path) -> None:
    write_segmentation_root(tmp_path / "data")
    validate(checkpoint, tmp_path / "data", tmp_path / "run", "reasonseg")
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    # the union holds at most the target (19 x 17 pixels, outline included) without the ignored 5 x 5, and the rest
    assert all(record["mask"]["union"] <= 32 * 24 - 25 for record in records)
    assert [record["prompt"] for record in records] == [
        "Can you segment what holds tea?",
        "Where would you pour tea? Please segment it.",
    ]
    assert validate(checkpoint, tmp_path / "data", tmp_path / "lisa", "reasonseg", "--wording", "lisa") == 0
    assert read_summary(tmp_path / "lisa")["protocol"] == "forced, lisa wording, target named"
    assert validate(checkpoint, tmp_path / "data", tmp_path / "old", "reasonseg", "--answers", "the_target") == 0
    assert read_summary(tmp_path / "old")["protocol"] == "forced"
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["options"]["answers"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path / "old").read_options().answers == "the_target", "what runs did before the option"


@pytest.mark.usefixtures("_short_answers")
def test_textvqa_under_every_protocol(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_textvqa(tmp_path / "data")
    say(monkeypatch, "It is nokia")
    expected = {
        "llava_official": (("textvqa",), 0.0, "\nReference OCR token: DAKOTA, Single-Use\n"),
        "llava_official, no OCR tokens": (("textvqa", "--no_ocr"), 0.0, "?\nAnswer"),
        "partonomy_compat, no OCR tokens": (("textvqa", "--protocol", "partonomy_compat"), 1.0, "? Answer"),
    }
    for number, (protocol, (arguments, value, prompt)) in enumerate(expected.items()):
        output = tmp_path / str(number)
        assert validate(checkpoint, tmp_path / "data", output, *arguments) == 0
        summary = read_summary(output)
        assert (summary["protocol"], summary["metrics"]["accuracy"]["value"]) == (protocol, value)
        assert prompt in json.loads((output / "records.jsonl").read_text().splitlines()[0])["prompt"]


@pytest.mark.usefixtures("_short_answers")
def test_gqa_and_pope(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gqa(tmp_path / "gqa")
    write_pope(tmp_path / "pope")
    say(monkeypatch, "Yes.")
    assert validate(checkpoint, tmp_path / "gqa", tmp_path / "run_gqa", "gqa") == 0
    gqa = read_summary(tmp_path / "run_gqa")
    assert gqa["split"] == "testdev"
    assert {name: entry["value"] for name, entry in gqa["metrics"].items()} == {
        "accuracy": pytest.approx(1 / 3),
        "accuracy_binary": 1.0,
        "accuracy_open": 0.0,
    }
    assert validate(checkpoint, tmp_path / "pope", tmp_path / "run_pope", "pope") == 0
    pope = read_summary(tmp_path / "run_pope")
    # always yes: precision 1/2, recall 1, F1 2/3 in every category
    assert (pope["headline"], pope["num_expected"]) == ("mean_f1", 6)
    assert math.isclose(pope["metrics"]["mean_f1"]["value"], 2 / 3)
    assert pope["metrics"]["adversarial_yes_ratio"]["value"] == 1.0
    compat = ("pope", "--protocol", "partonomy_compat", "--limit", "1")
    assert validate(checkpoint, tmp_path / "pope", tmp_path / "run_compat", *compat) == 0
    pooled = read_summary(tmp_path / "run_compat")
    assert (pooled["num_expected"], pooled["metrics"]["accuracy"]["value"]) == (3, 1.0)  # the first of each is "yes"


@pytest.mark.usefixtures("_short_answers")
def test_retention_beside_the_base(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pope(tmp_path / "data")
    assert validate(checkpoint, tmp_path / "data", tmp_path / "plum", "pope", "--limit", "1") == 0
    assert validate(checkpoint, tmp_path / "data", tmp_path / "base", "pope", "--limit", "1", "--base") == 0
    assert "adapters off, only the first 1 items" in capsys.readouterr().out
    assert main(["retention", str(tmp_path / "plum"), str(tmp_path / "base")]) == 0
    printed = capsys.readouterr().out
    # fresh adapters change nothing
    assert "tiny, adapters off" in printed
    assert "(+0.0%)" in printed
    assert "PLUM-13B (ours)" in printed


def test_resume_and_refusals(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    write_segmentation_root(data)
    assert validate(checkpoint, data, tmp_path / "run", "reasonseg", "--limit", "1") == 0
    assert validate(checkpoint, data, tmp_path / "run", "reasonseg", "--limit", "1") == 1
    assert "--resume" in capsys.readouterr().err
    assert validate(checkpoint, data, tmp_path / "run", "reasonseg", "--limit", "1", "--resume") == 0
    assert validate(checkpoint, data, tmp_path / "run", "reasonseg", "--limit", "2", "--resume") == 1
    assert "limit (was 1, now 2)" in capsys.readouterr().err


@pytest.mark.distributed
def test_shards_and_workers_score_as_one_process(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = miniature()
    assert validate(checkpoint, root, tmp_path / "whole", "reasonseg", "--limit", "2") == 0
    assert validate(checkpoint, root, tmp_path / "procs", "reasonseg", "--limit", "2", "--num_procs", "2") == 0
    parts = [tmp_path / "part1", tmp_path / "part2"]
    capsys.readouterr()
    for number, part in enumerate(parts, start=1):
        assert validate(checkpoint, root, part, "reasonseg", "--limit", "2", "--shard", f"{number}/2") == 0
        assert f"Shard {number}/2" in capsys.readouterr().out
    assert partonomy(["merge-runs", *map(str, parts), "--output", str(tmp_path / "merged")]) == 0
    assert "reasonseg val (%), forced, target named, model" in capsys.readouterr().out
    whole = read_summary(tmp_path / "whole")
    for name in ("procs", "merged"):
        found = read_summary(tmp_path / name)
        assert found["metrics"] == whole["metrics"]
        lines = [unsigned_lines(tmp_path / folder / "records.jsonl") for folder in (name, "whole")]
        one, other = ([line | {"seconds": 0} for line in of_run] for of_run in lines)
        assert one == other


@pytest.mark.usefixtures("_short_answers")
@pytest.mark.parametrize(
    "case",
    [
        ("textvqa", (), 6),
        ("gqa", (), 6),
        ("gqa", ("--protocol", "partonomy_compat"), 6),
        ("pope", (), 36),
        ("refcoco", ("--split", "testA", "--mode", "generated"), 3),
        ("refcoco+", ("--split", "testB"), 3),
        ("refcocog", ("--split", "test"), 6),
        ("reasonseg", ("--split", "test"), 2),
    ],
)
def test_the_miniature_has_every_benchmark(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: tuple[str, tuple[str, ...], int]
) -> None:
    name, arguments, num_items = case
    root = miniature() / name if name in ("textvqa", "gqa", "pope") else miniature()
    assert validate(checkpoint, root, tmp_path / "run", name, *arguments) == 0
    summary = read_summary(tmp_path / "run")
    assert (summary["num_expected"], summary["num_failed"]) == (num_items, 0)
    printed = capsys.readouterr().out
    assert f"(%), {summary['protocol']}, model" in printed
    assert "Images of this benchmark that the model was trained on: unknown" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("refcoco", "--shard", "3/2"), "--shard '3/2': give NUMBER/COUNT"),
        (("refcoco", "--num_procs", "0"), "--num_procs must be at least 1"),
        (("refcoco", "--limit", "0"), "--limit must be at least 1"),
        (("pope", "--split", "val"), "no split 'val'"),
        (("textvqa",), "TextVQA_0.5.1_val.json"),
        (("refcoco", "--split", "testA"), "no record belongs to the split 'testA'"),
        (("refcoco+",), "refcoco+"),
    ],
)
def test_wrong_use_is_told(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    write_segmentation_root(tmp_path / "data")
    assert validate(checkpoint, tmp_path / "data", tmp_path / "run", *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gqa", "--mode", "forced"), "--mode"),
        (("refcoco", "--protocol", "llava_official"), "--protocol"),
        (("pope", "--no_ocr"), "--no_ocr"),
        (("refcoco", "--annotations", "x.json"), "--annotations"),
        (("refcoco", "--mode", "union"), "invalid choice: 'union' (choose from 'forced', 'generated')"),
        (("mmr", "--mode", "forced"), "invalid choice: 'forced' (choose from 'teacher_forced', 'generate', 'union')"),
    ],
)
def test_flags_of_other_benchmarks_are_unknown(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        validate(checkpoint, tmp_path, tmp_path / "run", *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
