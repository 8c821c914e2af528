"""`python -m partonomy merge-runs`."""

from pathlib import Path

from partonomy.evaluation.merging import merge_runs as merge
from partonomy.evaluation.run_directory import RECORDS_FILE, SUMMARY_FILE
from partonomy.evaluation.tables import overview


def merge_runs(runs: list[str], output: str, questions: str | None = None, allow_missing: bool = False) -> None:
    """Join runs of one configuration over parts of a question set (--shard) into one finished run.

    Args:
        runs: Output folders of validate_partonomy.py, finished or not. They may overlap where their records agree.
        output: Folder of the merged run, empty or new.
        questions: Dataset folder or record file, where it no longer is where the runs read it.
        allow_missing: Count questions without a record as failed instead of refusing.

    Raises:
        FileExistsError: The output folder is not empty.
        FileNotFoundError: A folder holds no run, or the questions are nowhere.
        ValueError: The runs have different settings or different records of one question, or questions lack a record.
    """
    merged = merge(
        [Path(run) for run in runs], Path(output), None if questions is None else Path(questions), allow_missing
    )
    print(overview(merged.summary))
    if merged.num_missing:
        print(f"{merged.num_missing} questions have no record in any run and count as failed")
    print(f"Written: {Path(output) / RECORDS_FILE}, {Path(output) / SUMMARY_FILE}")
