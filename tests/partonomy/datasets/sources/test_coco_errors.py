"""What is wrong with a COCO file is named, or left out and counted."""

import pytest

from partonomy.datasets.sources.coco import NO_ID, read_coco
from tests.partonomy.datasets.coco_file import HEIGHT, WIDTH, CocoFile

BAD_ANNOTATIONS: list[tuple[dict[str, object], str]] = [
    ({"segmentation": []}, "polygon is empty"),
    ({"segmentation": None}, "'wheel' has no mask"),
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}, "'wheel' has an empty mask"),
    ({"segmentation": {"size": [5, 5], "counts": [25]}}, "the mask is 5 x 5"),
    ({"iscrowd": "yes"}, "'iscrowd' must be"),
    ({"segmentation": [[1, 2, 3, 4], [5, 6]]}, "at least 3 points"),
    ({"segmentation": [[5, 6], [1, 1, 9, 1, "x", 9]]}, "flat list of numbers"),
    ({"segmentation": [[0, 0, 0.5, 0, 0.5, 1]]}, "between 0 and 1"),
    ({"id": "a7"}, "'id' must be an integer"),
    ({"image_id": "00"}, "'image_id' must be an integer"),
    ({"image_id": 0.5}, "'image_id' must be an integer"),
    ({"category_id": True}, "'category_id' must be an integer"),
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
    assert f"instances.json, annotation {coco.annotations[2]['id']!r}" in str(caught.value)
    assert "the only bad record; correct it, or pass --invalid collect" in str(caught.value)
    reading = read_coco(coco.config(invalid="collect"))
    assert [part.label for part in reading.dataset.images[0].objects[0].parts] == ["door"]
    number = coco.annotations[2]["id"]
    assert [row.annotation_ids for row in reading.skipped] == [(number if isinstance(number, int) else NO_ID,)]
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
    [
        ({"file_name": None}, r"image 0: 'file_name' must be a non-empty string"),
        ({"id": -1}, r"image -1: 'id' must be 0 or more"),
    ],
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
    with pytest.raises(
        ValueError, match="image 0: 'file_name' .*(leaves the image folder|must be a non-empty string|Unicode)"
    ):
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
    with pytest.raises(ValueError, match=r"instances\.json, category 3: 'name' must be a non-empty string, got 7"):
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
