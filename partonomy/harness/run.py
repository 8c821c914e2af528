"""Runs a model on a benchmark: one record per item, resumable, sharded by image, with byte-identical merges."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from partonomy.benchmarks.registry import find_benchmark
from partonomy.benchmarks.task import AnyTask, Item, Record, RecordCounts
from partonomy.datasets.photographs import count_trained_on
from partonomy.harness.asking import answer_items
from partonomy.harness.provenance import describe_model, gather_provenance, write_model_description
from partonomy.harness.ranks import (
    Rank,
    deal_batches,
    remove_finished_ranks,
    run_workers,
    sign_off,
    sign_on,
    take_share,
)
from partonomy.harness.records import RecordWriter, remove_records
from partonomy.harness.run_folder import (
    SUMMARY_FILE,
    RunConfig,
    codec_of,
    hold_run,
    merge_records,
    open_run,
    read_answered,
    record_files,
    record_path,
    remove_rank_files,
)
from partonomy.harness.summary import Summary, summarize, write_summary
from partonomy.machine_faults import MachineFault, describe_error
from partonomy.models.bounds import BUILTIN_MODELS
from partonomy.models.contract import GroundedModel
from partonomy.models.registry import PLUM, TRANSFORMERS, build_model, local_rank_of
from partonomy.progress import progress
from partonomy.sharding import Shard, parse_shard

logger = logging.getLogger(__name__)

ModelBuilder = Callable[[RunConfig, Rank, int], GroundedModel]
"""Builds the model in the process that runs it, given the maximum length of its answers. It is a module-level function
or a partial of one, so that worker processes can import it."""


def build_configured_model(config: RunConfig, rank: Rank, max_new_tokens: int) -> GroundedModel:
    """Build the model that the configuration names."""
    return build_model(config.model, local_rank_of(rank.index), config.seed, max_new_tokens)


@dataclass(frozen=True)
class Job:
    """A run: its configuration and the builder of its model."""

    config: RunConfig
    build_model: ModelBuilder = build_configured_model

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.config.output)

    @property
    def shard(self) -> Shard:
        """The part of the images that this run covers."""
        return Shard() if self.config.shard is None else parse_shard(self.config.shard)


class NothingScoredError(RuntimeError):
    """Every item of a finished run failed."""

    def __init__(self, output: Path, reasons: Mapping[str, int]) -> None:
        reason, count = max(reasons.items(), key=lambda entry: entry[1])
        super().__init__(
            f"{output}: all {sum(reasons.values())} items failed, {count} of them for this reason: {reason}. Mend it, "
            "then ask them again with --resume"
        )


def run_benchmark(
    job: Job, task: AnyTask, *, resume: bool, rank: Rank, num_procs: int = 1, overwrite: bool = False
) -> Summary | None:
    """Ask every item that has no record yet or has failed, and write the summary when every item of the run has one.

    A run of one shard among several gets no summary: `partonomy.harness.merge_runs` joins it with the others.

    Args:
        job: The run.
        task: The job's task with all shards, from `job.config.load_task()`.
        resume: Whether to continue a run in the same folder.
        rank: Rank of this process among those that a launcher started.
        num_procs: Number of worker processes to start here; only without a launcher.
        overwrite: Whether to delete the run in the same folder first; only without a launcher.

    Returns:
        The summary, in the last rank to end, which writes it; None in all other ranks and for a shard.

    Raises:
        FileExistsError: The output folder holds results, and `resume` and `overwrite` are off.
        FileNotFoundError: No image can be found.
        BlockingIOError: Another process writes to the folder.
        ValueError: The configuration differs from the folder's, the folder holds damaged records, or flags exclude each
            other.
        ChildProcessError: A worker process died.
        MachineFault: The machine failed; the items that were being asked have no record.
        NothingScoredError: Every item of a shard failed. Of a whole run, the summary says so (`require_scored`).
    """
    if num_procs < 1:
        raise ValueError(f"--num_procs must be at least 1, got {num_procs}")
    if num_procs > 1 and rank.world_size > 1:
        raise ValueError(f"--num_procs {num_procs} cannot be combined with a launcher's {rank.world_size} ranks")
    if overwrite and (resume or rank.world_size > 1):
        raise ValueError(
            "--overwrite cannot be combined with --resume or a launcher's ranks; empty the folder yourself"
        )
    check_task(task)
    with hold_run(job.output, rank):
        open_run(job.output, job.config, rank, resume=resume, overwrite=overwrite)
        sign_on(job.output, rank)
        if num_procs > 1:
            run_workers(partial(_work, job), num_procs)
        else:
            run_rank(job, task, rank)
        return _finish(job, task, rank) if sign_off(job.output, rank) else None


def _finish(job: Job, task: AnyTask, rank: Rank) -> Summary | None:
    """Join the records if all are there; a shard has no summary. Runs in the last process that writes to the folder."""
    records = merge_records(job.output, item_ids(task, job.shard), codec_of(task))
    if records is None:
        return None
    remove_finished_ranks(job.output)
    if rank.world_size == 1:
        remove_rank_files(job.output)
    if job.shard.count == 1:
        return finish_run(job.config, task, records)
    counts = RecordCounts()
    for record in records:
        counts.add(record)
    require_scored(job.output, counts.num_expected, counts.reasons)
    return None


def require_scored(output: Path, num_items: int, reasons: Mapping[str, int]) -> None:
    """Raise an error if every item of a run failed. A model that cannot do what is asked does not fail in this sense.

    Args:
        output: The run's folder.
        num_items: Number of items.
        reasons: Number of items that failed or were not supported, by reason.

    Raises:
        NothingScoredError: Every item failed.
    """
    failed = {reason: count for reason, count in reasons.items() if not reason.startswith(NotImplementedError.__name__)}
    if num_items and sum(reasons.values()) == num_items and failed:
        raise NothingScoredError(output, failed)


def item_ids(task: AnyTask, shard: Shard) -> tuple[str, ...]:
    """Return the ids of a shard's records, in order; records that could not be read belong to the first shard."""
    kept = {item.item_id for batch in take_share(deal_batches(task.items), shard) for item in batch}
    lost = task.lost if shard.index == 0 else ()
    return (*(item.item_id for item in task.items if item.item_id in kept), *(record.item_id for record in lost))


