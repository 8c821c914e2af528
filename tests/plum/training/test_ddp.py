"""The engine `ddp` trains as the other engines do, without DeepSpeed, under torchrun as under the launcher."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from plum.export.training_checkpoint import read_trained
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import TEXT_ONLY
from plum.train_config import EngineConfig, LossConfig, OptimizerConfig, TrainableConfig, TrainConfig
from plum.training import engine as engine_module
from plum.training.engine import DdpEngine
from plum.training.gradients import trained_parameters
from plum.training.objective import Objective
from plum.training.ranks import start_ranks
from plum.training.run import train
from tests.plum.training.launching import fork_ranks_to_their_ends, train_forked, write_config
from tests.plum.training.training_world import largest_difference, make_config, moved, with_engine, write_inputs

RESUMED = "update_000002"
WITHOUT_DEEPSPEED = "import sys\n\nsys.modules['deepspeed'] = None\n"
"""A `sitecustomize.py` with which importing DeepSpeed fails, and looking for it finds nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    write_inputs(folder)
    return folder


def _config(folder: Path, name: str, kind: str, size: int = 1, accumulation: int = 2) -> TrainConfig:
    return replace(with_engine(make_config(folder, name), kind, size, accumulation), run_dir=str(folder / name))


def _in_bf16(config: TrainConfig) -> TrainConfig:
    return replace(config, engine=replace(config.engine, precision="bf16"))


def _losses(config: TrainConfig) -> list[float]:
    lines = (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss_total"] for line in lines]


def _stop_at_2(config: TrainConfig, name: str) -> TrainConfig:
    """The same run as it was after update 2."""
    stopped = replace(config, run_dir=str(Path(config.run_dir).with_name(name)))
    root = Path(shutil.copytree(config.run_dir, stopped.run_dir))
    for path in (root / "model", root / "checkpoints" / "update_000004"):
        shutil.rmtree(path)
    for path in (root / "finished.json", root / "config.yaml"):  # the last names the other folder
        path.unlink()
    return stopped


@pytest.mark.distributed
def test_one_rank_equals_the_plain_engine_to_the_bit(folder: Path) -> None:
    plain = _config(folder, "plain", "plain", 2)
    train(plain)
    model = train_forked(_config(folder, "one_rank", "ddp", 2), num_ranks=1)
    assert largest_difference(Path(plain.run_dir) / "model", model) == 0.0
    assert _losses(_config(folder, "one_rank", "ddp", 2)) == _losses(plain)


@pytest.mark.distributed
@pytest.mark.parametrize(("precision", "rounding"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_two_ranks_train_as_under_deepspeed(folder: Path, precision: Literal["fp32", "bf16"], rounding: float) -> None:
    runs = [_config(folder, f"{kind}_{precision}", kind) for kind in ("ddp", "deepspeed")]
    if precision == "bf16":
        runs = [_in_bf16(run) for run in runs]
    for run in runs:
        train_forked(run, num_ranks=2)
    ddp, deepspeed = map(_losses, runs)
    assert ddp == pytest.approx(deepspeed, rel=rounding)
    first, last = (read_trained(Path(runs[0].run_dir) / "checkpoints" / f"update_00000{update}") for update in (2, 4))
    assert all(weight.dtype == torch.float32 for weight in last.values())
    assert max(float((first[name] - last[name]).abs().max()) for name in first) > 1e-4, "weights stood still"


@pytest.mark.distributed
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_three_ranks_resume_to_the_bit(folder: Path, precision: str) -> None:
    """From three ranks on, the order in which gradients are added shows."""
    config = _config(folder, f"three_{precision}", "ddp")
    whole = _in_bf16(config) if precision == "bf16" else config
    model = train_forked(whole, num_ranks=3)
    resumed = _stop_at_2(whole, f"three_{precision}_resumed")
    assert largest_difference(model, train_forked(resumed, num_ranks=3)) == 0.0
    assert _losses(resumed) == _losses(whole)
    start = json.loads((Path(resumed.run_dir) / "starts.jsonl").read_text().splitlines()[-1])
    assert start["from"] == RESUMED


@pytest.mark.distributed
def test_another_number_of_ranks_goes_on_without_conversion(folder: Path) -> None:
    whole = _config(folder, "two_ranks", "ddp", 2)
    train_forked(whole, num_ranks=2)
    resumed = with_engine(_stop_at_2(whole, "one_rank_goes_on"), "ddp", 2, 4)
    train_forked(resumed, num_ranks=1)
    assert _losses(resumed) == pytest.approx(_losses(whole), rel=1e-4)
    start = json.loads((Path(resumed.run_dir) / "starts.jsonl").read_text().splitlines()[-1])
    assert (start["from"], start["num_ranks"]) == (RESUMED, 1)
    refused = _stop_at_2(whole, "too_many")
    output = Path(refused.run_dir).with_suffix(".log")
    statuses, printed = fork_ranks_to_their_ends("train.py", write_config(refused), 1, output)
    assert statuses != [0]
    assert "add --engine.micro_batch_size 2 --engine.accumulation 4" in printed


@pytest.mark.distributed
def test_torchrun_trains_without_deepspeed(folder: Path) -> None:
    checkpointed = _config(folder, "torchrun", "ddp")
    checkpointed = replace(checkpointed, engine=replace(checkpointed.engine, gradient_checkpointing=True))
    expected = train_forked(_config(folder, "forked", "ddp"), num_ranks=2)
    (folder / "blocked").mkdir()
    (folder / "blocked" / "sitecustomize.py").write_text(WITHOUT_DEEPSPEED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder / 'blocked'}:{os.getcwd()}"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "train.py", *write_config(checkpointed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    model = Path(checkpointed.run_dir) / "model"
    assert largest_difference(expected, model) < 1e-5
    assert moved(read_trained(Path(checkpointed.run_dir) / "checkpoints" / RESUMED), model) > 1e-4
    imported = subprocess.run(
        [sys.executable, "-c", "import deepspeed"], env=environment, capture_output=True, check=False
    )
    assert imported.returncode != 0, "DeepSpeed was not blocked"


def test_gradients_are_reduced_once_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced: list[int] = []

    def count(group: object, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        reduced.append(bucket.buffer().numel())
        return allreduce_hook(group, bucket)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_module, "allreduce_hook", count)
    config = EngineConfig(kind="ddp", precision="fp32", accumulation=3)
    sizes = tiny_model_config(40, TINY_TOKENS)
    model = build_model(sizes)
    set_trainable(model, TrainableConfig(language_model="frozen"))
    ranks = start_ranks(config)
    try:
        engine = DdpEngine(Objective(model, LossConfig(kl=0.0)), config, OptimizerConfig(), 4, ranks)
        batch = tiny_batch(sizes, (1, TEXT_ONLY), torch.Generator().manual_seed(0))
        for _ in range(2 * config.accumulation):
            engine.backward(engine.forward(batch).total)
            engine.step()
    finally:
        torch.distributed.destroy_process_group()
    assert reduced == [sum(parameter.numel() for parameter in trained_parameters(model))] * 2
