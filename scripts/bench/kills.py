"""What commands that write folders leave when they are killed, interrupted, started twice, or short of disk.

python scripts/bench/kills.py [--trials 3] [--seed 0] [--kinds kills,signals,...] [--commands build,run,...]

Each trial disturbs a command one to three times, then repeats it undisturbed, and compares the folder with that of a
command that nothing has disturbed: `lost` and `doubled` count records, `equal` compares every file by sha256, or every
record but its seconds. The commands are `build` (synthetic), `run` (one process), `run2` (two), `predict` and `export`.

- kills: SIGKILL before a random change of the folder; for `run2`, SIGKILL of all its processes at a random time;
- signals: SIGTERM or SIGINT at a random time;
- pairs: the same command twice at once; `refused` counts the ones that were refused with one line;
- disk: no file may grow beyond a random size, as on a full disk; `kept` counts runs that recorded a failed item;
- flips: one bit of the finished record file, or of the exported weights, is flipped; `seen` counts the ones that the
  next command refuses: the same one, or one that reads the questions or the model.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse import CLI

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.__main__ import main as partonomy
from plum.checkpoints.store import save_pretrained
from plum.cli.main import main as plum
from plum.inputs.tokenizer import train_tokenizer
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from scripts.bench.kill_points import hash_tree, list_remains, read_lines_without, run_until

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("build", "run", "run2", "predict", "export")
KINDS = ("kills", "signals", "pairs", "disk", "flips")
RECORDS = {"build": "questions.jsonl", "run": "records.jsonl", "run2": "records.jsonl", "predict": "predictions.jsonl"}
FLIPPED = RECORDS | {"export": "model.safetensors"}
ID_KEYS = ("question_id", "item_id", "image")
VARIABLE = ("build.json", "config.json", "summary.json", "model.json", "records.jsonl", "README.md")
"""Files that hold times or paths."""
MAX_DISTURBED = 3
LONGEST = 300


@dataclass
class Row:
    """The counts of one command under one kind of disturbance."""

    tries: int = 0
    disturbed: int = 0
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Started:
    """A forked process and the file with what it says."""

    child: int
    printed: Path

    def wait(self, seconds: float = LONGEST) -> int | None:
        """Wait for the end; return the exit status, negative for a signal, or None after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return None


@dataclass(frozen=True)
class World:
    """The data of all commands, and the folders that nothing has disturbed.

    Attributes:
        folder: Everything lies here.
        seconds: Seconds of an undisturbed command, by its name.
    """

    folder: Path
    seconds: dict[str, float]

    def words(self, command: str, output: Path) -> list[str]:
        """Return the package of a command and its command line."""
        data, checkpoint = str(self.folder / "data"), str(self.folder / "tiny")
        if command == "build":
            flags = ["--source", "synthetic", "--images", "12", "--image_size", "64", "--embedding_model"]
            return ["partonomy", "build", *flags, "char-ngram-tfidf", "--output", str(output)]
        if command in ("run", "run2"):
            flags = ["--model", "random", "--resume", "--questions", data, "--output", str(output)]
            return ["partonomy", "run", "partonomy", *flags, "--num_procs", "2" if command == "run2" else "1"]
        if command == "predict":
            flags = ["--checkpoint", checkpoint, "--device", "cpu", "--question", "Parts?", "--resume"]
            flags += ["--answer", "It has a wheel.", "--phrases", "wheel", "--output", str(output)]
            return ["plum", "predict", str(self.folder / "data" / "images"), *flags]
        return ["plum", "export", checkpoint, str(output)]

    def call(self, command: str, output: Path) -> Callable[[], int]:
        """Return the command as a function of this process."""
        package, *words = self.words(command, output)
        return lambda: (partonomy if package == "partonomy" else plum)(words)

    def reader(self, command: str, output: Path) -> Callable[[], int]:
        """Return the command that reads such a finished folder: itself, which resumes, or the next one."""
        if command == "build":
            flags = ["--model", "random", "--questions", str(output), "--output", str(output.with_name("read"))]
            return lambda: partonomy(["run", "partonomy", *flags])
        if command == "export":
            words = self.words("predict", output.with_name("read"))[1:]
            words[words.index("--checkpoint") + 1] = str(output)
            return lambda: plum(words)
        return self.call(command, output)

    def start(self, command: str, output: Path) -> "Started":
        """Start the command in a forked process and session of its own, which keeps what it says."""
        printed = output.with_name(f"{output.name}_{time.monotonic_ns()}.txt")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setsid()
                file = os.open(printed, os.O_WRONLY | os.O_CREAT)
                for descriptor in (1, 2):
                    os.dup2(file, descriptor)
                status = self.call(command, output)()
            finally:
                os._exit(status)
        return Started(child, printed)

    def whole(self, command: str) -> Path:
        """Return the folder of the undisturbed command."""
        return self.folder / f"whole_{command}"


def make_world(folder: Path, commands: Sequence[str]) -> World:
    """Build the data and the model, and run every command once."""
    world = World(folder, {})
    images = ["--images", "12", "--image_size", "64", "--embedding_model", "char-ngram-tfidf"]
    assert partonomy(["build", "--source", "synthetic", *images, "--output", str(folder / "data")]) == 0
    tokenizer = train_tokenizer(["USER: Parts? ASSISTANT: It has a wheel."], 600)
    config = with_special_tokens(tiny_model_config(len(tokenizer)), tokenizer)
    save_pretrained(build_model(config), tokenizer, folder / "tiny", "A random model.")
    for command in commands:
        start = time.monotonic()
        assert run_until(world.call(command, world.whole(command)), world.whole(command)).status == 0, command
        # Of a forked process; one that has to import everything is disturbed early, and says so.
        world.seconds[command] = time.monotonic() - start
    return world


