"""Stage 1 as shipped, on the miniature: every listed split used, one question of a type an image, 4 x 500 updates."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.store import load_questions
from plum.data.build import benchmark_images, build_mixture
from plum.data.mixture import BLOCK
from plum.data.sources.explanatory import ExplanatorySource
from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config
from scripts.make_miniature_data import main as make_miniature
from tests.partonomy.quick_fits import quick_fits

ROOT = Path(__file__).resolve().parents[3]
TYPES = ("identification_with_label", "positive_with_label", "negative_with_label")
SPLITS = ("partonomy_paco", "partonomy_part_imagenet", "partonomy_pascal_part")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What configs/plum_13b_ft.yaml reads, built from the miniature by the README's commands."""
    folder = tmp_path_factory.mktemp("miniature")
    command = ["--output", str(folder / "dataset"), "--size", "64", "--images", "36"]
    with quick_fits():  # which questions are asked does not depend on how their wrong answers are chosen
        make_miniature([*command, "--partonomy", str(folder / "data")])
    return folder


@pytest.fixture
def config(data: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """The shipped file, its relative paths turned to the miniature by where it is read."""
    shipped = load_train_config(["--config", str(ROOT / "configs" / "plum_13b_ft.yaml")])
    monkeypatch.chdir(data)
    return shipped


def test_four_epochs_of_500_updates(config: TrainConfig) -> None:
    assert config.num_updates == 4 * 500
    assert config.init_from == "runs/plum_13b_0shot/model"


def test_every_listed_split_is_used_in_equal_shares(config: TrainConfig) -> None:
    assert [source.path for source in config.data.sources] == [f"data/{name}/train" for name in SPLITS]
    mixture = build_mixture(config.data, config.seed)
    assert len(mixture.sources) == len(SPLITS)
    assert max(mixture.block_counts) - min(mixture.block_counts) <= 1
    drawn = Counter(mixture.locate(position).source for position in range(BLOCK))
    assert [drawn[i] for i in range(len(SPLITS))] == list(mixture.block_counts)
    names = {source.questions.name for source in mixture.sources if isinstance(source, ExplanatorySource)}
    assert len(names) == len(SPLITS)
    used = {mixture[position].sample_id.split("/")[0] for position in range(60)}
    assert used == names, "samples of every split come out"


def test_at_most_one_question_of_each_type_per_image(config: TrainConfig) -> None:
    mixture = build_mixture(config.data, config.seed)
    for source, split in zip(mixture.sources, SPLITS, strict=True):
        assert isinstance(source, ExplanatorySource)
        asked: defaultdict[str, set[str]] = defaultdict(set)
        for question in load_questions(Path("data", split, "train")).questions:
            asked[question.text].add(question.question_type)
        for index in range(len(source)):
            sample = source.sample(index, np.random.default_rng(index))
            assert 1 <= len(sample.conversations) <= len(TYPES) == config.data.conversations_per_image
            kinds = [asked[row[0].question] & set(TYPES) for row in sample.conversations]
            assert all(len(kind) == 1 for kind in kinds)
            assert len(set.union(*kinds)) == len(kinds), "no type twice"


def test_no_validation_image_is_trained_on(config: TrainConfig) -> None:
    images = benchmark_images(config.data)
    mixture = build_mixture(config.data, config.seed, images=images)
    held_out = {q.image_path.resolve() for name in SPLITS for q in load_questions(Path("data", name, "val")).questions}
    trained = {path.resolve() for path in images.kept}
    assert held_out
    assert trained
    assert not held_out & trained
    assert sum(len(source) for source in mixture.sources) >= len(trained)
