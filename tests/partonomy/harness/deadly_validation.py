"""validate_partonomy.py with a model that sends kill -9 to a process of the run, as an operating system might.

python -m tests.partonomy.harness.deadly_validation FLAGS, with the environment variables DEADLY_RANK (whose model),
DEADLY_AFTER (questions that it answers first) and DEADLY_TARGET (`self`, or `parent`: the process that started it).
"""

import os
import signal
import time

from partonomy.harness.run_directory import EvaluationConfig

import validate_partonomy
from partonomy.harness.ranks import Rank
from partonomy.models.bounds import RandomModel
from partonomy.models.contract import GroundedModel
from partonomy.structures import Question


class DeadlyModel(RandomModel):
    """Guesses like `random`, and kills after some questions."""

    def __init__(self, seed: int, num_questions: int, target: str) -> None:
        super().__init__(seed)
        self._left = num_questions
        self._target = target

    def prepare(self, question: Question) -> None:
        """Count down."""
        if self._left == 0:
            os.kill(os.getpid() if self._target == "self" else os.getppid(), signal.SIGKILL)
            time.sleep(0.5)  # the other process takes a moment to die
        self._left -= 1
        super().prepare(question)


def build_deadly(config: EvaluationConfig, rank: Rank) -> GroundedModel:
    """The deadly model on one rank, the harmless one on the others."""
    if rank.index != int(os.environ["DEADLY_RANK"]):
        return RandomModel(config.seed)
    return DeadlyModel(config.seed, int(os.environ["DEADLY_AFTER"]), os.environ["DEADLY_TARGET"])


if __name__ == "__main__":
    validate_partonomy.build_model = build_deadly
    validate_partonomy.main()