def compare(world: World, command: str, output: Path, row: Row) -> None:
    """Count what the folder has lost, has twice, and has left behind."""
    whole = world.whole(command)
    is_equal = hash_tree(output, VARIABLE) == hash_tree(whole, VARIABLE)
    if command in RECORDS and (output / RECORDS[command]).exists():
        name = RECORDS[command]
        wanted, found = (read_lines_without(folder / name, "seconds") for folder in (whole, output))
        key = next(key for key in ID_KEYS if key in wanted[0])
        counts = Counter(str(line[key]) for line in found)
        row.counts["lost"] += len({str(line[key]) for line in wanted} - counts.keys())
        row.counts["doubled"] += sum(count - 1 for count in counts.values())
        is_equal = is_equal and found == wanted
    row.counts["equal"] += is_equal and output.is_dir()
    row.counts["left over"] += len(list_remains(output))


def kill(world: World, command: str, output: Path, dice: random.Random, row: Row) -> None:
    """Kill the command before some change of its folder, or all its processes at some time."""
    if command == "run2":
        _send(world.start(command, output), world.seconds[command] * dice.random(), signal.SIGKILL, row)
        return
    num_changes = run_until(world.call(command, output.with_name("counted")), output.with_name("counted")).num_changes
    for _ in range(dice.randint(1, MAX_DISTURBED)):
        outcome = run_until(world.call(command, output), output, kill_at=dice.randrange(num_changes))
        row.disturbed += outcome.status == -signal.SIGKILL


def interrupt(world: World, command: str, output: Path, dice: random.Random, row: Row) -> None:
    """Send SIGTERM or SIGINT at some time, and wait for the end."""
    sent = dice.choice((signal.SIGTERM, signal.SIGINT))
    _send(world.start(command, output), world.seconds[command] * dice.random(), sent, row)


def _send(started: Started, seconds: float, number: int, row: Row) -> None:
    """Signal a process after some seconds, if it still runs; SIGKILL goes to all of its session."""
    if started.wait(seconds) is None:
        row.disturbed += 1
        (os.killpg if number == signal.SIGKILL else os.kill)(started.child, number)
        started.wait()


def pair(world: World, command: str, output: Path, dice: random.Random, row: Row) -> None:
    """Start the command twice."""
    first = world.start(command, output)
    time.sleep(world.seconds[command] * dice.uniform(0.0, 0.5))
    second = world.start(command, output)
    row.disturbed += 1
    for started in (first, second):
        status, printed = started.wait(), started.printed.read_text()
        row.counts["refused"] += status != 0 and "another process" in printed
        row.counts["failed otherwise"] += status != 0 and "another process" not in printed


def fill_disk(world: World, command: str, output: Path, dice: random.Random, row: Row) -> None:
    """Let writes fail beyond some size of a file."""
    sizes = [path.stat().st_size for path in world.whole(command).rglob("*") if path.is_file()]
    outcome = run_until(world.call(command, output), output, max_bytes=dice.randrange(1, max(sizes)))
    row.disturbed += outcome.status != 0
    records = output / "records.jsonl"
    if records.exists():
        complete = [line for line in records.read_text(errors="replace").splitlines(keepends=True) if line[-1] == "\n"]
        row.counts["kept"] += any(json.loads(line)["status"] == "failed" for line in complete)


def flip(world: World, command: str, output: Path, dice: random.Random, row: Row) -> None:
    """Flip one bit of the finished records or weights."""
    assert run_until(world.call(command, output), output).status == 0
    path = output / FLIPPED[command]
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    row.disturbed += 1
    row.counts["seen"] += run_until(world.reader(command, output), output).status != 0


DISTURB = {"kills": kill, "signals": interrupt, "pairs": pair, "disk": fill_disk, "flips": flip}


def try_out(world: World, kind: str, command: str, trials: int, dice: random.Random) -> Row:
    """Disturb a command in one way, some times."""
    row = Row()
    for _ in range(trials):
        with tempfile.TemporaryDirectory(dir=world.folder) as folder:
            output = Path(folder) / "out"
            row.tries += 1
            DISTURB[kind](world, command, output, dice, row)
            if kind == "flips":
                continue
            if not (command == "export" and output.exists()):  # an export that is there is never written again
                row.counts["refused at the end"] += run_until(world.call(command, output), output).status != 0
            compare(world, command, output, row)
    return row


def main(trials: int = 3, seed: int = 0, kinds: str = ",".join(KINDS), commands: str = ",".join(COMMANDS)) -> None:
    """Print a table with one line per kind and command.

    Args:
        trials: Number of trials of each line.
        seed: Seed of the moments.
        kinds: Comma-separated kinds of disturbance.
        commands: Comma-separated commands.
    """
    chosen = commands.split(",")
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), chosen)
        for kind in kinds.split(","):
            for command in chosen:
                row = try_out(world, kind, command, trials, dice)
                if row.disturbed:
                    shown = ", ".join(f"{name} {count}" for name, count in sorted(row.counts.items()))
                    print(f"{kind:8} {command:8} {row.tries} tries, {row.disturbed} disturbed: {shown}", flush=True)


if __name__ == "__main__":
    CLI(main, as_positional=False)
