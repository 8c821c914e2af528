"""Questions with several targets through the runner: modes, failures, shards, what stands beside the scores."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.benchmarks.mmr import NO_PHRASE, NO_WORD, MultiTargetMode, MultiTargetOptions, MultiTargetTask
from partonomy.benchmarks.registry import find_benchmark
from partonomy.benchmarks.segmentation import Wording
from partonomy.benchmarks.task import Source
from partonomy.harness.merge_runs import merge_runs
from partonomy.harness.summary import Summary, read_summary
from partonomy.masks import rle_to_json
from partonomy.models.contract import Generation, Turn
from partonomy.reporting.overview import overview
from partonomy.structures import CharSpan, ChoiceScore
from tests.partonomy.benchmark_world import make_config, run_task
from tests.partonomy.datasets.mmr_file import HEIGHT, WIDTH, annotation, box, mmr_record, rle, write_records
from tests.partonomy.running import answer_records
from tests.unsigned import unsigned_lines

KNIFE, HANDLE = box(2, 2, 10, 4), box(2, 2, 4, 4)  # 40 and 16 pixels


class Cutlery:
    """Segments the handle where a handle is named, else the knife; its own answer names the handle and a fork."""

    def __init__(self) -> None:
        self.name, self.dtype, self.device = "cutlery", "float32", "cpu"
        self.prompts: list[str] = []
        self.forced: list[tuple[str, ...]] = []

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        raise NotImplementedError

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        self.prompts.append(turns[-1].text)
        phrases = tuple(answer[span.start : span.end] for span in spans)
        self.forced.append(phrases)
        return np.stack([HANDLE if "handle" in phrase else KNIFE for phrase in phrases])

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        self.prompts.append(turns[-1].text)
        spans = (CharSpan(4, 10), CharSpan(15, 21))
        return Generation("The handle and a fork.", spans, np.stack([HANDLE, box(14, 8, 2, 3)]), (1.0, 1.0))


class MarkingCutlery(Cutlery):
    """The same, writing [SEG]."""

    protocol_note = "answers carry [SEG]"
    has_mask_per_phrase = True

    def score_marked_choices(
        self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str], phrases: Sequence[Sequence[CharSpan]]
    ) -> list[ChoiceScore]:
        raise NotImplementedError


def write_root(root: Path, *records: dict[str, Any], num_images: int = 1) -> Path:
    """The knife of `mmr_file`, once per image; or these records."""
    made = records or tuple(
        mmr_record(image_id=number, file_name=f"train2017/{number}.png") for number in range(num_images)
    )
    write_records(root, *made)
    for record in made:
        path = root / "refer_seg/images/mscoco/images" / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)
    return root


def read(
    root: Path,
    mode: MultiTargetMode = MultiTargetMode.TEACHER_FORCED,
    wording: Wording = Wording.PLUM,
    annotations: Path | None = None,
    limit: int | None = None,
) -> MultiTargetTask:
    source = Source(root, "val", annotations, limit)
    task = find_benchmark("mmr").read(source, MultiTargetOptions(mode, wording))
    assert isinstance(task, MultiTargetTask)
    return task


def run(task: MultiTargetTask, output: Path, model: Cutlery) -> Summary:
    summary = run_task(task, make_config(task, output), model)
    assert summary is not None
    return summary


def values(summary: Summary) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in summary.metrics.items()}


def test_teacher_forced(tmp_path: Path) -> None:
    model = Cutlery()
    task = read(write_root(tmp_path))
    assert task.options == MultiTargetOptions()
    summary = run(task, tmp_path / "run", model)
    assert model.forced == [("knife", "knife's handle"), ("handle",)]
    assert model.prompts[0] == "What cuts bread, and where would you hold it? Please segment it."
    assert (summary.protocol, summary.headline, summary.num_failed) == ("teacher_forced", "giou", 0)
    found = values(summary)
    assert (found["giou"], found["ciou"], found["giou_mixed"], found["giou_part"]) == (1.0, 1.0, 1.0, 1.0)
    assert (found["giou_object"], found["missing_masks"]) == (None, 0.0)
    assert summary.metrics["giou"].count == 3
    text = overview(summary)
    assert "mmr val (%), teacher_forced, model" in text
    assert "3 targets: 0 without a mask, 0 masks without a target" in text
    assert [record.reply for record in answer_records(tmp_path / "run")] == [None, None]
    assert [record.truths for record in answer_records(tmp_path / "run")] == [
        ("knife", "knife:handle"),
        ("knife:handle",),
    ]
    assert read_summary(tmp_path / "run" / "summary.json") == summary


@pytest.mark.parametrize("mode", list(MultiTargetMode))
def test_codes_that_are_united_are_counted(tmp_path: Path, mode: MultiTargetMode) -> None:
    codes = [rle_to_json(rle(2, 2, 4, 4)), rle_to_json(rle(8, 2, 4, 4))]
    knife = annotation("knife", rle(2, 2, 10, 4), segmentation=codes)
    record = mmr_record(questions=["What?"], answers=[[knife]], text_answers=["The knife {seg}."])
    summary = run(read(write_root(tmp_path, record), mode), tmp_path / "run", Cutlery())
    assert summary.notes[0] == "1 targets have several codes in the file; each is scored as their union"


def test_seg_systems_put_their_token_where_the_gold_text_has_it(tmp_path: Path) -> None:
    model = MarkingCutlery()
    record = mmr_record(text_answers=["The knife {seg} and its grip, in wood, {seg} .", "{seg}"])
    summary = run(read(write_root(tmp_path, record)), tmp_path / "run", model)
    assert model.forced == [("knife", "wood,")]
    assert summary.notes == ("3 targets: 1 without a mask, 0 masks without a target", f"1 {NO_WORD}")
    assert "Protocol: answers carry [SEG]" in overview(summary)
    assert summary.provenance["answer_marks"] == {"note": "answers carry [SEG]", "has_mask_per_phrase": True}


def test_a_target_that_is_not_named_is_a_listed_failure(tmp_path: Path) -> None:
    """Of 40 + 16 + 16 pixels the second and the third are not asked for: 40 / 72."""
    record = mmr_record(text_answers=["The knife {seg} and its grip {seg}.", "There {seg}."])
    model = Cutlery()
    summary = run(read(write_root(tmp_path, record)), tmp_path / "run", model)
    assert model.forced == [("knife",)]  # the second question asks for nothing
    found = values(summary)
    assert (found["giou"], found["ciou"]) == (pytest.approx(1 / 3), 40 / 72)
    assert (found["ciou_predicted_only"], found["missing_masks"]) == (1.0, pytest.approx(2 / 3))
    assert summary.notes == ("3 targets: 2 without a mask, 0 masks without a target", f"2 {NO_PHRASE}")
    assert f"2 {NO_PHRASE}" in overview(summary)
    reasons = [[one.reason for one in record.targets] for record in answer_records(tmp_path / "run")]
    assert reasons == [[None, NO_PHRASE], [NO_PHRASE]]


def test_generate(tmp_path: Path) -> None:
    """Masks: the handle (16 pixels) and 6 elsewhere. First question: 0 / 46 and 16 / 16; second: 16 / 16 and 6 more."""
    model = Cutlery()
    summary = run(read(write_root(tmp_path), MultiTargetMode.GENERATE), tmp_path / "run", model)
    found = values(summary)
    assert found["giou"] == (0 + 1 + 1 + 0) / 4
    assert found["ciou"] == 32 / (46 + 16 + 16 + 6)
    assert (found["giou_mixed"], found["giou_single"], found["giou_multiple"]) == (0.5, 0.5, 0.5)
    assert (found["missing_masks"], found["extra_masks"]) == (0.0, pytest.approx(1 / 3))
    assert summary.notes == ("3 targets: 0 without a mask, 1 masks without a target",)
    assert [record.reply for record in answer_records(tmp_path / "run")] == ["The handle and a fork."] * 2
    assert [record.score for record in answer_records(tmp_path / "run")] == [0.5, 0.5]


def test_union(tmp_path: Path) -> None:
    """22 pixels predicted, of which 16 lie on the target: 16 / 46 of the knife, which holds its handle, and 16 / 22."""
    summary = run(read(write_root(tmp_path), MultiTargetMode.UNION), tmp_path / "run", Cutlery())
    found = values(summary)
    assert found["giou"] == pytest.approx((16 / 46 + 16 / 22) / 2)
    assert found["ciou"] == 32 / (46 + 22)
    assert (summary.metrics["giou"].count, summary.notes) == (2, ())
    assert "mmr val (%), union, model" in overview(summary)


def test_the_wording_of_lisa(tmp_path: Path) -> None:
    model = Cutlery()
    summary = run(read(write_root(tmp_path), wording=Wording.LISA), tmp_path / "run", model)
    assert model.prompts[1] == "Where is a grip? Please output segmentation mask."
    assert summary.protocol == "teacher_forced, lisa wording"


@pytest.mark.parametrize("mode", list(MultiTargetMode))
def test_failed_questions_score_0(tmp_path: Path, mode: MultiTargetMode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no answer")

    monkeypatch.setattr(Cutlery, "segment", fail)
    monkeypatch.setattr(Cutlery, "generate", fail)
    summary = run(read(write_root(tmp_path), mode), tmp_path / "run", Cutlery())
    assert (summary.num_failed, summary.groups["all"].reasons) == (2, {"RuntimeError: no answer": 2})
    assert (values(summary)["giou"], values(summary)["ciou"]) == (0.0, 0.0)
    areas = {MultiTargetMode.UNION: [40, 16]}.get(mode, [40, 16, 16])
    assert [one.union for record in answer_records(tmp_path / "run") for one in record.targets] == areas


def test_masks_of_another_size_fail_their_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small: Callable[..., np.ndarray] = lambda *arguments: np.zeros((2, 3, 3), dtype=bool)  # noqa: E731
    monkeypatch.setattr(Cutlery, "segment", small)
    summary = run(read(write_root(tmp_path)), tmp_path / "run", Cutlery())
    assert summary.num_failed == 2
    assert all("the annotation's size" in reason for reason in summary.groups["all"].reasons)


@pytest.mark.parametrize("mode", list(MultiTargetMode))
def test_shards_and_one_process_agree(tmp_path: Path, mode: MultiTargetMode) -> None:
    root = write_root(tmp_path / "data", num_images=3)
    task = read(root, mode)
    whole = run(task, tmp_path / "whole", Cutlery())
    parts = []
    for number in (1, 2):
        parts.append(tmp_path / f"part{number}")
        shard = dataclasses.replace(make_config(task, parts[-1]), root=str(root), shard=f"{number}/2")
        assert run_task(task, shard, Cutlery()) is None
    merged = merge_runs(parts, tmp_path / "merged", None, allow_missing=False).summary
    assert (merged.metrics, merged.notes) == (whole.metrics, whole.notes)
    untimed = [
        [line | {"seconds": 0} for line in unsigned_lines(tmp_path / name / "records.jsonl")]
        for name in ("merged", "whole")
    ]
    assert untimed[0] == untimed[1]


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    root = write_root(tmp_path / "data", num_images=2)
    task = read(root, MultiTargetMode.GENERATE)
    whole = run(task, tmp_path / "run", Cutlery())
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "records.jsonl").write_text("".join(lines[:2]) + lines[2][:40])
    (tmp_path / "run" / "summary.json").unlink()
    model = Cutlery()
    again = run_task(task, make_config(task, tmp_path / "run"), model, resume=True)
    assert again is not None
    assert (again.metrics, len(model.prompts)) == (whole.metrics, 2)


def test_the_gold_answer_belongs_to_the_content(tmp_path: Path) -> None:
    here = read(write_root(tmp_path / "a"))
    assert here.content_hash() == read(write_root(tmp_path / "b")).content_hash()
    other = write_root(tmp_path / "c", mmr_record(text_answers=["A knife {seg}, a handle {seg}.", "A handle {seg}."]))
    assert here.content_hash() != read(other).content_hash()


def test_another_file_in_the_splits_place(tmp_path: Path) -> None:
    root = write_root(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps([mmr_record(questions=["One?", "Two?"])]))
    task = read(root, annotations=tmp_path / "mine.json", limit=1)
    assert [item.text for item in task.items] == ["One?"]
