"""Finds the image files that annotation tools name by paths of their own: other folders, uploads, other systems."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from partonomy.files import check_text, shorten
from partonomy.suggestions import nearest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SIMILARITY = 0.8
"""Least similarity of the name that an error message suggests (`partonomy.suggestions.nearest`)."""
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""Label Studio's mark before the name of an uploaded file ("8f3a09c1-kettle.jpg")."""


def _refuse(error: OSError) -> None:
    raise error


class ImageFolder:
    """The files below a folder.

    Args:
        root: the folder of the images (`--images`).
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        seen: set[str] = set()
        for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
            seen.add(os.path.realpath(folder))
            # Links to another disk are followed, but not in circles.
            folders[:] = sorted(one for one in folders if os.path.realpath(os.path.join(folder, one)) not in seen)
            for name in sorted(names):
                path = (Path(folder) / name).relative_to(root).as_posix()
                self._by_path[_normal(path)] = path
                self._by_name[_normal(name)].append(path)

    def find(self, names: Sequence[str], *, is_uploaded: bool = False) -> str:
        """Return the path, relative to the root, of the image that a record names.

        The whole path is tried first, then it without its first folders one after the other, then the file's name in
        any folder. Backslashes separate folders too, and a letter with an accent may be one character or two.

        Args:
            names: the image's names, the best first.
            is_uploaded: the name may begin with Label Studio's mark of an upload, which the file may lack.

        Raises:
            FileNotFoundError: no file has such a name; the message gives the nearest.
            ValueError: several folders hold the name.
        """
        wanted = [_normal(check_text(name, "the image's name").replace("\\", "/")) for name in names]
        if is_uploaded:
            wanted += [_without_mark(name) for name in wanted if UPLOAD_PREFIX.match(name.rsplit("/", 1)[-1])]
        for name in wanted:
            folders = [part for part in name.split("/") if part not in ("", ".", "..")]
            for start in range(len(folders)):
                found = self._by_path.get("/".join(folders[start:]))
                if found is not None:
                    return found
        for name in wanted:
            places = self._by_name.get(name.rsplit("/", 1)[-1], [])
            if len(places) > 1:
                raise ValueError(
                    f"the image {shorten(names[0])} is in {', '.join(places[:3])}; keep one, or pass the folder above "
                    "as --images"
                )
            if places:
                return places[0]
        raise FileNotFoundError(f"{self._root}: the image {shorten(names[0])} was not found{self._nearest(wanted)}")

    def _nearest(self, wanted: Sequence[str]) -> str:
        for name in wanted:
            near = nearest(name.rsplit("/", 1)[-1], self._by_name, SIMILARITY)
            if near is not None:
                return f"; the nearest name is {self._by_name[near][0]!r}: rename the file, or correct the record"
        return "; is --images the folder of the photographs?"


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _without_mark(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{UPLOAD_PREFIX.sub('', last)}"
