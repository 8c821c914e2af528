"""A fault of the machine ends a run and fails nothing; what failed is asked again; a folder belongs to one run."""

import dataclasses
import errno
import fcntl
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from partonomy.__main__ import main as partonomy
from partonomy.benchmarks.task import Record, Status
from partonomy.harness.ranks import Rank
from partonomy.harness.records import RecordWriter, record_to_line
from partonomy.harness.run import Job, run_benchmark
from partonomy.harness.run_folder import RunConfig, open_run, read_config
from partonomy.harness.summary import read_summary
from partonomy.locks import lock_folder
from partonomy.machine_faults import MachineFault
from partonomy.models.bounds import OracleModel
from partonomy.models.contract import GroundedModel, Hint
from partonomy.models.registry import ModelSettings
from plum.cli.main import main as plum
from tests.partonomy.harness.conftest import World, numbers
from tests.partonomy.running import DyingModel, ask_model, run, stored_records, untimed


class FaultyModel(OracleModel):
    """Does something on the items of one image, and notes the items that it is asked."""

    def __init__(self, config: RunConfig, image: int, act: Callable[[], None]) -> None:
        super().__init__()
        items = config.load_task().items
        self._wanted = list(dict.fromkeys(item.image_id for item in items))[image]
        self._image_of = {item.item_id: item.image_id for item in items}
        self._act = act
        self.asked: list[str] = []

    def prepare(self, hint: Hint) -> None:
        """Act."""
        if hint.number == 0:
            self.asked.append(hint.item_id)
        if self._image_of[hint.item_id] == self._wanted:
            self._act()
        super().prepare(hint)


