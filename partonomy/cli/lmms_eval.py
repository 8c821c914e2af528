"""`python -m partonomy export-lmms-eval`: writes questions as a task folder of lmms-eval."""

from pathlib import Path

from partonomy.integrations.lmms_eval.task import export_lmms_eval_tasks


def export_lmms_eval(folder: str, output: str, seed: int = 0, overwrite: bool = False) -> None:
    """Write questions as a task folder of lmms-eval (YAML, utils.py, and JSON lines with masks as run-length codes).

    Args:
        folder: Data set folder, or published record file.
        output: Folder to write; pass it to lmms-eval's --include_path.
        seed: Seed of the order in which choices are shown.
        overwrite: Replace an earlier export in the same folder.
    """
    summary = export_lmms_eval_tasks(Path(folder), Path(output), seed, overwrite)
    for task, count in summary.num_documents.items():
        print(f"{task}: {count} documents")
    if summary.num_unreadable:
        print(f"{summary.num_unreadable} unreadable records are left out of all tasks; see python -m partonomy check")
    for line in summary.not_written:
        print(f"not written, because the tasks do not use it: {line}")
    print(f"Written: {output}; lmms-eval --include_path {output} --tasks partonomy_choices")
