"""`python -m plum data-status`: list which downloads exist, which are missing, and where to get them."""

from collections import Counter
from pathlib import Path

from plum.data.catalogue import EntryStatus, State, survey


def data_status(*, root: Path, missing: bool = False) -> None:
    """List the data sets that are there, and where to get the others.

    Args:
        root: folder of the downloads (data.dataset_dir)
        missing: list only incomplete data sets

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    statuses = survey(root)
    for status in statuses:
        if not (missing and status.state is State.THERE):
            print(describe(status, root))
    counts = Counter(status.state for status in statuses)
    print(f"{root}: " + ", ".join(f"{counts[state]} {state.value}" for state in State))
    print("Every source is optional: --data.allow_missing true skips missing ones.")


def describe(status: EntryStatus, root: Path) -> str:
    """Return which files of a data set exist, and everything a user needs to complete it."""
    entry = status.entry
    lines = [f"{entry.name} ({entry.group}): {status.state.value}", f"  for      {entry.purpose}"]
    for found in status.found:
        mark = f"{found.count:,}" if found.count else "MISSING"
        pattern = f"/{found.need.pattern}" if found.need.pattern else ""
        lines.append(f"  {found.need.what:<18} {mark:>9}  {found.need.path}{pattern}")
    lines += [f"  licence  {entry.licence}", f"  from     {entry.source}"]
    if entry.next_step:
        lines.append(f"  then     {entry.next_step.format(root=root)}")
    return "\n".join(lines) + "\n"
