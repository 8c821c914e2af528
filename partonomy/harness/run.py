"""Runs a model on a benchmark: one record per item, resumable, sharded by image, with byte-identical merges."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from partonomy.benchmarks.registry import find_benchmark
from partonomy.benchmarks.task import AnyTask, Item, Record
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
from partonomy.harness.records import RecordWriter
from partonomy.harness.run_folder import (
    SUMMARY_FILE,
    RunConfig,
    answered_ids,
    codec_of,
    merge_records,
    open_run,
    record_path,
    remove_rank_files,
)
from partonomy.harness.summary import Summary, summarize, write_summary
from partonomy.models.bounds import BUILTIN_MODELS
from partonomy.models.contract import GroundedModel
from partonomy.models.registry import PLUM, TRANSFORMERS, build_model, local_rank_of
from partonomy.progress import progress
from partonomy.sharding import Shard, parse_shard

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


def run_benchmark(job: Job, task: AnyTask, *, resume: bool, rank: Rank, num_procs: int = 1) -> Summary | None:
    """Ask every item that has no record yet, and write the summary when every item of the run has one.

    A run of one shard among several gets no summary: `partonomy.harness.merge_runs` joins it with the others.

    Args:
        job: The run.
        task: The job's task with all shards, from `job.config.load_task()`.
        resume: Whether to continue a run in the same folder.
        rank: Rank of this process among those that a launcher started.
        num_procs: Number of worker processes to start here; only without a launcher.

    Returns:
        The summary, in the last rank to end, which writes it; None in all other ranks and for a shard.

    Raises:
        FileExistsError: The output folder holds results and `resume` is off.
        FileNotFoundError: No image can be found.
        BlockingIOError: Another process writes the same records.
        ValueError: The configuration differs from the folder's, the folder holds damaged records, or both ways of
            sharding are used at once.
        ChildProcessError: A worker process died.
    """
    if num_procs < 1:
        raise ValueError(f"--num_procs must be at least 1, got {num_procs}")
    if num_procs > 1 and rank.world_size > 1:
        raise ValueError(f"--num_procs {num_procs} cannot be combined with a launcher's {rank.world_size} ranks")
    check_task(task)
    open_run(job.output, job.config, resume, rank)
    sign_on(job.output, rank)
    if num_procs > 1:
        run_workers(partial(_work, job), num_procs)
    else:
        run_rank(job, task, rank)
    if not sign_off(job.output, rank):
        return None
    records = merge_records(job.output, item_ids(task, job.shard), codec_of(task))
    if records is None:
        return None
    remove_finished_ranks(job.output)
    if rank.world_size == 1:
        remove_rank_files(job.output)
    return finish_run(job.config, task, records) if job.shard.count == 1 else None


def item_ids(task: AnyTask, shard: Shard) -> tuple[str, ...]:
    """Return the ids of a shard's records, in order; records that could not be read belong to the first shard."""
    kept = {item.item_id for batch in take_share(deal_batches(task.items), shard) for item in batch}
    lost = task.lost if shard.index == 0 else ()
    return (*(item.item_id for item in task.items if item.item_id in kept), *(record.item_id for record in lost))


def run_rank(job: Job, task: AnyTask, rank: Rank) -> None:
    """Ask the items of one rank that have no record yet, appending to the rank's file."""
    with RecordWriter(record_path(job.output, rank)) as writer:
        done = answered_ids(job.output, codec_of(task))
        for record in task.lost if rank.index == 0 and job.shard.index == 0 else ():
            if record.item_id not in done:
                writer.write(record)
        share = take_share(deal_batches(task.items), job.shard, rank)
        batches = tuple(batch for batch in share if any(item.item_id not in done for item in batch))
        if not batches:
            return
        model = job.build_model(job.config, rank, task.MAX_NEW_TOKENS)
        if rank.index == 0:
            write_model_description(job.output, describe_model(model), is_resumed=bool(done))
        num_open = sum(item.item_id not in done for batch in batches for item in batch)
        label = task.benchmark if rank.world_size == 1 else f"{task.benchmark}, rank {rank.index}"
        with progress(num_open, label, "item", position=rank.index) as shown:
            for record in answer_items(model, task, batches, partial(_is_open, done)):
                writer.write(record)
                shown.update()


def finish_run(config: RunConfig, task: AnyTask, records: Sequence[Record]) -> Summary:
    """Compute the summary of a run from its records and write it.

    Args:
        config: Configuration of the run.
        task: The task that was asked.
        records: One per item, in item order.
    """
    output = Path(config.output)
    summary = summarize(task, records, gather_provenance(config, task, output), config.seed)
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
    name = f"{task.benchmark} {task.split}"
    ids = [*(item.item_id for item in task.items), *(record.item_id for record in task.lost)]
    if not ids:
        raise ValueError(f"{name}: there are no items to ask; choose another split or other data")
    seen: set[str] = set()
    for item_id in ids:
        if item_id in seen:
            raise ValueError(f"{name}: two items share the id {item_id!r}; ids must be unique")
        seen.add(item_id)
    # Unlike Path.is_file, os.path.isfile is False for any bad name.
    if task.items and not any(os.path.isfile(item.picture.path) for item in task.items):
        flag, first = find_benchmark(task.benchmark).root_flag, task.items[0].picture.path
        raise FileNotFoundError(f"{first}: no image of {name} was found; pass the folder of the data with --{flag}")


def _is_open(done: frozenset[str], item: Item) -> bool:
    return item.item_id not in done


def _work(job: Job, rank: Rank) -> None:
    """Entry of a worker process."""
    run_rank(job, job.config.load_task(), rank)
