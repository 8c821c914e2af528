"""Validation during training: its scores, the best weights, the early stop, and that it changes nothing else."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from partonomy.masks import decode_mask
from partonomy.models.contract import Role, Turn
from plum.checkpoints.store import load_pretrained
from plum.data.build import build_mixture
from plum.inference.predictor import Predictor
from plum.train_config import DataConfig, SourceConfig, TrainConfig, ValidationConfig
from plum.training.run import train
from plum.training.smoke_overfit import smoke_config
from plum.training.trainer import Trainer
from plum.training.validation import HeldOutImages, Validation, find_distinct
from tests.plum.data.part_world import write_world
from tests.plum.deepspeed_groups import forget_deepspeed_groups
from tests.plum.training.launching import train_forked
from tests.plum.training.training_world import largest_difference, make_config, with_engine, write_inputs

SOURCES = {"part_referring": 0.9, "explanatory": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    write_inputs(folder)
    write_world(folder / "held_out")
    for path in sorted((folder / "held_out" / "images").iterdir()):  # other photographs of the same objects
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0, 0] = 255
        Image.fromarray(pixels).save(path)
    return folder


def with_validation(folder: Path, config: TrainConfig, **settings: object) -> TrainConfig:
    sources = (SourceConfig("part_referring", str(folder / "held_out")),)
    return replace(config, validation=ValidationConfig(sources, **({"every": 2, "limit": 4} | settings)))  # type: ignore[arg-type]


def read(config: TrainConfig) -> list[Validation]:
    lines = (Path(config.run_dir) / "validations.jsonl").read_text().splitlines()
    return [Validation(**json.loads(line)) for line in lines]


def scripted(monkeypatch: pytest.MonkeyPatch, scores: dict[int, float]) -> dict[int, dict[str, Tensor]]:
    """Let the validations after these updates have such micro-gIoUs; return the weights that they see."""
    seen: dict[int, dict[str, Tensor]] = {}

    def score(self: HeldOutImages, update: int) -> Validation:
        seen[update] = {name: tensor.clone() for name, tensor in self.objective.model.state_dict().items()}
        return Validation(update, 1.0 - scores[update], scores[update], 4, 9)

    monkeypatch.setattr(HeldOutImages, "score", score)
    return seen


def test_a_run_is_the_same_with_validation_and_without(folder: Path) -> None:
    plain = make_config(folder, "plain")
    validated = with_validation(folder, make_config(folder, "validated"), every=1)
    for config in (plain, validated):
        train(config)
    losses = [
        [json.loads(line)["loss_total"] for line in (Path(one.run_dir) / "metrics.jsonl").read_text().splitlines()]
        for one in (plain, validated)
    ]
    assert losses[0] == losses[1]
    found = read(validated)
    assert [one.update for one in found] == [0, 1, 2, 3, 4]
    finished = json.loads((Path(validated.run_dir) / "finished.json").read_text())
    assert finished["best_update"] == max(found, key=lambda one: one.micro_giou or 0.0).update


def test_scores_are_those_of_the_saved_model(folder: Path) -> None:
    config = with_validation(folder, make_config(folder, "scored"), every=4)
    train(config)
    start, found = read(config)
    assert (start.update, found.update) == (0, 4)
    loaded = load_pretrained(Path(config.run_dir) / "model")
    mixture = build_mixture(
        DataConfig(sources=(SourceConfig("part_referring", str(folder / "held_out")),)), seed=0, with_part_maps=False
    )
    predictor = Predictor(loaded.model, loaded.tokenizer, loaded.config)
    ious = [iou for position in range(4) for iou in sample_ious(predictor, mixture[position])]
    assert found.num_images == 4
    assert found.num_masks == len(ious) > 4
    assert found.micro_giou == pytest.approx(np.mean(ious), abs=1e-6)


def sample_ious(predictor: Predictor, sample: object) -> Iterator[float]:
    for conversation in sample.conversations:  # type: ignore[attr-defined]
        turns: list[Turn] = []
        for exchange in conversation:
            turns.append(Turn(Role.USER, exchange.question))
            if exchange.masks:
                predicted = predictor.segment(sample.image, turns, exchange.answer, exchange.spans).masks  # type: ignore[attr-defined]
                for mask, code in zip(predicted, exchange.masks, strict=True):
                    true = decode_mask(code).astype(bool)
                    yield float((mask & true).sum() / (mask | true).sum())
            turns.append(Turn(Role.ASSISTANT, exchange.answer))


@pytest.mark.parametrize(("metric", "best"), [("micro_giou", 2), ("loss", 2)])
def test_the_best_weights_are_saved(folder: Path, monkeypatch: pytest.MonkeyPatch, metric: str, best: int) -> None:
    config = with_validation(folder, make_config(folder, f"best_{metric}", num_updates=5), metric=metric)
    seen = scripted(monkeypatch, {0: 0.1, 2: 0.5, 4: 0.5, 5: 0.4})  # of equal ones the first
    train(config)
    run = Path(config.run_dir)
    saved = load_pretrained(run / "model").model.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in seen[best].items())
    assert any(not torch.equal(saved[name], tensor) for name, tensor in seen[5].items())
    assert json.loads((run / "finished.json").read_text())["best_update"] == best
    assert f"for {best} updates" in (run / "model" / "README.md").read_text()
    assert sorted(path.name for path in (run / "best").iterdir()) == [
        "update_000002.crc32",
        "update_000002.safetensors",
    ]


def test_patience_ends_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_validation(folder, make_config(folder, "patient", num_updates=12), patience=2)
    seen = scripted(monkeypatch, {0: 0.1, 2: 0.3, 4: 0.5, 6: 0.4, 8: 0.45})
    train(config)
    assert sorted(seen) == [0, 2, 4, 6, 8]
    finished = json.loads((Path(config.run_dir) / "finished.json").read_text())
    assert (finished["num_updates"], finished["best_update"]) == (8, 4)


def test_weights_that_training_made_worse_are_not_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_validation(folder, make_config(folder, "worse"))
    seen = scripted(monkeypatch, {0: 0.9, 2: 0.5, 4: 0.4})
    train(config)
    saved = load_pretrained(Path(config.run_dir) / "model").model.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in seen[0].items())


def test_without_patience_a_run_goes_to_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_validation(folder, make_config(folder, "endless", num_updates=8))
    seen = scripted(monkeypatch, {0: 0.1, 2: 0.5, 4: 0.4, 6: 0.3, 8: 0.2})
    train(config)
    assert sorted(seen) == [0, 2, 4, 6, 8]


def test_a_run_killed_around_a_validation_resumes_to_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = with_validation(folder, make_config(folder, "whole", num_updates=6), patience=2)
    killed = with_validation(folder, make_config(folder, "killed", num_updates=6), patience=2)
    scores = {0: 0.1, 2: 0.5, 4: 0.4, 6: 0.6}
    scripted(monkeypatch, scores)
    train(whole)
    validate = Trainer._validate
    for moment in ("before", "after"):

        def stop(trainer: Trainer, update: int, moment: str = moment) -> None:
            if moment == "after":
                validate(trainer, update)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_validate", stop)
            with pytest.raises(KeyboardInterrupt):
                train(killed)
    train(killed)
    assert read(killed) == read(whole)
    assert largest_difference(Path(whole.run_dir) / "model", Path(killed.run_dir) / "model") == 0.0


def test_a_stopped_run_that_was_killed_before_its_model_trains_no_further(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_validation(folder, make_config(folder, "stopped", num_updates=12), patience=1)
    seen = scripted(monkeypatch, {0: 0.1, 2: 0.5, 4: 0.4})
    with monkeypatch.context() as patch:
        patch.setattr("plum.training.run.save_pretrained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    train(config)
    assert sorted(seen) == [0, 2, 4]
    saved = load_pretrained(Path(config.run_dir) / "model").model.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in seen[2].items())


def test_images_of_the_validation_are_not_trained_on(folder: Path) -> None:
    """Questions are about the even images; the odd ones are in no validation."""
    config = make_config(folder, "overlap", num_updates=1)
    part_images = replace(config.data, sources=(SourceConfig("part_referring", str(folder / "world")),))
    validation = ValidationConfig((SourceConfig("explanatory", str(folder / "world")),))
    train(replace(config, data=part_images, validation=validation))
    listed = (Path(config.run_dir) / "training_images.json").read_text()
    assert [f"{number:03d}.png" in listed for number in range(6)] == [False, True] * 3


def test_deepspeed_validates_as_the_plain_engine(folder: Path) -> None:
    forget_deepspeed_groups()
    runs = [
        with_validation(folder, with_engine(make_config(folder, kind, num_updates=2), kind, 2, 2))
        for kind in ("plain", "deepspeed")
    ]
    runs = [replace(one, run_dir=f"{one.run_dir}_engine") for one in runs]
    for config in runs:
        train(config)
    for plain, deepspeed in zip(*map(read, runs), strict=True):
        assert deepspeed.loss == pytest.approx(plain.loss, rel=1e-4)
        assert deepspeed.num_masks == plain.num_masks


@pytest.mark.distributed
@pytest.mark.parametrize("limit", [1, 3])
def test_two_ranks_count_each_image_once(folder: Path, limit: int) -> None:
    """With one image, the second rank has none; with three in micro-batches of two, one rank has a smaller one."""
    one, two = (
        with_validation(
            folder, with_engine(make_config(folder, f"{kind}_{limit}", num_updates=1), kind, 2, 1), limit=limit
        )
        for kind in ("plain", "deepspeed")
    )
    train(one)
    train_forked(two, num_ranks=2)
    single, several = read(one), read(two)
    assert (single[0].update, several[0].update) == (0, 0)
    assert several[0].num_images == single[0].num_images == limit
    assert several[0].num_masks == single[0].num_masks > 0
    assert several[0].loss == pytest.approx(single[0].loss, rel=1e-5)
    assert several[0].micro_giou == pytest.approx(single[0].micro_giou, rel=1e-5)
    assert [validation.num_images for validation in several] == [limit, limit]


def test_the_loss_is_the_mean_over_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images are a micro-batch of two and one of one."""
    config = with_validation(folder, with_engine(make_config(folder, "mean", num_updates=1), "plain", 2, 1), limit=3)
    monkeypatch.setattr("plum.training.validation.compute_losses", lambda output, batch, losses: len(batch.frames))
    monkeypatch.setattr("plum.training.validation.weighted_sum", lambda number, losses: number)
    train(config)
    assert [validation.loss for validation in read(config)] == pytest.approx([(2 * 2 + 1) / 3] * 2)


def test_a_validation_takes_each_record_of_its_sources_once(folder: Path) -> None:
    sources = tuple(SourceConfig(name, str(folder / "held_out"), weight) for name, weight in SOURCES.items())
    mixture = build_mixture(DataConfig(sources=sources), seed=0, with_part_maps=False)
    number = sum(len(source) for source in mixture.sources)
    for limit in (1, number - 1, number, number + 5):
        draws = [mixture.locate(position) for position in find_distinct(mixture, limit)]
        assert len({(draw.source, draw.index) for draw in draws}) == len(draws) == min(limit, number)


def test_a_smoke_run_does_not_validate(folder: Path) -> None:
    assert smoke_config(with_validation(folder, make_config(folder, "smoke")), 8, 1, None).validation is None