def run_rank(job: Job, task: AnyTask, rank: Rank) -> None:
    """Ask the items of one rank that have no record yet or a failed one, appending to the rank's file."""
    codec = codec_of(task)
    with RecordWriter(record_path(job.output, rank)) as writer:
        answered = read_answered(job.output, codec)
        done = answered.done
        share = take_share(deal_batches(task.items), job.shard, rank)
        batches = tuple(batch for batch in share if any(item.item_id not in done for item in batch))
        model = job.build_model(job.config, rank, task.MAX_NEW_TOKENS) if batches else None
        # Only now, because a run whose model cannot be built must not claim the folder.
        for record in task.lost if rank.index == 0 and job.shard.index == 0 else ():
            if record.item_id not in answered.failed:
                writer.write(record)
        if model is None:
            return
        if rank.index == 0:
            write_model_description(job.output, describe_model(model), is_resumed=bool(done))
        asked = [item.item_id for batch in batches for item in batch if item.item_id not in done]
        _forget_failed(job, writer, {name: answered.failed[name] for name in asked if name in answered.failed}, rank)
        num_open = len(asked)
        label = task.benchmark if rank.world_size == 1 else f"{task.benchmark}, rank {rank.index}"
        with progress(num_open, label, "item", position=rank.index) as shown:
            for record in answer_items(model, task, batches, partial(_is_open, done)):
                writer.write(record)
                shown.update()


