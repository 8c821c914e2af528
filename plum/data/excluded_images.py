"""Benchmark images in the training data: excluded or only counted, and reported when a run starts."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from partonomy.datasets.photographs import coco_number


class ExcludedImages:
    """A set of image files that also recognises its photographs under other names.

    A path is in the set if it is the same file, a photograph with the same COCO number (COCO_train2014_000000123456 and
    000000123456 are the same), or another file with the same name and the same bytes; synthetic and numbered data sets
    reuse names for different images. If one of two files of the same name is not on this machine, the name decides.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._by_number: dict[str, Path] = {}
        self._by_name: defaultdict[str, set[Path]] = defaultdict(set)
        self._paths: set[Path] = set()
        for path in paths:
            self._paths.add(path)
            self._by_name[path.name].add(path.resolve())
            number = coco_number(path.name)
            if number is not None:
                self._by_number[number] = path

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, Path) and self.identify(path) is not None

    def identify(self, path: Path) -> str | None:
        """Return the name of the set's photograph that a file shows, the same for all of its files, or None."""
        number = coco_number(path.name)
        if number in self._by_number:
            return number
        if path.name not in self._by_name:
            return None
        resolved = path.resolve()
        same = [other for other in sorted(self._by_name[path.name]) if _is_same_image(resolved, other)]
        return str(same[0]) if same else None


class TrainingImages:
    """Decides for every image of the sources whether it is left out, and records which benchmark images it met.

    Args:
        excluded: images that may not be trained on.
        counted: images that may be trained on, but are counted.

    Attributes:
        left_out, trained_on: names of the excluded and of the counted photographs that the sources hold.
        kept: files that are trained on.
    """

    def __init__(self, excluded: ExcludedImages, counted: ExcludedImages) -> None:
        self.excluded = excluded
        self.counted = counted
        self.left_out: set[str] = set()
        self.trained_on: set[str] = set()
        self.kept: set[Path] = set()

    def __contains__(self, path: object) -> bool:
        """Return whether an image must be left out."""
        if not isinstance(path, Path):
            return False
        name = self.excluded.identify(path)
        if name is not None:
            self.left_out.add(name)
            return True
        name = self.counted.identify(path)
        if name is not None:
            self.trained_on.add(name)
        self.kept.add(path)
        return False

    def describe(self) -> str:
        """Return one line about the overlap of benchmark and training data."""
        return (
            f"benchmark images in the training data: {len(self.left_out)} of {len(self.excluded)} found and left out "
            f"(exclude_images), {len(self.trained_on)} of {len(self.counted)} found and trained on (count_images)"
        )


def _is_same_image(path: Path, other: Path) -> bool:
    if path == other or not other.exists() or not path.exists():
        return True
    return path.stat().st_size == other.stat().st_size and _digest(path) == _digest(other)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
