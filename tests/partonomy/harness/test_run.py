"""A run asks every item once, records it in the order of the items, and says where its numbers come from."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks import task as task_module
from partonomy.benchmarks.partonomy.metrics import metric_names
from partonomy.benchmarks.partonomy.steps import Conditioning
from partonomy.benchmarks.partonomy.task import PartonomyOptions, PartonomyTask
from partonomy.benchmarks.segmentation import SegmentationMode
from partonomy.benchmarks.task import MAX_REASON
from partonomy.harness.ranks import Rank
from partonomy.harness.run import Job, check_task, run_benchmark
from partonomy.harness.summary import read_summary, summarize, summary_to_json
from partonomy.models.bounds import OracleModel
from partonomy.models.contract import GroundedModel, Turn
from partonomy.reporting.overview import overview
from partonomy.structures import ChoiceScore, QuestionSet, QuestionType, SkippedType
from tests.partonomy.benchmark_world import ScriptedModel, gqa_task, refcoco_task, run_task
from tests.partonomy.benchmark_world import make_config as task_config
from tests.partonomy.harness.conftest import World
from tests.partonomy.running import answer_records, make_config, run, run_model, stored_records, values


def test_oracle_scores_one_everywhere(question_file: Path, tmp_path: Path) -> None:
    summary = run(make_config(question_file, tmp_path / "run"))
    assert summary is not None
    assert len(summary.groups) == 10
    for entry in summary.groups.values():
        assert (entry.num_expected, entry.num_scored, entry.num_failed) == (4, 4, 0)
        for name, estimate in entry.metrics.items():
            assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0), (entry.name, name)


def test_empty_scores_zero_on_masks_and_chance_on_text(question_file: Path, tmp_path: Path) -> None:
    summary = run(make_config(question_file, tmp_path / "run", "empty"))
    assert set(values(summary, "giou_micro_paired") + values(summary, "ciou_union")) == {0.0}
    # All five choices tie, so that the right one counts a fifth, wherever it stands.
    assert set(values(summary, "parts_accuracy")) == {0.2}
    assert set(values(summary, "generated_parts_recall")) == {0.0}


def test_records_stand_in_the_order_of_the_items(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run")
    run(config)
    task = config.load_task()
    records = stored_records(tmp_path / "run")
    assert [record.item_id for record in records] == [item.item_id for item in task.items]
    assert len(records) == world.num_items
    for record, item in zip(records, task.items, strict=True):
        assert (record.image_id, record.image_path) == (item.image_id, str(item.picture.path))
        assert record.group == item.group
        assert record.seconds > 0


def test_each_image_is_loaded_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []
    original = task_module.load_image

    def load(path: Path, height: int, width: int) -> np.ndarray:
        loaded.append(path)
        return original(path, height, width)

    monkeypatch.setattr(task_module, "load_image", load)
    run(world.config(tmp_path / "run"))
    assert len(loaded) == len(set(loaded)) == 4


class RecordingModel(OracleModel):
    """Notes the conversations it is asked, and always prefers the last choice."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """The last choice is the most probable."""
        self.asked.append(tuple(turn.text for turn in turns))
        return [ChoiceScore(float(index), 1, float(index), 1) for index in range(len(choices))]


@pytest.mark.parametrize(
    ("part_whole", "answer"),
    [(Conditioning.GOLD, "It is a seaplane."), (Conditioning.PREDICTED, "It is a airship.")],
)
def test_second_question_follows_the_configured_answer(
    question_file: Path, tmp_path: Path, part_whole: Conditioning, answer: str
) -> None:
    model = RecordingModel()
    options = PartonomyOptions("whole_to_part", part_whole=part_whole)
    run_model(dataclasses.replace(make_config(question_file, tmp_path / "run", options=options), limit=1), model)
    assert [turns[:2] for turns in model.asked if len(turns) == 3] == [("What is the object in the image?", answer)]


def test_limit_counts_items_of_each_group(world: World, tmp_path: Path) -> None:
    summary = run(dataclasses.replace(world.config(tmp_path / "run"), limit=2))
    assert summary is not None
    assert summary.num_expected == 2 * world.per_image
    groups = [record.group for record in stored_records(tmp_path / "run")]
    assert {groups.count(group) for group in groups} == {2}


def test_type_without_questions_reports_zero_with_a_reason() -> None:
    skipped = (SkippedType(QuestionType.PART_TO_WHOLE, "a single object class", 7),)
    questions = QuestionSet("small", (), "hash", skipped=skipped)
    task = PartonomyTask("small", PartonomyOptions("part_to_whole,positive"), question_set=questions)
    summary = summarize(task, (), {}, seed=0)
    entry = summary.groups["part_to_whole"]
    assert (entry.num_expected, entry.reasons) == (0, {"a single object class": 7})
    assert summary.groups["positive"].reasons == {"the questions contain none of this type": 0}
    assert all(estimate.value is None and estimate.count == 0 for estimate in entry.metrics.values())


def test_scores_prompts_and_intervals_of_short_answers(tmp_path: Path) -> None:
    task = gqa_task(tmp_path)
    summary = run_task(task, task_config(task, tmp_path / "run"), ScriptedModel())
    assert summary is not None
    records = answer_records(tmp_path / "run")
    assert [record.score for record in records] == [1.0, 0.0] * 3
    assert records[0].prompt.endswith("\nAnswer the question using a single word or phrase.")
    assert (summary.num_expected, summary.num_failed) == (6, 0)
    accuracy = summary.metrics["accuracy"]
    # every image has one right of two, so that every resample gives the same
    assert (accuracy.value, accuracy.low, accuracy.high, accuracy.count) == (0.5, 0.5, 0.5, 6)
    described = {key: summary.provenance[key] for key in ("model", "dtype", "device")}
    assert described == {"model": "scripted", "dtype": "float32", "device": "cpu"}
    assert summary.provenance["config"]["content_hash"] == task.content_hash()
    text = overview(summary)
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
    model, task = ScriptedModel(num_tagged=num_tagged), refcoco_task(tmp_path, mode)
    summary = run_task(task, task_config(task, tmp_path / "run"), model)
    assert summary is not None
    assert (summary.protocol, summary.headline) == (mode.value, "ciou")
    assert summary.metrics["giou"].value == pytest.approx(sum(ious) / 2)
    # pixels of 18 x 24: both halves are 216, they share 108
    expected = (216 + 108) / (216 + 324) if ious[0] else 0.0
    assert summary.metrics["ciou"].value == pytest.approx(expected)
    assert model.forced == (["left", "upper"] if mode is SegmentationMode.FORCED else [])
    assert model.prompts == ["Can you segment left?", "Can you segment upper?"]
    assert f"refcoco val (%), {mode.value}" in overview(summary)


def test_intervals_come_from_images(tmp_path: Path) -> None:
    task = gqa_task(tmp_path, num_images=4)
    model = ScriptedModel(lambda prompt: "cat" if "What is 0" in prompt else "bird")
    summary = run_task(task, task_config(task, tmp_path / "run"), model)
    assert summary is not None
    accuracy = summary.metrics["accuracy"]
    assert accuracy.value == pytest.approx(1 / 8)
    # a resample draws image 0 (score 1/2) 0 to 4 times of 4; none of these is seldom
    assert accuracy.low == 0.0
    assert accuracy.high is not None
    assert 0.25 <= accuracy.high <= 0.5
    assert np.isclose((accuracy.high * 8) % 1, 0, atol=1e-6)


def test_the_content_hash_follows_content_and_not_place(tmp_path: Path) -> None:
    here, there = gqa_task(tmp_path / "here"), gqa_task(tmp_path / "there")
    assert here.content_hash() == there.content_hash()
    other = dataclasses.replace(here.items[0], answers=("bird",))
    assert dataclasses.replace(here, items=(other, *here.items[1:])).content_hash() != here.content_hash()
    masks = refcoco_task(tmp_path, SegmentationMode.FORCED)
    swapped = dataclasses.replace(masks.items[0], mask=masks.items[1].mask)
    assert dataclasses.replace(masks, items=(swapped, masks.items[1])).content_hash() != masks.content_hash()


def build_nothing(config: object, rank: Rank, max_new_tokens: int) -> GroundedModel:
    raise AssertionError("the model must not be built")


def test_a_wrong_folder_of_images_is_refused_before_the_model_is_built(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run")
    task = config.load_task()
    for path in {item.picture.path for item in task.items}:
        path.unlink()
    message = (
        f"no image of {world.benchmark} {task.split} was found; pass the folder of the data with {world.root_flag}"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        run_benchmark(Job(config, build_nothing), task, resume=False, rank=Rank())
    assert not (tmp_path / "run").exists()


def test_items_that_cannot_be_scored_once_each_are_refused(tmp_path: Path) -> None:
    task = gqa_task(tmp_path)
    with pytest.raises(ValueError, match="gqa testdev: two items share the id '0-cat'"):
        check_task(dataclasses.replace(task, items=(*task.items, task.items[0])))
    with pytest.raises(ValueError, match="gqa testdev: there are no items to ask"):
        check_task(dataclasses.replace(task, items=()))


def test_summary_has_exactly_the_published_schema(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run")
    summary = run(config)
    assert summary is not None
    data = json.loads((tmp_path / "run" / "summary.json").read_text())
    names = {"benchmark", "split", "protocol", "protocol_version", "headline", "notes"}
    assert set(data) == {"schema", *names, "provenance", "seconds_total", "groups"}
    assert data["schema"] == 2
    assert {name: data[name] for name in names} == {
        "benchmark": world.benchmark,
        "split": config.split,
        "protocol": config.protocol,
        "protocol_version": config.protocol_version,
        "headline": summary.headline,
        "notes": [],
    }
    assert isinstance(data["seconds_total"], float)
    types = {question_type.value for question_type in QuestionType}
    assert set(data["groups"]) == (types if world.benchmark == "partonomy" else {"all"})
    for name, entry in data["groups"].items():
        assert set(entry) == {"num_expected", "num_scored", "num_failed", "reasons", "metrics"}
        assert entry["num_expected"] == entry["num_scored"] + entry["num_failed"]
        if name != "all":
            assert tuple(entry["metrics"]) == metric_names(QuestionType(name))
        assert summary.headline in entry["metrics"]
        for metric, estimate in entry["metrics"].items():
            assert set(estimate) == {"value", "ci95", "n"}
            assert len(estimate["ci95"]) == 2
            assert estimate["ci95"][0] <= estimate["value"] <= estimate["ci95"][1], metric


def test_own_answers_are_asked_of_identification_with_label_alone_by_default(
    question_file: Path, tmp_path: Path
) -> None:
    summary = run(make_config(question_file, tmp_path / "run", "random", PartonomyOptions()))
    assert summary is not None
    generated = {name for name, entry in summary.groups.items() if entry.metrics["generated_parts_f1"].count > 0}
    assert generated == {"identification_with_label"}
    nothing = summary.groups["positive"].metrics["generated_parts_f1"]
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)


def test_provenance(world: World, tmp_path: Path) -> None:
    config = dataclasses.replace(world.config(tmp_path / "run"), seed=9)
    summary = run(config)
    assert summary is not None
    provenance = summary.provenance
    assert provenance["seed"] == 9
    assert provenance["config"]["model"]["model"] == "random"
    assert provenance["dataset"]["num_questions" if world.benchmark == "partonomy" else "num_items"] == world.num_items
    assert len(provenance["dataset"]["content_hash"]) == 64
    assert provenance["training_overlap"] == {"num_images": 4, "num_trained_on": 0}
    assert provenance["packages"]["numpy"] is not None
    assert {"code_commit", "code_is_modified", "dtype", "device", "python", "created"} <= set(provenance)
    assert provenance["model"] == "random"


def test_summary_survives_its_file(world: World, tmp_path: Path) -> None:
    summary = run(world.config(tmp_path / "run", "oracle"))
    assert summary is not None
    read = read_summary(tmp_path / "run" / "summary.json")
    assert read == summary
    assert summary_to_json(read) == summary_to_json(summary)


def test_unfinished_run_has_no_summary(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="finished run"):
        read_summary(tmp_path / "summary.json")


def test_reasons_are_kept_short(tmp_path: Path) -> None:
    def fail(prompt: str) -> str:
        raise RuntimeError("line\n" * 1000)

    task = gqa_task(tmp_path)
    summary = run_task(task, task_config(task, tmp_path / "run"), ScriptedModel(fail))
    assert summary is not None
    (reason,) = summary.groups["all"].reasons
    assert reason.startswith("RuntimeError: line line")
    assert len(reason) == MAX_REASON
