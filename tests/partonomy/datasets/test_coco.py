"""The COCO adapter and the quirks of real files."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.datasets.coco import read_coco
from partonomy.datasets.coco_records import CocoConfig
from partonomy.masks import decode_mask, rle_area
from partonomy.structures import ObjectInstance

HEIGHT, WIDTH = 20, 30
REAL_DATA = os.environ.get("PARTONOMY_REAL_DATA")
needs_real_data = pytest.mark.skipif(
    REAL_DATA is None or not Path(REAL_DATA).is_dir(),
    reason="PARTONOMY_REAL_DATA does not name a folder of photographs",
)


def box_polygon(x: int, y: int, width: int, height: int) -> list[list[int]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


class CocoFile:
    """A COCO file under construction."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.categories: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, image_id: int, **extra: object) -> None:
        Image.new("RGB", (WIDTH, HEIGHT)).save(self.folder / f"{image_id}.png")
        record = {"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH}
        self.images.append(record | extra)

    def add(self, category: str, box: tuple[int, int, int, int], image_id: int = 0, **extra: object) -> int:
        """Annotate a rectangle; returns the annotation's id."""
        number = len(self.annotations) + 1
        known = {record["name"]: record["id"] for record in self.categories}
        if category not in known:
            known[category] = len(self.categories)
            self.categories.append({"id": known[category], "name": category})
        record = {"id": number, "image_id": image_id, "category_id": known[category]}
        self.annotations.append(record | {"segmentation": box_polygon(*box)} | extra)
        return number

    def config(self, **settings: Any) -> CocoConfig:
        path = self.folder / "instances.json"
        content = {"images": self.images, "categories": self.categories, "annotations": self.annotations}
        path.write_text(json.dumps(content))
        return CocoConfig(path, self.folder, **settings)

    def objects(self, **settings: Any) -> tuple[ObjectInstance, ...]:
        """The objects of the first image."""
        return read_coco(self.config(**settings)).dataset.images[0].objects


@pytest.fixture
def coco(tmp_path: Path) -> CocoFile:
    """A file with one empty image of id 0."""
    folder = tmp_path / "garage"
    folder.mkdir()
    file = CocoFile(folder)
    file.add_image(0)
    return file


def test_parts_are_linked_by_obj_ann_id_and_united(coco: CocoFile) -> None:
    car = coco.add("car", (0, 0, 20, 10))
    coco.add("car:wheel", (2, 6, 3, 3), obj_ann_id=car)
    coco.add("car:wheel", (12, 6, 3, 3), obj_ann_id=car)
    coco.add("car:side_door", (6, 2, 4, 5), obj_ann_id=car, iscrowd=False)
    (instance,) = coco.objects()
    assert (instance.label, instance.category, instance.box) == ("car", "garage", None)
    assert [part.label for part in instance.parts] == ["side door", "wheel"]
    wheel = instance.find_part("wheel")
    assert wheel.annotation_ids == (2, 3)
    assert rle_area(wheel.mask) == 2 * 9
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[6:9, 2:5] = expected[6:9, 12:15] = True
    np.testing.assert_array_equal(decode_mask(wheel.mask), expected)


def test_parts_without_a_link_go_to_the_object_that_contains_them(coco: CocoFile) -> None:
    coco.add("car", (0, 0, 10, 10))
    coco.add("car", (15, 0, 10, 10))
    coco.add("dog", (14, 0, 12, 12))
    coco.add("car:wheel", (17, 5, 3, 3))
    coco.add("dog:leg", (18, 5, 2, 4))
    first, second, dog = coco.objects()
    assert [part.label for part in first.parts] == []
    assert [part.annotation_ids for part in second.parts] == [(4,)]
    assert [part.label for part in dog.parts] == ["leg"]
    # Two cars: each is marked by its own box; the only dog is not.
    assert (first.box, second.box, dog.box) == ((0, 0, 10, 10), (15, 0, 10, 10), None)


def test_a_box_alone_contains_parts_too(coco: CocoFile) -> None:
    coco.add("car", (0, 0, 1, 1), segmentation=[], bbox=[0.0, 0.0, 10.2, 9.9])
    coco.add("car:wheel", (4, 5, 3, 3))
    (instance,) = coco.objects()
    assert instance.mask is None
    assert [part.label for part in instance.parts] == ["wheel"]


def test_a_part_outside_every_object_is_counted(coco: CocoFile) -> None:
    coco.add("car", (0, 0, 10, 10))
    wheel = coco.add("car:wheel", (8, 5, 6, 3))  # a third of it lies inside: less than half
    reading = read_coco(coco.config())
    assert reading.dataset.images[0].objects[0].parts == ()
    assert [row.annotation_ids for row in reading.skipped] == [(wheel,)]
    assert "lies in no annotated object" in reading.skipped[0].reason


@pytest.mark.parametrize("crowd", [1, True])
def test_crowds_are_left_out_counted_and_make_their_class_ambiguous(coco: CocoFile, crowd: object) -> None:
    crowd_id = coco.add("car", (0, 0, 10, 10), iscrowd=crowd)
    in_crowd = coco.add("car:wheel", (2, 2, 3, 3), obj_ann_id=crowd_id)
    single = coco.add("car", (15, 0, 10, 10), iscrowd=False)
    coco.add("car:wheel", (17, 5, 3, 3), obj_ann_id=single, iscrowd=0)
    part_crowd = coco.add("car:window", (20, 5, 3, 3), obj_ann_id=single, iscrowd=crowd)
    reading = read_coco(coco.config())
    (instance,) = reading.dataset.images[0].objects
    assert instance.instance_id == single
    assert instance.box == (15, 0, 10, 10)
    assert [part.label for part in instance.parts] == ["wheel"]
    assert {row.reason: row.annotation_ids for row in reading.skipped} == {
        "iscrowd object": (crowd_id,),
        "iscrowd part": (part_crowd,),
        "part of an iscrowd object": (in_crowd,),
    }


def test_annotator_export_without_objects(coco: CocoFile) -> None:
    coco.categories.append({"id": 0, "name": "_background_", "supercategory": ""})
    coco.add("front_door", (1, 1, 4, 4), iscrowd=False, isbbox=False, color="#fff")
    coco.add("wheel", (10, 1, 4, 4), iscrowd=False)
    background = coco.add("_background_", (0, 0, 30, 20))
    reading = read_coco(coco.config(object_name="car", name="cars"))
    (instance,) = reading.dataset.images[0].objects
    assert (instance.label, instance.category, instance.mask, instance.box) == ("car", "cars", None, None)
    assert [part.label for part in instance.parts] == ["front door", "wheel"]
    assert instance.instance_id not in {1, 2, 3}
    assert [(row.reason, row.annotation_ids) for row in reading.skipped] == [("background", (background,))]


def test_prefixed_parts_without_objects_form_one_instance_per_class(coco: CocoFile) -> None:
    coco.add("car:wheel", (1, 1, 4, 4))
    coco.add("dog:leg", (10, 1, 4, 4))
    coco.add("car:door", (20, 1, 4, 4))
    labels = {one.label: [part.label for part in one.parts] for one in coco.objects()}
    assert labels == {"car": ["door", "wheel"], "dog": ["leg"]}


def test_supercategories_tell_parts_from_objects(coco: CocoFile) -> None:
    car = coco.add("car", (0, 0, 20, 10))
    coco.add("wheel", (2, 2, 3, 3), obj_ann_id=car)
    coco.categories[0]["supercategory"], coco.categories[1]["supercategory"] = "OBJECT", "PART"
    (instance,) = coco.objects()
    assert [part.label for part in instance.parts] == ["wheel"]


def test_names_map_and_categories(coco: CocoFile) -> None:
    plane = coco.add("airplanes--attack", (0, 0, 20, 10))
    coco.add("airplanes--attack--part:jet_engine", (2, 2, 3, 3), obj_ann_id=plane)
    (coco.folder / "names.json").write_text('{"airplanes--attack": "attack aircraft"}')
    (coco.folder / "categories.json").write_text('{"attack aircraft": "airplanes"}')
    settings = {"name_map": coco.folder / "names.json", "categories": coco.folder / "categories.json"}
    (instance,) = coco.objects(**settings)
    assert (instance.label, instance.category, instance.parts[0].label) == (
        "attack aircraft",
        "airplanes",
        "jet engine",
    )
    (coco.folder / "categories.json").write_text("{}")
    with pytest.raises(ValueError, match=r"categories\.json: the object 'attack aircraft' .* has no category"):
        coco.objects(**settings)


def test_missing_size_and_box_are_read_from_the_image(coco: CocoFile) -> None:
    coco.images[0] = {"id": 0, "file_name": "0.png"}
    coco.add("car:wheel", (1, 1, 4, 4))
    image = read_coco(coco.config()).dataset.images[0]
    assert (image.height, image.width) == (HEIGHT, WIDTH)


BAD_ANNOTATIONS: list[tuple[dict[str, object], str]] = [
    ({"segmentation": []}, "polygon is empty"),
    ({"segmentation": None}, "'wheel' has no mask"),
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}, "'wheel' has an empty mask"),
    ({"segmentation": {"size": [5, 5], "counts": [25]}}, "the mask is 5 x 5"),
    ({"iscrowd": "yes"}, "'iscrowd' must be"),
    ({"bbox": [1, 2]}, "'bbox' must be"),
    ({"bbox": [1, 2, float("inf"), 3]}, "'bbox' must be"),
    ({"image_id": 8}, "image_id 8 is not among the images"),
    ({"category_id": 8}, "category_id 8 is not among the categories"),
    ({"obj_ann_id": "x"}, "'obj_ann_id' must be an integer"),
    ({"id": 1}, "annotation id 1 occurs twice"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD_ANNOTATIONS)
