"""PACO-LVIS, in the form of its release."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from partonomy.datasets.instances import choose_instance
from partonomy.datasets.sources.paco import READABLE, read_paco, read_role
from partonomy.datasets.sources.records import CocoConfig
from partonomy.masks import rle_area
from partonomy.names import clean_names
from tests.partonomy.datasets.published_files import box_polygon, paco_file, save_image, write_json

REAL_DATA = Path(os.environ.get("PARTONOMY_REAL_DATA", "no folder given"))
NAME = "train2017/000000391895.jpg"


@pytest.fixture
def content() -> dict[str, Any]:
    return paco_file()


def config(folder: Path, content: dict[str, Any], image: str = NAME) -> CocoConfig:
    """The file below `annotations/`, its image at `image` below `images/`."""
    save_image(folder / "images" / image)
    return CocoConfig(write_json(folder / "annotations" / "paco_lvis_v1_train.json", content), folder / "images")


def test_all_instances_stay_and_the_richest_is_marked(tmp_path: Path, content: dict[str, Any]) -> None:
    reading = read_paco(config(tmp_path, content))
    assert (reading.dataset.name, reading.skipped) == ("paco_lvis", ())
    (image,) = reading.dataset.images
    assert (image.image_id, image.file_name) == (391895, NAME)
    first, second, bicycle = image.objects
    assert [one.label for one in image.objects] == ["car", "car", "bicycle"]
    assert {one.category for one in image.objects} == {"vehicle"}
    assert [part.label for part in second.parts] == ["turn signal", "wheel"]
    assert [rle_area(part.mask) for part in second.parts] == [4 * 2, 2 * 2]
    # The first car is larger, the second has more annotated parts: it is asked about, inside its own box.
    assert choose_instance(image) == second
    assert (first.box, second.box, bicycle.box) == ((0, 0, 12, 12), (14, 0, 10, 10), None)


@pytest.mark.parametrize("place", [NAME, f"coco/{NAME}", f"images/{NAME}", "000000391895.jpg"])
def test_images_are_found_in_the_layouts_that_users_have(tmp_path: Path, content: dict[str, Any], place: str) -> None:
    (image,) = read_paco(config(tmp_path, content, place)).dataset.images
    assert image.file_name == place


def test_an_image_may_be_named_by_its_address(tmp_path: Path, content: dict[str, Any]) -> None:
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = f"http://images.cocodataset.org/{NAME}"
    (image,) = read_paco(config(tmp_path, content)).dataset.images
    assert image.file_name == NAME


@pytest.mark.parametrize("order", [("annotations", "images", "categories"), ("categories", "images", "annotations")])
def test_the_order_of_the_lists_does_not_matter(
    tmp_path: Path, content: dict[str, Any], order: tuple[str, ...]
) -> None:
    expected = read_paco(config(tmp_path, content))
    moved = {key: content[key] for key in order} | {key: content[key] for key in content if key not in order}
    assert read_paco(config(tmp_path, moved)) == expected


def test_polygons_and_groups(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"][3]["segmentation"] = box_polygon((2, 8, 3, 3))
    content["annotations"][2]["iscrowd"] = 1
    reading = read_paco(config(tmp_path, content))
    first, second = reading.dataset.images[0].objects
    assert rle_area(first.find_part("wheel").mask) == 3 * 3
    assert [(row.reason, row.annotation_ids) for row in reading.skipped] == [
        ("iscrowd object", (12,)),
        ("part of an iscrowd object", (16,)),
    ]


def test_parts_without_a_mask_are_counted(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"][4]["segmentation"] = []
    content["annotations"][5]["segmentation"] = {"size": [20, 30], "counts": [600]}
    reading = read_paco(config(tmp_path, content))
    assert [(row.reason, row.annotation_ids) for row in reading.skipped] == [("part with an empty mask", (14, 15))]


def test_names_and_categories_of_the_user(tmp_path: Path, content: dict[str, Any]) -> None:
    names = {"turnsignal": "blinker", "car_(automobile):wheel": "car wheel", "bicycle": "bike"}
    settings = replace(
        config(tmp_path, content),
        name="cars",
        name_map=write_json(tmp_path / "names.json", names),
        categories=write_json(tmp_path / "categories.json", {"car": "vehicles", "bicycle": "cycles"}),
    )
    dataset = read_paco(settings).dataset
    found = Counter((one.label, one.category, part.label) for one in dataset.images[0].objects for part in one.parts)
    assert found == {
        ("car", "vehicles", "car wheel"): 2,
        ("car", "vehicles", "blinker"): 1,
        ("bike", "cycles", "wheel"): 1,
    }


BAD_RECORDS: list[tuple[str, dict[str, object], str]] = [
    ("annotations", {"obj_ann_id": 12}, "'car_(automobile)' is linked to annotation 12, which is 'bicycle'"),
    ("annotations", {"obj_ann_id": 99}, "obj_ann_id 99 is no object annotation"),
    ("annotations", {"obj_ann_id": "11"}, "'obj_ann_id' must be an integer"),
    ("annotations", {"image_id": 3}, "image_id 3 is not among the images"),
    ("annotations", {"category_id": 3}, "category_id 3 is not among the categories"),
    ("annotations", {"segmentation": {"size": [5, 5], "counts": [25]}}, "the mask is 5 x 5"),
    ("annotations", {"bbox": [1, 2, 3]}, "'bbox' must be [x, y, width, height]"),
    ("annotations", {"bbox": [1, 2, 3, float("inf")]}, "'bbox' must be"),
    ("annotations", {"id": 13}, "the annotation id 13 occurs twice"),
    ("images", {"height": 21}, "its annotation 21 x 30"),
    ("images", {"file_name": "train2017/none.jpg"}, "the image 'train2017/none.jpg' was not found; tried"),
    ("images", {"file_name": "../secret.jpg"}, "leaves the image folder"),
]


@pytest.mark.parametrize(("kind", "changes", "reason"), BAD_RECORDS)
def test_a_bad_record_is_named_or_collected(
    tmp_path: Path, content: dict[str, Any], kind: str, changes: dict[str, object], reason: str
) -> None:
    broken = content[kind][4 if kind == "annotations" else 0]
    identifier = changes.get("id", broken["id"])
    broken |= changes
    settings = config(tmp_path, content)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_paco(settings)
    message = str(caught.value)
    assert f"paco_lvis_v1_train.json, {kind[:-1]} {identifier}" in message
    assert reason in message
    reading = read_paco(replace(settings, invalid="collect"))
    assert len(reading.dataset.images) == (1 if kind == "annotations" else 0)
    (row,) = reading.skipped
    assert reason in row.reason
    assert len(row.annotation_ids) == (1 if kind == "annotations" else len(content["annotations"]))


BROKEN_LISTS: list[tuple[str, object, str]] = [
    ("categories", {"id": 94, "name": "bicycle", "supercategory": "vehicle"}, "category 94: .* not a category of PACO"),
    ("categories", {"id": 94, "name": "car:", "supercategory": "PART"}, "not a category of PACO"),
    ("categories", {"id": 207, "name": "bicycle", "supercategory": "OBJECT"}, "category id 207 occurs twice"),
    ("categories", {"id": 94, "supercategory": "OBJECT"}, "the key 'name' is missing"),
    ("categories", "bicycle", "train.json, category"),
    ("images", {"id": 1, "file_name": NAME, "width": 30}, "image 1: the key 'height' is missing"),
    ("images", {"id": -1, "file_name": NAME, "width": 30, "height": 20}, "image id -1 is negative"),
    ("images", 5, "train.json, image"),
]


@pytest.mark.parametrize(("kind", "record", "reason"), BROKEN_LISTS)
def test_a_file_of_another_kind_is_refused_in_any_mode(
    tmp_path: Path, content: dict[str, Any], kind: str, record: object, reason: str
) -> None:
    content[kind][0] = record
    with pytest.raises(ValueError, match=reason):
        read_paco(replace(config(tmp_path, content), invalid="collect"))


def test_a_file_without_images_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    content["images"] = []
    with pytest.raises(ValueError, match=r"needs the lists 'images' and 'categories', not empty"):
        read_paco(config(tmp_path, content))


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="PARTONOMY_REAL_DATA does not name a folder of photographs")
def test_every_name_of_the_real_category_list() -> None:
    categories = json.loads((REAL_DATA / "schema" / "paco_lvis_v1_train_cat_info.json").read_text(encoding="utf-8"))
    roles = [read_role(one["name"], one["supercategory"]) for one in categories]
    objects = clean_names((role.raw_object for role in roles), READABLE)
    parts = clean_names((role.raw_part for role in roles if role.raw_part), READABLE)
    pairs = {(objects[role.raw_object], parts[role.raw_part]) for role in roles if role.raw_part}
    # The paper's Table 1: 75 objects, 200 parts, 456 object-part labels; so no two names become one.
    assert (len(objects), len(set(objects.values()))) == (75, 75)
    assert (len(parts), len(set(parts.values())), len(pairs)) == (200, 200, 456)
    # Reviewed: all other names are the raw ones with spaces for underscores.
    changed = {raw: name for raw, name in (objects | parts).items() if name != raw.replace("_", " ")}
    assert changed == {
        "car_(automobile)": "car",
        "colied_tube": "coiled tube",
        "drum_(musical_instrument)": "drum",
        "glass_(drink_container)": "glass",
        "mouse_(computer_equipment)": "mouse",
        "pan_(for_cooking)": "pan",
        "runningboard": "running board",
        "slipper_(footwear)": "slipper",
        "steeringwheel": "steering wheel",
        "tape_(sticky_cloth_or_paper)": "tape",
        "turnsignal": "turn signal",
    }
    assert all(word.isascii() and word.isalpha() for name in (objects | parts).values() for word in name.split())
