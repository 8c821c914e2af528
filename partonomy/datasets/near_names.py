"""Finds the image files that a wrongly written name, or a path of another machine, means.

A name in an annotation file often differs from the file's in case, slashes, percent codes, Unicode form, folder or
extension, because another system wrote it.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from partonomy.files import shorten

MAX_NAMES = 3
MAX_FILES = 1_000_000  # a wrong --images may be a whole disk


def find_image_names(root: Path, name: str) -> tuple[str, ...]:
    """Return the files below a folder whose names are nearest to a name, relative to the folder.

    Args:
        root: the folder.
        name: the name, of which there is no file.

    Returns:
        At most three names: those that agree in most of the last folders; if none agrees in the file's own name, those
        that agree in it up to the extension. Empty if there are none.
    """
    index = _index(root)
    parts = fold_path(name)
    if not parts:
        return ()
    found = index.by_name.get(parts[-1]) or index.by_stem.get(_stem(parts[-1])) or ()
    return longest_agreement(parts, found)[:MAX_NAMES]


def longest_agreement(parts: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that agree with a path in most folders above the file's own name, in alphabetical order.

    Args:
        parts: the path, as `fold_path` splits it.
        names: names of files, relative to some folder.
    """
    agreement = {name: _count_equal(parts[:-1], fold_path(name)[:-1]) for name in names}
    best = max(agreement.values(), default=0)
    return tuple(sorted(name for name, count in agreement.items() if count == best))


def fold_path(name: str) -> tuple[str, ...]:
    """Split a path of any system into its parts, without regard to case, percent codes and Unicode form."""
    text = unicodedata.normalize("NFC", unquote(name).replace("\\", "/")).casefold()
    return tuple(part for part in PurePosixPath(text).parts if part not in ("/", ".", ".."))


def _count_equal(first: Sequence[str], second: Sequence[str]) -> int:
    """Count the parts that two paths share at their ends."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


class _Index:
    """The files below a folder by their folded names, and by these without the extension."""

    def __init__(self, root: Path) -> None:
        by_name: dict[str, list[str]] = defaultdict(list)
        by_stem: dict[str, list[str]] = defaultdict(list)
        num_files = 0
        for folder, _, files in os.walk(root):
            for file in files:
                relative = os.path.relpath(os.path.join(folder, file), root).replace(os.sep, "/")
                folded = fold_path(file)
                if folded:
                    by_name[folded[-1]].append(relative)
                    by_stem[_stem(folded[-1])].append(relative)
            num_files += len(files)
            if num_files > MAX_FILES:
                break
        self.by_name: Mapping[str, list[str]] = by_name
        self.by_stem: Mapping[str, list[str]] = by_stem


@lru_cache(maxsize=4)  # a file with one missing image often has thousands
def _index(root: Path) -> _Index:
    return _Index(root)


class ImageRoot:
    """Finds the images of a file that names them by paths of another machine, below a folder.

    Args:
        folder: the folder that holds the images now.

    Raises:
        FileNotFoundError: it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: the image folder (--images) does not exist")
        self.folder = folder.resolve()
        self._index = _Index(self.folder)

    def find(self, path: str) -> str:
        """Return the file that a path means, relative to the folder.

        It is the file of this relative path, else the only one that agrees with the path in its name and in most of the
        folders above.

        Args:
            path: the path, absolute or not, of any system.

        Raises:
            FileNotFoundError: no file has this name.
            ValueError: several files agree equally well.
        """
        relative = PurePosixPath(path)
        if not relative.is_absolute() and ".." not in relative.parts and _is_file(self.folder / relative):
            return relative.as_posix()
        parts = fold_path(path)
        found = longest_agreement(parts, self._index.by_name.get(parts[-1], ())) if parts else ()
        base = path.replace("\\", "/").rpartition("/")[2]
        exact = [name for name in found if name.rpartition("/")[2] == base]
        if len(found) > 1 and len(exact) == 1:
            return exact[0]
        if len(found) > 1:
            shown = ", ".join(map(repr, found[:MAX_NAMES])) + (", ..." if len(found) > MAX_NAMES else "")
            raise ValueError(
                f"the image {shorten(path)} may be {len(found)} files below {self.folder}: {shown}; keep one of them "
                "there, or correct the path"
            )
        if found:
            return found[0]
        near = find_image_names(self.folder, path)
        meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise FileNotFoundError(f"{self.folder}: no file here has the name of the image {shorten(path)}{meant}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
