"""Runs of Partonomy tasks, for the tests of this folder."""

import dataclasses
from pathlib import Path

from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.benchmarks.records import AnswerRecord
from partonomy.benchmarks.task import AnyTask, Record
from partonomy.datasets.store import load_questions
from partonomy.harness.asking import answer_items
from partonomy.harness.ranks import Rank, deal_batches
from partonomy.harness.run import Job, configure_run, run_benchmark
from partonomy.harness.run_folder import RunConfig, codec_of, read_config
from partonomy.harness.summary import Summary
from partonomy.models.bounds import OracleModel
from partonomy.models.contract import GroundedModel, Hint
from partonomy.models.registry import ModelSettings

ALL_GENERATED = PartonomyOptions(generate="all")
"""All types, with own answers to all."""


def make_config(
    questions: Path, output: Path, model: str = "oracle", options: PartonomyOptions = ALL_GENERATED
) -> RunConfig:
    """The configuration of a run of Partonomy, as the command line records it."""
    config = RunConfig(
        benchmark="partonomy",
        split="",
        root=str(questions),
        options=dataclasses.asdict(options.resolve(model)),
        protocol="",
        protocol_version="",
        content_hash="",
        model=ModelSettings(model, device="cpu"),
        output=str(output),
        seed=3,
    )
    return configure_run(config, config.load_task())


def run(config: RunConfig, resume: bool = False, rank: Rank | None = None, num_procs: int = 1) -> Summary | None:
    """Run a built-in model."""
    return run_benchmark(Job(config), config.load_task(), resume=resume, rank=rank or Rank(), num_procs=num_procs)


def ask_model(
    config: RunConfig, model: GroundedModel, resume: bool = False, rank: Rank | None = None
) -> Summary | None:
    """Put a run, or a part of it, to a given model in this process."""
    job = Job(config, lambda config, rank, max_new_tokens: model)
    return run_benchmark(job, config.load_task(), resume=resume, rank=rank or Rank())


def run_model(config: RunConfig, model: GroundedModel) -> Summary:
    """The summary of a whole run of a given model."""
    summary = ask_model(config, model)
    assert summary is not None
    return summary


def records_of(model: GroundedModel, task: AnyTask) -> list[Record]:
    """The records of a task's items, without a folder and without their seconds."""
    asked = answer_items(model, task, deal_batches(task.items), lambda item: True)
    return [dataclasses.replace(record, seconds=0.0) for record in asked]


def stored_records(output: Path, name: str = "records.jsonl") -> list[Record]:
    """The records of a run of any benchmark."""
    return list(codec_of(read_config(output).empty_task()).read(output / name))


def question_records(output: Path) -> list[QuestionRecord]:
    """The records of a run of Partonomy."""
    return [record for record in stored_records(output) if isinstance(record, QuestionRecord)]


def answer_records(output: Path) -> list[AnswerRecord]:
    """The records of a run of any other benchmark."""
    return [record for record in stored_records(output) if isinstance(record, AnswerRecord)]


def untimed(output: Path) -> list[Record]:
    """The records without their seconds."""
    return [dataclasses.replace(record, seconds=0.0) for record in stored_records(output)]


def values(summary: Summary | None, name: str) -> list[float | None]:
    """A metric over all groups that report it."""
    assert summary is not None
    return [group.metrics[name].value for group in summary.groups.values() if name in group.metrics]


class DyingModel(OracleModel):
    """Stops the process after some items, as a kill would."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self._left = num_items

    def prepare(self, hint: Hint) -> None:
        """Count down."""
        if hint.number == 0:
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
        super().prepare(hint)


class OracleOfImages(OracleModel):
    """An oracle that knows the image of the question that it is asked."""

    def __init__(self, questions: Path) -> None:
        super().__init__()
        self._image_of = {
            one.question_id: one.image_id for one in load_questions(questions, invalid="collect").questions
        }
        self.image_id = 0

    def prepare(self, hint: Hint) -> None:
        """Look the image up."""
        self.image_id = self._image_of[hint.item_id]
        super().prepare(hint)
