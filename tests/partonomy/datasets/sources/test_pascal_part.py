"""Pascal-Part: the original .mat files, and the JSON form made from them."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from partonomy.datasets.sources.pascal_part import read_pascal_part
from partonomy.datasets.sources.records import CocoConfig
from partonomy.masks import decode_mask, rle_area
from tests.partonomy.datasets.published_files import (
    HEIGHT,
    WIDTH,
    MatObject,
    box_mask,
    box_polygon,
    save_image,
    save_mat,
    write_json,
)

ROOT = Path(__file__).resolve().parents[4]
REAL_DATA = Path(os.environ.get("PARTONOMY_REAL_DATA", "no folder given"))
CAR: MatObject = (
    "car",
    (0, 0, 20, 12),
    [
        ("wheel_1", (1, 8, 3, 3)),
        ("wheel_2", (12, 8, 4, 3)),
        ("leftside", (0, 2, 18, 9)),
        ("fliplate", (18, 5, 1, 2)),
        ("bliplate", None),
    ],
)
BOTTLE: MatObject = ("bottle", (22, 2, 4, 15), [])
SOFA: MatObject = ("sofa", (0, 13, 20, 6), [])
TABLE: MatObject = ("table", (1, 14, 10, 4), [])
PLANE: MatObject = ("aeroplane", (0, 0, 30, 20), [("lwing", (1, 1, 5, 5)), ("rwing", (8, 1, 5, 5))])


def config(folder: Path, files: dict[str, list[MatObject]]) -> CocoConfig:
    for stem, objects in files.items():
        save_mat(folder / "Annotations_Part" / f"{stem}.mat", objects)
        save_image(folder / "JPEGImages" / f"{stem}.jpg")
    return CocoConfig(folder / "Annotations_Part", folder / "JPEGImages")


def test_objects_with_overlapping_numbered_and_missing_parts(tmp_path: Path) -> None:
    reading = read_pascal_part(config(tmp_path, {"2008_000008": [CAR, BOTTLE, SOFA, TABLE], "2008_000009": [PLANE]}))
    assert reading.dataset.name == "pascal_part"
    first, second = reading.dataset.images
    assert (first.image_id, first.file_name, first.height, first.width) == (
        2008000008,
        "2008_000008.jpg",
        HEIGHT,
        WIDTH,
    )
    assert [one.label for one in first.objects] == ["car", "bottle", "sofa", "dining table"]
    assert [len(one.parts) for one in first.objects] == [4 - 1, 0, 0, 0]
    car = first.objects[0]
    assert [part.label for part in car.parts] == ["front license plate", "left side", "wheel"]
    # Two wheels are one part, 3 x 3 + 4 x 3 pixels; the side they overlap keeps all of its 18 x 9.
    assert rle_area(car.find_part("wheel").mask) == 21
    assert rle_area(car.find_part("left side").mask) == 162
    assert car.mask is not None
    np.testing.assert_array_equal(decode_mask(car.mask), box_mask(CAR[1]))
    assert [part.label for part in second.objects[0].parts] == ["left wing", "right wing"]
    # The back plate covers no pixel: annotation 6, after the car (1) and four parts.
    assert [(row.reason, row.annotation_ids) for row in reading.skipped] == [("part with an empty mask", (6,))]


def test_sides_can_be_folded(tmp_path: Path) -> None:
    settings = config(tmp_path, {"2008_000009": [PLANE, CAR]})
    plane, car = read_pascal_part(settings, fold_sides=True).dataset.images[0].objects
    assert [(part.label, rle_area(part.mask)) for part in plane.parts] == [("wing", 2 * 25)]
    assert [part.label for part in car.parts] == ["front license plate", "side", "wheel"]


def test_several_objects_of_a_class_are_marked(tmp_path: Path) -> None:
    other: MatObject = ("car", (21, 0, 8, 8), [("wheel_1", (22, 5, 2, 2))])
    first, second = read_pascal_part(config(tmp_path, {"2008_000008": [CAR, other]})).dataset.images[0].objects
    assert (first.box, second.box) == (CAR[1], other[1])


def test_workers_change_nothing(tmp_path: Path) -> None:
    settings = config(tmp_path, {f"2010_00{number:04}": [CAR, PLANE][: number % 2 + 1] for number in range(12)})
    assert read_pascal_part(settings, num_workers=2) == read_pascal_part(settings)


@pytest.mark.parametrize("place", ["", "JPEGImages", "VOC2010/JPEGImages", "VOCdevkit/VOC2010/JPEGImages"])
def test_images_are_found_below_voc(tmp_path: Path, place: str) -> None:
    save_image(tmp_path / "images" / place / "2008_000009.jpg")
    settings = replace(config(tmp_path, {"2008_000009": [PLANE]}), images=tmp_path / "images")
    (image,) = read_pascal_part(settings).dataset.images
    assert image.file_name == str(Path(place) / "2008_000009.jpg")


def test_an_unknown_code_names_file_object_and_table(tmp_path: Path) -> None:
    odd: MatObject = ("car", (0, 0, 20, 12), [("spoiler_1", (1, 1, 2, 2)), ("wheel_1", (1, 8, 3, 3))])
    settings = config(tmp_path, {"2008_000008": [BOTTLE, odd]})
    with pytest.raises(
        ValueError, match=r"2008_000008\.mat, object 1: the part code 'spoiler_1' of class 'car'"
    ) as caught:
        read_pascal_part(settings)
    assert "(partonomy/datasets/sources/pascal_part.yaml)" in str(caught.value)
    assert "car:spoiler" in str(caught.value)
    reading = read_pascal_part(replace(settings, invalid="collect"))
    assert [len(one.parts) for one in reading.dataset.images[0].objects] == [0, 1]
    assert [row.annotation_ids for row in reading.skipped] == [(3,)]
    for names in ({"car:spoiler": "rear wing"}, {"spoiler_1": "rear wing"}):
        named = read_pascal_part(replace(settings, name_map=write_json(tmp_path / "names.json", names)))
        assert [part.label for part in named.dataset.images[0].objects[1].parts] == ["rear wing", "wheel"]


def test_name_map_renames_codes_words_and_objects(tmp_path: Path) -> None:
    names = {"fliplate": "number plate", "left side": "flank", "car": "automobile"}
    settings = replace(config(tmp_path, {"2008_000008": [CAR]}), name_map=write_json(tmp_path / "names.json", names))
    (car,) = read_pascal_part(settings).dataset.images[0].objects
    assert (car.label, [part.label for part in car.parts]) == ("automobile", ["flank", "number plate", "wheel"])


def break_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def flip_a_bit(path: Path) -> None:
    """In the compressed masks: SciPy alone may crash the process on such files."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def leave_uncompressed(path: Path) -> None:
    savemat(path, {"anno": np.zeros((3, 3))}, do_compression=False)


