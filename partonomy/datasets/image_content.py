"""Which image files show the same photograph: files of the same bytes, or of the same COCO number."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from partonomy.datasets.files import hash_files

COCO_NUMBER = re.compile(r"(?:^|_)(\d{12})$")


def find_same_files(paths: Sequence[Path], num_workers: int = 1) -> tuple[tuple[int, ...], ...]:
    """Group files of equal content. Only files that share their size with another are read, block by block.

    Args:
        paths: files; those that do not exist are in no group.
        num_workers: threads (hashing leaves Python's lock).

    Returns:
        Groups of two or more positions in `paths`, in order of their first member.
    """
    sizes = [path.stat().st_size if path.is_file() else None for path in paths]
    candidates = sorted(position for group in _group_equal(sizes) for position in group)
    with ThreadPoolExecutor(num_workers) as executor:
        digests = list(executor.map(lambda position: hash_files([paths[position]]), candidates))
    return tuple(tuple(candidates[place] for place in group) for group in _group_equal(digests))


def coco_number(file_name: str) -> str | None:
    """The 12-digit number by which COCO names a photograph in every release and split; None for other names.

    "train2017/000000391895.jpg" and "COCO_train2014_000000391895.jpg" are one photograph.
    """
    found = COCO_NUMBER.search(Path(file_name).stem)
    return found.group(1) if found else None


def group_photographs(file_names: Sequence[str], same_files: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Partition images into photographs: images that share bytes or a COCO number, also through a third image.

    Args:
        file_names: of all images.
        same_files: groups of positions of equal content (`find_same_files`).

    Returns:
        Every position once; groups and members ascend.
    """
    leader = list(range(len(file_names)))

    def find(position: int) -> int:
        while leader[position] != position:
            leader[position] = leader[leader[position]]
            position = leader[position]
        return position

    for group in [*same_files, *_group_equal([coco_number(name) for name in file_names])]:
        for position in group[1:]:
            first, second = sorted((find(group[0]), find(position)))
            leader[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(file_names)):
        groups[find(position)].append(position)
    return tuple(tuple(group) for _, group in sorted(groups.items()))


def _group_equal(values: Sequence[Hashable | None]) -> list[list[int]]:
    """Positions of equal values, groups of two or more; None equals nothing."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, value in enumerate(values):
        if value is not None:
            groups[value].append(position)
    return [group for group in groups.values() if len(group) > 1]
