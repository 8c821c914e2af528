"""Metrics of a run in metrics.jsonl and in its trackers: what they hold, and that a resumed run goes on in them."""

import json
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plum.train_config import SourceConfig, TrainConfig, ValidationConfig
from plum.training import engine as engine_module
from plum.training import tracking
from plum.training.config_file import load_train_config
from plum.training.run import train
from plum.training.trackers import TRACKER_RUN_FILE
from plum.training.tracking import Tracker, read_peak_memory
from plum.training.trainer import Trainer
from tests.plum.data.part_world import write_world
from tests.plum.training.launching import train_forked
from tests.plum.training.training_world import make_config, with_engine, write_inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    write_inputs(folder)
    write_world(folder / "held_out")
    for path in (folder / "held_out" / "images").iterdir():  # other photographs of the same objects
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0, 0] = 255
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> TrainConfig:
    config = make_config(folder, "plain", num_updates=3)
    train(config)
    return config


def _lines(config: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]


def test_the_gradient_norm_is_that_before_clipping(
    folder: Path, plain: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters: Any, limit: float) -> torch.Tensor:
        kept = list(parameters)
        norms.append(float(torch.cat([one.grad.flatten().double() for one in kept]).norm()))
        return clip(kept, limit)

    monkeypatch.setattr(engine_module.torch.nn.utils, "clip_grad_norm_", spy)
    config = make_config(folder, "clipped", num_updates=3)
    train(replace(config, optimizer=replace(config.optimizer, gradient_clip=0.01)))
    assert [line["gradient_norm"] for line in _lines(config)] == pytest.approx(norms, rel=1e-5)
    assert _lines(plain)[0]["gradient_norm"] == pytest.approx(norms[0], rel=1e-5)  # the same, whatever the limit
    assert min(norms) > 0.01


@pytest.mark.distributed
@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed_measures_the_norm_of_the_plain_engine(folder: Path, plain: TrainConfig, stage: int) -> None:
    config = with_engine(make_config(folder, f"two_ranks_{stage}", num_updates=3), "deepspeed", 2, 1)
    train_forked(replace(config, engine=replace(config.engine, zero_stage=stage)), 2)
    assert _lines(config)[0]["gradient_norm"] > config.optimizer.gradient_clip  # it is not the norm after clipping
    for found, expected in zip(_lines(config), _lines(plain), strict=True):
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-3)
        tokens = [line["tokens_per_second"] * line["seconds_per_update"] for line in (found, expected)]
        assert tokens[0] == pytest.approx(tokens[1])  # of both ranks


def test_a_skipped_update_has_no_gradient_norm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_micro_batch = Trainer.run_micro_batch

    def run(self: Trainer, micro_batch: int, batch: Any) -> Any:
        if micro_batch == 3:  # the second of update 2
            batch = replace(batch, clip_pixels=batch.clip_pixels * float("nan"))
        return run_micro_batch(self, micro_batch, batch)

    monkeypatch.setattr(Trainer, "run_micro_batch", run)
    config = make_config(folder, "skipped", num_updates=3)
    train(config)
    lines = _lines(config)
    assert [line["updates_skipped"] for line in lines] == [0, 1, 0]
    assert [line["gradient_norm"] is None for line in lines] == [False, True, False]


