import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from partonomy.harness.benchmark_run import run_benchmark
from partonomy.harness.benchmark_summary import BenchmarkSummary, benchmark_overview, read_benchmark_summary
from partonomy.harness.benchmark_tasks import SegmentationTask, VqaTask
from partonomy.harness.item_records import record_from_line

from partonomy.benchmarks.segmentation import SegmentationMode
from partonomy.harness.ranks import Rank
from partonomy.models.contract import ModelUnavailable
from tests.partonomy.benchmark_world import ScriptedModel, gqa_task, make_config, refcoco_task


def run(
    task: VqaTask | SegmentationTask,
    output: Path,
    model: ScriptedModel,
    *,
    resume: bool = False,
    rank: Rank = Rank(),  # noqa: B008
    **changes: object,
) -> BenchmarkSummary | None:
    config = make_config(task, **changes)
    return run_benchmark(task, config, output, lambda rank: model, resume=resume, rank=rank)  # type: ignore[misc]


def comparable(path: Path) -> list[dict[str, object]]:
    """Records without the time they took."""
    lines = (path / "records.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def test_every_item_has_one_record_in_the_order_of_the_items(tmp_path: Path) -> None:
    task = gqa_task(tmp_path)
    summary = run(task, tmp_path / "run", ScriptedModel())
    assert summary is not None
    records = [record_from_line(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert [record.item_id for record in records] == [item.item_id for item in task.items]
    assert [record.score for record in records] == [1.0, 0.0] * 3
    assert records[0].prompt.endswith("\nAnswer the question using a single word or phrase.")
    assert (summary.num_expected, summary.num_scored, summary.num_failed) == (6, 6, 0)
    accuracy = summary.metrics["accuracy"]
    # every image has one right of two, so that every resample gives the same
    assert (accuracy.value, accuracy.low, accuracy.high, accuracy.count) == (0.5, 0.5, 0.5, 6)
    assert read_benchmark_summary(tmp_path / "run" / "summary.json") == summary
    described = {key: summary.provenance["model"][key] for key in ("name", "dtype", "device")}
    assert described == {"name": "scripted", "dtype": "float32", "device": "cpu"}
    assert summary.provenance["config"]["content_hash"] == task.content_hash()
    text = benchmark_overview(summary)
    assert "gqa testdev (%), llava_official" in text
    assert "50.0 - 50.0" in text


@pytest.mark.parametrize(
    ("mode", "num_tagged", "ious"),
    [
        # left half on left half; left half on upper half: a quarter of three quarters
        (SegmentationMode.FORCED, 0, (1.0, 1 / 3)),
        (SegmentationMode.GENERATED, 2, (1.0, 1 / 3)),
        (SegmentationMode.GENERATED, 0, (0.0, 0.0)),
    ],
)
def test_segmentation_modes(tmp_path: Path, mode: SegmentationMode, num_tagged: int, ious: tuple[float, float]) -> None:
    model = ScriptedModel(num_tagged=num_tagged)
    summary = run(refcoco_task(tmp_path, mode), tmp_path / "run", model)
    assert summary is not None
    assert (summary.protocol, summary.headline) == (mode.value, "ciou")
    assert summary.metrics["giou"].value == pytest.approx(sum(ious) / 2)
    # pixels of 18 x 24: both halves are 216, they share 108
    expected = (216 + 108) / (216 + 324) if ious[0] else 0.0
    assert summary.metrics["ciou"].value == pytest.approx(expected)
    assert model.forced == (["left", "upper"] if mode is SegmentationMode.FORCED else [])
    assert model.prompts == ["Can you segment left?", "Can you segment upper?"]
    assert f"refcoco val (%), {mode.value}" in benchmark_overview(summary)


def test_failures_score_0_with_their_reason(tmp_path: Path) -> None:
    task = gqa_task(tmp_path)
    task.items[2].image_path.unlink()
    task.items[4].image_path.write_bytes(b"no image")

    def fail_on_dogs(prompt: str) -> str:
        if "dog" in prompt:
            raise RuntimeError("out of memory")
        return "cat"

    summary = run(task, tmp_path / "run", ScriptedModel(fail_on_dogs))
    assert summary is not None
    assert summary.num_failed == 5
    assert summary.metrics["accuracy"].value == pytest.approx(1 / 6)
    assert summary.reasons["RuntimeError: out of memory"] == 1
    assert sum(summary.reasons.values()) == 5
    assert any("1.png: image file not found" in reason for reason in summary.reasons)
    assert "6 items, 5 failed" in benchmark_overview(summary)


def test_a_failed_mask_adds_its_target_to_the_union(tmp_path: Path) -> None:
    task = refcoco_task(tmp_path, SegmentationMode.GENERATED)

    def fail_on_upper(prompt: str) -> str:
        if "upper" in prompt:
            raise ValueError("no answer")
        return "the left one"

    summary = run(task, tmp_path / "run", ScriptedModel(fail_on_upper))
    assert summary is not None
    assert summary.metrics["giou"].value == 0.5
    assert summary.metrics["ciou"].value == pytest.approx(216 / (216 + 216))


def test_a_wrong_root_is_refused_before_the_model_is_built(tmp_path: Path) -> None:
    task = gqa_task(tmp_path)
    for item in task.items[::2]:
        item.image_path.unlink()
    with pytest.raises(FileNotFoundError, match="not one image of gqa testdev was found"):
        run(task, tmp_path / "run", ScriptedModel())
    with pytest.raises(ValueError, match="two items share an id"):
        run(dataclasses.replace(task, items=task.items * 2), tmp_path / "run", ScriptedModel())


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    task = gqa_task(tmp_path)
    run(task, tmp_path / "whole", ScriptedModel())

    def stop_at_two(prompt: str) -> str:
        if "What is 2" in prompt:
            raise ModelUnavailable("the server is gone")
        return "cat"

    with pytest.raises(ModelUnavailable):
        run(task, tmp_path / "run", ScriptedModel(stop_at_two))
    records = tmp_path / "run" / "records.jsonl"
    assert len(records.read_text().splitlines()) == 4
    records.write_text(records.read_text() + '{"item_id": "2-c')  # killed within a line
    with pytest.raises(FileExistsError, match="--resume"):
        run(task, tmp_path / "run", ScriptedModel())
    model = ScriptedModel()
    summary = run(task, tmp_path / "run", model, resume=True)
    assert summary is not None
    assert len(model.prompts) == 2
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")
    model = ScriptedModel()
    assert run(task, tmp_path / "run", model, resume=True) is not None
    assert model.prompts == []


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    task = gqa_task(tmp_path)
    run(task, tmp_path / "run", ScriptedModel())
    with pytest.raises(ValueError, match=r"checkpoint_hash \(was 'c0ffee', now 'tea'\)"):
        run(task, tmp_path / "run", ScriptedModel(), resume=True, checkpoint_hash="tea")
    moved = run(task, tmp_path / "run", ScriptedModel(), resume=True, root="elsewhere", checkpoint="moved/plum")
    assert moved is not None
    records = tmp_path / "run" / "records.jsonl"
    records.write_text("{}\n" + records.read_text())
    with pytest.raises(ValueError, match=r"records.jsonl, line 1: not the record of an item.*delete that line"):
        run(task, tmp_path / "run", ScriptedModel(), resume=True)


def test_ranks_give_the_numbers_of_one_process(tmp_path: Path) -> None:
    task = gqa_task(tmp_path, num_images=5)
    alone = run(task, tmp_path / "alone", ScriptedModel())
    models = [ScriptedModel(), ScriptedModel()]
    assert run(task, tmp_path / "ranks", models[0], rank=Rank(0, 2)) is None
    together = run(task, tmp_path / "ranks", models[1], rank=Rank(1, 2))
    assert alone is not None
    assert together is not None
    assert together.metrics == alone.metrics
    assert comparable(tmp_path / "ranks") == comparable(tmp_path / "alone")
    assert [len(model.prompts) for model in models] == [6, 4]  # images 0, 2, 4 and 1, 3


def test_the_content_hash_follows_content_and_not_place(tmp_path: Path) -> None:
    here, there = gqa_task(tmp_path / "here"), gqa_task(tmp_path / "there")
    assert here.content_hash() == there.content_hash()
    other = dataclasses.replace(here.items[0], answers=("bird",))
    assert dataclasses.replace(here, items=(other, *here.items[1:])).content_hash() != here.content_hash()
    masks = refcoco_task(tmp_path, SegmentationMode.FORCED)
    swapped = dataclasses.replace(masks.items[0], mask=masks.items[1].mask)
    assert dataclasses.replace(masks, items=(swapped, masks.items[1])).content_hash() != masks.content_hash()


def test_intervals_come_from_images(tmp_path: Path) -> None:
    task = gqa_task(tmp_path, num_images=4)
    summary = run(task, tmp_path / "run", ScriptedModel(lambda prompt: "cat" if "What is 0" in prompt else "bird"))
    assert summary is not None
    accuracy = summary.metrics["accuracy"]
    assert accuracy.value == pytest.approx(1 / 8)
    # a resample draws image 0 (score 1/2) 0 to 4 times of 4; none of these is seldom
    assert accuracy.low == 0.0
    assert accuracy.high is not None
    assert 0.25 <= accuracy.high <= 0.5
    assert np.isclose((accuracy.high * 8) % 1, 0, atol=1e-6)