def test_a_bad_annotation_is_named_or_collected(coco: CocoFile, changes: dict[str, object], reason: str) -> None:
    car = coco.add("car", (0, 0, 20, 10))
    coco.add("car:door", (2, 2, 3, 3), obj_ann_id=car)
    coco.add("car:wheel", (8, 2, 3, 3), obj_ann_id=car)
    coco.annotations[2] |= changes
    with pytest.raises(ValueError, match=reason) as caught:
        coco.objects()
    assert f"instances.json, annotation {coco.annotations[2]['id']}" in str(caught.value)
    reading = read_coco(coco.config(invalid="collect"))
    assert [part.label for part in reading.dataset.images[0].objects[0].parts] == ["door"]
    assert [row.annotation_ids for row in reading.skipped] == [(coco.annotations[2]["id"],)]
    assert reason in reading.skipped[0].reason


def test_links_to_nothing_and_to_another_class(coco: CocoFile) -> None:
    dog = coco.add("dog", (0, 0, 20, 10))
    coco.add("car:wheel", (8, 2, 3, 3), obj_ann_id=dog)
    with pytest.raises(ValueError, match="annotation 2: a part of 'car' is linked to annotation 1, which is 'dog'"):
        coco.objects()
    coco.annotations[1]["obj_ann_id"] = 77
    with pytest.raises(ValueError, match="annotation 2: obj_ann_id 77 is no object annotation of image 0"):
        coco.objects()
    reading = read_coco(coco.config(invalid="collect"))
    assert [(row.reason, row.annotation_ids) for row in reading.skipped] == [
        ("obj_ann_id 77 is no object annotation of image 0", (2,))
    ]


