"""Runs a model over a benchmark beyond Partonomy: one record per item, resumable, sharded over ranks by image.

The folder is that of `validate_partonomy.py`: config.json, records.jsonl (append-only until finished), summary.json.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from partonomy.benchmarks.partonomy.scoring import describe_error
from partonomy.files import write_text_atomically
from partonomy.harness.answer_marks import describe_marks
from partonomy.harness.benchmark_settings import SETTINGS_KEY, BenchmarkConfig, benchmark_config_to_json
from partonomy.harness.benchmark_summary import (
    BenchmarkSummary,
    count_reasons,
    gather_item_provenance,
    write_benchmark_summary,
)
from partonomy.harness.benchmark_tasks import BenchmarkModel, BenchmarkTask, ItemT
from partonomy.harness.finishing import remove_list, sign_off, sign_on
from partonomy.harness.item_records import ItemRecord, record_from_line, record_to_line
from partonomy.harness.provenance import ModelDescription, write_model_description
from partonomy.harness.ranks import Rank, end_with_parent, parse_shard, run_workers
from partonomy.harness.run_directory import (
    CONFIG_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    RecordWriter,
    record_files,
    record_path,
    remove_shards,
)
from partonomy.harness.training_overlap import overlap_provenance
from partonomy.models.contract import ModelUnavailable

ModelBuilder = Callable[[Rank], BenchmarkModel]
"""Builds the model in the process that runs it; for worker processes a module-level function or a partial of one."""

_FREE_TO_CHANGE = frozenset({"root", "annotations", "checkpoint", "num_trained_on"})
"""Config keys that may differ on resume: data and weights are compared by content hash instead of by path."""
FREE_TO_MERGE = _FREE_TO_CHANGE | {"shard"}


class _ItemWriter(RecordWriter):
    """The record writer with its lock, for the lines of items."""

    def write_item(self, record: ItemRecord) -> None:
        self._file.write(record_to_line(record) + "\n")
        self._file.flush()


def run_benchmark(
    task: BenchmarkTask[ItemT],
    config: BenchmarkConfig,
    output: Path,
    build_model: ModelBuilder,
    *,
    resume: bool,
    rank: Rank,
    num_procs: int = 1,
) -> BenchmarkSummary | None:
    """Ask every item that has no record yet, and write the summary when all have one.

    A run of one shard among several gets no summary: `partonomy.harness.benchmark_merging` joins it with the others.

    Args:
        task: What is asked, in all shards.
        config: Its settings; they end up in config.json and in the summary.
        output: The run's folder.
        build_model: Called only if an item is still open, in the process that asks.
        resume: Whether to continue the run in the folder.
        rank: This process among those that a launcher started; ranks take whole images.
        num_procs: Worker processes to start here instead; needs a launcher-free call.

    Returns:
        The summary; None for all ranks but the one that ends last, which writes it, and for a shard.

    Raises:
        FileExistsError: The folder holds results and `resume` is off.
        FileNotFoundError: Not one image can be found.
        ValueError: The folder is of a run with other settings, or holds damaged records, or both ways of sharding are
            used at once.
        BlockingIOError: Another process writes the same records.
        ChildProcessError: A worker process died.
    """
    if num_procs > 1 and rank.world_size > 1:
        raise ValueError(f"--num_procs {num_procs} cannot be combined with a launcher's {rank.world_size} ranks")
    check_task(task)
    shard = Rank() if config.shard is None else parse_shard(config.shard)
    kept = {item.item_id for image in _images(task.items, shard) for item in image}
    items = [item for item in task.items if item.item_id in kept]
    _open_folder(output, config, resume, rank)
    sign_on(output, rank)
    if num_procs > 1:
        run_workers(partial(_run_rank, task, items, output, build_model), num_procs)
    else:
        _run_rank(task, items, output, build_model, rank)
    if not sign_off(output, rank):
        return None
    records = _merge_ranks(output, [item.item_id for item in items])
    if records is None:
        return None
    remove_list(output)
    if rank.world_size == 1:
        remove_shards(output)
    return finish_benchmark(task, config, output, records) if config.shard is None else None


def finish_benchmark(
    task: BenchmarkTask[ItemT], config: BenchmarkConfig, output: Path, records: Sequence[ItemRecord]
) -> BenchmarkSummary:
    """Compute the summary of a run from its records and write it.

    Args:
        task: What was asked.
        config: The run.
        output: Its folder.
        records: One per item, in the order of the items.
    """
    metrics = task.estimate(records, np.random.default_rng(config.seed))
    num_failed = sum(record.reason is not None for record in records)
    overlap = overlap_provenance(config.num_trained_on, {item.image_path for item in task.items})
    provenance = gather_item_provenance(output, benchmark_config_to_json(config), overlap, len(records))
    summary = BenchmarkSummary(
        task.benchmark,
        task.split,
        config.protocol,
        task.headline,
        config.is_base,
        len(records),
        len(records) - num_failed,
        num_failed,
        count_reasons(records),
        metrics,
        sum(record.seconds for record in records),
        provenance,
        task.notes(records),
    )
    write_benchmark_summary(summary, output / SUMMARY_FILE)
    return summary


def _merge_ranks(output: Path, item_ids: Sequence[str]) -> list[ItemRecord] | None:
    """Write `records.jsonl` in the order of the items, if every item has its record; else return None.

    Raises:
        ValueError: The folder holds records of other items.
    """
    by_id = read_item_records(output)
    foreign = sorted(set(by_id) - set(item_ids))
    if foreign:
        raise ValueError(f"{output} holds records of items that are not asked here: {foreign[:3]}")
    if len(by_id) < len(item_ids):
        return None
    records = [by_id[item_id] for item_id in item_ids]
    write_item_records(output, records)
    return records


def _run_rank(
    task: BenchmarkTask[ItemT], asked: Sequence[ItemT], output: Path, build_model: ModelBuilder, rank: Rank
) -> None:
    """Ask this rank's open items, appending to its file."""
    with _ItemWriter(record_path(output, rank)) as writer:
        done = set(read_item_records(output))
        images = [[item for item in image if item.item_id not in done] for image in _images(asked, rank)]
        num_open = sum(map(len, images))
        if not num_open:
            return
        model = build_model(rank)
        if rank.index == 0:
            description = ModelDescription(model.name, model.dtype, model.device, describe_marks(model))
            write_model_description(output, description, is_resumed=bool(done))
        label = task.benchmark if rank.world_size == 1 else f"{task.benchmark}, rank {rank.index}"
        with tqdm(total=num_open, desc=label, unit="item", position=rank.index, file=sys.stderr) as progress:
            for items in filter(None, images):
                end_with_parent()
                for record in _ask_image(task, model, items):
                    writer.write_item(record)
                    progress.update()


