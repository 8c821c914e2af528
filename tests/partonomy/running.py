"""Runs of the built-in models, for the tests of this folder."""

import dataclasses
from pathlib import Path

from partonomy.harness.results import Summary
from partonomy.harness.run_directory import EvaluationConfig, read_records
from partonomy.harness.runner import Job, run_evaluation

from partonomy.benchmarks.partonomy.records import Record
from partonomy.datasets.store import load_questions
from partonomy.harness.ranks import Rank
from partonomy.models.bounds import BUILTIN_MODELS, OracleModel
from partonomy.models.contract import GroundedModel
from partonomy.structures import Question, QuestionType

ALL_TYPES = tuple(question_type.value for question_type in QuestionType)


def build_builtin(config: EvaluationConfig, rank: Rank) -> GroundedModel:
    """The model that the configuration names."""
    return BUILTIN_MODELS[config.model](config.seed)


def make_config(questions: Path, output: Path, model: str = "oracle") -> EvaluationConfig:
    """All types, with own answers."""
    content_hash = load_questions(questions, invalid="collect").content_hash
    return EvaluationConfig(
        model, None, str(questions), content_hash, str(output), ALL_TYPES, None, ALL_TYPES, "gold", 3, "cpu"
    )


def run(config: EvaluationConfig, resume: bool = False, rank: Rank | None = None, num_procs: int = 1) -> Summary | None:
    """Run a built-in model."""
    job = Job(config, build_builtin)
    return run_evaluation(job, job.load_questions(), resume, rank or Rank(), num_procs)


def run_model(config: EvaluationConfig, model: GroundedModel) -> Summary:
    """Run a given model in this process."""
    job = Job(config, lambda config, rank: model)
    summary = run_evaluation(job, job.load_questions(), False, Rank())
    assert summary is not None
    return summary


def untimed(output: Path) -> list[Record]:
    """The records without their seconds."""
    return [dataclasses.replace(record, seconds=0.0) for record in read_records(output / "records.jsonl")]


def values(summary: Summary | None, name: str) -> list[float | None]:
    """A metric over all types that report it."""
    assert summary is not None
    return [entry.metrics[name].value for entry in summary.question_types.values() if name in entry.metrics]


class DyingModel(OracleModel):
    """Stops the process after some questions, as a kill would."""

    def __init__(self, num_questions: int) -> None:
        super().__init__()
        self._left = num_questions

    def prepare(self, question: Question) -> None:
        """Count down."""
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        super().prepare(question)
