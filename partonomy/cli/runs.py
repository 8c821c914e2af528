"""`python -m partonomy merge-runs`."""

from collections.abc import Sequence
from pathlib import Path

from partonomy.harness.benchmark_merging import merge_benchmark_runs
from partonomy.harness.benchmark_settings import is_benchmark_run
from partonomy.harness.benchmark_summary import benchmark_overview
from partonomy.harness.merging import merge_runs as merge
from partonomy.harness.run_directory import RECORDS_FILE, SUMMARY_FILE
from partonomy.reporting.tables import overview


def merge_runs(
    runs: list[str],
    output: str,
    questions: str | None = None,
    root: str | None = None,
    allow_missing: bool = False,
) -> None:
    """Join runs of one configuration over parts of a question set or benchmark (--shard) into one finished run.

    Args:
        runs: Output folders of validate_partonomy.py, or of plum validate, finished or not. They may overlap where
            their records agree.
        output: Folder of the merged run, empty or new.
        questions: Dataset folder or record file, where it no longer is where the runs of validate_partonomy.py read it.
        root: Folder of the benchmark, where it no longer is where the runs of plum validate read it.
        allow_missing: Count questions without a record as failed instead of refusing.

    Raises:
        FileExistsError: The output folder is not empty.
        FileNotFoundError: A folder holds no run, or the questions are nowhere.
        ValueError: The runs have different settings or different records of one question, or questions lack a record.
    """
    folders = [Path(run) for run in runs]
    if _are_benchmark_runs(folders):
        if questions is not None:
            raise ValueError(
                "--questions is for runs of validate_partonomy.py; these are of plum validate: pass --root"
            )
        joined = merge_benchmark_runs(folders, Path(output), None if root is None else Path(root), allow_missing)
        text, num_missing = benchmark_overview(joined.summary), joined.num_missing
    else:
        if root is not None:
            raise ValueError(
                "--root is for runs of plum validate; these are of validate_partonomy.py: pass --questions"
            )
        merged = merge(folders, Path(output), None if questions is None else Path(questions), allow_missing)
        text, num_missing = overview(merged.summary), merged.num_missing
    print(text)
    if num_missing:
        print(f"{num_missing} questions have no record in any run and count as failed")
    print(f"Written: {Path(output) / RECORDS_FILE}, {Path(output) / SUMMARY_FILE}")


def _are_benchmark_runs(folders: Sequence[Path]) -> bool:
    """Whether the runs are of `plum validate`.

    Raises:
        ValueError: Some are and some are not.
    """
    kinds = [is_benchmark_run(folder) for folder in folders]
    if any(kinds) and not all(kinds):
        other = folders[kinds.index(False)]
        raise ValueError(f"{folders[kinds.index(True)]} is a run of plum validate, {other} is not: merge them apart")
    return any(kinds)
