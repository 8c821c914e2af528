"""The launcher: which ranks it starts, what it refuses, and how it ends whatever happens to it and to them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plum.training.launch import (
    LaunchError,
    LocalRanks,
    Nodes,
    check_nodes,
    choose_port,
    main,
    place_configs,
    plan_launch,
    run_on_nodes,
    with_allocator,
)

VARIABLES = ("CUDA_VISIBLE_DEVICES", "NUM_RANKS", "INCLUDE", "HOSTFILE", "MASTER_PORT", "OMP_NUM_THREADS")
RANK = """
import os, signal, sys, time
from pathlib import Path
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
stopped = []
if sys.argv[2] != "deaf":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: stopped.append(number))
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / f"rank{rank}").write_text(f"{os.getpid()} {os.environ['MASTER_PORT']} {os.environ['WORLD_SIZE']}")
if sys.argv[2] == "finish":
    sys.exit(0)
if sys.argv[2] == "fail" and rank == 1:
    sys.exit(7)
if sys.argv[2] == "loader" and os.fork() == 0:
    (folder / f"loader{rank}").write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
while not stopped:
    time.sleep(0.02)
time.sleep(0.3)
(folder / f"saved{rank}").write_text(str(stopped[0]))
sys.exit({signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 75}[stopped[0]])
"""


def plan(counted: list[int], caller: Path = Path("/"), gpus: int = 0, **variables: str) -> LocalRanks | Nodes:
    def count_gpus() -> int:
        counted.append(gpus)
        return gpus

    return plan_launch(variables, caller, count_gpus)


@pytest.mark.parametrize(
    ("gpus", "variables", "expected", "is_counted"),
    [
        (0, {}, LocalRanks(2, (), "1"), True),
        (0, {"OMP_NUM_THREADS": "3"}, LocalRanks(2, (), "3"), True),
        (0, {"NUM_RANKS": "4"}, LocalRanks(4, (), "1"), True),
        (0, {"NUM_RANKS": "4", "OMP_NUM_THREADS": "3"}, LocalRanks(4, (), "3"), False),
        (8, {}, LocalRanks(8, (), None), True),
        (1, {}, LocalRanks(1, (), None), True),
        (8, {"NUM_RANKS": "4"}, LocalRanks(4, (), None), True),
        (8, {"INCLUDE": "localhost:0,3"}, LocalRanks(2, ("0", "3"), None), False),
        (4, {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, LocalRanks(4, ("4", "5", "6", "7"), None), True),
        # The first of the GPUs that the user may use, not of the node's.
        (4, {"CUDA_VISIBLE_DEVICES": "4,5,6,7", "NUM_RANKS": "2"}, LocalRanks(2, ("4", "5"), None), True),
        (2, {"CUDA_VISIBLE_DEVICES": "2,3", "NUM_RANKS": "2", "OMP_NUM_THREADS": "3"},
         LocalRanks(2, ("2", "3"), "3"), True),
    ],
)  # fmt: skip
def test_ranks_of_a_node(gpus: int, variables: dict[str, str], expected: LocalRanks, is_counted: bool) -> None:
    counted: list[int] = []
    assert plan(counted, gpus=gpus, **variables) == expected
    assert bool(counted) == is_counted


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NUM_RANKS": "0"}, "NUM_RANKS is '0'"),
        ({"NUM_RANKS": "two"}, "NUM_RANKS is 'two'"),
        ({"NUM_RANKS": "9"}, "NUM_RANKS is 9, but 8 GPUs are visible"),
        ({"INCLUDE": "localhost"}, "INCLUDE is 'localhost', it must list GPUs"),
        ({"INCLUDE": "localhost:0,0"}, "INCLUDE is 'localhost:0,0'"),
        ({"INCLUDE": "node7:0,1"}, "INCLUDE is 'node7:0,1'"),
        ({"INCLUDE": "localhost:0", "HOSTFILE": "hosts"}, "set INCLUDE .* or HOSTFILE"),
    ],
)
def test_a_wrong_setting_is_named(variables: dict[str, str], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        plan([], gpus=8, **variables)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "hosts.txt does not exist; correct the name, or unset HOSTFILE"),
        (b"", "hosts.txt names no host"),
        (b"# node1 slots=8\n\n", "hosts.txt names no host"),
        (b"node1 slots=8\nnode2\n", "hosts.txt, line 2: 'node2' is not `HOST slots=NUMBER`"),
        (b"node1 slots=0\n", "line 1: 'node1 slots=0' is not"),
        (b"node1 slots=8x\n", "line 1"),
        (b"node1 slots=8\nnode1 slots=8\n", "line 2: node1 is named a second time"),
        (b"node1 slots=8\xff\n", "hosts.txt cannot be read"),
        (b"elsewhere.invalid slots=2\n", "names one node, elsewhere.invalid, which is not this one"),
    ],
)
def test_a_wrong_hostfile_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "hosts.txt").write_bytes(content)
    with pytest.raises(LaunchError, match=message):
        plan([], tmp_path, HOSTFILE="hosts.txt")


def test_a_folder_is_no_hostfile(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="cannot be read"):
        plan([], tmp_path.parent, HOSTFILE=tmp_path.name)


def test_a_hostfile_is_read_from_where_the_user_stands(tmp_path: Path) -> None:
    (tmp_path / "hosts.txt").write_text("# two nodes\nnode1 slots=8\nnode2  slots=4  # half of it\n")
    found = plan([], tmp_path, HOSTFILE="hosts.txt")
    assert found == Nodes(tmp_path / "hosts.txt", {"node1": 8, "node2": 4})
    (tmp_path / "hosts.txt").write_text(f"{socket.gethostname()} slots=3\n")
    assert plan([], tmp_path, HOSTFILE="hosts.txt") == LocalRanks(3, (), None)


def test_what_several_nodes_need_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(Path("hosts.txt"), {"node1": 8, "node2": 8})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="names 2 nodes, which needs pdsh: install it"):
        check_nodes(nodes)
    programs = (("pdsh", "exit 0"), ("deepspeed", "exit 0"))
    for name, body in (*programs, ("ssh", 'case "$*" in *node2*) exit 255;; esac')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(LaunchError, match="hosts.txt: node2 cannot be reached by ssh without a password"):
        check_nodes(nodes)
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 0\n")
    check_nodes(nodes)


def test_ranks_of_other_nodes_get_what_the_runner_would_lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that writes down the file from which it exports variables, as DeepSpeed's does."""
    home, programs = tmp_path / "home", tmp_path / "programs"
    home.mkdir()
    programs.mkdir()
    (home / ".deepspeed_env").write_text("OWN=1 = one\n\nTOKENIZERS_PARALLELISM=true\n")
    (programs / "deepspeed").write_text('#!/bin/sh\ncat "$DS_ENV_FILE" > exported.txt\nexit 3\n')
    (programs / "deepspeed").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("SECRET", "no one's business")
    monkeypatch.delenv("DS_ENV_FILE", raising=False)
    for name, value in with_allocator({}).items():
        monkeypatch.setenv(name, value)
    handlers = {number: signal.getsignal(number) for number in (2, 15, 1, 10)}
    try:
        assert run_on_nodes(Nodes(Path("hosts.txt"), {"node1": 8, "node2": 8}), 29500, ["train.py"]) == 3
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    lines = (tmp_path / "exported.txt").read_text().splitlines()
    assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in lines
    assert "OWN=1 = one" in lines
    assert [line for line in lines if line.startswith("TOKENIZERS")] == ["TOKENIZERS_PARALLELISM=true"]
    assert not [line for line in lines if "SECRET" in line or not line]


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_the_users_allocator_setting_stays(name: str) -> None:
    assert with_allocator({name: "max_split_size_mb:64"}) == {name: "max_split_size_mb:64"}
    assert with_allocator({"A": "b"}) == {"A": "b", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def test_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_port(None, is_local=True) != choose_port("", is_local=True)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(LaunchError, match=f"MASTER_PORT {port} is in use on this node"):
            choose_port(port, is_local=True)
        assert choose_port(port, is_local=False) == int(port), "the first node may be another one"
    assert choose_port(port, is_local=True) == int(port)
    for wrong in ("0", "65536", "http"):
        with pytest.raises(LaunchError, match="MASTER_PORT is"):
            choose_port(wrong, is_local=True)


def test_a_configuration_is_found_from_where_the_user_stands(tmp_path: Path) -> None:
    root, caller = tmp_path / "root", tmp_path / "caller"
    for folder in (root / "configs", caller / "configs"):
        folder.mkdir(parents=True)
    (root / "configs" / "a.yaml").touch()
    (root / "configs" / "b.yaml").touch()
    (caller / "configs" / "b.yaml").touch()
    given = ["--config", "configs/a.yaml", "--config=configs/b.yaml", "--run_dir", "configs/c.yaml"]
    own = str(caller / "configs" / "b.yaml")
    assert place_configs(given, caller, root) == [*given[:2], f"--config={own}", *given[3:]]
    assert place_configs(given, root, root) == given
    assert place_configs(["--config", "a.yaml"], root / "configs", root) == ["--config", "configs/a.yaml"]
    with pytest.raises(LaunchError, match=r"--config c.yaml: there is no such file in .*caller or .*root"):
        place_configs(["--config", "c.yaml"], caller, root)


def test_an_error_is_one_line_and_comes_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "train.py", "--config", "c.yaml"]) == 2
    assert re.fullmatch(r"error: --config c.yaml: .*\n", capsys.readouterr().err)


