"""Two ranks under ZeRO-2 or DistributedDataParallel are hit by faults; the same command then ends as an unhurt run.

The real launcher starts the run that is killed with all its ranks, and the one that goes on. The other faults hit
forked ranks, which cost a tenth; how the launcher ends the others when one rank is killed or fails, `test_launch.py`
shows.

`FAULT_TRIALS=5 python -m pytest -s tests/plum/training/test_faults.py` also tries each fault alone five times, each at
another seeded moment and under the launcher, and prints the table.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from plum.train_config import TrainConfig
from tests.plum.training.launching import (
    fork_ranks_to_their_ends,
    kill_session,
    launch_process,
    train_forked,
    train_launched,
    write_config,
)
from tests.plum.training.training_world import largest_difference, make_config, with_engine, write_inputs

TRIALS = int(os.environ.get("FAULT_TRIALS", "0"))
NUM_UPDATES, SAVE_EVERY, ACCUMULATION = 6, 2, 2
PROGRAM = str(Path(__file__).with_name("faulty_train.py"))
SECONDS_TO_END = 240
"""From the start of the program, on a busy machine: a fault on one rank must have ended all of them by then."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault: what the table calls it, where it is put in, and how many moments it may choose from."""

    title: str
    name: str = ""
    times: int = 0
    is_main_only: bool = False
    hits_writers: bool = False


