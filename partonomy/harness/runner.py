"""Runs a model over questions: one record each, resumable, sharded over ranks by image, merged to the same numbers."""

import sys
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from partonomy.benchmarks.partonomy.metrics import part_names
from partonomy.benchmarks.partonomy.records import Record
from partonomy.benchmarks.partonomy.scoring import (
    Protocol,
    describe_error,
    failed_record,
    invalid_record,
    score_question,
)
from partonomy.benchmarks.partonomy.steps import ChoiceProtocol, Conditioning
from partonomy.datasets.store import load_questions
from partonomy.harness.finishing import remove_list, sign_off, sign_on
from partonomy.harness.pipeline import evaluate_batches
from partonomy.harness.provenance import describe_model, gather_provenance, write_model_description
from partonomy.harness.ranks import (
    ImageGroup,
    Rank,
    Selection,
    end_with_parent,
    parse_shard,
    run_workers,
    select_questions,
    select_shard,
    shard_images,
    unreadable_id,
)
from partonomy.harness.results import Summary, summarize, write_summary
from partonomy.harness.run_directory import (
    SUMMARY_FILE,
    EvaluationConfig,
    RecordWriter,
    answered_ids,
    merge_records,
    open_run,
    record_path,
    remove_shards,
)
from partonomy.images import draw_box, load_image
from partonomy.metrics.part_embedding import build_matcher
from partonomy.models.contract import BatchedModel, GroundedModel
from partonomy.structures import Question, QuestionSet, QuestionType

ModelBuilder = Callable[[EvaluationConfig, Rank], GroundedModel]
"""Builds the model in the process that runs it; a module-level function, so that worker processes can import it."""


@dataclass(frozen=True)
class Job:
    """A run of one process: what to evaluate, with which model."""

    config: EvaluationConfig
    build_model: ModelBuilder

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.config.output)

    @property
    def question_types(self) -> tuple[QuestionType, ...]:
        """The types that are asked."""
        return question_types_of(self.config)

    @property
    def shard(self) -> Rank:
        """The part of the images that this run asks."""
        return Rank() if self.config.shard is None else parse_shard(self.config.shard)

    @property
    def protocol(self) -> Protocol:
        """What is asked of the model."""
        return protocol_of(self.config)

    def load_questions(self) -> QuestionSet:
        """Read the questions; records that cannot be asked are collected, to be counted as failed."""
        return load_questions(Path(self.config.questions), invalid="collect")

    def select(self, question_set: QuestionSet) -> Selection:
        """What this run has to answer for."""
        return select_shard(select_questions(question_set, self.question_types, self.config.limit), self.shard)


def question_types_of(config: EvaluationConfig) -> tuple[QuestionType, ...]:
    """The types that a run asks."""
    return tuple(QuestionType(name) for name in config.question_types)


def protocol_of(config: EvaluationConfig) -> Protocol:
    """What a run asks of its model."""
    generate = frozenset(QuestionType(name) for name in config.generate)
    choice_protocol = ChoiceProtocol(config.choice_protocol)
    return Protocol(Conditioning(config.part_whole), generate, choice_protocol, config.seed)


def run_evaluation(job: Job, question_set: QuestionSet, resume: bool, rank: Rank, num_procs: int = 1) -> Summary | None:
    """Evaluate, and write the summary when every question of the run has its record.

    A run of one shard among several gets no summary: `partonomy.harness.merging` joins it with the others.

    Args:
        job: What to run.
        question_set: The job's questions, as `job.load_questions()` gives them.
        resume: Whether to continue a run in the same folder.
        rank: This process among those that a launcher started.
        num_procs: Worker processes to start here instead; needs a launcher-free call.

    Returns:
        The summary; None for all ranks but the one that ends last, which writes it, and for a shard.

    Raises:
        FileExistsError: The folder holds results and `resume` is off.
        BlockingIOError: Another process writes the same records.
        ValueError: The configuration differs from the folder's, or both ways of sharding are used at once.
        ChildProcessError: A worker process died.
    """
    if num_procs > 1 and rank.world_size > 1:
        raise ValueError(f"--num_procs {num_procs} cannot be combined with a launcher's {rank.world_size} ranks")
    selection = job.select(question_set)
    open_run(job.output, job.config, resume, rank)
    sign_on(job.output, rank)
    if num_procs > 1:
        run_workers(partial(_work, job), num_procs)
    else:
        run_rank(job, selection, rank)
    if not sign_off(job.output, rank):
        return None
    records = merge_records(job.output, selection.question_ids)
    if records is None:
        return None
    remove_list(job.output)
    if rank.world_size == 1:
        remove_shards(job.output)
    if job.shard.world_size > 1:
        return None
    return finish_run(job.config, question_set, records)