class Launched:
    """A launcher with two ranks that write down what happens to them."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        (folder / "rank.py").write_text(RANK)
        environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        environment |= {"NUM_RANKS": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "-m", "plum.training.launch", str(folder)]
        self.process = subprocess.Popen(
            [*command, str(folder / "rank.py"), str(folder), kind],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ids(self, name: str = "rank") -> list[int]:
        """Wait for both ranks to run; return their process ids."""
        paths = [self.folder / f"{name}{rank}" for rank in range(2)]
        _until(lambda: all(path.exists() and path.read_text() for path in paths))
        return [int(path.read_text().split()[0]) for path in paths]

    def end(self) -> tuple[int, str]:
        """Wait for the launcher; return its status and what it printed."""
        assert self.process.stderr is not None
        printed = self.process.stderr.read()
        return self.process.wait(timeout=30), printed


def _until(condition: "object", seconds: float = 20.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def launched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Launched]:
    one = Launched(tmp_path, request.param)
    yield one
    if one.process.poll() is None:
        one.process.kill()
    one.process.wait()


@pytest.mark.parametrize("launched", ["finish"], indirect=True)
def test_ranks_that_finish_give_0(launched: Launched) -> None:
    assert launched.end() == (0, "")
    first, second = [(launched.folder / f"rank{rank}").read_text().split()[1:] for rank in range(2)]
    assert first == second
    assert first[1] == "2"


@pytest.mark.parametrize("launched", ["wait"], indirect=True)
@pytest.mark.parametrize(
    ("number", "status", "received"),
    [
        (signal.SIGTERM, 143, signal.SIGTERM),
        (signal.SIGINT, 130, signal.SIGINT),
        (signal.SIGUSR1, 75, signal.SIGUSR1),
        (signal.SIGHUP, 143, signal.SIGTERM),
    ],
)
def test_a_signal_reaches_all_ranks_and_is_waited_for(
    launched: Launched, number: int, status: int, received: int
) -> None:
    ranks = launched.ids()
    launched.process.send_signal(number)
    assert launched.end()[0] == status
    assert all(_is_gone(rank) for rank in ranks)
    assert [(launched.folder / f"saved{rank}").read_text() for rank in range(2)] == [str(int(received))] * 2


@pytest.mark.parametrize("launched", ["fail", "loader"], indirect=True)
def test_a_lost_rank_ends_the_others_and_what_they_started(launched: Launched) -> None:
    ranks = launched.ids()
    is_killed = (launched.folder / "rank.py").exists() and "loader" in launched.process.args  # type: ignore[operator]
    loaders = launched.ids("loader") if is_killed else []
    if is_killed:
        os.kill(ranks[1], signal.SIGKILL)
    status, printed = launched.end()
    assert status == (137 if is_killed else 7)
    assert f"rank.py ended with status {status}: process 1" in printed
    assert f"return code = {-9 if is_killed else 7}" in printed
    _until(lambda: all(_is_gone(process) for process in (*ranks, *loaders)))


@pytest.mark.parametrize("launched", ["wait"], indirect=True)
def test_ranks_stop_when_the_launcher_is_killed(launched: Launched) -> None:
    ranks = launched.ids()
    launched.process.kill()
    assert launched.end()[0] == -signal.SIGKILL
    _until(lambda: all(_is_gone(rank) for rank in ranks))
    assert [(launched.folder / f"saved{rank}").exists() for rank in range(2)] == [True, True]


@pytest.mark.parametrize("launched", ["deaf"], indirect=True)
def test_a_second_signal_ends_ranks_at_once(launched: Launched) -> None:
    ranks = launched.ids()
    launched.process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert launched.process.poll() is None, "they may be saving"
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end()[0] == 137
    assert all(_is_gone(rank) for rank in ranks)
