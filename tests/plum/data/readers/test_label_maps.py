import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plum.data.readers.label_maps import IGNORED, LABEL_LAYOUTS, LabelMaps
from tests.plum.data.miniature_world import NUM_IMAGES, miniature, miniature_copy


def write_set(root: Path, name: str, maps: dict[str, np.ndarray], has_palette: bool = False) -> None:
    """Images and maps of the same stems; Mapillary's classes are a bird, nothing, and a car."""
    layout = LABEL_LAYOUTS[name]
    for stem, values in maps.items():
        for folder in (layout.images, layout.labels):
            (root / folder).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(values)
        if has_palette:
            image.putpalette([(7 * i) % 256 for i in range(768)])
        image.save(root / layout.labels / f"{stem}.png")
        Image.new("RGB", (values.shape[1], values.shape[0])).save(root / layout.images / f"{stem}.jpg")
    if name == "mapillary":
        labels = [{"readable": readable} for readable in ("Bird", "Unlabeled", "Car")]
        (root / "mapillary" / "config_v2.0.json").write_text(json.dumps({"labels": labels}))


def read_values(root: Path, name: str, values: list[int]) -> list[int]:
    write_set(root, name, {"one": np.array([values], dtype=np.uint8)}, has_palette=name == "mapillary")
    return [int(value) for value in LabelMaps(root, name).read(0).classes[0]]


def test_ade20k_counts_from_one(tmp_path: Path) -> None:
    # Golden of the published code: 0 -> none, 1 -> 0, 150 -> 149, 255 -> none.
    assert read_values(tmp_path, "ade20k", [0, 1, 150, 255]) == [IGNORED, 0, 149, IGNORED]
    names = LabelMaps(tmp_path, "ade20k").names
    assert (len(names), len(set(names))) == (150, 150)
    assert (names[0], names[12], names[20], names[149]) == ("wall", "person", "car", "flag")


def test_cocostuff_ignores_names_with_a_dash(tmp_path: Path) -> None:
    # 0 person, 90 hair brush, 95 building-other, 156 sky, 181 wood.
    assert read_values(tmp_path, "cocostuff", [0, 90, 95, 156, 181, 255]) == [0, 90, IGNORED, 156, 181, IGNORED]
    maps = LabelMaps(tmp_path, "cocostuff")
    assert (len(maps.names), maps.names[0], maps.names[156], maps.names[181]) == (182, "person", "sky", "wood")
    assert len(maps.ignored_classes) == 28
    assert maps.read(0).present() == [0, 90, 156, 181]


def test_mapillary_reads_palette_indices_and_names_of_the_download(tmp_path: Path) -> None:
    assert read_values(tmp_path, "mapillary", [2, 0, 1]) == [2, 0, IGNORED]
    assert LabelMaps(tmp_path, "mapillary").names == ("bird", "unlabeled", "car")


@pytest.mark.parametrize(("name", "value"), [("ade20k", 151), ("cocostuff", 182), ("mapillary", 3)])
def test_values_that_are_no_class_are_named(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"one\.png: the values \[{value}\] are no classes of {name}"):
        read_values(tmp_path, name, [1, value])


def test_maps_of_another_form_are_named(tmp_path: Path) -> None:
    write_set(tmp_path, "ade20k", {"one": np.zeros((2, 2, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"one\.png: a label map has one 8-bit channel"):
        LabelMaps(tmp_path, "ade20k").read(0)
    (tmp_path / LABEL_LAYOUTS["ade20k"].labels / "one.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"one\.png: the label map cannot be read"):
        LabelMaps(tmp_path, "ade20k").read(0)


def test_incomplete_downloads_are_named(tmp_path: Path) -> None:
    root = miniature_copy(tmp_path / "data")
    (root / "coco/train2017/000000100001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="cocostuff: 1 of 6 label maps have no image.*000000100001.jpg"):
        LabelMaps(root, "cocostuff")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        LabelMaps(tmp_path, "ade20k")
    (root / "mapillary/config_v2.0.json").write_text('{"labels": [{"name": "x"}]}')
    with pytest.raises(ValueError, match=r"config_v2\.0\.json: 'labels' must be"):
        LabelMaps(root, "mapillary")


def test_images_without_a_map_and_excluded_ones_are_left_out(tmp_path: Path) -> None:
    root = miniature_copy(tmp_path / "data")
    (root / "cocostuff/train2017/000000100002.png").unlink()
    excluded = {root / "coco/train2017/000000100003.jpg"}
    maps = LabelMaps(root, "cocostuff", excluded)
    assert len(maps) == NUM_IMAGES - 2
    assert not {"000000100002", "000000100003"} & set(maps.stems)


@pytest.mark.parametrize("name", LABEL_LAYOUTS)
def test_the_miniature_has_every_form(name: str) -> None:
    maps = LabelMaps(miniature(), name)
    assert len(maps) == NUM_IMAGES
    for index in range(NUM_IMAGES):
        label_map = maps.read(index)
        assert label_map.image_path.is_file()
        assert len(label_map.present()) >= 2
        assert (label_map.classes == IGNORED).any()
