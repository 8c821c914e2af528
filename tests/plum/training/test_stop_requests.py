"""A run that is told to stop writes a checkpoint at its next update, and goes on from it as if it had never stopped."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plum.structures import Batch
from plum.train_config import TrainConfig
from plum.training.exit_status import Request, RunStoppedError
from plum.training.objective import StepResult
from plum.training.ranks import Ranks
from plum.training.run import train
from plum.training.stop_requests import StopRequests
from plum.training.trainer import Trainer
from tests.plum.training.launching import fork_ranks_to_their_ends, train_forked, write_config
from tests.plum.training.training_world import largest_difference, make_config, with_engine, write_inputs

ONE = Ranks(0, 1, torch.device("cpu"))
NUM_UPDATES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def unhurt(folder: Path) -> TrainConfig:
    config = replace(make_config(folder, "unhurt", NUM_UPDATES), save_every=100)
    train(config)
    return config


@pytest.fixture
def usual_handlers() -> dict[int, object]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    return {number: signal.getsignal(number) for number in numbers}


def _losses(config: TrainConfig) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    return [(line["update"], line["loss_total"]) for line in lines]


def _checkpoints(config: TrainConfig) -> list[str]:
    return sorted(path.name for path in (Path(config.run_dir) / "checkpoints").iterdir() if path.is_dir())


def _signal_in(monkeypatch: pytest.MonkeyPatch, micro_batch_of_signal: int, number: int) -> None:
    run_micro_batch = Trainer.run_micro_batch

    def run(self: Trainer, micro_batch: int, batch: Batch) -> StepResult:
        if micro_batch == micro_batch_of_signal:
            os.kill(os.getpid(), number)
        return run_micro_batch(self, micro_batch, batch)

    monkeypatch.setattr(Trainer, "run_micro_batch", run)


@pytest.mark.parametrize(
    "told",
    [(signal.SIGTERM, 143, "by SIGTERM"), (signal.SIGINT, 130, "by Ctrl-C"), (signal.SIGUSR1, 75, "by SIGUSR1")],
    ids=("SIGTERM", "SIGINT", "SIGUSR1"),
)
def test_a_signal_saves_at_the_next_update(
    folder: Path,
    unhurt: TrainConfig,
    usual_handlers: dict[int, object],
    monkeypatch: pytest.MonkeyPatch,
    told: tuple[int, int, str],
) -> None:
    number, status, words = told
    config = replace(unhurt, run_dir=str(folder / f"stopped_{status}"))
    with monkeypatch.context() as patch:
        _signal_in(patch, 4, number)  # the first micro-batch of update 3
        with pytest.raises(RunStoppedError, match=f"stopped {words}.* after update 3 of 5 .exit status {status}"):
            train(config)
    assert _checkpoints(config) == ["update_000003"]
    assert not (Path(config.run_dir) / "model").exists()
    assert {number: signal.getsignal(number) for number in usual_handlers} == usual_handlers
    train(config)
    assert largest_difference(Path(unhurt.run_dir) / "model", Path(config.run_dir) / "model") == 0.0
    assert _losses(config) == _losses(unhurt)


def test_a_signal_in_the_last_update_leaves_a_finished_run(
    folder: Path, unhurt: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(unhurt, run_dir=str(folder / "last"))
    _signal_in(monkeypatch, 2 * NUM_UPDATES - 1, signal.SIGTERM)
    train(config)
    assert (Path(config.run_dir) / "finished.json").exists()


@pytest.mark.distributed
def test_all_ranks_stop_when_one_is_told_to(folder: Path) -> None:
    config = replace(with_engine(make_config(folder, "ranks_unhurt", NUM_UPDATES), "deepspeed", 1, 2), save_every=100)
    train_forked(config, num_ranks=2)
    stopped = replace(config, run_dir=str(folder / "ranks_stopped"))
    output = Path(stopped.run_dir).with_suffix(".log")
    hit = json.dumps({"name": "terminate_itself", "rank": 1, "seed": 0, "times": 3})
    program = str(Path(__file__).with_name("faulty_train.py"))
    statuses, printed = fork_ranks_to_their_ends(program, write_config(stopped), 2, output, FAULT=hit)
    assert 143 in statuses, printed[-3000:]
    assert set(statuses) <= {143, -signal.SIGTERM}, printed[-3000:]  # the first to end has the other one ended
    assert "Traceback" not in printed
    assert _checkpoints(stopped) == ["update_000002"]
    train_forked(stopped, num_ranks=2)
    assert largest_difference(Path(config.run_dir) / "model", Path(stopped.run_dir) / "model") == 0.0
    assert _losses(stopped) == _losses(config)


def test_the_clock_saves_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    requests = StopRequests(ONE, max_minutes=10, save_every_minutes=2, started=900.0)  # 100 s went into loading

    def after(seconds: float) -> Request:
        now[0] += seconds
        return requests.agree()

    with requests:
        assert after(60) is Request.NOTHING
        assert after(60) is Request.SAVE
        now[0] += 20
        requests.end_save()
        assert after(110) is Request.NOTHING
        assert after(10) is Request.SAVE
        requests.end_save()
        # 360 s of 600 s have passed; another update may take 110 s, and its checkpoint 20 s.
        assert after(109) is Request.NOTHING
        assert after(2) is Request.TIME_LIMIT
    assert Request.TIME_LIMIT.stops
    assert not Request.SAVE.stops


def test_a_time_limit_ends_the_run_with_a_checkpoint(folder: Path, unhurt: TrainConfig) -> None:
    config = replace(unhurt, run_dir=str(folder / "limited"), max_minutes=1e-6)
    with pytest.raises(RunStoppedError, match="because the time of max_minutes is over after update 1") as stopped:
        train(config)
    assert stopped.value.status == 75
    train(replace(config, max_minutes=None))
    assert _losses(config) == _losses(unhurt)


def test_checkpoints_by_the_clock_and_their_number(folder: Path, unhurt: TrainConfig) -> None:
    config = replace(unhurt, run_dir=str(folder / "by_clock"), save_every_minutes=1e-6, keep_checkpoints=3)
    train(config)
    assert _checkpoints(config) == ["update_000003", "update_000004", "update_000005"]
    assert _losses(config) == _losses(unhurt)


def test_a_second_ctrl_c_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequests(ONE, None, None, 0.0) as requests:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the same one, from terminal and launcher
        assert requests.agree() is Request.INTERRUPT
        requests._received_at -= 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_lower_learning_rate_holds_after_resuming(
    folder: Path, unhurt: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the message of a run that stopped at NaN advises."""
    config = replace(unhurt, run_dir=str(folder / "lower"))
    with monkeypatch.context() as patch:
        _signal_in(patch, 4, signal.SIGTERM)
        with pytest.raises(RunStoppedError):
            train(config)
    train(replace(config, optimizer=replace(config.optimizer, learning_rate=config.optimizer.learning_rate / 4)))
    rates = [
        [json.loads(line)["learning_rate"] for line in (Path(run.run_dir) / "metrics.jsonl").read_text().splitlines()]
        for run in (unhurt, config)
    ]
    assert rates[1][:3] == rates[0][:3]
    assert rates[1][3:] == pytest.approx([rate / 4 for rate in rates[0][3:]])
    assert rates[1][3] > 0


def test_fewer_updates_than_are_done_are_refused(
    folder: Path, unhurt: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(unhurt, run_dir=str(folder / "fewer"))
    with monkeypatch.context() as patch:
        _signal_in(patch, 4, signal.SIGTERM)
        with pytest.raises(RunStoppedError):
            train(config)
    with pytest.raises(ValueError, match="num_updates is 2, but .*update_000003 is at update 3"):
        train(replace(config, num_updates=2))
    train(replace(config, num_updates=3))
    assert [update for update, _ in _losses(config)] == [1, 2, 3]
    assert (Path(config.run_dir) / "finished.json").exists()
