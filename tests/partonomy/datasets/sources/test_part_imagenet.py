"""PartImageNet, in the form of its release."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from partonomy.datasets.sources.part_imagenet import find_object_names, read_part_imagenet, read_role
from partonomy.datasets.sources.published_coco import Role
from partonomy.datasets.sources.records import CocoConfig
from partonomy.masks import rle_area
from tests.partonomy.datasets.published_files import part_imagenet_file, save_image, write_json

NAMES = {"n02100735": "English setter", "n02814533": "beach wagon"}


@pytest.fixture
def content() -> dict[str, Any]:
    return part_imagenet_file()


def config(folder: Path, content: dict[str, Any], layout: str = "{name}") -> CocoConfig:
    for image in content["images"]:
        base = image["file_name"].rsplit("/", 1)[-1]
        save_image(folder / "images" / layout.format(name=base, wordnet=base[:9]))
    return CocoConfig(write_json(folder / "train.json", content), folder / "images")


def test_super_categories_are_the_objects(tmp_path: Path, content: dict[str, Any]) -> None:
    reading = read_part_imagenet(config(tmp_path, content))
    (setter,), (wagon,) = (image.objects for image in reading.dataset.images)
    assert (setter.label, setter.category, setter.mask, setter.box) == ("quadruped", "quadruped", None, None)
    assert [part.label for part in setter.parts] == ["foot", "head"]
    # Two feet are one part; a head keeps its good polygon.
    assert [rle_area(part.mask) for part in setter.parts] == [2 * (2 * 3), 4 * 4]
    assert setter.find_part("foot").annotation_ids == (1, 2)
    assert [part.label for part in wagon.parts] == ["body", "tire"]
    assert [(row.reason, row.annotation_ids) for row in reading.skipped] == [
        ("part whose polygons all have fewer than 3 points", (3,)),
        ("part with an empty mask", (6,)),
    ]


def test_objects_by_wordnet_id(tmp_path: Path, content: dict[str, Any]) -> None:
    names = write_json(tmp_path / "names.json", NAMES)
    setter, wagon = read_part_imagenet(config(tmp_path, content), names).dataset.images
    assert [(one.label, one.category) for one in setter.objects] == [("english setter", "quadruped")]
    assert [(one.label, one.category) for one in wagon.objects] == [("beach wagon", "car")]
    assert [part.label for part in wagon.objects[0].parts] == ["body", "tire"]


@pytest.mark.parametrize(
    "layout", ["{name}", "{wordnet}/{name}", "train/{wordnet}/{name}", "val/{name}", "images/test/{wordnet}/{name}"]
)
@pytest.mark.parametrize("has_folder", [False, True])
def test_images_are_found_in_the_layouts_that_users_have(
    tmp_path: Path, content: dict[str, Any], layout: str, has_folder: bool
) -> None:
    settings = config(tmp_path, content, layout)
    for image in content["images"]:
        image["file_name"] = f"{image['file_name'][:9]}/{image['file_name']}" if has_folder else image["file_name"]
    write_json(settings.annotations, content)
    names = write_json(tmp_path / "names.json", NAMES)
    first, _ = read_part_imagenet(settings, names).dataset.images
    assert first.file_name == layout.format(name="n02100735_1234.JPEG", wordnet="n02100735")
    assert first.objects[0].label == "english setter"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            {"n02100735": "English setter"},
            r"annotation 4: the WordNet id n02814533 of image .* is not in .*names\.json",
        ),
        ({**NAMES, "n02814533": "English setter"}, "annotation 4: .* has parts of a car here and of a quadruped"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, content: dict[str, Any], names: dict[str, str], reason: str) -> None:
    settings, path = config(tmp_path, content), write_json(tmp_path / "names.json", names)
    with pytest.raises(ValueError, match=reason):
        read_part_imagenet(settings, path)
    reading = read_part_imagenet(replace(settings, invalid="collect"), path)
    assert [len(image.objects) for image in reading.dataset.images] == [1, 0]
    assert sum(len(row.annotation_ids) for row in reading.skipped) == 1 + 3


def test_an_image_without_wordnet_id(tmp_path: Path, content: dict[str, Any]) -> None:
    content["images"][0]["file_name"] = "setter.JPEG"
    names = write_json(tmp_path / "names.json", NAMES)
    with pytest.raises(ValueError, match=r"'setter\.JPEG' contains no WordNet id"):
        read_part_imagenet(config(tmp_path, content), names)


def test_all_forty_categories() -> None:
    parts = {
        "Quadruped": "Head Body Foot Tail", "Biped": "Head Body Hand Foot Tail", "Fish": "Head Body Fin Tail",
        "Bird": "Head Body Wing Foot Tail", "Snake": "Head Body", "Reptile": "Head Body Foot Tail",
        "Bicycle": "Body Head Seat Tier", "Boat": "Body Sail", "Aeroplane": "Head Body Engine Wing Tail",
        "Bottle": "Mouth Body",
    }  # fmt: skip
    pairs = [(above, part) for above, several in parts.items() for part in several.split()]
    pairs += [("Car", "Body"), ("Car", "Tier"), ("Car", "Side Mirror")]
    assert len(pairs) == 40
    for above, part in pairs:
        assert read_role(f"{above} {part}", above) == Role(above, part)
        assert read_role(f"{above} {part}", "") == Role(above, part)
    assert read_role("Quadruped", "Quadruped") == Role("Quadruped", None)
    with pytest.raises(ValueError, match="'Dog Head' with super-category 'Quadruped'"):
        read_role("Dog Head", "Quadruped")


def test_everyday_labels_leave_out_the_classes_that_they_do_not_name(tmp_path: Path, content: dict[str, Any]) -> None:
    reading = read_part_imagenet(config(tmp_path, content), find_object_names("everyday"))
    setter, wagon = reading.dataset.images
    assert [(one.label, one.category) for one in setter.objects] == [("dog", "quadruped")]
    assert wagon.objects == ()
    reason = "annotation in an image whose class is not in the table of object names"
    (left_out,) = [row for row in reading.skipped if row.reason == reason]
    assert len(left_out.annotation_ids) == sum(one["image_id"] == wagon.image_id for one in content["annotations"]) - 1
    assert find_object_names("names.json") == Path("names.json")
