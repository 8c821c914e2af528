"""`python -m partonomy merge-runs`: joins runs over parts of a benchmark into one."""

from pathlib import Path

from partonomy.harness.merge_runs import merge_runs as merge
from partonomy.harness.run_folder import RECORDS_FILE, SUMMARY_FILE, read_config
from partonomy.reporting.overview import overview


def merge_runs(
    runs: list[str],
    output: str,
    questions: str | None = None,
    root: str | None = None,
    allow_missing: bool = False,
) -> None:
    """Join runs of one configuration over parts of a benchmark (--shard) into one finished run.

    Args:
        runs: Output folders of a benchmark's runs, finished or not. They may overlap if their records agree.
        output: Folder of the merged run, empty or new.
        questions: Partonomy: new location of the data set folder or record file, if it has moved since the runs.
        root: Other benchmarks: new location of the data's folder, if it has moved since the runs.
        allow_missing: Count items without a record as failed instead of refusing.

    Raises:
        FileExistsError: The output folder is not empty.
        FileNotFoundError: A folder holds no run, or the data cannot be found.
        ValueError: The runs have different settings or different records of one item, items lack a record, or the flag
            that names the data is another benchmark's.
    """
    folders = [Path(run) for run in runs]
    benchmark = read_config(folders[0]).registered
    places = {"questions": questions, "root": root}
    for flag, given in places.items():
        if given is not None and flag != benchmark.root_flag:
            raise ValueError(f"{benchmark.name} takes its data with --{benchmark.root_flag}, not with --{flag}")
    place = places[benchmark.root_flag]
    joined = merge(folders, Path(output), None if place is None else Path(place), allow_missing)
    print(overview(joined.summary))
    if joined.num_missing:
        print(f"{joined.num_missing} items have no record in any run and count as failed")
    print(f"Written: {Path(output) / RECORDS_FILE}, {Path(output) / SUMMARY_FILE}")