def _ask_image(task: BenchmarkTask[ItemT], model: BenchmarkModel, items: Sequence[ItemT]) -> Iterator[ItemRecord]:
    """Load one image and ask all its items; an unreadable image fails each of them."""
    try:
        image = task.load(items[0])
    except (OSError, ValueError) as error:
        yield from (task.fail(item, describe_error(error)) for item in items)
        return
    for item in items:
        start = time.perf_counter()
        try:
            record = task.ask(model, item, image)
        except ModelUnavailable:
            raise
        except Exception as error:  # whatever a model raises on one item must not end the run
            record = task.fail(item, describe_error(error))
        yield dataclasses.replace(record, seconds=time.perf_counter() - start)


def _images(items: Sequence[ItemT], rank: Rank) -> list[list[ItemT]]:
    """The items of one rank by image; images are dealt out in order of first appearance."""
    groups: dict[str, list[ItemT]] = {}
    for item in items:
        groups.setdefault(item.image_id, []).append(item)
    return [group for position, group in enumerate(groups.values()) if position % rank.world_size == rank.index]


def check_task(task: BenchmarkTask[ItemT]) -> None:
    """Refuse items that cannot be scored once each, and a wrong image folder.

    A single missing image fails its items instead.

    Raises:
        FileNotFoundError: Not one image can be found.
        ValueError: There is no item, or two share an id.
    """
    if not task.items:
        raise ValueError(f"{task.benchmark} {task.split}: there is no item to ask")
    if len({item.item_id for item in task.items}) < len(task.items):
        raise ValueError(f"{task.benchmark} {task.split}: two items share an id; each must be scored once")
    paths = [item.image_path for item in task.items]
    if not any(path.is_file() for path in paths):
        raise FileNotFoundError(
            f"{paths[0]}: not one image of {task.benchmark} {task.split} was found; pass its --root"
        )


def _open_folder(output: Path, config: BenchmarkConfig, resume: bool, rank: Rank) -> None:
    """Prepare the folder, or refuse."""
    output.mkdir(parents=True, exist_ok=True)
    # With several ranks the others may have started already: their files of this world size are no obstacle.
    own = {record_path(output, Rank(index, rank.world_size)) for index in range(rank.world_size)}
    if rank.world_size == 1:
        own = set()
    existing = [path for path in record_files(output) if path not in own]
    if not resume and ((output / SUMMARY_FILE).is_file() or existing):
        raise FileExistsError(f"{output} holds results. Choose another --output, or pass --resume to continue them")
    content = benchmark_config_to_json(config)
    path = output / CONFIG_FILE
    if path.is_file() and (record_files(output) or rank.world_size > 1):
        differing = differing_settings(json.loads(path.read_text(encoding="utf-8")), content, _FREE_TO_CHANGE)
        if differing:
            raise ValueError(
                f"{path} is of a run with other settings: {', '.join(differing)}. Use the same settings, or another "
                "--output for a new run"
            )
    write_benchmark_config(output, config)


def write_benchmark_config(output: Path, config: BenchmarkConfig) -> None:
    """Write `config.json`."""
    write_text_atomically(output / CONFIG_FILE, json.dumps(benchmark_config_to_json(config), indent=2) + "\n")


def differing_settings(old: Mapping[str, Any], new: Mapping[str, Any], free: frozenset[str]) -> list[str]:
    """What two configurations say differently, the settings one by one."""
    old, new = ({**config, **config.get(SETTINGS_KEY, {})} for config in (old, new))
    keys = sorted((set(old) | set(new)) - free - {SETTINGS_KEY})
    return [f"{key} (was {old.get(key)!r}, now {new.get(key)!r})" for key in keys if old.get(key) != new.get(key)]


def write_item_records(output: Path, records: Sequence[ItemRecord]) -> None:
    """Write `records.jsonl` in one step."""
    write_text_atomically(output / RECORDS_FILE, "".join(record_to_line(record) + "\n" for record in records))


def read_item_records(output: Path) -> dict[str, ItemRecord]:
    """All records of the folder by item; a last line without its newline (a killed process) is left out."""
    records = {}
    for path in record_files(output):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], start=1):
            try:
                record = record_from_line(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}; delete that line and resume") from error
            records[record.item_id] = record
    return records