def write_text(path: Path) -> None:
    path.write_text("<html>404</html>")


def write_other_variable(path: Path) -> None:
    savemat(path, {"LabelMap": np.zeros((3, 3))}, do_compression=True)


def write_flat_anno(path: Path) -> None:
    savemat(path, {"anno": np.zeros((3, 3))}, do_compression=True)


def write_objects_without_parts(path: Path) -> None:
    rows = np.zeros((1, 1), dtype=[("class", "O")])
    rows[0, 0] = ("car",)
    anno = np.zeros((1, 1), dtype=[("imname", "O"), ("objects", "O")])
    anno[0, 0] = (path.stem, rows)
    savemat(path, {"anno": anno}, do_compression=True)


def annotate_another_image(path: Path) -> None:
    save_mat(path, [CAR], image_name="2008_000007")


def lose_the_image(path: Path) -> None:
    (path.parents[1] / "JPEGImages" / f"{path.stem}.jpg").unlink()


def lose_the_number(path: Path) -> None:
    save_mat(path.with_stem("car"), [CAR])
    save_image(path.parents[1] / "JPEGImages" / "car.jpg")
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (break_file, "not an annotation file of Pascal-Part"),
        (flip_a_bit, "not an annotation file of Pascal-Part"),
        (leave_uncompressed, "a variable is not compressed"),
        (write_text, "not an annotation file of Pascal-Part"),
        (write_other_variable, "not an annotation file of Pascal-Part"),
        (write_flat_anno, "not an annotation file of Pascal-Part"),
        (write_objects_without_parts, "object 0: needs `class`, `mask` and `parts`"),
        (annotate_another_image, "annotates the image '2008_000007'"),
        (
            lose_the_image,
            "the image '2008_000008.jpg' was not found; tried 2008_000008.jpg, JPEGImages/2008_000008.jpg",
        ),
        (lose_the_number, "the file name must contain a unique number"),
    ],
)
def test_a_bad_file_is_named_or_collected(tmp_path: Path, damage: object, reason: str) -> None:
    settings = config(tmp_path, {"2008_000008": [CAR], "2008_000009": [PLANE]})
    assert callable(damage)
    damage(settings.annotations / "2008_000008.mat")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_pascal_part(settings)
    assert reason in str(caught.value)
    assert ".mat" in str(caught.value)
    reading = read_pascal_part(replace(settings, invalid="collect"))
    assert [image.image_id for image in reading.dataset.images] == [2008000009]
    (row,) = reading.skipped
    assert row.reason.startswith("annotation file that cannot be used: ")
    assert reason in row.reason


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    settings = config(tmp_path, {"2008_000008": [CAR]})
    save_image(settings.images / "2008_000008.jpg")
    rows = np.zeros((1, 2), dtype=[(name, "O") for name in ("class", "class_ind", "mask", "parts")])
    for number, size in enumerate([(HEIGHT, WIDTH), (5, 5)]):
        rows[0, number] = ("sofa", np.uint8(18), np.ones(size, np.uint8), np.zeros((0, 0)))
    anno = np.zeros((1, 1), dtype=[("imname", "O"), ("objects", "O")])
    anno[0, 0] = ("2008_000008", rows)
    savemat(settings.annotations / "2008_000008.mat", {"anno": anno}, do_compression=True)
    with pytest.raises(ValueError, match=r"the masks differ in size \(height, width\): \[\(5, 5\), \(20, 30\)\]"):
        read_pascal_part(settings)
    anno[0, 0]["objects"] = rows[:, 1:]
    savemat(settings.annotations / "2008_000008.mat", {"anno": anno}, do_compression=True)
    with pytest.raises(
        ValueError, match=r"2008_000008\.mat: .*2008_000008\.jpg: the image is 20 x 30 .* annotation 5 x 5"
    ):
        read_pascal_part(settings)


