"""`python -m partonomy run` with a model that sends kill -9 to a process of the run, as an operating system might.

python -m tests.partonomy.harness.deadly_run BENCHMARK FLAGS, with the environment variables DEADLY_RANK (whose model),
DEADLY_AFTER (items that it answers first) and DEADLY_TARGET (`self`, or `parent`: the process that started it, or
`memory`: nobody is killed, but no memory is left).
"""

import os
import signal
import sys
import time

from partonomy.cli.run import benchmark_parser, read_run
from partonomy.harness.ranks import Rank, rank_from_environment
from partonomy.harness.run import Job, configure_run, run_benchmark
from partonomy.harness.run_folder import RunConfig
from partonomy.models.bounds import RandomModel
from partonomy.models.contract import GroundedModel, Hint


class DeadlyModel(RandomModel):
    """Guesses like `random`, and kills after some items."""

    def __init__(self, seed: int, num_items: int, target: str) -> None:
        super().__init__(seed)
        self._left = num_items
        self._target = target

    def prepare(self, hint: Hint) -> None:
        """Count down."""
        if hint.number == 0:
            if self._left == 0 and self._target == "memory":
                raise MemoryError("no memory is left")
            if self._left == 0:
                os.kill(os.getpid() if self._target == "self" else os.getppid(), signal.SIGKILL)
                time.sleep(0.5)  # the other process takes a moment to die
            self._left -= 1
        super().prepare(hint)


def build_deadly(config: RunConfig, rank: Rank, max_new_tokens: int) -> GroundedModel:
    """The deadly model on one rank, the harmless one on the others."""
    if rank.index != int(os.environ["DEADLY_RANK"]):
        return RandomModel(config.seed)
    return DeadlyModel(config.seed, int(os.environ["DEADLY_AFTER"]), os.environ["DEADLY_TARGET"])


def main() -> None:
    """Run the benchmark that the command line names."""
    name, *words = sys.argv[1:]
    arguments = benchmark_parser(name).parse_args(words)
    config = read_run(name, arguments)
    task = config.load_task()
    job = Job(configure_run(config, task), build_deadly)
    run_benchmark(job, task, resume=arguments.resume, rank=rank_from_environment(), num_procs=arguments.num_procs)


if __name__ == "__main__":
    main()
