"""Runs a model over a benchmark beyond Partonomy: one record per item, resumable, sharded over ranks by image.

The folder is that of `validate_partonomy.py`: config.json, records.jsonl (append-only until finished), summary.json.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from partonomy.benchmarks.item_records import ItemRecord, record_from_line, record_to_line
from partonomy.evaluation.benchmark_summary import (
    BenchmarkSummary,
    count_reasons,
    gather_item_provenance,
    write_benchmark_summary,
)
from partonomy.evaluation.benchmark_tasks import BenchmarkModel, BenchmarkTask, ItemT
from partonomy.evaluation.files import write_text_atomically
from partonomy.evaluation.model_api import ModelUnavailable
from partonomy.evaluation.provenance import ModelDescription, write_model_description
from partonomy.evaluation.run_directory import (
    CONFIG_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    RecordWriter,
    record_files,
    record_path,
    remove_shards,
)
from partonomy.evaluation.scoring import describe_error
from partonomy.evaluation.sharding import Rank

_FREE_TO_CHANGE = frozenset({"root", "checkpoint"})
"""Config keys that may differ on resume: data and weights are compared by content hash instead of by path."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What determines the numbers of a run; a resumed run must have the same.

    Attributes:
        benchmark, split, protocol: What is asked and how; the protocol is the mode for segmentation.
        is_base: Whether the checkpoint's adapters were off: the LLaVA underneath.
        conversation: The checkpoint's conversation template.
        max_new_tokens: Longest answer.
        limit: At most so many items (of each POPE category); None for all.
        root: Where the data lie.
        content_hash: Of all that is asked and its truth.
    """

    benchmark: str
    split: str
    protocol: str
    checkpoint: str
    checkpoint_hash: str
    is_base: bool
    conversation: str
    max_new_tokens: int
    limit: int | None
    root: str
    content_hash: str
    seed: int = 0


class _ItemWriter(RecordWriter):
    """The record writer with its lock, for the lines of items."""

    def write_item(self, record: ItemRecord) -> None:
        self._file.write(record_to_line(record) + "\n")
        self._file.flush()


def run_benchmark(
    task: BenchmarkTask[ItemT],
    config: BenchmarkConfig,
    output: Path,
    build_model: Callable[[], BenchmarkModel],
    *,
    resume: bool,
    rank: Rank,
) -> BenchmarkSummary | None:
    """Ask every item that has no record yet, and write the summary when all have one.

    Args:
        task: What is asked.
        config: Its settings; they end up in config.json and in the summary.
        output: The run's folder.
        build_model: Called only if an item is still open.
        resume: Whether to continue the run in the folder.
        rank: This process among those that a launcher started; ranks take whole images.

    Returns:
        The summary; None where other ranks have still to finish (the last one writes it).

    Raises:
        FileExistsError: The folder holds results and `resume` is off.
        FileNotFoundError: Not one image can be found.
        ValueError: The folder is of a run with other settings, or holds damaged records.
        BlockingIOError: Another process writes the same records.
    """
    _check_images(task)
    _open_folder(output, config, resume, rank)
    _run_rank(task, output, build_model, rank)
    by_id = _read_records(output)
    item_ids = [item.item_id for item in task.items]
    foreign = sorted(set(by_id) - set(item_ids))
    if foreign:
        raise ValueError(f"{output} holds records of items that are not asked here: {foreign[:3]}")
    if len(by_id) < len(item_ids):
        return None
    records = [by_id[item_id] for item_id in item_ids]
    write_text_atomically(output / RECORDS_FILE, "".join(record_to_line(record) + "\n" for record in records))
    if rank.world_size == 1:
        remove_shards(output)
    return _finish(task, config, output, records)


def _finish(
    task: BenchmarkTask[ItemT], config: BenchmarkConfig, output: Path, records: Sequence[ItemRecord]
) -> BenchmarkSummary:
    metrics = task.estimate(records, np.random.default_rng(config.seed))
    num_failed = sum(record.reason is not None for record in records)
    provenance = gather_item_provenance(output, dataclasses.asdict(config), len(records))
    summary = BenchmarkSummary(
        config.benchmark,
        config.split,
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
    )
    write_benchmark_summary(summary, output / SUMMARY_FILE)
    return summary


def _run_rank(task: BenchmarkTask[ItemT], output: Path, build_model: Callable[[], BenchmarkModel], rank: Rank) -> None:
    """Ask this rank's open items, appending to its file."""
    with _ItemWriter(record_path(output, rank)) as writer:
        done = set(_read_records(output))
        images = [[item for item in image if item.item_id not in done] for image in _images(task.items, rank)]
        num_open = sum(map(len, images))
        if not num_open:
            return
        model = build_model()
        if rank.index == 0:
            description = ModelDescription(model.name, model.dtype, model.device)
            write_model_description(output, description, is_resumed=bool(done))
        label = task.benchmark if rank.world_size == 1 else f"{task.benchmark}, rank {rank.index}"
        with tqdm(total=num_open, desc=label, unit="item", position=rank.index, file=sys.stderr) as progress:
            for items in filter(None, images):
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


def _check_images(task: BenchmarkTask[ItemT]) -> None:
    """Refuse a run whose image folder is a wrong one; single missing images fail their items instead."""
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
    content = json.loads(json.dumps(dataclasses.asdict(config)))
    path = output / CONFIG_FILE
    if path.is_file() and (record_files(output) or rank.world_size > 1):
        differing = _differing(json.loads(path.read_text(encoding="utf-8")), content)
        if differing:
            raise ValueError(
                f"{path} is of a run with other settings: {', '.join(differing)}. Use the same settings, or another "
                "--output for a new run"
            )
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    keys = sorted((set(old) | set(new)) - _FREE_TO_CHANGE)
    return [f"{key} (was {old.get(key)!r}, now {new.get(key)!r})" for key in keys if old.get(key) != new.get(key)]


def _read_records(output: Path) -> dict[str, ItemRecord]:
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
