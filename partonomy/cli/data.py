"""`python -m partonomy import | export`: converts between data set folders and published record files."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from partonomy.datasets.kept_values import KEPT_FILE
from partonomy.datasets.record_exchange import (
    MARKED_FOLDER,
    export_records,
    import_records,
    import_source,
    sidecar_path,
)
from partonomy.datasets.seal import EDITED_KEY, IMAGES_KEY, SEALED_FILES, list_changes, require_unchanged
from partonomy.datasets.shard_results import SHARDS_FOLDER, remove_shards
from partonomy.datasets.sharded_import import import_shard, merge_import
from partonomy.datasets.sources.partonomy_core import find_record_file
from partonomy.datasets.store import (
    ANNOTATIONS_FILE,
    BUILD_FILE,
    DATASET_FILE,
    PARTIAL_QUESTIONS_FILE,
    PROGRESS_FILE,
    QUESTIONS_FILE,
)
from partonomy.files import read_json
from partonomy.locks import LOCK_FILE, is_lock_file, lock_folder, lock_output
from partonomy.sharding import parse_shard
from partonomy.terminal import one_line

OWN_FILES = {
    "images",
    MARKED_FOLDER,
    DATASET_FILE,
    ANNOTATIONS_FILE,
    QUESTIONS_FILE,
    KEPT_FILE,
    BUILD_FILE,
    SHARDS_FOLDER,
}
NUM_EXAMPLE_RECORDS = 20


def import_questions(
    questions: str,
    output: str,
    *,
    images: str | None = None,
    invalid: Literal["raise", "collect"] = "raise",
    shard: str | None = None,
    merge: bool = False,
    overwrite: bool = False,
) -> None:
    """Turn a published record file (..._qa_pairs.json) into a data set folder.

    To split an import over machines, run --shard 1/N to --shard N/N and then --merge once, with the same flags. The
    result is byte-identical to that of a single process.

    Args:
        questions: Record file, or its folder (partonomy_qa_pairs.json next to images/). Image paths are relative to it.
        output: Folder to write.
        images: Folder of the images, if the file's image paths are those of another machine. An image is the only file
            below the folder with its name and most of its folders; several such files are refused.
        invalid: raise stops at the first bad record; collect leaves bad records out and lists them.
        shard: Read the records of one shard of the images, given as NUMBER/COUNT, for example 2/8.
        merge: Join the shards and delete their files.
        overwrite: Replace a data set that was made from another source.
    """
    folder, record_file = Path(output), find_record_file(Path(questions))
    image_folder = None if images is None else Path(images)
    if merge and shard is not None:
        raise ValueError("--merge is a separate step: run it alone, after all shards")
    if is_already_built(folder, {"import": import_source(record_file, image_folder)}, overwrite):
        print(f"{folder}: already imported from {record_file}, nothing to do")
        if merge:
            remove_shards(folder / SHARDS_FOLDER)
        return
    if shard is not None:
        is_new = import_shard(record_file, folder, invalid, parse_shard(shard), image_folder)
        print(f"{folder}: shard {shard} {'finished' if is_new else 'was finished before, nothing to do'}")
        return
    with lock_folder(folder):
        if is_already_built(folder, {"import": import_source(record_file)}, overwrite, is_held=True):
            print(f"{folder}: another process has just imported it from {record_file}")
            return
        if merge:
            summary = merge_import(record_file, folder, invalid, image_folder)
        else:
            refuse_shards(folder, overwrite)
            summary = import_records(record_file, folder, invalid, image_folder)
    print(f"{folder}: {summary.num_questions} questions imported from {record_file}")
    for line in summary.kept.describe():
        print(f"  kept for an export: {line}")
    for row in summary.invalid[:NUM_EXAMPLE_RECORDS]:
        print(f"  left out: record {row.record_index}: {one_line(row.reason)}")
    if summary.invalid:
        print(f"  {len(summary.invalid)} bad records left out, all listed in {folder / BUILD_FILE}")


def refuse_shards(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds an unfinished sharded build or import, or delete that work if `overwrite` is set.

    Raises:
        FileExistsError: there is such work, and `overwrite` is off.
    """
    if (folder / SHARDS_FOLDER).exists() and not overwrite:
        raise FileExistsError(
            f"{folder}: holds an unfinished sharded build or import; continue it with --shard and --merge, pass "
            "--overwrite to delete it, or choose another --output"
        )
    remove_shards(folder / SHARDS_FOLDER)


