"""Joins runs of `plum validate` over parts of one benchmark (--shard) into a finished run, as `merging` does questions.

The records are joined, not their averages: in the order of the items they are those of a run in one process, and the
same code computes every number from them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.harness.benchmark_run import (
    FREE_TO_MERGE,
    check_task,
    differing_settings,
    finish_benchmark,
    read_item_records,
    write_benchmark_config,
    write_item_records,
)
from partonomy.harness.benchmark_settings import (
    BenchmarkConfig,
    benchmark_config_to_json,
    read_benchmark_config,
    read_task,
)
from partonomy.harness.benchmark_summary import BenchmarkSummary
from partonomy.harness.benchmark_tasks import BenchmarkTask, ItemT
from partonomy.harness.item_records import ItemRecord
from partonomy.harness.merging import MAX_NAMED, MISSING_REASON, unite_records
from partonomy.harness.provenance import MergedRun, read_model_description, write_merged_description


@dataclass(frozen=True)
class BenchmarkMerge:
    """A finished merge: its summary, and how many items no run had answered."""

    summary: BenchmarkSummary
    num_missing: int


def merge_benchmark_runs(runs: Sequence[Path], output: Path, root: Path | None, allow_missing: bool) -> BenchmarkMerge:
    """Write a finished run from the records of several.

    Args:
        runs: Output folders of `plum validate`, finished or not. They may overlap where their records agree.
        output: Folder of the merged run, empty or new.
        root: Where the data lie; None looks where the runs found them.
        allow_missing: Whether items without a record count as failed instead of being refused.

    Raises:
        FileExistsError: The output folder is not empty.
        FileNotFoundError: A folder holds no run, or the data are nowhere.
        ValueError: Runs differ in their settings or in a record, hold records of other items, or lack some.
    """
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; choose another --output")
    configs = {path: read_benchmark_config(path) for path in runs}
    _check_mergeable(configs)
    first = next(iter(configs.values()))
    data = Path(first.root) if root is None else root
    config = dataclasses.replace(first, root=str(data), shard=None)
    records_of = {path: read_item_records(path) for path in configs}
    task = read_task(config.settings, data)
    if task.content_hash() != config.content_hash:
        raise ValueError(f"{data}: not the items of the runs, or changed since; name those with --root")
    records = _join(task, records_of)
    missing = [record.item_id for record in records if record.reason == MISSING_REASON]
    if missing and not allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(records)} items have no record, e.g. {missing[:MAX_NAMED]}: finish the runs "
            "(--resume), name all of them, or pass --allow_missing to count these items as failed"
        )
    output.mkdir(parents=True, exist_ok=True)
    write_benchmark_config(output, config)
    write_item_records(output, records)
    described = [
        MergedRun(str(path), configs[path].shard, len(own), read_model_description(path))
        for path, own in records_of.items()
    ]
    write_merged_description(output, described)
    return BenchmarkMerge(finish_benchmark(task, config, output, records), len(missing))


def _join(task: BenchmarkTask[ItemT], records_of: Mapping[Path, Mapping[str, ItemRecord]]) -> list[ItemRecord]:
    """The records of all items in their order; an item without one gets a failed one."""
    check_task(task)
    found = unite_records(records_of)
    foreign = sorted(set(found) - {item.item_id for item in task.items})
    if foreign:
        raise ValueError(f"the runs hold {len(foreign)} records of items not asked here: {foreign[:MAX_NAMED]}")
    return [found.get(item.item_id) or task.fail(item, MISSING_REASON) for item in task.items]


def _check_mergeable(configs: Mapping[Path, BenchmarkConfig]) -> None:
    (first_path, first), *others = configs.items()
    reference = benchmark_config_to_json(first)
    for path, config in others:
        differing = differing_settings(reference, benchmark_config_to_json(config), FREE_TO_MERGE)
        if differing:
            raise ValueError(f"{first_path} and {path} are runs with different settings: {', '.join(differing)}")
