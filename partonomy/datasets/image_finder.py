"""Where an image of a published data set lies: users keep the downloads in several folder layouts."""

from collections.abc import Callable, Sequence
from pathlib import Path

from partonomy.datasets.files import check_relative_path

Places = Callable[[str], Sequence[str]]
"""An image's name as its annotations give it -> the paths, relative to the image folder, where it may lie."""


class ImageFinder:
    """Finds images below one folder. The layout that held the last image is tried first for the next one.

    Args:
        root: folder of the images (`--images`).
        places: the layouts; every name has the same number of places, in the same order.
    """

    def __init__(self, root: Path, places: Places) -> None:
        self._root = root
        self._places = places
        self._last = 0

    def find(self, name: str) -> str:
        """Path of an image relative to the root.

        Raises:
            FileNotFoundError: it is in none of the places, which are listed.
            ValueError: the name leads out of the root.
        """
        places = self._places(check_relative_path(name, "the image name"))
        for number in (self._last, *range(len(places))):
            if _is_file(self._root / places[number]):
                self._last = number
                return places[number]
        tried = ", ".join(dict.fromkeys(places))
        raise FileNotFoundError(f"{self._root}: no image {name!r} there; looked for {tried}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system, and so of no file
        return False
