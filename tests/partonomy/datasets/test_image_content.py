"""Equal files and COCO numbers as photographs."""

from pathlib import Path

import pytest

from partonomy.datasets.photographs import coco_number, find_same_files, group_photographs


def test_same_files(tmp_path: Path) -> None:
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"longer", "e": b"two", "f": b"one"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in contents] + [tmp_path / "missing", tmp_path / "missing"]
    # a = c = f, b = e; d has a size of its own; what does not exist equals nothing.
    assert find_same_files(paths) == ((0, 2, 5), (1, 4))
    assert find_same_files(paths, num_workers=3) == ((0, 2, 5), (1, 4))


@pytest.mark.parametrize(
    ("file_name", "number"),
    [
        ("train2017/000000391895.jpg", "000000391895"),
        ("COCO_train2014_000000391895.jpg", "000000391895"),
        ("391895.jpg", None),
        ("ADE_train_00000386.jpg", None),
        ("0000000391895.jpg", None),
        ("x000000391895.jpg", None),
    ],
)
def test_coco_number(file_name: str, number: str | None) -> None:
    assert coco_number(file_name) == number


def test_photographs_join_through_a_third_image() -> None:
    names = ["a.jpg", "000000000007.jpg", "b.jpg", "val/000000000007.png", "c.jpg"]
    # 2 = 3 by bytes, 1 and 3 by number: 1, 2, 3 are one photograph.
    assert group_photographs(names, [(2, 3)]) == ((0,), (1, 2, 3), (4,))
    assert group_photographs(names, [(3, 4), (0, 4)]) == ((0, 1, 3, 4), (2,))
