import errno
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from partonomy import progress
from plum.checkpoints.store import load_pretrained
from plum.config import LoraConfig
from plum.data.build import build_mixture
from plum.data.collate import Collator
from plum.data.sources.explanatory import ExplanatorySource
from plum.models.grounded_lmm import GroundedLMM
from plum.structures import Batch, LossTerms, Sample
from plum.train_config import LossConfig, TrainableConfig, TrainConfig
from plum.training import run as run_module
from plum.training.config_file import load_train_config
from plum.training.ranks import Ranks
from plum.training.run import build_or_load, train
from plum.training.tracking import Tracker
from plum.training.trainer import Trainer
from tests.plum.training.training_world import largest_difference, make_config, moved, write_inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> TrainConfig:
    config = make_config(folder, "uninterrupted")
    train(config)
    return config


def _lines(config: TrainConfig) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]


def test_training_moves_the_weights_and_writes_the_run(folder: Path, finished: TrainConfig) -> None:
    run = Path(finished.run_dir)
    assert {p.name for p in run.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "finished.json",
        "inputs.json",
        "lock",
        "metrics.jsonl",
        "model",
        "provenance.json",
        "starts.jsonl",
        "training_images.json",
    }
    lines = _lines(finished)
    assert [line["update"] for line in lines] == [1, 2, 3, 4]
    assert all(line["loss_total"] > 0 for line in lines)
    fresh = build_or_load(finished)[1].state_dict()
    assert moved(fresh, run / "model") > 1e-4


def test_a_log_says_how_far_the_training_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0.0)
    config = make_config(folder, "shown", num_updates=3)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_log", _stop_at(3, Trainer._log))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    train(config)  # goes on from the checkpoint of update 2
    lines = [line.split(" shown: ")[1] for line in capsys.readouterr().err.splitlines() if " shown: " in line]
    assert [line.split(",")[0] for line in lines] == [f"{update}/3 updates" for update in (1, 2, 3, 3)]
    loss = _lines(config)[0]["loss_total"]
    assert lines[1].endswith(f", loss {loss:.3f}")


def _stop_at(update: int, log: Callable[..., None]) -> Callable[..., None]:
    def stop(trainer: Trainer, current: int, *arguments: Any) -> None:
        if current == update:
            raise KeyboardInterrupt
        log(trainer, current, *arguments)

    return stop


def test_a_finished_run_is_left_alone(finished: TrainConfig) -> None:
    before = (Path(finished.run_dir) / "metrics.jsonl").stat().st_mtime_ns
    train(finished)
    assert (Path(finished.run_dir) / "metrics.jsonl").stat().st_mtime_ns == before


