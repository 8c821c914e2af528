"""A benchmark of either kind of record on the disk: what the harness does, it does for both."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from partonomy.benchmarks.pope import CATEGORIES
from partonomy.harness.run import configure_run
from partonomy.harness.run_folder import RunConfig
from partonomy.harness.summary import Summary
from partonomy.models.registry import ModelSettings
from partonomy.structures import QuestionType
from tests.partonomy.benchmarks.vqa_world import draw
from tests.partonomy.conftest import write_questions
from tests.partonomy.running import make_config

NUM_IMAGES = 4


@dataclass(frozen=True)
class World:
    """A benchmark with four images.

    Attributes:
        benchmark: Its name.
        root: Its data.
        per_image: Items of each image.
        setting: One of its options, with another value.
    """

    benchmark: str
    root: Path
    per_image: int
    setting: tuple[str, str]

    @property
    def num_items(self) -> int:
        """Items of all images."""
        return NUM_IMAGES * self.per_image

    @property
    def root_flag(self) -> str:
        """The flag that names the data."""
        return "--questions" if self.benchmark == "partonomy" else "--root"

    def config(self, output: Path, model: str = "random") -> RunConfig:
        """A run of a built-in model."""
        if self.benchmark == "partonomy":
            return make_config(self.root, output, model)
        config = RunConfig(
            benchmark=self.benchmark,
            split="",
            root=str(self.root),
            options={"protocol": "llava_official"},
            protocol="",
            protocol_version="",
            content_hash="",
            model=ModelSettings(model, device="cpu"),
            output=str(output),
            seed=3,
        )
        return configure_run(config, config.load_task())

    def with_other_setting(self, config: RunConfig) -> RunConfig:
        """The same run under another value of an option."""
        name, value = self.setting
        return dataclasses.replace(config, options={**config.options, name: value})


def write_pope_root(root: Path) -> Path:
    """A question of every category about each of four images."""
    (root / "coco").mkdir(parents=True)
    for category in CATEGORIES:
        lines = [
            {
                "question_id": number,
                "image": f"{number}.jpg",
                "text": f"Is there a {category} cup?",
                "label": ("yes", "no")[number % 2],
            }
            for number in range(NUM_IMAGES)
        ]
        path = root / "coco" / f"coco_pope_{category}.json"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number in range(NUM_IMAGES):
        draw(root / "val2014" / f"{number}.jpg", number)
    return root


@pytest.fixture(params=["partonomy", "pope"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Ten questions of Partonomy about each image, or three of POPE."""
    folder = tmp_path / "data"
    folder.mkdir()
    if request.param == "partonomy":
        path = write_questions(folder, tuple(QuestionType), NUM_IMAGES)
        return World("partonomy", path, len(QuestionType), ("part_whole", "predicted"))
    return World("pope", write_pope_root(folder / "pope"), len(CATEGORIES), ("protocol", "partonomy_compat"))


def numbers(summary: Summary | None) -> object:
    """Everything of a summary that is computed from records."""
    assert summary is not None
    return summary.groups, summary.notes