def run_rank(job: Job, selection: Selection, rank: Rank) -> None:
    """Ask the questions of one rank that have no record yet, appending to the rank's file."""
    with RecordWriter(record_path(job.output, rank)) as writer:
        done = answered_ids(job.output)
        batches = _open_batches(selection, rank, done)
        for invalid in selection.invalid if rank.index == 0 else ():
            if unreadable_id(invalid) not in done:
                writer.write(invalid_record(invalid, job.protocol))
        if not batches:
            return
        model = job.build_model(job.config, rank)
        if rank.index == 0:
            write_model_description(job.output, describe_model(model), is_resumed=bool(done))
        num_open = sum(is_open(question, done) for question in _questions(batches))
        label = "questions" if rank.world_size == 1 else f"questions, rank {rank.index}"
        with tqdm(total=num_open, desc=label, unit="question", position=rank.index, file=sys.stderr) as progress:
            for record in evaluate(model, batches, job.protocol, done):
                writer.write(record)
                progress.update()


def evaluate(
    model: GroundedModel, batches: Sequence[Sequence[ImageGroup]], protocol: Protocol, done: Set[str]
) -> Iterator[Record]:
    """Ask the questions that are not done: batch by batch where the model takes batches, else one by one."""
    is_wanted = partial(is_open, done=done)
    if isinstance(model, BatchedModel) and protocol.choice_protocol is ChoiceProtocol.LIKELIHOOD:
        yield from evaluate_batches(model, batches, protocol, is_wanted)
        return
    for group in (group for batch in batches for group in batch):
        wanted = tuple(filter(is_wanted, group.questions))
        end_with_parent()
        if wanted:
            yield from evaluate_image(model, ImageGroup(wanted), protocol)


def is_open(question: Question, done: Set[str]) -> bool:
    """Whether a question has no record yet."""
    return question.question_id not in done


def evaluate_image(model: GroundedModel, group: ImageGroup, protocol: Protocol) -> Iterator[Record]:
    """Load one image and ask all its questions; an unreadable image fails each of them."""
    first = group.questions[0]
    try:
        image = load_image(first.image_path, first.height, first.width)
    except (OSError, ValueError) as error:
        for question in group.questions:
            yield failed_record(question, protocol, describe_error(error))
        return
    for question in group.questions:
        shown = image if question.box is None else draw_box(image, question.box)
        yield score_question(model, question, shown, protocol)


def finish_run(config: EvaluationConfig, question_set: QuestionSet, records: Sequence[Record]) -> Summary:
    """Compute the summary of a run from its records and write it.

    Args:
        config: The run.
        question_set: Its questions.
        records: One per question, in the order of the questions.

    Raises:
        ValueError: The embedding model of the text metrics cannot be loaded.
    """
    matcher = None
    if config.text_matching is not None:
        assert config.text_threshold is not None  # set together with the model
        matcher = build_matcher(part_names(records), config.text_matching, config.text_threshold)
    provenance = gather_provenance(config, question_set, Path(config.output))
    summary = summarize(
        records, question_types_of(config), question_set.skipped, provenance, config.seed, matcher=matcher
    )
    write_summary(summary, Path(config.output) / SUMMARY_FILE)
    return summary


def _open_batches(selection: Selection, rank: Rank, done: Set[str]) -> tuple[tuple[ImageGroup, ...], ...]:
    """The rank's batches that hold a question without a record."""
    batches = shard_images(selection, rank)
    return tuple(batch for batch in batches if any(is_open(question, done) for question in _questions([batch])))


def _questions(batches: Sequence[Sequence[ImageGroup]]) -> Iterator[Question]:
    return (question for batch in batches for group in batch for question in group.questions)


def _work(job: Job, rank: Rank) -> None:
    """Entry of a worker process."""
    run_rank(job, job.select(job.load_questions()), rank)