def _forget_failed(job: Job, writer: RecordWriter, failed: Mapping[str, str], rank: Rank) -> None:
    """Remove the failed records of items that are asked again, and the summary that counts them."""
    if not failed:
        return
    reason, count = Counter(failed.values()).most_common(1)[0]
    logger.warning(
        "%s: %d failed items are asked again%s, %d of them failed for this reason: %s",
        job.output,
        len(failed),
        "" if rank.world_size == 1 else f" by rank {rank.index}",
        count,
        reason,
    )
    (job.output / SUMMARY_FILE).unlink(missing_ok=True)
    codec = codec_of(job.config.empty_task())
    writer.remove(failed, codec)
    if rank.world_size == 1:  # nobody else writes to files that a run with several ranks has left
        for path in record_files(job.output):
            if path != record_path(job.output, rank):
                remove_records(path, failed, codec)


def finish_run(config: RunConfig, task: AnyTask, records: Sequence[Record]) -> Summary:
    """Compute the summary of a run from its records and write it.

    Args:
        config: Configuration of the run.
        task: The task that was asked.
        records: One per item, in item order.
    """
    output = Path(config.output)
    summary = summarize(task, records, gather_provenance(config, task, output), config.seed)
    if config.imported is not None:
        made = f" ({config.imported.protocol})" if config.imported.protocol else ""
        summary = replace(summary, protocol=f"{summary.protocol}, imported{made}")
    write_summary(summary, output / SUMMARY_FILE)
    return summary


def configure_run(config: RunConfig, task: AnyTask) -> RunConfig:
    """Fill in the fields that depend on data and model files: both hashes, protocol and training overlap.

    Args:
        config: The user's settings.
        task: From `config.load_task()`.
    """
    checkpoint = config.model.checkpoint
    # No list covers the earlier training of the language model under the adapters, or that of other models.
    is_listed = config.model.model in (PLUM, TRANSFORMERS) and not config.model.base
    num_trained_on = count_trained_on(
        None if checkpoint is None or not is_listed else Path(checkpoint), task.image_paths()
    )
    return replace(
        config,
        split=task.split,
        protocol=task.protocol,
        protocol_version=task.VERSION,
        content_hash=task.content_hash(),
        checkpoint_hash=config.model.checkpoint_hash(),
        num_trained_on=0 if config.model.model in BUILTIN_MODELS else num_trained_on,
    )


def check_task(task: AnyTask) -> None:
    """Check that there are items, that their ids are unique, and that some images exist (one that is missing only fails
    its items).

    Raises:
        FileNotFoundError: No image can be found.
        ValueError: There are no items, or two share an id.
    """
    check_ids(task)
    # Unlike Path.is_file, os.path.isfile is False for any bad name.
    if task.items and not any(os.path.isfile(item.picture.path) for item in task.items):
        flag, first = find_benchmark(task.benchmark).root_flag, task.items[0].picture.path
        raise FileNotFoundError(
            f"{first}: no image of {task.benchmark} {task.split} was found; pass the folder of the data with --{flag}"
        )


def check_ids(task: AnyTask) -> None:
    """Check that there are items and that their ids are unique.

    Raises:
        ValueError: There are no items, or two share an id.
    """
    name = f"{task.benchmark} {task.split}"
    ids = [*(item.item_id for item in task.items), *(record.item_id for record in task.lost)]
    if not ids:
        raise ValueError(f"{name}: there are no items to ask; choose another split or other data")
    seen: set[str] = set()
    for item_id in ids:
        if item_id in seen:
            raise ValueError(f"{name}: two items share the id {item_id!r}; ids must be unique")
        seen.add(item_id)


def _is_open(done: frozenset[str], item: Item) -> bool:
    return item.item_id not in done


def _work(job: Job, rank: Rank) -> None:
    """Entry of a worker process; an error of the machine or of the input is one line, as in the main process."""
    try:
        run_rank(job, job.config.load_task(), rank)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"error in rank {rank.index}: {describe_error(error)}") from error
    except MemoryError as error:
        raise SystemExit(f"error in rank {rank.index}: {MachineFault(error)}") from error
