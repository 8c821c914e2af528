"""Which questions a run asks, and which of them a shard or a rank asks: whole images, so that statistics merge exactly.

A shard is the part of one of several machines that know nothing of each other (`--shard 2/8`); its ranks are the
processes of that machine, or of machines that a launcher holds together.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from partonomy.structures import InvalidRecord, Question, QuestionSet, QuestionType


@dataclass(frozen=True)
class Rank:
    """One of `world_size` processes that share the images of an evaluation."""

    index: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.world_size:
            raise ValueError(f"rank {self.index} does not lie in [0, {self.world_size})")


def parse_shard(text: str) -> Rank:
    """Read "2/8", the second of eight shards.

    Raises:
        ValueError: Another form, or a shard that does not exist.
    """
    number, separator, count = text.partition("/")
    if not (separator and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard {text!r}: give NUMBER/COUNT with 1 <= NUMBER <= COUNT, e.g. 2/8")
    return Rank(int(number) - 1, int(count))


MAX_IMAGES_PER_BATCH = 4
MIN_BATCHES = 64
"""Batches that a run is cut into at least, if it has as many images: shards and ranks are dealt whole batches."""


@dataclass(frozen=True)
class Selection:
    """What a run has to answer for: the questions, and unreadable records that count as failed.

    `images_per_batch` is that of the whole run, also in a shard: what is asked together decides how a model's numbers
    are rounded, and that must not depend on who asks.
    """

    questions: tuple[Question, ...]
    invalid: tuple[InvalidRecord, ...]
    images_per_batch: int = 1

    @property
    def question_ids(self) -> tuple[str, ...]:
        """Ids in the order of the final records."""
        return (
            *(question.question_id for question in self.questions),
            *(unreadable_id(record) for record in self.invalid),
        )


@dataclass(frozen=True)
class ImageGroup:
    """The questions that share one image file."""

    questions: tuple[Question, ...]


def unreadable_id(invalid: InvalidRecord) -> str:
    """Record id of an unreadable entry: by position, since its own id may be missing or another's."""
    return f"unreadable-{invalid.record_index:06d}"


def rank_from_environment(environment: Mapping[str, str] | None = None) -> Rank:
    """The rank that a launcher (torchrun, deepspeed) gives through RANK and WORLD_SIZE; rank 0 of 1 without one."""
    variables = os.environ if environment is None else environment
    return Rank(int(variables.get("RANK", "0")), int(variables.get("WORLD_SIZE", "1")))


def select_questions(question_set: QuestionSet, question_types: Sequence[QuestionType], limit: int | None) -> Selection:
    """Keep the wanted types and, with a limit, the first `limit` questions of each.

    Unreadable records of an unwanted type are left out; those that name no type are kept.

    Raises:
        ValueError: Two records share an id, or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    wanted = set(question_types)
    counts = dict.fromkeys(question_types, 0)
    questions = []
    for question in question_set.questions:
        if question.question_type in wanted and (limit is None or counts[question.question_type] < limit):
            counts[question.question_type] += 1
            questions.append(question)
    invalid = tuple(
        record for record in question_set.invalid if record.question_type is None or record.question_type in wanted
    )
    num_images = len({question.image_id for question in questions})
    images_per_batch = max(1, min(MAX_IMAGES_PER_BATCH, num_images // MIN_BATCHES))
    selection = Selection(tuple(questions), invalid, images_per_batch)
    _check_unique(selection.question_ids, question_set.name)
    return selection


def select_shard(selection: Selection, shard: Rank) -> Selection:
    """The images of one shard with all their questions; unreadable records belong to the first shard."""
    kept = {
        question.question_id
        for batch in shard_images(selection, shard)
        for group in batch
        for question in group.questions
    }
    questions = tuple(question for question in selection.questions if question.question_id in kept)
    return replace(selection, questions=questions, invalid=selection.invalid if shard.index == 0 else ())


def shard_images(selection: Selection, rank: Rank) -> tuple[tuple[ImageGroup, ...], ...]:
    """The batches of one rank: images in order of first appearance, each with all its questions, dealt out in turn."""
    groups: dict[int, list[Question]] = {}
    for question in selection.questions:
        groups.setdefault(question.image_id, []).append(question)
    images = [ImageGroup(tuple(group)) for group in groups.values()]
    size = selection.images_per_batch
    batches = [tuple(images[start : start + size]) for start in range(0, len(images), size)]
    return tuple(batches[rank.index :: rank.world_size])


def _check_unique(question_ids: Sequence[str], name: str) -> None:
    seen: set[str] = set()
    for question_id in question_ids:
        if question_id in seen:
            raise ValueError(f"{name}: two records share the question id {question_id!r}; ids must be unique")
        seen.add(question_id)


def run_workers(work: Callable[[Rank], None], num_procs: int) -> None:
    """Start one process per rank and wait for all.

    Args:
        work: what a process does as its rank; a module-level function or a partial of one, so that it can be sent.
        num_procs: processes.

    Raises:
        ChildProcessError: A process died; `--resume` goes on where all of them stopped.
    """
    # Each worker would otherwise start as many threads as there are cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_procs)))
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(Rank(index, num_procs),), name=f"rank {index}") for index in range(num_procs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    dead = [f"{worker.name} (exit code {worker.exitcode})" for worker in workers if worker.exitcode != 0]
    if dead:
        raise ChildProcessError(f"worker processes ended early: {', '.join(dead)}; pass --resume to continue")


def end_with_parent() -> None:
    """End a worker whose run was killed, so that a resumed run does not find it still writing."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise RuntimeError("the process that started this worker has ended")
