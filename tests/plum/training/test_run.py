import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plum.config import LoraConfig, TrainableConfig, TrainConfig
from plum.data.sources.explanatory import ExplanatorySource
from plum.structures import Sample
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
        "metrics.jsonl",
        "model",
        "provenance.json",
    }
    lines = _lines(finished)
    assert [line["update"] for line in lines] == [1, 2, 3, 4]
    assert all(line["loss_total"] > 0 for line in lines)
    fresh = build_or_load(finished)[1].state_dict()
    assert moved(fresh, run / "model") > 1e-4


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
    train(config)
    assert largest_difference(Path(finished.run_dir) / "model", Path(config.run_dir) / "model") == 0.0
    losses = [[line["loss_total"] for line in _lines(run)] for run in (finished, config)]
    assert losses[0] == losses[1]


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
    from plum.checkpoints.store import load_pretrained

    for name, tensor in load_pretrained(stage_0).model.state_dict().items():
        if name.startswith(("llava.", "sam.image_encoder")):
            assert torch.equal(base[name], tensor), name


def _plain(name: str) -> str:
    return name.replace("base_model.model.", "").replace(".base_layer", "")


def test_a_loss_that_is_not_finite_names_the_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(folder, "not_finite")
    monkeypatch.setattr(
        "plum.training.objective.weighted_sum", lambda terms, config: terms.language * torch.tensor(float("nan"))
    )
    with pytest.raises(FloatingPointError, match=r"micro-batch 0 on rank 0.*samples .*\d"):
        train(config)


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
    Tracker(path, tensorboard=False).forget_after(2)
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