def test_bad_images(coco: CocoFile) -> None:
    coco.add("car:wheel", (1, 1, 4, 4))
    coco.add_image(5, height=HEIGHT + 1)
    coco.add("car:wheel", (1, 1, 4, 4), image_id=5)
    with pytest.raises(ValueError, match=r"image 5: .*5\.png: the image is 20 x 30 .* annotation 21 x 30"):
        read_coco(coco.config())
    (coco.folder / "5.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image 5: .*5\.png"):
        read_coco(coco.config())
    reading = read_coco(coco.config(invalid="collect"))
    assert [image.image_id for image in reading.dataset.images] == [0]
    assert [row.annotation_ids for row in reading.skipped] == [(2,)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"file_name": None}, r"image 0: 'file_name' must be a text"), ({"id": -1}, r"image -1: 'id' must be 0 or more")],
)
def test_image_records_are_checked(coco: CocoFile, changes: dict[str, object], reason: str) -> None:
    coco.images[0] |= changes
    coco.add("car:wheel", (1, 1, 4, 4))
    with pytest.raises(ValueError, match=reason):
        read_coco(coco.config())


@pytest.mark.parametrize("name", ["../0.png", "/0.png", "a/../../0.png", "\ud800.png", ["0.png"]])
def test_file_names_stay_in_the_image_folder(coco: CocoFile, name: object) -> None:
    coco.add("car:wheel", (1, 1, 4, 4))
    coco.images[0]["file_name"] = name
    with pytest.raises(ValueError, match="image 0: 'file_name' .*(leaves the image folder|must be a text|Unicode)"):
        read_coco(coco.config())


