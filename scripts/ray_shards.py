"""Run a command once per shard, on a Ray cluster or on this machine (`pip install ray`; docs/many_machines.md).

python scripts/ray_shards.py --shards 8 -- python -m partonomy build ... --shard {shard}
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

TAIL_LINES = 20


def run_shard(command: Sequence[str], folder: str) -> tuple[int, str]:
    """Run a shard's command in a folder; returns its exit status and the end of its output."""
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, errors="replace"
    )
    return done.returncode, "\n".join(done.stdout.splitlines()[-TAIL_LINES:])


def fill_in(template: Sequence[str], number: int, count: int) -> list[str]:
    """The command of one shard: {shard} becomes NUMBER/COUNT, {number} NUMBER."""
    return [word.replace("{shard}", f"{number}/{count}").replace("{number}", str(number)) for word in template]


def main(arguments: Sequence[str]) -> int:
    """Run all shards; returns 1 if any failed. A node that is lost has its shards started again, where they go on."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--shards", type=int, required=True, help="number of shards")
    parser.add_argument("--address", help="of a running cluster, e.g. auto; default: start Ray on this machine")
    parser.add_argument("--num_cpus", type=float, default=1, help="CPU cores of one shard")
    parser.add_argument("--num_gpus", type=float, default=0, help="GPUs of one shard")
    parser.add_argument("command", nargs="+", help="after --; {shard} and {number} are replaced")
    options = parser.parse_args(list(arguments))
    if options.shards < 1 or not any("{shard}" in word for word in options.command):
        parser.error("give --shards of 1 or more, and a command with {shard} in it, e.g. --shard {shard}")
    try:
        import ray  # noqa: PLC0415  the only use of it in the project
    except ImportError:
        parser.error("Ray is not installed: pip install ray")
    ray.init(address=options.address)
    task = ray.remote(num_cpus=options.num_cpus, num_gpus=options.num_gpus)(run_shard)
    commands = (fill_in(options.command, number, options.shards) for number in range(1, options.shards + 1))
    waiting = {task.remote(command, os.getcwd()): number for number, command in enumerate(commands, start=1)}
    failed = []
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(done)
        status, output = ray.get(done)
        print(f"shard {number}/{options.shards}: {'done' if status == 0 else f'exit status {status}'}\n{output}")
        failed += [number] if status else []
    if failed:
        print(f"failed: {', '.join(f'{number}/{options.shards}' for number in sorted(failed))}; run again to go on")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
