"""MMR on tiny models of every system: where [SEG] stands, and which modes read the gold answer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from partonomy.benchmarks.mmr import MultiTargetMode, MultiTargetOptions, MultiTargetTask, read_mmr_items
from partonomy.benchmarks.records import AnswerRecord
from partonomy.datasets.sources.mmr import mmr_file, read_mmr
from partonomy.images import load_image
from partonomy.masks import rle_area
from partonomy.models.contract import Role, Turn
from plum.inference.partonomy_adapter import PlumModel
from plum.inference.predictor import Predictor, WrittenAnswer
from plum.models.systems.seg_token import SEG_TOKEN
from tests.partonomy.running import records_of
from tests.plum.data.miniature_world import miniature, miniature_copy
from tests.plum.models.systems.sisters_world import make_sister, seg_tokenizer, sister_config
from tests.plum.predictor_world import QUESTION, make_predictor

System = Literal["plum", "lisa", "m2sa"]
SYSTEMS: tuple[System, ...] = ("plum", "lisa", "m2sa")
OWN_ANSWER = {
    "plum": "It has a wheel.",
    "lisa": f"It has a wheel {SEG_TOKEN} and a wing {SEG_TOKEN}.",
    "m2sa": f"It has a wheel {SEG_TOKEN} and a wing {SEG_TOKEN}.",
}


def make_model(system: System, monkeypatch: pytest.MonkeyPatch) -> PlumModel:
    """A random model whose own answer is given, so that it is short and has [SEG] tokens."""
    if system == "plum":
        predictor = make_predictor()
    else:
        model = make_sister(sister_config(system))
        predictor = Predictor(model, seg_tokenizer(), model.config)
    monkeypatch.setattr(Predictor, "write_about", lambda *arguments: WrittenAnswer(OWN_ANSWER[system], 8, "stop"))
    return PlumModel(predictor, system, max_new_tokens=8)


def make_task(root: Path, mode: MultiTargetMode) -> MultiTargetTask:
    return MultiTargetTask("mmr", "val", MultiTargetOptions(mode), read_mmr_items(root, "val"))


def ask(root: Path, mode: MultiTargetMode, model: PlumModel) -> list[AnswerRecord]:
    return [record for record in records_of(model, make_task(root, mode)) if isinstance(record, AnswerRecord)]


def rename_targets(root: Path) -> None:
    """Put a neutral word in the place of every target's name in the gold answers; `{seg}` stays."""
    path = mmr_file(root, "val")
    (image,) = read_mmr(path)
    records = json.loads(path.read_text())
    texts = []
    for question in image.questions:
        pieces = question.text_answer.split("{seg}")
        texts.append("".join(f"This thing {{seg}}{'.' if not piece.strip() else ''}" for piece in pieces[1:]))
    records[0]["text_answers"] = texts
    path.write_text(json.dumps(records))


def test_seg_stands_where_the_gold_text_has_it() -> None:
    model = make_sister(sister_config("lisa"))
    predictor = Predictor(model, seg_tokenizer(), model.config)
    (image,) = read_mmr(mmr_file(miniature(), "val"))
    for question, item in zip(image.questions, read_mmr_items(miniature(), "val"), strict=True):
        words = [word for word in item.answer.marked_words if word is not None]
        forced = predictor.answers.forced([predictor.encoder.slot()], QUESTION, item.answer.text, words)
        answer = forced.row.rendered.answers[-1]
        written = forced.row.rendered.text[answer.start : answer.end]
        assert written == question.text_answer.replace("{seg}", SEG_TOKEN)
        assert len(forced.spans) == len(item.targets) == question.num_marks
        assert forced.places.tolist() == list(range(len(item.targets)))


@pytest.mark.parametrize("system", SYSTEMS)
def test_only_teacher_forced_reads_the_gold_answer(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leak test: without the targets' names in the gold answers `generate` and `union` stay as they are."""
    root = miniature_copy(tmp_path / "data")
    model = make_model(system, monkeypatch)
    before = {mode: ask(root, mode, model) for mode in MultiTargetMode}
    rename_targets(root)
    after = {mode: ask(root, mode, model) for mode in MultiTargetMode}
    assert after[MultiTargetMode.GENERATE] == before[MultiTargetMode.GENERATE]
    assert after[MultiTargetMode.UNION] == before[MultiTargetMode.UNION]
    assert after[MultiTargetMode.TEACHER_FORCED] != before[MultiTargetMode.TEACHER_FORCED]
    num_masks = sum(one.is_predicted for record in before[MultiTargetMode.TEACHER_FORCED] for one in record.targets)
    assert num_masks == sum(len(record.truths) for record in before[MultiTargetMode.TEACHER_FORCED])
    if system == "plum":  # its phrases are the names, and nothing else is asked for
        assert all(not one.is_predicted for record in after[MultiTargetMode.TEACHER_FORCED] for one in record.targets)


@pytest.mark.parametrize("system", SYSTEMS)
def test_forced_masks_are_the_predictors(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(system, monkeypatch)
    task = make_task(miniature(), MultiTargetMode.TEACHER_FORCED)
    item = max(task.items, key=lambda one: len(one.targets))
    image = load_image(item.image_path, item.height, item.width)
    (record,) = records_of(model, replace(task, items=(item,)))
    assert isinstance(record, AnswerRecord)
    spans = item.answer.spans if system == "plum" else item.answer.marked_words
    phrases = [span for span in spans if span is not None]
    expected = model.predictor.segment(image, (Turn(Role.USER, record.prompt),), item.answer.text, phrases).masks
    areas = [int(np.count_nonzero(mask)) for mask in expected]
    assert len(areas) == len(item.targets) > 1
    assert [one.predicted and rle_area(one.predicted) for one in record.targets] == areas
