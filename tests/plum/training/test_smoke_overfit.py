"""Eight samples learnt by heart pass; what is not learnt, or learnt wrongly, fails and says why."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plum.config import TaggerConfig
from plum.data.build import build_mixture
from plum.inputs.tokenizer import train_tokenizer
from plum.models.tiny import tiny_model_config, tiny_sam2_config
from plum.structures import Exchange, Sample
from plum.train_config import LossConfig, OptimizerConfig, SourceConfig, TrainConfig
from plum.training.smoke_overfit import (
    FixedSamples,
    SmokeReport,
    pick_samples,
    run_smoke_overfit,
    smoke_config,
)
from tests.plum.training.launching import fork_ranks, fork_ranks_to_their_ends, write_config
from tests.plum.training.smoke_world import write_pictures
from tests.plum.training.training_world import make_config

UPDATES = 120


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A set-up that learns: everything trained from scratch, no dropout."""
    folder = tmp_path_factory.mktemp("smoke")
    write_pictures(folder / "pictures")
    base = make_config(folder, "run")
    data = replace(
        base.data,
        sources=(SourceConfig("part_semantic", str(folder / "pictures")),),
        conversations_per_image=1,
    )
    texts = [f"USER: {one.question} ASSISTANT: {one.answer}" for one in build_mixture(data, 0).sources[0].exchanges()]
    tokenizer = train_tokenizer(texts, 320)
    tokenizer.save_pretrained(str(folder / "words"))
    return replace(
        base,
        model=tiny_model_config(len(tokenizer), tagger=TaggerConfig(num_heads=4, feedforward_dim=64, dropout=0.0)),
        tokenizer=str(folder / "words"),
        data=data,
        engine=replace(base.engine, micro_batch_size=8, accumulation=1),
        losses=LossConfig(kl=0.0, language=4.0),
        optimizer=OptimizerConfig(learning_rate=4e-3, betas=(0.9, 0.98), warmup_updates=10),
    )


def findings(report: SmokeReport) -> dict[str, bool]:
    return {check.name: check.is_passed for check in report.checks}


def test_masks_of_other_samples_fail_although_the_loss_falls(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training sees each picture with its neighbour's masks: what a reader does that mixes up its indices."""
    sample = FixedSamples.sample

    def shifted(self: FixedSamples, index: int, generator: np.random.Generator) -> Sample:
        own, other = sample(self, index, generator), sample(self, (index + 1) % 8, generator)
        given = [mask for one in other.conversations[0] for mask in one.masks]
        changed = tuple(replace(one, masks=tuple(given[0] for _ in one.masks)) for one in own.conversations[0])
        return replace(own, conversations=(changed,))

    monkeypatch.setattr(FixedSamples, "sample", shifted)
    report = run_smoke_overfit(config, UPDATES)
    assert findings(report) == {"loss": True, "masks": False, "answers": True}


def test_sam_2_from_scratch_learns_masks_too(config: TrainConfig, tmp_path: Path) -> None:
    """PLUM's heads over a SAM 2; masks with given phrases."""

    def mean_iou(num_updates: int) -> float:
        model = replace(config.model, sam=tiny_sam2_config())
        run = replace(config, model=model, run_dir=str(tmp_path / f"after_{num_updates}"))
        (masks,) = (one for one in run_smoke_overfit(run, num_updates).checks if one.name == "masks")
        return float(masks.finding.removeprefix("mean IoU ").split()[0])

    assert mean_iou(1) < 0.2
    assert mean_iou(UPDATES) > 0.5


def test_a_frozen_language_model_cannot_learn_the_answers(config: TrainConfig) -> None:
    frozen = replace(config, trainable=replace(config.trainable, language_model="frozen", vision_tower=False))
    report = run_smoke_overfit(frozen, 40)
    assert not findings(report)["answers"]
    answers = next(check for check in report.checks if check.name == "answers")
    assert answers.finding.startswith("0 of 8 reproduced word for word, at least 75% required; ")


def test_too_few_pictures_are_an_error(config: TrainConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "few", count=5)
    data = replace(config.data, sources=(SourceConfig("part_semantic", str(tmp_path / "few")),))
    with pytest.raises(ValueError, match="the data hold 5 different images with masks .* needs 8"):
        pick_samples(build_mixture(data, 0))


def test_a_sample_keeps_one_conversation_with_masks(config: TrainConfig) -> None:
    samples = pick_samples(build_mixture(replace(config.data, conversations_per_image=3), 0))
    assert [len(sample.conversations) for sample in samples] == [1] * 8
    assert all(any(exchange.masks for exchange in sample.conversations[0]) for sample in samples)
    assert isinstance(next(FixedSamples(samples).exchanges()), Exchange)


def test_another_folder_replaces_the_configurations_data(config: TrainConfig, tmp_path: Path) -> None:
    data = replace(config.data, exclude_images=("elsewhere",))
    for kind in ("part_semantic", "explanatory"):  # questions, where the folder has them
        smoke = smoke_config(replace(config, data=data), 50, 2, str(tmp_path))
        targets = "lists" if kind == "part_semantic" else "authors"  # single instances can be ambiguous
        assert smoke.data.sources == (SourceConfig(kind, str(tmp_path), targets=targets),)  # type: ignore[arg-type]
        assert smoke.data.exclude_images == ()
        (tmp_path / "questions.jsonl").touch()


@pytest.mark.parametrize("num_ranks", [1, 2, 8])
def test_eight_images_are_an_update_on_any_ranks(config: TrainConfig, num_ranks: int) -> None:
    engine = replace(config.engine, micro_batch_size=6, accumulation=10)
    smoke = smoke_config(replace(config, engine=engine), 200, num_ranks, None).engine
    assert smoke.micro_batch_size * smoke.accumulation * num_ranks == 8
    assert smoke.micro_batch_size <= 6, "no more memory than the run that is tried"
    with pytest.raises(ValueError, match="3 ranks cannot share 8 samples"):
        smoke_config(config, 200, 3, None)


@pytest.mark.distributed
def test_a_set_up_that_learns_passes_on_two_zero2_ranks(config: TrainConfig, tmp_path: Path) -> None:
    deepspeed = replace(config, engine=replace(config.engine, kind="deepspeed"))
    arguments = [*write_config(deepspeed), "--updates", str(UPDATES)]
    printed = fork_ranks("scripts/smoke_overfit.py", arguments, 2, tmp_path / "printed.txt")
    assert "PASS  this set-up learns" in printed
    folder = Path(f"{config.run_dir}_smoke_overfit")
    written = json.loads((folder / "smoke_overfit.json").read_text())
    assert [check["is_passed"] for check in written["checks"]] == [True, True, True]
    assert len(set(written["sample_ids"])) == 8
    assert not (folder / "checkpoints").exists()


@pytest.mark.distributed
def test_the_script_fails_on_two_zero2_ranks(config: TrainConfig, tmp_path: Path) -> None:
    deepspeed = replace(config, engine=replace(config.engine, kind="deepspeed"))
    arguments = [*write_config(deepspeed), "--updates", "3", "--optimizer.learning_rate", "1e-12"]
    output = tmp_path / "printed.txt"
    statuses, printed = fork_ranks_to_their_ends("scripts/smoke_overfit.py", arguments, 2, output)
    assert 1 in statuses, printed[-3000:]
    assert "FAIL  loss: " in printed, printed[-3000:]
