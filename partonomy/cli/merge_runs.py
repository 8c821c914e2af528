"""`python -m partonomy merge-runs`: joins runs over parts of a benchmark into one."""

from pathlib import Path

from partonomy.harness.merge_runs import merge_runs as merge
from partonomy.harness.run import require_scored
from partonomy.harness.run_folder import RECORDS_FILE, SUMMARY_FILE, read_config
from partonomy.reporting.overview import overview


def merge_runs(
    runs: list[str],
    output: str,
    questions: str | None = None,
    root: str | None = None,
    allow_missing: bool = False,
) -> None:
    """Join the shards of a benchmark run (--shard) into one finished run.

    Args:
        runs: Output folders of the shards, finished or not. They may overlap if their records agree.
        output: Folder to write the merged run to; it must be empty or new.
        questions: Partonomy only: data set folder or record file, if it has moved since the runs.
        root: All other benchmarks: folder of the data, if it has moved since the runs.
        allow_missing: Count items without a record as failed instead of refusing the merge.

    Raises:
        FileExistsError: The output folder is not empty.
        FileNotFoundError: A folder holds no run, or the data are not found.
        ValueError: The runs have different settings or different records of one item, items lack a record, or the flag
            that names the data belongs to another benchmark.
        RuntimeError: All items failed; the merged run is written and says so.
    """
    folders = [Path(run) for run in runs]
    benchmark = read_config(folders[0]).registered
    places = {"questions": questions, "root": root}
    for flag, given in places.items():
        if given is not None and flag != benchmark.root_flag:
            raise ValueError(f"name the data of {benchmark.name} with --{benchmark.root_flag}, not with --{flag}")
    place = places[benchmark.root_flag]
    joined = merge(folders, Path(output), None if place is None else Path(place), allow_missing)
    print(overview(joined.summary))
    if joined.num_missing:
        print(f"{joined.num_missing} items have no record in any run and count as failed")
    if joined.num_repeated:
        print(f"{joined.num_repeated} items have equal records in several runs and count once")
    print(f"Written: {Path(output) / RECORDS_FILE}, {Path(output) / SUMMARY_FILE}")
    require_scored(Path(output), joined.summary.num_expected, joined.summary.reasons)