def test_tokens_are_counted_without_padding_and_over_all_updates_of_a_line(
    folder: Path, plain: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    run_micro_batch = Trainer.run_micro_batch

    def run(self: Trainer, micro_batch: int, batch: Any) -> Any:
        counts.append(sum(sum(row) for row in batch.attention_mask.tolist()))
        return run_micro_batch(self, micro_batch, batch)

    monkeypatch.setattr(Trainer, "run_micro_batch", run)
    config = replace(make_config(folder, "counted", num_updates=3), log_every=3, save_every=10)
    train(config)
    (line,) = _lines(config)
    assert line["tokens_per_second"] * line["seconds_per_update"] * 3 == pytest.approx(sum(counts))
    assert line["images_per_second"] * line["seconds_per_update"] == pytest.approx(4)


def test_peak_memory_on_a_cpu_is_the_resident_peak_in_gigabytes(plain: TrainConfig) -> None:
    peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    assert read_peak_memory(torch.device("cpu")) == pytest.approx(peak * 1024 / 1e9, rel=0.01)
    assert 0 < _lines(plain)[0]["peak_memory_gb"] <= peak * 1024 / 1e9


def test_peak_memory_on_a_gpu_is_that_since_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = torch.tensor
    monkeypatch.setattr(
        tracking.torch.cuda, "max_memory_allocated", lambda device: calls.append("read") or 7_000_000_000
    )
    monkeypatch.setattr(tracking.torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(tracking.torch, "tensor", lambda value, dtype, device: real(value, dtype=dtype))
    assert read_peak_memory(torch.device("cuda", 0)) == 7.0
    assert calls == ["read", "reset"]


def _stop_after(update: int) -> Callable[..., None]:
    log = Trainer._log

    def stop(trainer: Trainer, current: int, *arguments: Any) -> None:
        log(trainer, current, *arguments)
        if current == update:
            raise KeyboardInterrupt

    return stop


def _train_twice(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a run after it has logged update 3, whose checkpoint is of update 2; then resume it to update 5."""
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_log", _stop_after(3))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    train(config)


def _tracked(folder: Path, name: str) -> TrainConfig:
    held_out = ValidationConfig((SourceConfig("part_referring", str(folder / "held_out")),), every=5, limit=2)
    return replace(make_config(folder, name, num_updates=5), trackers=(name,), validation=held_out)


def test_tensorboard_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (requirements-trackers.txt)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = _tracked(folder, "tensorboard")
    _train_twice(config, monkeypatch)
    shown = EventAccumulator(str(Path(config.run_dir) / "tensorboard")).Reload()
    for name in ("loss_total", "gradient_norm", "learning_rate", "tokens_per_second", "peak_memory_gb"):
        events = shown.Scalars(name)
        assert [one.step for one in events] == [1, 2, 3, 4, 5]
        assert [one.value for one in events] == pytest.approx([line[name] for line in _lines(config)], rel=0.5)
    assert [one.step for one in shown.Scalars("validation_micro_giou")] == [0, 5]


def test_trackio_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed (requirements-trackers.txt)")
    from trackio import sqlite_storage, utils

    for module in (utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path)
    config = _tracked(folder, "trackio")
    _train_twice(config, monkeypatch)
    (database,) = tmp_path.glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert len({name for name, _, _ in rows}) == 1
    logged = [(step, json.loads(metrics)) for _, step, metrics in rows]
    losses = [(step, values["loss_total"]) for step, values in logged if "loss_total" in values]
    assert losses == [(line["update"], line["loss_total"]) for line in _lines(config)]
    assert [step for step, values in logged if "validation_loss" in values] == [0, 5]
    assert all(values["gradient_norm"] > 0 for _, values in logged if "loss_total" in values)


def test_wandb_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (requirements-trackers.txt)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = _tracked(folder, "wandb")
    _train_twice(config, monkeypatch)
    files = sorted(
        (Path(config.run_dir) / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime
    )
    identity = json.loads((Path(config.run_dir) / TRACKER_RUN_FILE).read_text())["id"]
    assert [path.name for path in files] == [f"run-{identity}.wandb"] * 2
    first, second = (_wandb_history(path) for path in files)
    assert list(first) == [0, 1, 2, 3]
    assert list(second) == [3, 4, 5]
    found = {step: values["loss_total"] for step, values in (first | second).items() if "loss_total" in values}
    assert found == {line["update"]: line["loss_total"] for line in _lines(config)}
    assert "validation_micro_giou" in second[5]
    assert second[5]["gradient_norm"] == _lines(config)[-1]["gradient_norm"]


def _wandb_history(path: Path) -> dict[int, dict[str, float]]:
    """Read what a file of wandb's offline mode would send."""
    from wandb.proto import wandb_internal_pb2

    found = {}
    for data in _log_records(path.read_bytes()[7:]):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            values = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            found[int(values["_step"])] = values
    return found


def _log_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format, in which wandb writes (after 7 bytes of its own, part of a block)."""
    place, record = 7, b""
    content = bytes(7) + content
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_named_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    config = replace(make_config(folder, f"without_{name}"), trackers=(name,))
    with pytest.raises(ValueError, match=f"trackers: {name} needs a package .* pip install {name}"):
        train(config)
    assert not Path(config.run_dir).exists()


def test_no_tracker_is_imported_unless_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("wandb", "trackio", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)  # an import would now fail
    train(make_config(folder, "untracked", num_updates=1))


def test_the_earlier_switch_still_names_tensorboard() -> None:
    file = ["--config", "configs/plum_tiny_stage0.yaml"]
    assert load_train_config(file).all_trackers == ()
    assert load_train_config([*file, "--tensorboard", "true"]).all_trackers == ("tensorboard",)
    both = load_train_config([*file, "--tensorboard", "true", "--trackers", '["wandb", "tensorboard"]'])
    assert both.all_trackers == ("wandb", "tensorboard")
    with pytest.raises(ValueError, match="trackers"):
        load_train_config([*file, "--trackers", '["mlflow"]'])


def test_values_that_are_not_finite_do_not_reach_the_trackers(tmp_path: Path) -> None:
    sent: list[dict[str, float]] = []

    class Service:
        def log(self, update: int, values: dict[str, float]) -> None:
            sent.append(values)

        def close(self, *, has_failed: bool) -> None:
            sent.append({"failed": float(has_failed)})

    tracker = Tracker(tmp_path / "metrics.jsonl")
    tracker._services = [Service()]
    tracker.log(1, {"loss_total": 2.0, "gradient_norm": None})
    tracker.log_validation(1, None, 0.5)
    tracker.close(has_failed=True)
    assert sent == [{"loss_total": 2.0}, {"validation_micro_giou": 0.5}, {"failed": 1.0}]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "update": 1,
        "loss_total": 2.0,
        "gradient_norm": None,
    }