def test_a_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty contains no \.mat files; pass the folder Annotations_Part"):
        read_pascal_part(CocoConfig(tmp_path / "empty", tmp_path))


@pytest.mark.parametrize("separator", [":", " "])
def test_the_json_form(tmp_path: Path, separator: str) -> None:
    """As VLPart writes it: parts alone, ids from 0, `abbr` of two categories."""
    names = ["aeroplane*wing", "potted plant*pot", "car*license plate", "car*wheel"]
    categories = [{"id": number, "name": name.replace("*", separator)} for number, name in enumerate(names, start=1)]
    categories[2]["abbr"] = "car:liplate"
    boxes = [(1, (1, 1, 5, 5)), (1, (8, 1, 5, 5)), (2, (20, 10, 4, 4)), (3, (1, 12, 3, 2)), (4, (6, 12, 3, 3))]
    content = {
        "categories": categories,
        "images": [{"id": 2008000008, "file_name": "2008_000008.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {
                "id": number,
                "segmentation": box_polygon(box),
                "bbox": [float(v) for v in box],
                "category_id": category,
                "image_id": 2008000008,
                "iscrowd": 0,
                "area": float(box[2] * box[3]),
            }
            for number, (category, box) in enumerate(boxes)
        ],
    }
    save_image(tmp_path / "VOCdevkit" / "VOC2010" / "JPEGImages" / "2008_000008.jpg")
    reading = read_pascal_part(CocoConfig(write_json(tmp_path / "train.json", content), tmp_path))
    found = {
        one.label: {part.label: rle_area(part.mask) for part in one.parts} for one in reading.dataset.images[0].objects
    }
    assert found == {
        "aeroplane": {"wing": 50},
        "potted plant": {"pot": 16},
        "car": {"license plate": 6, "wheel": 9},
    }


def test_codes_in_the_json_form(tmp_path: Path) -> None:
    names = ["pottedplant", "pottedplant:plant", "aeroplane:lwing", "aeroplane:engine_2"]
    content = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "images": [{"id": 1, "file_name": "2008_000008.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": category, "segmentation": box_polygon(box)}
            for number, (category, box) in enumerate([(0, (0, 0, 9, 9)), (1, (1, 1, 3, 3)), (2, (1, 1, 2, 2))])
        ],
    }
    save_image(tmp_path / "2008_000008.jpg")
    settings = CocoConfig(write_json(tmp_path / "train.json", content), tmp_path)
    reading = read_pascal_part(settings, fold_sides=True)
    (plant,) = reading.dataset.images[0].objects
    assert (plant.label, [part.label for part in plant.parts]) == ("potted plant", ["plant"])
    # The file annotates whole objects, but not this aeroplane.
    assert [row.annotation_ids for row in reading.skipped] == [(2,)]
    content["categories"].append({"id": 9, "name": "zeppelin envelope"})
    write_json(settings.annotations, content)
    with pytest.raises(ValueError, match="category 9: 'zeppelin envelope' names no class of Pascal-Part"):
        read_pascal_part(settings)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="PARTONOMY_REAL_DATA does not name a folder of photographs")
def test_real_files() -> None:
    folder = REAL_DATA / "pascal_part_sample"
    reading = read_pascal_part(CocoConfig(folder / "Annotations_Part", folder / "JPEGImages"))
    found = [
        (image.image_id, [(one.label, len(one.parts)) for one in image.objects]) for image in reading.dataset.images
    ]
    assert reading.skipped == ()
    assert found == [
        (2008000700, [("person", 21)]),
        (2008003228, [("person", 5), ("person", 16), ("person", 14), ("cat", 6)]),
        (2010002065, [("aeroplane", 7)]),  # 12 annotations: two engines and five wheels are one part each
    ]
    plane = reading.dataset.images[2].objects[0]
    assert [part.label for part in plane.parts] == [
        "body", "engine", "left wing", "right wing", "stern", "tail", "wheel",
    ]  # fmt: skip
    assert [len(part.annotation_ids) for part in plane.parts] == [1, 2, 1, 1, 1, 1, 5]
    persons = reading.dataset.images[1].objects[:3]
    assert all(one.box is not None for one in persons)
