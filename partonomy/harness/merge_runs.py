"""Joins runs of one configuration over parts of one benchmark (`--shard`) into a finished run.

The merge joins records, not averages. In item order they equal those of a single-process run. The same code computes
every number of the summary from them, so the numbers are bit-identical. Only the time spent (`seconds`) and the image
paths differ: image paths become those of the data that are read here.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.benchmarks.task import AnyTask, Record
from partonomy.files import open_atomically
from partonomy.harness.provenance import MergedRun, read_model_description, write_merged_description
from partonomy.harness.records import FoundRecords, StoredRecords, record_to_line
from partonomy.harness.run import check_ids, check_task, finish_run
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
from partonomy.locks import has_other_files, lock_folder

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
        BlockingIOError: Another process writes to the output folder.
        FileNotFoundError: A folder holds no run, or the data cannot be found.
        ValueError: Runs differ in their settings or in a record, hold records of other items, or lack some.
    """
    _refuse_full(output)
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
    (check_task if first.imported is None else check_ids)(task)  # imported answers need no images
    codec = codec_of(task)
    ids = (*(item.item_id for item in task.items), *(record.item_id for record in task.lost))
    found: dict[Path, FoundRecords[Record]] = {}
    for path in configs:
        found[path] = FoundRecords(ids, codec)
        for file in record_files(path):
            found[path].add(file)
        found[path].drop_stale()
    num_repeated = check_repeated(ids, found)
    missing = _find_missing(ids, found, allow_missing)
    config = dataclasses.replace(first, output=str(output), root=str(root), shard=None)
    if first.imported is not None:
        files = dict.fromkeys(file for one in configs.values() if one.imported for file in one.imported.files)
        config = dataclasses.replace(config, imported=dataclasses.replace(first.imported, files=tuple(files)))
    described = [
        MergedRun(str(path), configs[path].shard, len(own), read_model_description(path)) for path, own in found.items()
    ]
    with lock_folder(output):
        _refuse_full(output)  # another merge may have ended since the first look
        write_config(output, config)
        with open_atomically(output / RECORDS_FILE) as joined:
            for record in _join(task, tuple(found.values())):
                joined.write((record_to_line(record) + "\n").encode("utf-8", errors="backslashreplace"))
        write_merged_description(output, described)
        summary = finish_run(config, task, StoredRecords(output / RECORDS_FILE, codec))
        return RunMerge(summary, len(missing), num_repeated)


def _refuse_full(output: Path) -> None:
    if output.exists() and has_other_files(output):
        raise FileExistsError(f"{output} is not empty; choose another --output")


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


def _find_missing(
    ids: Sequence[str], found: Mapping[Path, FoundRecords[Record]], allow_missing: bool
) -> tuple[str, ...]:
    """Return the items without a record, unless they, or records of other items, are refused."""
    foreign = sorted({item_id for one in found.values() for item_id in one.foreign})
    if foreign:
        raise ValueError(
            f"the runs have {len(foreign)} records of items that the benchmark does not contain: "
            f"{foreign[:MAX_NAMED]}; "
            "leave out the run that has them"
        )
    missing = tuple(item_id for item_id in ids if not any(item_id in one for one in found.values()))
    if missing and not allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(ids)} items have no record, e.g. {list(missing[:MAX_NAMED])}: finish the runs "
            "(--resume), pass all of them, or pass --allow_missing to count these items as failed"
        )
    return missing


def _join(task: AnyTask, found: Sequence[FoundRecords[Record]]) -> Iterator[Record]:
    """Generate the records of all items in order; those that no run has count as failed."""
    for item in task.items:
        record = next((one[item.item_id] for one in found if item.item_id in one), None)
        record = task.fail(item, MISSING_REASON) if record is None else record
        yield dataclasses.replace(record, image_path=str(item.picture.path))
    for lost in task.lost:
        yield next((one[lost.item_id] for one in found if lost.item_id in one), lost)


def check_repeated(ids: Sequence[str], found: Mapping[Path, FoundRecords[Record]]) -> int:
    """Check that the records of one item in several runs are equal, except for time and path.

    Args:
        ids: Ids of all items.
        found: Records by run.

    Returns:
        The number of items that more than one run answered.

    Raises:
        ValueError: Two runs differ in a record.
    """
    num_repeated = 0
    for item_id in ids:
        answered = [path for path, records in found.items() if item_id in records]
        for path in answered[1:]:
            differing = _differing_fields(found[answered[0]][item_id], found[path][item_id])
            if differing:
                raise ValueError(
                    f"{answered[0]} and {path} have different records of the item {item_id} "
                    f"({', '.join(differing)}); leave one of the runs out"
                )
        num_repeated += len(answered) > 1
    return num_repeated


def _differing_fields(first: Record, second: Record) -> list[str]:
    """Return the fields in which two records of one item differ, except for time and image path."""
    names = [entry.name for entry in dataclasses.fields(first) if entry.name not in _OF_TIME_AND_PLACE]
    return [name for name in names if getattr(first, name) != getattr(second, name)]