KILL_STEP = Fault("kill -9 of one rank at a random step", "kill_at_step", NUM_UPDATES * ACCUMULATION)
KILL_ALL = Fault("kill -9 of all ranks and the launcher")
KILL_WRITE = Fault(
    "kill -9 while a checkpoint file is written", "kill_in_write", NUM_UPDATES // SAVE_EVERY, hits_writers=True
)
KILL_COMMIT = Fault("kill -9 while a checkpoint is committed", "kill_in_commit", NUM_UPDATES // SAVE_EVERY, True)
NO_SPACE = Fault("no space left for a checkpoint", "no_space", NUM_UPDATES // SAVE_EVERY, hits_writers=True)
KILL_MODEL = Fault("kill -9 while the final model is written", "kill_in_model", is_main_only=True)
FAULTS = (KILL_STEP, KILL_ALL, KILL_WRITE, KILL_COMMIT, NO_SPACE, KILL_MODEL)


@dataclass(frozen=True)
class World:
    """An unhurt run, and where the others go."""

    folder: Path
    config: TrainConfig
    table: list[str]


@pytest.fixture(scope="module", params=["deepspeed", "ddp"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    write_inputs(folder)
    config = replace(make_config(folder, "unhurt", NUM_UPDATES), save_every=SAVE_EVERY)
    config = with_engine(config, request.param, 1, ACCUMULATION)
    train_forked(config, num_ranks=2)
    world = World(folder, config, [])
    yield world
    heading = f"{'fault':<44} {'tried':>5}  the next start ends as the unhurt run"
    sys.stdout.write("\n".join(["", heading, *world.table, ""]))


def _losses(config: TrainConfig) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    return [(line["update"], line["loss_total"]) for line in lines]


@pytest.mark.distributed
def test_a_run_hit_by_every_fault_in_turn_ends_as_the_unhurt_run(world: World) -> None:
    config = replace(world.config, run_dir=str(world.folder / "every_fault"))
    # Each at its first chance, so that none misses: the run gets further from one to the next. The one that chooses its
    # moment by the clock comes last: it may find the run at its end, where the final model could no longer be hit.
    for place, fault in enumerate((KILL_COMMIT, KILL_STEP, NO_SPACE, KILL_WRITE, KILL_MODEL, KILL_ALL)):
        once, chance = replace(fault, times=min(fault.times, 1)), random.Random(place)
        if fault is KILL_ALL:
            _kill_everything(config, chance)
        else:
            _fork_with_fault(config, once, chance)
    _require_the_same_end(world, config)


def check_the_next_start(world: World, fault: Fault) -> None:
    """Each fault alone, which takes minutes; the test above has all of them in one run."""
    places = []
    for trial in range(TRIALS):
        config = replace(world.config, run_dir=str(world.folder / f"{fault.name or 'kill_all'}_{trial}"))
        _hit(config, fault, random.Random(f"{fault.title} {trial}"))
        _require_the_same_end(world, config)
        starts = (Path(config.run_dir) / "starts.jsonl").read_text().splitlines()
        places.append(json.loads(starts[-1])["from"] or "the start")
    world.table.append(f"{fault.title:<44} {TRIALS:>5}  all, to the bit; went on from {', '.join(places)}")


if TRIALS:
    test_the_next_start_ends_as_the_unhurt_run = pytest.mark.distributed(
        pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name or "kill_all")(check_the_next_start)
    )


def _require_the_same_end(world: World, config: TrainConfig) -> None:
    """Start once more, to the end."""
    train_launched(config, num_ranks=2)
    root, unhurt = Path(config.run_dir), Path(world.config.run_dir)
    assert largest_difference(unhurt / "model", root / "model") == 0.0
    assert _losses(config) == _losses(world.config)
    complete = sorted(path.name for path in (root / "checkpoints").iterdir() if path.is_dir())
    assert complete == ["update_000004", "update_000006"]


def _hit(config: TrainConfig, fault: Fault, chance: random.Random) -> None:
    if fault.name:
        _run_with_fault(config, fault, chance)
    else:
        _kill_everything(config, chance)


def _choose_hit(config: TrainConfig, fault: Fault, chance: random.Random) -> dict[str, str | int]:
    """What `faulty_train.py` reads. Without DeepSpeed, the main rank alone writes checkpoints."""
    is_main_only = fault.is_main_only or (fault.hits_writers and config.engine.kind == "ddp")
    return {
        "name": fault.name,
        "rank": 0 if is_main_only else chance.randrange(2),
        "seed": chance.randrange(10**6),
        "times": fault.times,
    }


def _fork_with_fault(config: TrainConfig, fault: Fault, chance: random.Random) -> None:
    """One forked rank kills itself or fails; the other is ended, as the launcher would."""
    hit, output = _choose_hit(config, fault, chance), Path(config.run_dir).with_suffix(".log")
    statuses, printed = fork_ranks_to_their_ends(PROGRAM, write_config(config), 2, output, FAULT=json.dumps(hit))
    if fault.name == "no_space":
        assert 1 in statuses, printed[-3000:]
    else:
        assert statuses[int(hit["rank"])] == -signal.SIGKILL, printed[-3000:]
    _require_unfinished(config, hit, printed)


def _run_with_fault(config: TrainConfig, fault: Fault, chance: random.Random) -> None:
    """One rank is hit; the other must end too, soon and with a bad status."""
    hit = _choose_hit(config, fault, chance)
    with launch_process(PROGRAM, write_config(config), 2, FAULT=json.dumps(hit)) as process:
        printed, _ = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode != 0, printed[-3000:]
    assert "faulty_train.py ended with status" in printed
    if fault.name != "no_space":
        assert "return code = -9" in printed, printed[-3000:]
    _require_unfinished(config, hit, printed)


def _require_unfinished(config: TrainConfig, hit: dict[str, str | int], printed: str) -> None:
    """The run is not over; a checkpoint without space says whose it was and what goes on."""
    if hit["name"] == "no_space":
        assert f"was not written on rank {hit['rank']}" in printed, printed[-5000:]
        assert "the same command resumes from it" in printed
    assert not (Path(config.run_dir) / "finished.json").exists()


def _kill_everything(config: TrainConfig, chance: random.Random) -> None:
    """As when a node loses power: the whole session is killed at a random moment of a random update."""
    metrics, after = Path(config.run_dir) / "metrics.jsonl", chance.randrange(1, NUM_UPDATES)
    with launch_process("train.py", write_config(config), 2) as process:
        end = time.monotonic() + SECONDS_TO_END
        while len(metrics.read_text().splitlines() if metrics.exists() else []) < after:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.3))
        kill_session(process.pid)
    assert not (Path(config.run_dir) / "finished.json").exists()
