"""Joins runs of one configuration over parts of one benchmark (`--shard`) into a finished run.

The merge joins records, not averages. In item order they equal those of a single-process run. The same code computes
every number of the summary from them, so the numbers are bit-identical. Only the time spent (`seconds`) and the image
paths differ: image paths become those of the data that are read here.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.benchmarks.task import AnyTask, Record
from partonomy.files import write_text_atomically
from partonomy.harness.provenance import MergedRun, read_model_description, write_merged_description
from partonomy.harness.records import record_to_line
from partonomy.harness.run import check_task, finish_run
from partonomy.harness.run_folder import (
    RECORDS_FILE,
    RunConfig,
    codec_of,
    differing_settings,
    read_config,
    record_files,
    write_config,
)
from partonomy.harness.summary import Summary

MISSING_REASON = "no merged run holds a record of this item"
MAX_NAMED = 3
"""Maximum number of ids that an error names."""
_OF_TIME_AND_PLACE = ("seconds", "image_path")


@dataclass(frozen=True)
class RunMerge:
    """A finished merge.

    Attributes:
        summary: Its summary.
        num_missing: Number of items that no run had answered.
        num_repeated: Number of items that several runs had answered, with equal records.
    """

    summary: Summary
    num_missing: int
    num_repeated: int


def merge_runs(runs: Sequence[Path], output: Path, root: Path | None, allow_missing: bool) -> RunMerge:
    """Write a finished run from the records of several.

    Args:
        runs: Output folders, finished or not. They may overlap if their records agree.
        output: Folder of the merged run, empty or new.
        root: Location of the data; None for the runs' own location.
        allow_missing: Whether items without a record count as failed instead of being refused.

    Raises:
        FileExistsError: The output folder is not empty.
        FileNotFoundError: A folder holds no run, or the data cannot be found.
        ValueError: Runs differ in their settings or in a record, hold records of other items, or lack some.
    """
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; choose another --output")
    configs = {path: read_config(path) for path in runs}
    _check_mergeable(configs)
    first = next(iter(configs.values()))
    root = root or next((Path(config.root) for config in configs.values() if Path(config.root).exists()), None)
    flag = first.registered.root_flag
    if root is None:
        raise FileNotFoundError(f"{first.root}: the data of the runs are not here; pass their location with --{flag}")
    task = first.load_task(root)
    if task.content_hash() != first.content_hash:
        raise ValueError(
            f"{root}: these are not the data of the runs, or they have changed; pass the original data with --{flag}"
        )
    check_task(task)
    codec = codec_of(task)
    records_of: dict[Path, dict[str, Record]] = {
        path: {record.item_id: record for file in record_files(path) for record in codec.read(file)} for path in configs
    }
    united, num_repeated = unite_records(records_of)
    records, num_missing = _join(task, united, allow_missing)
    output.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(first, output=str(output), root=str(root), shard=None)
    write_config(output, config)
    write_text_atomically(output / RECORDS_FILE, "".join(record_to_line(record) + "\n" for record in records))
    described = [
        MergedRun(str(path), configs[path].shard, len(own), read_model_description(path))
        for path, own in records_of.items()
    ]
    write_merged_description(output, described)
    return RunMerge(finish_run(config, task, records), num_missing, num_repeated)


def _check_mergeable(configs: Mapping[Path, RunConfig]) -> None:
    """Check that all runs made their records, and would count them, under the same settings."""
    (first_path, first), *others = configs.items()
    for path, config in others:
        differing = differing_settings(first, config, may_merge=True)
        if differing:
            raise ValueError(
                f"{first_path} and {path} are runs with different settings: {', '.join(differing)}; "
                "merge only shards of one run"
            )


def _join(task: AnyTask, found: Mapping[str, Record], allow_missing: bool) -> tuple[tuple[Record, ...], int]:
    """Return the records of all items in order, and the number that were filled in as failed."""
    ids = [*(item.item_id for item in task.items), *(record.item_id for record in task.lost)]
    foreign = sorted(set(found) - set(ids))
    if foreign:
        raise ValueError(
            f"the runs have {len(foreign)} records of items that the benchmark does not contain: "
            f"{foreign[:MAX_NAMED]}; "
            "leave out the run that has them"
        )
    missing = [item_id for item_id in ids if item_id not in found]
    if missing and not allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(ids)} items have no record, e.g. {missing[:MAX_NAMED]}: finish the runs "
            "(--resume), pass all of them, or pass --allow_missing to count these items as failed"
        )
    records: list[Record] = []
    for item in task.items:
        record = found.get(item.item_id) or task.fail(item, MISSING_REASON)
        records.append(dataclasses.replace(record, image_path=str(item.picture.path)))
    records += [found.get(lost.item_id) or lost for lost in task.lost]
    return tuple(records), len(missing)


def unite_records(records_of: Mapping[Path, Mapping[str, Record]]) -> tuple[dict[str, Record], int]:
    """Unite the records of several runs; records of one item must be equal, except for time and path.

    Args:
        records_of: Records by run and by item id.

    Returns:
        All records by item id, and the number of items that more than one run answered.

    Raises:
        ValueError: Two runs differ in a record.
    """
    united: dict[str, Record] = {}
    source: dict[str, Path] = {}
    repeated: set[str] = set()
    for path, records in records_of.items():
        for record_id, record in records.items():
            if record_id not in united:
                united[record_id], source[record_id] = record, path
                continue
            differing = _differing_fields(united[record_id], record)
            if differing:
                raise ValueError(
                    f"{source[record_id]} and {path} have different records of the item {record_id} "
                    f"({', '.join(differing)}); leave one of the runs out"
                )
            repeated.add(record_id)
    return united, len(repeated)


def _differing_fields(first: Record, second: Record) -> list[str]:
    """Return the fields in which two records of one item differ, except for time and image path."""
    names = [entry.name for entry in dataclasses.fields(first) if entry.name not in _OF_TIME_AND_PLACE]
    return [name for name in names if getattr(first, name) != getattr(second, name)]