def raising(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def ids(output: Path) -> list[str]:
    return [record.item_id for record in stored_records(output)]


FULL = OSError(errno.ENOSPC, "No space left on device")
FAULTS = [MemoryError(), FULL, RuntimeError("CUDA out of memory"), OSError(errno.ESTALE, "Stale file handle")]


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_a_fault_of_the_machine_ends_the_run_and_fails_nothing(world: World, tmp_path: Path, error: Exception) -> None:
    whole = run(world.config(tmp_path / "whole", "oracle"))
    config = world.config(tmp_path / "run", "oracle")
    with pytest.raises(MachineFault, match="fault of the machine"):
        ask_model(config, FaultyModel(config, 2, raising(error)))
    records = stored_records(tmp_path / "run")
    assert len(records) == 2 * world.per_image
    assert {record.status for record in records} == {Status.SCORED}
    assert not (tmp_path / "run" / "summary.json").exists()
    assert numbers(run(config, resume=True)) == numbers(whole)
    assert untimed(tmp_path / "run") == untimed(tmp_path / "whole")


@pytest.mark.parametrize("is_there", [True, False])
def test_images_that_are_away_end_the_run(world: World, tmp_path: Path, is_there: bool) -> None:
    whole = run(world.config(tmp_path / "whole", "oracle"))
    config = world.config(tmp_path / "run", "oracle")
    folder = config.load_task().items[0].picture.path.parent
    away = tmp_path / "away"

    def unmount() -> None:
        if not away.exists():
            away.mkdir()
            for path in [*folder.glob("*.png"), *folder.glob("*.jpg")]:
                path.rename(away / path.name)
            if not is_there and not any(folder.iterdir()):
                folder.rmdir()

    with pytest.raises(MachineFault, match="none of the run's files is there any more"):
        ask_model(config, FaultyModel(config, 0, unmount))
    assert {record.status for record in stored_records(tmp_path / "run")} == {Status.SCORED}
    folder.mkdir(exist_ok=True)
    for path in away.iterdir():
        path.rename(folder / path.name)
    assert numbers(run(config, resume=True)) == numbers(whole)


def test_a_failing_disk_ends_the_run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = world.config(tmp_path / "run", "oracle")
    task = config.load_task()
    bad = task.items[-1].picture.path
    is_file = Path.is_file

    def fail(path: Path) -> bool:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", fail)
    with pytest.raises(MachineFault, match="Input/output error"):
        run_benchmark(Job(config), task, resume=False, rank=Rank())
    monkeypatch.undo()
    assert len(stored_records(tmp_path / "run")) == 3 * world.per_image


@pytest.mark.parametrize("command_line", [partonomy, lambda words: plum(["validate", *words[1:]])])
def test_a_command_without_memory_says_so_in_one_line(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command_line: Callable[[list[str]], int],
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("partonomy.harness.run.build_model", fail)
    assert command_line(command(world, tmp_path / "run")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("error: MemoryError: - this is a fault of the machine")


def fail_on_one(config: RunConfig) -> None:
    """A run in which the items of the second image fail."""
    summary = ask_model(config, FaultyModel(config, 1, raising(RuntimeError("no answer"))))
    assert summary is not None
    assert summary.num_failed > 0


def test_failed_items_are_asked_again_and_their_records_replaced(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(world.config(tmp_path / "whole", "oracle"))
    config = world.config(tmp_path / "run", "oracle")
    fail_on_one(config)
    caplog.clear()
    model = FaultyModel(config, 0, raising(AssertionError("this image is done")))
    assert numbers(ask_model(config, model, resume=True)) == numbers(whole)
    assert len(model.asked) == world.per_image
    assert f"{world.per_image} failed items are asked again, {world.per_image} of them failed for this" in caplog.text
    assert "RuntimeError: no answer" in caplog.text
    assert untimed(tmp_path / "run") == untimed(tmp_path / "whole")
    caplog.clear()
    assert run(config, resume=True) is not None
    assert "asked again" not in caplog.text


def test_a_run_that_stops_while_it_asks_again_has_no_summary_and_no_item_twice(world: World, tmp_path: Path) -> None:
    whole = run(world.config(tmp_path / "whole", "oracle"))
    config = world.config(tmp_path / "run", "oracle")
    fail_on_one(config)
    with pytest.raises(KeyboardInterrupt):
        ask_model(config, DyingModel(1), resume=True)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert len(ids(tmp_path / "run")) == len(set(ids(tmp_path / "run"))) == 3 * world.per_image + 1
    assert numbers(run(config, resume=True)) == numbers(whole)
    assert untimed(tmp_path / "run") == untimed(tmp_path / "whole")


def test_a_model_that_cannot_be_built_leaves_the_finished_run(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", "oracle")
    fail_on_one(config)
    before = read_summary(tmp_path / "run" / "summary.json")

    def build(*_: object) -> GroundedModel:
        raise MemoryError

    with pytest.raises(MemoryError):
        run_benchmark(Job(config, build), config.load_task(), resume=True, rank=Rank())
    assert read_summary(tmp_path / "run" / "summary.json") == before
    assert len(ids(tmp_path / "run")) == world.num_items


def test_ranks_ask_failed_items_again(world: World, tmp_path: Path) -> None:
    whole = run(world.config(tmp_path / "whole", "oracle"))
    config = world.config(tmp_path / "run", "oracle")
    fail_on_one(config)
    assert run(config, resume=True, rank=Rank(1, 2)) is None
    assert numbers(run(config, resume=True, rank=Rank(0, 2))) == numbers(whole)
    assert untimed(tmp_path / "run") == untimed(tmp_path / "whole")


def test_one_process_replaces_what_failed_in_ranks(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", "oracle")
    model = FaultyModel(config, 1, raising(RuntimeError("no answer")))
    ask_model(config, model, rank=Rank(1, 2))  # the second and the fourth image
    # They fail again, for another reason, which the records have to tell.
    again = FaultyModel(config, 1, raising(RuntimeError("still no answer")))
    summary = ask_model(config, again, resume=True)
    assert summary is not None
    assert {reason for reason in summary.reasons if "no answer" in reason} == {"RuntimeError: still no answer"}
    assert not list((tmp_path / "run").glob("records.rank*"))


def test_merged_shards_prefer_what_did_not_fail(world: World, tmp_path: Path) -> None:
    config = dataclasses.replace(world.config(tmp_path / "run", "oracle"), shard="1/1")
    fail_on_one(config)
    with pytest.raises(KeyboardInterrupt):
        ask_model(config, DyingModel(world.per_image - 1), resume=True, rank=Rank(1, 2))
    assert run(config, resume=True) is not None
    assert {record.status for record in stored_records(tmp_path / "run")} == {Status.SCORED}


def test_records_of_entries_that_can_be_read_today_are_dropped(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = world.config(tmp_path / "run")
    first = run(config)
    path = tmp_path / "run" / "records.jsonl"
    task = config.load_task()
    stale: Record = dataclasses.replace(task.fail(task.items[0], "no such image"), item_id="unreadable-000003")
    path.write_text(record_to_line(stale) + "\n" + path.read_text())
    assert numbers(run(config, resume=True)) == numbers(first)
    assert "unreadable-000003" not in ids(tmp_path / "run")
    assert "dropped 1 failed records of entries that could not be read once" in caplog.text


def damage_images(world: World, output: Path) -> None:
    for path in {item.picture.path for item in world.config(output).load_task().items}:
        path.write_bytes(path.read_bytes()[:60])


def command(world: World, output: Path, *further: str) -> list[str]:
    words = [world.benchmark, world.root_flag, str(world.root), "--output", str(output), "--model", "random"]
    return ["run", *words, *further]


@pytest.mark.parametrize("shard", [[], ["--shard", "1/2"]])
def test_a_run_in_which_everything_failed_ends_with_an_error(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], shard: list[str]
) -> None:
    paths = {item.picture.path for item in world.config(tmp_path).load_task().items}
    whole = {path: path.read_bytes() for path in paths}
    damage_images(world, tmp_path)
    assert partonomy(command(world, tmp_path / "run", *shard)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    num_items = world.num_items // (2 if shard else 1)
    assert error.startswith(f"error: {tmp_path / 'run'}: all {num_items} items failed, ")
    assert "the image file" in error or "not a readable image" in error
    for path, content in whole.items():
        path.write_bytes(content)
    assert partonomy([*command(world, tmp_path / "run", *shard), "--resume"]) == 0
    assert set(Counter(ids(tmp_path / "run")).values()) == {1}
    assert {record.status for record in stored_records(tmp_path / "run")} == {Status.SCORED}


@pytest.mark.parametrize("num_procs", ["1", "2"])
def test_a_second_run_in_the_folder_is_refused_and_harms_nothing(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_procs: str
) -> None:
    output = tmp_path / "run"
    with lock_folder(output):  # as a run that goes on elsewhere
        (output / ".records.jsonl.0123456789abcdef0123456789abcdef.tmp").touch()
        assert partonomy([*command(world, output, "--resume"), "--num_procs", num_procs]) == 1
        error = capsys.readouterr().err.splitlines()
        assert error[-1].startswith(f"error: {output}: another process is writing here")
        assert sorted(path.name for path in output.iterdir()) == [
            ".lock",
            ".records.jsonl.0123456789abcdef0123456789abcdef.tmp",
        ]
    assert partonomy(command(world, output)) == 0
    assert not list(output.glob(".*.tmp"))
    assert not (output / ".lock").exists()


def test_a_rank_that_still_writes_is_waited_for_and_then_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partonomy.harness.run_folder.SECONDS_TO_END", 0.1)
    config = world.config(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with RecordWriter(tmp_path / "run" / "records.rank0-of-2.jsonl"):
        with pytest.raises(BlockingIOError, match=r"records\.rank0-of-2\.jsonl is being written by another process"):
            run(config)
        assert not (tmp_path / "run" / "config.json").exists()
    assert run(config) is not None


def test_the_first_rank_holds_the_folder_for_the_others(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run")
    with lock_folder(tmp_path / "run"):
        with pytest.raises(BlockingIOError):
            run(config, rank=Rank(0, 2))
        assert run(config, rank=Rank(1, 2)) is None


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("rank", [Rank(), Rank(0, 2)])
def test_a_run_that_ended_before_its_first_record_claims_nothing(
    world: World, tmp_path: Path, resume: bool, rank: Rank
) -> None:
    config = world.config(tmp_path / "run")
    wrong = dataclasses.replace(config, seed=4, model=ModelSettings("random", device="cuda:7"))

    def build(*_: object) -> GroundedModel:
        raise ValueError("no such device")

    with pytest.raises(ValueError, match="no such device"):
        run_benchmark(Job(wrong, build), wrong.load_task(), resume=False, rank=rank)
    run(config, resume=resume, rank=rank)
    assert read_config(tmp_path / "run") == config
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("")
    other = dataclasses.replace(config, output=str(tmp_path / "damaged"))
    run(other, resume=resume, rank=rank)
    assert read_config(tmp_path / "damaged") == other


def test_further_ranks_wait_for_the_first_one_to_replace_the_settings(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    config = world.config(output)
    open_run(output, dataclasses.replace(config, seed=4), Rank(), resume=False)
    naps = []

    def first_rank(seconds: float) -> None:
        naps.append(seconds)
        open_run(output, config, Rank(0, 2), resume=False)

    monkeypatch.setattr("partonomy.harness.run_folder.time.sleep", first_rank)
    open_run(output, config, Rank(1, 2), resume=False)
    assert len(naps) == 1
    monkeypatch.setattr("partonomy.harness.run_folder.SECONDS_TO_START", -1.0)
    with pytest.raises(ValueError, match=r"different settings \(seed \(was 3, now 5\)\), and the first rank"):
        open_run(output, dataclasses.replace(config, seed=5), Rank(1, 2), resume=False)


def test_a_run_is_overwritten_only_on_request(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    assert partonomy(command(world, output)) == 0
    (output / "notes.txt").write_text("mine")
    other = [*command(world, output), "--seed", "5"]
    assert partonomy(other) == 1
    assert "--overwrite to start anew" in capsys.readouterr().err
    assert partonomy([*other, "--overwrite"]) == 0
    assert read_config(output).seed == 5
    assert set(Counter(ids(output)).values()) == {1}
    assert (output / "notes.txt").read_text() == "mine"
    assert partonomy([*other, "--overwrite", "--resume"]) == 1
    assert "--overwrite cannot be combined with --resume" in capsys.readouterr().err
    with pytest.raises(ValueError, match="a launcher's ranks"):
        run_benchmark(
            Job(world.config(output)), world.config(output).load_task(), resume=False, rank=Rank(0, 2), overwrite=True
        )


def test_the_lock_of_a_run_is_the_operating_systems(world: World, tmp_path: Path) -> None:
    """Not only this code's own: any process that has locked the file counts."""
    output = tmp_path / "run"
    output.mkdir()
    with (output / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            run(world.config(output))
    assert run(world.config(output)) is not None
