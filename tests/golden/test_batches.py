"""A model that takes batches gives the records that it gives item by item."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from partonomy.benchmarks.grefcoco import GrefcocoOptions
from partonomy.benchmarks.instruct_part import Instruction, InstructPartOptions
from partonomy.benchmarks.registry import find_benchmark
from partonomy.benchmarks.segmentation import SegmentationMode
from partonomy.benchmarks.task import AnyTask, Record, Source
from partonomy.harness.asking import answer_items
from partonomy.models.contract import BatchedModel, Generation, GroundedModel, Turn
from partonomy.models.registry import ModelSettings, build_model
from partonomy.structures import CharSpan, ChoiceScore
from tests.golden.world import World

MAX_NEW_TOKENS = 64


class PlainModel:
    """The three methods of a model, and nothing that takes batches."""

    def __init__(self, model: GroundedModel) -> None:
        self._model = model
        self.name = model.name

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        return self._model.score_choices(image, turns, choices)

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        return self._model.segment(image, turns, answer, spans)

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        return self._model.generate(image, turns)


@pytest.fixture(scope="module")
def model(world: World) -> GroundedModel:
    settings = ModelSettings(model="plum", checkpoint=str(world.checkpoint), device="cpu").resolve(world.folder)
    return build_model(settings, 0, 0, MAX_NEW_TOKENS)


def answer(model: GroundedModel, task: AnyTask) -> list[Record]:
    """Ask all items in one batch of several images."""
    records = answer_items(model, task, [tuple(task.items)], lambda item: True)
    return [replace(record, seconds=0.0) for record in records]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grefcoco", GrefcocoOptions()),
        ("instructpart", InstructPartOptions()),
        ("instructpart", InstructPartOptions(SegmentationMode.GENERATED, instruction=Instruction.PART_NAME)),
    ],
)
def test_batches_and_single_items(world: World, model: GroundedModel, name: str, options: Any) -> None:
    task = find_benchmark(name).read(Source(world.miniature, limit=6), options)
    assert len({item.image_id for item in task.items}) > 1
    plain = PlainModel(model)
    assert isinstance(model, BatchedModel)
    assert not isinstance(plain, BatchedModel)
    batched, single = answer(model, task), answer(plain, task)
    assert all(record.is_scored for record in batched)
    assert batched == single
