"""The SLURM scripts, run with stand-ins for srun and scontrol; and the variables that train.py takes from srun."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plum.training.slurm import first_host, launcher_variables
from tests.plum.training.launching import write_config
from tests.plum.training.training_world import make_config, with_engine, write_inputs
from tests.readme_commands import ROOT

SCRIPTS = sorted((ROOT / "scripts" / "slurm").glob("*.sbatch"))
STEP = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NODELIST": "gpu[03-05]",
}
SRUN = f'''#!{sys.executable}
"""Stands in for srun: two tasks on this machine; the status is the highest of theirs."""
import os, pathlib, signal, subprocess, sys, time

command = sys.argv[sys.argv.index("python") :]
shared = {{"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "localhost", "OMP_NUM_THREADS": "1"}}
tasks = [
    subprocess.Popen(command, env=os.environ | shared | {{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}})
    for rank in range(2)
]
metrics = os.environ.get("SIGNAL_AFTER_FIRST_LINE_OF")
while metrics and all(task.poll() is None for task in tasks):
    if pathlib.Path(metrics).exists() and pathlib.Path(metrics).read_text().count("\\n") >= 1:
        for task in tasks:
            task.send_signal(signal.SIGUSR1)
        break
    time.sleep(0.02)
sys.exit(max(task.wait() for task in tasks))
'''


def test_there_are_scripts() -> None:
    assert {path.name for path in SCRIPTS} == {"one_node.sbatch", "several_nodes.sbatch", "evaluation_array.sbatch"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(options) < next(
        n for n, line in enumerate(lines) if line and not line.startswith("#")
    )  # SLURM stops there
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", lines[number]) for number in options)
    assert "#SBATCH --requeue" in lines
    assert "#SBATCH --open-mode=append" in lines  # a job that goes on would otherwise empty its log
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.split()[0]) == (2, "usage:")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_shellcheck_finds_nothing(script: Path) -> None:
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if checker is None:
        pytest.skip("shellcheck is not installed (requirements-dev.txt)")
    found = subprocess.run([checker, script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", ["one_node", "several_nodes"])
def test_training_scripts_are_signalled_before_the_limit(name: str) -> None:
    lines = (ROOT / "scripts" / "slurm" / f"{name}.sbatch").read_text().splitlines()
    assert "#SBATCH --signal=USR1@900" in lines  # without B:, which would signal the shell instead of the ranks


def _run(script: str, place: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | {
        "PATH": f"{place / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    return subprocess.run(
        ["bash", ROOT / "scripts" / "slurm" / script, *arguments],
        env=environment | variables,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _install(place: Path, name: str, program: str) -> None:
    (place / "bin").mkdir(exist_ok=True)
    (place / "bin" / name).write_text(program)
    (place / "bin" / name).chmod(0o755)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_job_that_is_stopped_before_its_limit_is_requeued_and_goes_on(tmp_path: Path) -> None:
    _install(tmp_path, "srun", SRUN)
    _install(tmp_path, "scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    write_inputs(tmp_path)
    config = with_engine(make_config(tmp_path, "run", num_updates=30), "deepspeed", 2, 1)
    _, file, *rest = write_config(config)
    metrics = Path(config.run_dir) / "metrics.jsonl"
    stopped = _run("one_node.sbatch", tmp_path, file, *rest, SIGNAL_AFTER_FIRST_LINE_OF=str(metrics))
    assert stopped.returncode == 75, stopped.stdout[-3000:]
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    done = len(metrics.read_text().splitlines())
    assert 0 < done < 30
    finished = _run("one_node.sbatch", tmp_path, file, *rest)
    assert finished.returncode == 0, finished.stdout[-3000:]
    assert [json.loads(line)["update"] for line in metrics.read_text().splitlines()] == list(range(1, 31))
    starts = [json.loads(line) for line in (Path(config.run_dir) / "starts.jsonl").read_text().splitlines()]
    assert [(one["num_ranks"], one["from"]) for one in starts] == [(2, None), (2, f"update_{done:06d}")]
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"  # not a second time


def test_a_shard_knows_its_number(tmp_path: Path) -> None:
    _install(tmp_path, "python", f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/called\n')
    script = (ROOT / "scripts" / "slurm" / "evaluation_array.sbatch").read_text().replace("$PWD/.venv/bin:", "")
    (tmp_path / "array.sbatch").write_text(script)
    for variables, shard in (({}, "3/8"), ({"NUM_SHARDS": "32"}, "3/32")):
        environment = os.environ | {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_ARRAY_TASK_COUNT": "8",
        }
        command = ["bash", tmp_path / "array.sbatch", "out put", "--model", "plum"]
        subprocess.run(command, env=environment | variables, cwd=tmp_path, check=True)
        called = (tmp_path / "called").read_text().splitlines()
        expected = ["--model", "plum", "--shard", shard, "--output", "out put/shard_3", "--resume"]
        assert called == ["validate_partonomy.py", *expected]


def test_a_task_of_srun_gets_what_a_launcher_sets() -> None:
    assert launcher_variables(STEP) == {
        "RANK": "5",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "15007",
    }


def test_all_tasks_of_a_job_meet_at_the_same_place() -> None:
    tasks = [
        launcher_variables(STEP | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % 8)}) for rank in range(16)
    ]
    assert len({(task["MASTER_ADDR"], task["MASTER_PORT"]) for task in tasks}) == 1
    assert [task["RANK"] for task in tasks] == [str(rank) for rank in range(16)]
    own = launcher_variables(STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert (own["MASTER_ADDR"], own["MASTER_PORT"]) == ("10.0.0.1", "29500")
    ports = {launcher_variables(STEP | {"SLURM_JOB_ID": str(job)})["MASTER_PORT"] for job in range(1000, 1100)}
    assert len(ports) == 100
    assert all(1024 < int(port) < 32768 for port in ports)


def test_a_step_of_part_of_the_job_counts_its_own_tasks_and_hosts() -> None:
    step = launcher_variables(STEP | {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu05"})
    assert (step["WORLD_SIZE"], step["MASTER_ADDR"]) == ("8", "gpu05")


@pytest.mark.parametrize(
    "change",
    [{"RANK": "0"}, {"WORLD_SIZE": "2"}, {"SLURM_NTASKS": "1"}, {"SLURM_STEP_ID": None}, {"SLURM_PROCID": None}],
    ids=("launched", "launched_by_size", "one_task", "batch_script", "no_srun"),
)
def test_other_processes_keep_their_variables(change: dict[str, str | None]) -> None:
    variables = {name: value for name, value in (STEP | change).items() if value is not None}
    assert launcher_variables(variables) == {}


def test_a_task_that_sees_its_own_gpu_alone_takes_the_first() -> None:
    assert launcher_variables(STEP | {"CUDA_VISIBLE_DEVICES": "0"})["LOCAL_RANK"] == "0"
    assert launcher_variables(STEP | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})["LOCAL_RANK"] == "1"


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node7", "node7"),
        ("node1,node2", "node1"),
        ("gpu[003-010,12],login1", "gpu003"),
        ("rack[2-3]n[08,11]", "rack2n08"),
        ("a-[5]-ib,b", "a-5-ib"),
        ("10.0.0.[4-5]", "10.0.0.4"),
    ],
)
def test_the_first_host_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


@pytest.mark.parametrize("hosts", ["", "[", ",a", "gpu[]x y"])
def test_a_damaged_list_of_hosts_is_named(hosts: str) -> None:
    with pytest.raises(ValueError, match="SLURM_JOB_NODELIST is .*names no host"):
        first_host(hosts)


def test_a_variable_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="SLURM_NTASKS is 'many', it must be a number"):
        launcher_variables(STEP | {"SLURM_NTASKS": "many"})
