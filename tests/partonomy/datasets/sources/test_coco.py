"""The COCO adapter and the quirks of real files."""

import os
from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.sources.coco import read_coco
from partonomy.datasets.sources.records import CocoConfig
from partonomy.masks import decode_mask, rle_area
from tests.partonomy.datasets.coco_file import HEIGHT, WIDTH, CocoFile

REAL_DATA = os.environ.get("PARTONOMY_REAL_DATA")
needs_real_data = pytest.mark.skipif(
    REAL_DATA is None or not Path(REAL_DATA).is_dir(),
    reason="PARTONOMY_REAL_DATA does not name a folder of photographs",
)


def test_parts_are_linked_by_obj_ann_id_and_united(coco: CocoFile) -> None:
    car = coco.add("car", (0, 0, 20, 10))
    coco.add("car:wheel", (2, 6, 3, 3), obj_ann_id=car)
    coco.add("car:wheel", (12, 6, 3, 3), obj_ann_id=car)
    coco.add("car:side_door", (6, 2, 4, 5), obj_ann_id=car, iscrowd=False)
    (instance,) = coco.objects()
    assert (instance.label, instance.category, instance.box) == ("car", "car", None)
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
    coco.add("car", (20, 0, 10, 10))
    wheel = coco.add("car:wheel", (8, 5, 6, 3))  # a third of it lies inside: less than half
    reading = read_coco(coco.config())
    assert [one.parts for one in reading.dataset.images[0].objects] == [(), ()]
    assert [row.annotation_ids for row in reading.skipped] == [(wheel,)]
    assert "lies in no annotated object" in reading.skipped[0].reason


@pytest.mark.parametrize("crowd", [1, True])
def test_crowds_are_left_out_counted_and_make_their_class_ambiguous_but_their_parts_are_parts(
    coco: CocoFile, crowd: object
) -> None:
    crowd_id = coco.add("car", (0, 0, 10, 10), iscrowd=crowd)
    in_crowd = coco.add("car:wheel", (2, 2, 3, 3), obj_ann_id=crowd_id)
    single = coco.add("car", (15, 0, 10, 10), iscrowd=False)
    coco.add("car:wheel", (17, 5, 3, 3), obj_ann_id=single, iscrowd=0)
    coco.add("car:window", (20, 5, 3, 3), obj_ann_id=single, iscrowd=crowd)
    reading = read_coco(coco.config())
    (instance,) = reading.dataset.images[0].objects
    assert instance.instance_id == single
    assert instance.box == (15, 0, 10, 10)
    assert [part.label for part in instance.parts] == ["wheel", "window"]
    assert reading.dataset.images[0].has_other_objects
    assert {row.reason: row.annotation_ids for row in reading.skipped} == {
        "iscrowd object": (crowd_id,),
        "part of an iscrowd object": (in_crowd,),
    }


def test_annotator_export_without_objects(coco: CocoFile) -> None:
    coco.categories.append({"id": 0, "name": "_background_", "supercategory": ""})
    coco.add("front_door", (1, 1, 4, 4), iscrowd=False, isbbox=False, color="#fff")
    coco.add("wheel", (10, 1, 4, 4), iscrowd=False)
    background = coco.add("_background_", (0, 0, 30, 20))
    reading = read_coco(coco.config(object_name="car", name="cars"))
    (instance,) = reading.dataset.images[0].objects
    assert (instance.label, instance.category, instance.mask, instance.box) == ("car", "car", None, None)
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
