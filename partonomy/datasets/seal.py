"""The seal of a data set folder: hashes that tell whether its files are still those that were written together.

`build.json` (in a folder of `prune`, `merge` or `split`: `curation.json`) holds under `files` the size and sha256 of
`annotations.json` and `questions.jsonl`, and the size of every image file. Every command that reads the folder compares
them, so that a file that was cut, edited or replaced is not taken for the one that was built.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from partonomy.files import RECORD_ERRORS, hash_files, is_integer, iterate_lists, read_json, reason_of, shorten

DATASET_FILE = "dataset.json"
ANNOTATIONS_FILE = "annotations.json"
QUESTIONS_FILE = "questions.jsonl"
BUILD_FILE = "build.json"
CURATION_FILE = "curation.json"
SEAL_KEY = "files"
IMAGES_KEY = "images"
EDITED_KEY = "edited"
"""In `build.json`: true once a person has accepted a change of the files (`seal_folder`)."""
SEALED_FILES = (ANNOTATIONS_FILE, QUESTIONS_FILE)
COMMAND = "python -m partonomy seal"

logger = logging.getLogger(__name__)
_noticed: set[Path] = set()


def describe_files(folder: Path) -> dict[str, Any]:
    """Return the seal of a folder's files as they are now, for `build.json`.

    An image that is not there is null: it is not compared later.

    Args:
        folder: a data set folder with `dataset.json` and `annotations.json`.
    """
    content: dict[str, Any] = {}
    for name in SEALED_FILES:
        if (folder / name).is_file():
            content[name] = {"bytes": (folder / name).stat().st_size, "sha256": hash_files([folder / name])}
    root = _image_root(folder)
    records = iterate_lists(folder / ANNOTATIONS_FILE, ("images",))
    content[IMAGES_KEY] = {record["file_name"]: _size(root / record["file_name"]) for _, record in records}
    return content


def seal_file(folder: Path) -> Path | None:
    """Return the file that holds the folder's seal; None in a folder that no command has finished."""
    return next((folder / name for name in (BUILD_FILE, CURATION_FILE) if (folder / name).is_file()), None)


def require_unchanged(folder: Path, *names: str) -> None:
    """Refuse a folder of which one of the named files was changed since it was built.

    A folder by an earlier version of the code, without a seal, is accepted; the log says so once.

    Args:
        folder: the data set folder.
        names: of `SEALED_FILES` and `IMAGES_KEY`.

    Raises:
        ValueError: a file was changed, or the seal is broken; the message names the file and says what to do.
    """
    path = seal_file(folder)
    if path is None:
        return
    seal = _read_seal(path)
    if seal is None:
        if folder.resolve() not in _noticed:
            _noticed.add(folder.resolve())
            logger.info("%s: by an earlier version, without hashes: changes are not noticed (%s)", folder, COMMAND)
        return
    changes = list(find_changes(folder, seal, *names))
    if changes:
        more = f" ({len(changes) - 1} more files were changed)" if len(changes) > 1 else ""
        raise ValueError(f"{changes[0]}{more}; {advice(folder)}")


def break_seal(folder: Path) -> None:
    """Delete the seal of a folder that is about to be written anew; from then on it counts as unfinished."""
    for name in (BUILD_FILE, CURATION_FILE):
        (folder / name).unlink(missing_ok=True)


def has_seal(folder: Path) -> bool:
    """Return whether changes of the folder's files can be noticed."""
    path = seal_file(folder)
    return path is not None and _read_seal(path) is not None


def list_changes(folder: Path) -> list[str]:
    """Return one line per file that was changed since the folder was built; none without a seal.

    Raises:
        ValueError: the seal is broken.
    """
    path = seal_file(folder)
    seal = None if path is None else _read_seal(path)
    return [] if seal is None else list(find_changes(folder, seal, *SEALED_FILES, IMAGES_KEY))


def advice(folder: Path) -> str:
    """Return what to do about a changed folder, as the end of a message."""
    return f"restore it or build the folder again (--overwrite); to keep the change on purpose: {COMMAND} {folder}"


def find_changes(folder: Path, seal: Mapping[str, Any], *names: str) -> Iterator[str]:
    """Yield one line per changed file.

    Args:
        folder: the data set folder.
        seal: the result of `describe_files`, read from the file.
        names: which files to compare.
    """
    for name in names:
        if name == IMAGES_KEY:
            yield from _find_changed_images(folder, seal.get(IMAGES_KEY, {}))
            continue
        path, sealed = folder / name, seal.get(name)
        if not path.is_file():
            if sealed is not None:
                yield f"{path}: is missing, but was there when the folder was built"
        elif sealed is None:
            yield f"{path}: was added after the folder was built"
        elif (size := path.stat().st_size) != sealed["bytes"]:
            yield f"{path}: was changed since it was built ({size:,} bytes, then {sealed['bytes']:,})"
        elif hash_files([path]) != sealed["sha256"]:
            yield f"{path}: was changed since it was built (of the same size, with another sha256)"


def _find_changed_images(folder: Path, sizes: Mapping[str, int | None]) -> Iterator[str]:
    """Yield the images of another size. A missing image is left to those who read it."""
    root = _image_root(folder)
    for name, then in sizes.items():
        now = _size(root / name) if then is not None else None
        if now is not None and now != then:
            yield f"{root / name}: this image was changed since the folder was built ({now:,} bytes, then {then:,})"


def _read_seal(path: Path) -> dict[str, Any] | None:
    """Read and check the seal of a folder.

    Raises:
        ValueError: it is broken; the message names the file.
    """
    content = read_json(path)
    if SEAL_KEY not in content:
        return None
    try:
        seal = dict(content[SEAL_KEY])
        for name, value in seal.items():
            if name == IMAGES_KEY:
                wrong = next((one for one in value.values() if one is not None and not is_integer(one)), None)
                if wrong is not None:
                    raise ValueError(f"the size of an image must be an integer, got {shorten(wrong)}")
            elif name not in SEALED_FILES or not is_integer(value["bytes"]) or not isinstance(value["sha256"], str):
                raise ValueError(f"the entry {shorten(name)} is none of a size and sha256")
    except RECORD_ERRORS as error:
        raise ValueError(f"{path}: {SEAL_KEY!r} is broken: {reason_of(error)}; {advice(path.parent)}") from error
    return seal


def _image_root(folder: Path) -> Path:
    description = read_json(folder / DATASET_FILE)
    if not isinstance(description.get("image_root"), str):
        raise ValueError(f"{folder / DATASET_FILE}: 'image_root', the folder of the images, is missing")
    return (folder / description["image_root"]).resolve()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