def export_questions(questions: str, output: str, overwrite: bool = False) -> None:
    """Write a data set folder as a published record file, with its annotations in a second file.

    Args:
        questions: Folder of a data set.
        output: Record file to write (.json).
        overwrite: Replace an existing file.
    """
    record_file = Path(output)
    if record_file.suffix != ".json":
        raise ValueError(f"{record_file}: a record file's name ends in .json")
    if record_file.exists() and not overwrite:
        raise FileExistsError(f"{record_file}: exists already; pass --overwrite or another --output")
    with lock_output(record_file):
        summary = export_records(Path(questions), record_file)
    print(f"{record_file}: {summary.num_questions} questions")
    for line in summary.kept.describe():
        print(f"  written as they were imported: {line}")
    if summary.is_edited:
        print(
            "  annotations or questions were edited since the import: all masks and parts are written as they are now"
        )
    print(f"{sidecar_path(record_file)}: their annotations, for a lossless import")
    if summary.num_boxes:
        print(f"  {summary.num_boxes} questions mark their object with a box, which only the second file holds")


def is_already_built(folder: Path, expected: Mapping[str, object], overwrite: bool, *, is_held: bool = False) -> bool:
    """Return whether the folder holds a finished data set with the same settings. An unfinished one is continued.

    Args:
        folder: the data set folder.
        expected: the settings, as `build.json` stores them.
        overwrite: whether another data set may be replaced.
        is_held: whether this process holds the folder's lock; one that is to be replaced then counts as unfinished from
            now on.

    Raises:
        FileExistsError: the folder holds something else and `overwrite` is off.
        ValueError: a file of the folder was changed since it was built, and `overwrite` is off.
    """
    marker = folder / BUILD_FILE
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file, not a folder; choose another --output")
    if marker.is_file():
        found = read_json(marker)
        different = [key for key, value in expected.items() if found.get(key) != value]
        if not different:
            if not overwrite:
                require_unchanged(folder, *SEALED_FILES, IMAGES_KEY)
            if not overwrite or not (found.get(EDITED_KEY) or list_changes(folder)):
                if not is_held:
                    _remove_remains(folder)
                return True
        elif not overwrite:
            changes = "; ".join(_describe_change(found.get(key), expected[key]) for key in different)
            raise FileExistsError(
                f"{folder}: holds a data set built with other settings ({changes}); pass --overwrite or "
                "another --output"
            )
        if is_held:  # before that, another process may be writing here
            marker.unlink()
        return False
    foreign = sorted(path.name for path in folder.iterdir() if _is_foreign(path)) if folder.is_dir() else []
    if foreign and not overwrite:
        raise FileExistsError(
            f"{folder}: holds files that do not belong to a data set ({', '.join(foreign[:5])}); pass --overwrite or "
            "another --output"
        )
    return False


def _remove_remains(folder: Path) -> None:
    """Delete what a command leaves in a data set that is killed after it has written the last file of it."""
    remains = [folder / name for name in (PARTIAL_QUESTIONS_FILE, PROGRESS_FILE)]
    if not any(path.exists() for path in (*remains, folder / LOCK_FILE)):
        return
    with suppress(OSError), lock_folder(folder):  # another process does it, or the folder is read-only
        for path in remains:
            path.unlink(missing_ok=True)


def _is_foreign(path: Path) -> bool:
    return path.name not in OWN_FILES and path.suffix != ".tmp" and not is_lock_file(path)


def _describe_change(found: object, expected: object) -> str:
    if not isinstance(found, Mapping) or not isinstance(expected, Mapping):
        return "made by another command"
    keys = [key for key in expected if found.get(key) != expected[key]]
    return ", ".join(f"{key}: {found.get(key)} there, {expected[key]} now" for key in keys)