def test_a_name_of_which_nothing_is_left_names_the_file(coco: CocoFile) -> None:
    coco.add("car:_", (1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"instances\.json: the name '_' is empty once cleaned"):
        coco.objects()


def test_image_records_that_cannot_be_used_are_listed(coco: CocoFile) -> None:
    coco.add("car:wheel", (1, 1, 4, 4))
    coco.add_image(3)
    coco.add("car:wheel", (1, 1, 4, 4), image_id=3)
    coco.images += [{"id": "x", "file_name": "0.png"}, dict(coco.images[1]), 7]
    reading = read_coco(coco.config(invalid="collect"))
    assert [image.image_id for image in reading.dataset.images] == [0]
    rows = {
        row.reason.split("cannot be used: ")[1].split("instances.json, ")[-1]: row.annotation_ids
        for row in reading.skipped
    }
    assert rows == {
        "the image id 3 occurs twice": (2,),
        "image 'x': 'id' must be an integer, got 'x'": (),
        "image at position 4: a value is of the wrong type ('int' object is not subscriptable)": (),
    }


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([-3, -2, 10, 8], (0, 0, 7, 6)),
        ([25.4, 15.0, 99.0, 1e300], (25, 15, 5, 5)),
        ([40, 2, 5, 5], None),
        ([5, 5, -2, 3], None),
    ],
)
def test_boxes_end_with_the_image(coco: CocoFile, box: list[float], expected: tuple[int, ...] | None) -> None:
    coco.add("car", (0, 0, 1, 1), segmentation=[], bbox=box)
    coco.add("car", (0, 0, 5, 5))
    coco.add("car:wheel", (1, 1, 3, 3))
    first, _ = coco.objects()
    assert first.box == expected


def test_category_names_are_text(coco: CocoFile) -> None:
    coco.categories.append({"id": 3, "name": 7})
    with pytest.raises(ValueError, match=r"instances\.json, category 3: 'name' must be a text, got 7"):
        read_coco(coco.config())


def test_files_of_another_kind(coco: CocoFile) -> None:
    coco.add("wheel", (1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"no category is a part.*--object_name"):
        coco.objects()
    config = coco.config(object_name="car")
    config.annotations.write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_coco(config)
    config.annotations.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"instances\.json: not valid JSON"):
        read_coco(config)
    config.annotations.write_text('{"images": []}')
    with pytest.raises(ValueError, match="needs the list 'annotations'"):
        read_coco(config)


@needs_real_data
def test_real_ade20k_parts() -> None:
    folder = Path(str(REAL_DATA)) / "ade20k_parts"
    dataset = read_coco(CocoConfig(folder / "instances_parts.json", folder / "images")).dataset
    instances = [one for image in dataset.images for one in image.objects]
    assert (len(dataset.images), len(instances), sum(len(one.parts) for one in instances)) == (51, 196, 487)
    assert len({(one.label, part.label) for one in instances for part in one.parts}) == 179


@needs_real_data
def test_real_car_parts() -> None:
    folder = Path(str(REAL_DATA)) / "car_parts"
    config = CocoConfig(folder / "annotations.json", folder / "JPEGImages", object_name="car")
    reading = read_coco(config)
    instances = [one for image in reading.dataset.images for one in image.objects]
    assert len(instances) == 40
    assert sum(len(part.annotation_ids) for one in instances for part in one.parts) == 324
    assert reading.skipped == ()