class _StopError(Exception):
    pass


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_run_equals_the_uninterrupted_one(
    folder: Path, finished: TrainConfig, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    config = make_config(folder, f"interrupted_{num_workers}", num_workers=num_workers)
    _train_to_the_sixth_micro_batch(config, monkeypatch)
    train(config)
    assert largest_difference(Path(finished.run_dir) / "model", Path(config.run_dir) / "model") == 0.0
    losses = [[line["loss_total"] for line in _lines(run)] for run in (finished, config)]
    assert losses[0] == losses[1]


def test_a_run_goes_on_when_all_that_it_reads_was_moved(
    tmp_path: Path, finished: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path / "here")
    _train_to_the_sixth_micro_batch(make_config(tmp_path / "here", "run"), monkeypatch)
    (tmp_path / "here").rename(tmp_path / "there")
    config = make_config(tmp_path / "there", "run")
    train(config)
    assert largest_difference(Path(finished.run_dir) / "model", Path(config.run_dir) / "model") == 0.0
    losses = [[line["loss_total"] for line in _lines(run)] for run in (finished, config)]
    assert losses[0] == losses[1]


def _train_to_the_sixth_micro_batch(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_micro_batch = Trainer.run_micro_batch

    def stop_at_the_sixth(self: Trainer, micro_batch: int, batch: object) -> object:
        if micro_batch == 6:  # update 3 is done and logged, the checkpoint is of update 2
            raise _StopError
        return run_micro_batch(self, micro_batch, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_micro_batch", stop_at_the_sixth)
        with pytest.raises(_StopError):
            train(config)
    assert not (Path(config.run_dir) / "model").exists()


def test_remains_of_a_killed_save_do_no_harm(folder: Path, finished: TrainConfig) -> None:
    config = make_config(folder, "killed_save")
    remains = Path(config.run_dir) / "checkpoints" / "update_000002.partial"
    remains.mkdir(parents=True)
    (remains / "plain.pt").write_bytes(b"half a file")
    train(config)
    assert largest_difference(Path(finished.run_dir) / "model", Path(config.run_dir) / "model") == 0.0


def test_stage_1_starts_adapters_on_stage_0_and_keeps_the_base(folder: Path, finished: TrainConfig) -> None:
    stage_0 = Path(finished.run_dir) / "model"
    config = make_config(folder, "stage_1", num_updates=2)
    config = replace(
        config,
        model=replace(config.model, lora=LoraConfig()),
        trainable=TrainableConfig(),
        losses=replace(config.losses, kl=0.1),
        part_pretext=None,
        init_from=str(stage_0),
        tokenizer=None,
    )
    train(config)
    lines = _lines(config)
    assert lines[0]["loss_kl"] == pytest.approx(0.0, abs=1e-8), "fresh adapters are the identity"
    assert lines[1]["loss_kl"] > 0
    before, model = (
        build_or_load(finished)[1].state_dict(),
        build_or_load(replace(config, init_from=config.run_dir + "/model")),
    )
    assert before.keys() <= {_plain(name) for name in model[1].state_dict()}
    base = {_plain(n): t for n, t in model[1].state_dict().items() if "lora" not in n}
    for name, tensor in load_pretrained(stage_0).model.state_dict().items():
        if name.startswith(("llava.", "sam.image_encoder")):
            assert torch.equal(base[name], tensor), name


def _plain(name: str) -> str:
    return name.replace("base_model.model.", "").replace(".base_layer", "")


def _poison(monkeypatch: pytest.MonkeyPatch, sample_ids: set[str]) -> None:
    """Make the pixels of some samples not numbers, as a broken reader or a failing memory would."""
    collate = Collator.__call__

    def poisoned(self: Collator, samples: Sequence[Sample]) -> Batch:
        batch = collate(self, samples)
        spoils = any(sample.sample_id in sample_ids for sample in samples)
        return replace(batch, clip_pixels=batch.clip_pixels * float("nan")) if spoils else batch

    monkeypatch.setattr(Collator, "__call__", poisoned)


def _samples_of_update(config: TrainConfig, update: int) -> list[str]:
    """Ids of the four samples of a 1-based update."""
    mixture = build_mixture(config.data, config.seed)
    return [mixture[position].sample_id for position in range(4 * update - 4, 4 * update)]


def test_a_poisoned_sample_costs_its_update_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(make_config(folder, "poisoned", num_updates=8), log_every=4, save_every=8)
    ids = [_samples_of_update(config, update) for update in range(1, 9)]
    (victim, hit) = min(
        ((name, [update for update in range(8) if name in ids[update]]) for names in ids for name in names),
        key=lambda found: len(found[1]),
    )
    _poison(monkeypatch, {victim})
    train(config)
    lines = _lines(config)
    assert [line["update"] for line in lines] == [4, 8]
    assert [line["updates_skipped"] for line in lines] == [
        sum(update < 4 for update in hit),
        sum(update >= 4 for update in hit),
    ]
    assert all(0 < line["loss_total"] < 100 for line in lines), "the mean is over the finite ones"
    weights = load_pretrained(Path(config.run_dir) / "model").model.state_dict()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_poisoned_samples_in_a_row_end_the_run_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(make_config(folder, "not_finite", num_updates=6), stop_after_skipped=3)
    ids = {update: _samples_of_update(config, update) for update in range(1, 7)}
    _poison(monkeypatch, {name for names in ids.values() for name in names})
    with pytest.raises(FloatingPointError) as stopped:
        train(config)
    assert str(stopped.value).startswith(
        f"update 3: loss is not finite, rank 0, samples {', '.join(ids[3])}. 3 updates"
    )
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"update {update} was skipped: loss is not finite, rank 0, samples {', '.join(ids[update])}"
        for update in (1, 2)
    ]
    lines = _lines(config)
    assert [line["updates_skipped"] for line in lines] == [1.0, 1.0]
    assert not any(key.startswith("loss") for line in lines for key in line)


def test_a_gradient_that_is_not_finite_names_all_samples_of_its_update(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sqrt has an infinite slope at 0: the loss is fine, its gradient is not."""
    config = replace(make_config(folder, "gradient"), stop_after_skipped=1)

    def steep(terms: LossTerms, losses: LossConfig) -> torch.Tensor:
        return terms.language + (terms.language - terms.language).sqrt()

    monkeypatch.setattr("plum.training.objective.weighted_sum", steep)
    expected = ", ".join(_samples_of_update(config, 1))
    with pytest.raises(FloatingPointError, match=f"update 1: gradient is not finite, rank 0, samples {expected}"):
        train(config)


def test_a_full_disk_is_named_and_the_run_goes_on_from_before(
    folder: Path, finished: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folder, "full_disk")
    save = torch.save

    def full(state: dict[str, object], path: Path) -> None:
        save(state, path)
        if state["updates"] == 4:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        message = r"checkpoint of update 4 was not written on rank 0: .*No space left.* GB are free at .*full_disk"
        with pytest.raises(RuntimeError, match=message):
            train(config)
    train(config)
    starts = [json.loads(line) for line in (Path(config.run_dir) / "starts.jsonl").read_text().splitlines()]
    assert [start["from"] for start in starts] == [None, "update_000002"]
    assert largest_difference(Path(finished.run_dir) / "model", Path(config.run_dir) / "model") == 0.0


def test_texts_beyond_the_limit_do_not_end_a_run(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half of the questions are longer, some pictures have no other, and every update still has its images."""
    config = make_config(folder, "long_texts", num_updates=8)
    with caplog.at_level(logging.INFO):
        train(replace(config, data=replace(config.data, max_text_tokens=28)))
    reports = [record.message for record in caplog.records if "exceed data.max_text_tokens = 28" in record.message]
    assert [message.split(":")[0] for message in reports] == [
        "source explanatory",
        "source part_vqa",
        "source part_referring",
    ]
    assert any("is replaced by the next record" in record.message for record in caplog.records)
    assert [line["update"] for line in _lines(config)] == list(range(1, 9))


def test_an_unreadable_record_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ExplanatorySource, index: int, generator: object) -> Sample:
        raise ValueError(f"record {index} is broken")

    monkeypatch.setattr(ExplanatorySource, "sample", broken)
    with pytest.raises(ValueError, match="record .* is broken"):
        train(make_config(folder, "broken_record"))


def test_a_run_killed_after_saving_its_model_still_finishes(folder: Path, finished: TrainConfig) -> None:
    run = Path(finished.run_dir)
    (run / "finished.json").unlink()
    written = (run / "model" / "model.safetensors").stat().st_mtime_ns
    train(finished)
    assert (run / "finished.json").exists()
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == written


def test_a_half_written_line_of_metrics_does_not_stop_a_resumed_run(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_text('{"update": 1}\n{"update": 2}\n{"update": 3}\n{"upda')
    assert Tracker(path).forget_after(2) == 3
    assert path.read_text() == '{"update": 1}\n{"update": 2}\n'


def test_a_run_may_save_its_trained_weights_alone(folder: Path, finished: TrainConfig) -> None:
    config = replace(
        make_config(folder, "light", num_updates=1),
        trainable=TrainableConfig(),
        part_pretext=None,
        init_from=str(Path(finished.run_dir) / "model"),
    )
    config = replace(config, model=replace(config.model, lora=LoraConfig()))
    train(replace(config, run_dir=str(folder / "whole")))
    train(replace(config, save_model="trained"))
    assert largest_difference(folder / "whole" / "model", folder / "light" / "model") == 0.0
    sizes = [
        sum(p.stat().st_size for p in (folder / name / "model").glob("*.safetensors")) for name in ("light", "whole")
    ]
    assert sizes[0] < 0.8 * sizes[1]
    with pytest.raises(ValueError, match="save_model"):
        build_or_load(replace(config, save_model="trained", init_from=None))


def test_a_missing_model_to_start_from_is_named(tmp_path: Path) -> None:
    config = load_train_config(["--config", "configs/plum_tiny_stage1.yaml", "--init_from", str(tmp_path / "nowhere")])
    with pytest.raises(FileNotFoundError, match="init_from: .*nowhere does not exist: train the stage"):
        build_or_load(config)


def test_weights_are_read_straight_to_the_device_of_the_rank(
    folder: Path, finished: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 13B on 8 ranks a copy on the host would take 8 x 28 GB."""
    meta = torch.device("meta")
    config = replace(make_config(folder, "placed"), init_from=str(Path(finished.run_dir) / "model"), part_pretext=None)
    placed: list[GroundedLMM] = []

    def build(config: TrainConfig, device: torch.device) -> NoReturn:
        assert device == meta
        placed.append(build_or_load(config, device)[1])
        raise InterruptedError

    monkeypatch.setattr(run_module, "start_ranks", lambda _: Ranks(0, 1, meta))
    monkeypatch.setattr(run_module, "build_or_load", build)
    with pytest.raises(InterruptedError):
        train(config)
    (model,) = placed
    for network in (model.llava, model.sam):
        assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


def test_fresh_weights_are_placed_too(folder: Path) -> None:
    config = replace(make_config(folder, "fresh"), init_from=None)
    model = build_or_load(config, torch.device("meta"))[1]
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
