"""Cityscapes and GTAV as questions about several classes (MMR paper, Table 8)."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from partonomy.__main__ import main
from partonomy.benchmarks.street_scenes import CLASSES, STREET_NAMES, read_street_scenes
from partonomy.masks import decode_mask
from tests.plum.data.miniature_world import NUM_IMAGES, miniature


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The two data sets alone, to be changed."""
    for name in ("cityscapes", "gtav"):
        shutil.copytree(miniature() / name, tmp_path / name)
    return tmp_path


def map_of(root: Path, item_id: str) -> np.ndarray:
    benchmark, stem = item_id.split("/")
    if benchmark == "multigtav":
        return np.asarray(Image.open(root / "gtav" / "labels" / f"{stem}.png"))
    (path,) = (root / "cityscapes" / "gtFine" / "val").glob(f"*/{stem}_gtFine_labelIds.png")
    return np.asarray(Image.open(path))


def test_classes_are_the_nineteen_that_cityscapes_evaluates() -> None:
    """Ids as in its published scripts; the gaps are classes that it leaves out, such as 9 (parking)."""
    assert sorted(CLASSES) == [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert len(set(CLASSES.values())) == 19
    named = {7: "road", 11: "building", 17: "pole", 21: "vegetation", 24: "person", 26: "car", 28: "bus", 33: "bicycle"}
    assert {number: CLASSES[number] for number in named} == named


@pytest.mark.parametrize("benchmark", STREET_NAMES)
def test_targets_are_the_classes_of_the_map(benchmark: str) -> None:
    items = read_street_scenes(miniature(), benchmark, "val")
    assert len(items) == NUM_IMAGES
    numbers = {name: number for number, name in CLASSES.items()}
    for item in items:
        labels = map_of(miniature(), item.item_id)
        assert (item.height, item.width) == labels.shape
        names = [target.category_name for target in item.targets]
        assert len(set(names)) == len(names) >= 4
        for target in item.targets:
            assert (decode_mask(target.mask) == (labels == numbers[target.category_name])).all()
        assert item.text == f"the {', '.join(names[:-1])}, and {names[-1]}"
        assert item.image_path.is_file()
    assert items == read_street_scenes(miniature(), benchmark, "val"), "the drawing is the image's"
    assert len({tuple(target.category_name for target in item.targets) for item in items}) > 1


def test_a_seventh_class_is_not_asked_and_three_are_too_few(root: Path) -> None:
    few, many = sorted((root / "gtav" / "labels").iterdir())[:2]
    Image.fromarray(np.repeat(np.array([[7, 8, 11, 0]], np.uint8), 4, axis=0)).save(few)
    Image.fromarray(np.repeat(np.array([[*CLASSES, 5]], np.uint8), 4, axis=0)).save(many)
    by_id = {item.item_id: item for item in read_street_scenes(root, "multigtav", "val")}
    assert f"multigtav/{few.stem}" not in by_id
    assert 4 <= len(by_id[f"multigtav/{many.stem}"].targets) <= 6


def test_runs_stand_in_table_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in STREET_NAMES:
        words = ["run", name, "--root", str(miniature()), "--model", "oracle", "--output", str(tmp_path / name)]
        assert main(words) == 0
    capsys.readouterr()
    assert main(["tables", *(str(tmp_path / name) for name in STREET_NAMES), "--table", "mmr8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("[runs]") + 1].split() == ["oracle", "teacher_forced", "100.0", "100.0"]
    assert lines.index("[runs]") - lines.index("[paper (quoted)]") - 1 == 6


def test_what_is_missing_or_broken_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match="multigtav has no split 'odd'; known: train, val, test"):
        read_street_scenes(root, "multigtav", "odd")
    with pytest.raises(ValueError, match="split.mat: its list 'trainIds' is empty"):
        read_street_scenes(root, "multigtav", "train")
    with pytest.raises(FileNotFoundError, match="leftImg8bit/odd: no such folder; --root is"):
        read_street_scenes(root, "multicityscapes", "odd")
    label = next((root / "gtav" / "labels").iterdir())
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(label)
    with pytest.raises(ValueError, match=rf"{label.name}: a label map has one 8-bit channel"):
        read_street_scenes(root, "multigtav", "val")
    label.write_bytes(b"\x89PNG broken")
    with pytest.raises(ValueError, match=rf"{label.name}: the label map cannot be read"):
        read_street_scenes(root, "multigtav", "val")
    label.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"{label.name}: not found; it is the label map of the image .*images.*{label.stem}"
    ):
        read_street_scenes(root, "multigtav", "val")
    savemat(root / "gtav" / "split.mat", {"other": np.zeros(1)})
    with pytest.raises(ValueError, match="split.mat: no list 'valIds' of image numbers"):
        read_street_scenes(root, "multigtav", "val")
    (root / "gtav" / "split.mat").write_bytes(b"not a mat file")
    with pytest.raises(ValueError, match="split.mat: no list 'valIds'"):
        read_street_scenes(root, "multigtav", "val")
    (root / "gtav" / "split.mat").unlink()
    with pytest.raises(FileNotFoundError, match="split.mat: not found"):
        read_street_scenes(root, "multigtav", "val")
    for path in (root / "cityscapes" / "leftImg8bit" / "val").glob("*/*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no CITY/\*_leftImg8bit.png in it"):
        read_street_scenes(root, "multicityscapes", "val")
