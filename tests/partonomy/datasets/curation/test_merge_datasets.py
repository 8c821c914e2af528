"""Two data sets with one vocabulary: names, categories, ids, photographs."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from partonomy.datasets.curation.merge_datasets import MergeConfig, merge_datasets
from partonomy.masks import decode_mask, rle_area
from partonomy.structures import PartDataset
from tests.partonomy.tiny_world import make_dataset, make_image, make_instance

CONFIG = MergeConfig("both", {}, {})


@pytest.fixture
def first(tmp_path: Path) -> PartDataset:
    images = [make_image(5, make_instance(1, "Race_Car", ("Wheel", "door"), "road", box=(1, 2, 3, 4))), make_image(9)]
    return make_dataset(tmp_path / "a" / "photos", images, "a")


@pytest.fixture
def second(tmp_path: Path) -> PartDataset:
    images = [
        make_image(5, make_instance(1, "race car", ("wheel", "doors"), "road"), make_instance(2, "jet", ("wing",)))
    ]
    dataset = make_dataset(tmp_path / "b", images, "b")
    Image.new("RGB", (20, 16), (1, 2, 3)).save(tmp_path / "b" / "5.png")
    return dataset


def test_one_vocabulary_and_new_ids(first: PartDataset, second: PartDataset, tmp_path: Path) -> None:
    merged = merge_datasets([first, second], CONFIG)
    images = merged.dataset.images
    assert [image.image_id for image in images] == [1, 2, 3]
    assert merged.sources == ((0, 5), (0, 9), (1, 5))
    assert merged.dataset.image_root == tmp_path
    assert [image.file_name for image in images] == ["a/photos/5.png", "a/photos/9.png", "b/5.png"]
    assert all((tmp_path / image.file_name).is_file() for image in images)
    assert [one.label for image in images for one in image.objects] == ["race car", "race car", "jet"]
    assert images[0].objects[0].box == (1, 2, 3, 4)
    assert [(one.kind, one.source, one.old, one.new) for one in merged.renamed] == [
        ("object", "a", "Race_Car", "race car"),
        ("part", "a", "Wheel", "wheel"),
    ]
    assert merged.similar_names == (("door", "doors"),)


def test_a_name_map_unites_parts_of_one_instance(first: PartDataset, second: PartDataset) -> None:
    both = replace(second.images[0], objects=(make_instance(1, "race car", ("door", "doors", "wheel"), "road"),))
    second = replace(second, images=(both,))
    merged = merge_datasets([first, second], replace(CONFIG, name_map={"doors": "door"}))
    (instance,) = merged.dataset.images[2].objects
    assert [part.label for part in instance.parts] == ["door", "wheel"]
    # Two columns of 2 x 10 pixels side by side.
    assert rle_area(instance.parts[0].mask) == 40
    assert decode_mask(instance.parts[0].mask)[2:12, 0:4].all()
    assert merged.similar_names == ()


def test_a_name_map_may_name_the_part_of_one_object(first: PartDataset, second: PartDataset) -> None:
    merged = merge_datasets([first, second], replace(CONFIG, name_map={"race car:wheel": "slick"}))
    labels = [[part.label for one in image.objects for part in one.parts] for image in merged.dataset.images]
    assert labels == [["door", "wheel"], [], ["doors", "slick", "wing"]]  # the first source says "Race_Car"
    assert ("part", "b", "race car:wheel", "slick") in [
        (one.kind, one.source, one.old, one.new) for one in merged.renamed
    ]


def test_category_conflicts(first: PartDataset, second: PartDataset) -> None:
    objects = (make_instance(1, "race car", ("wheel",), "sport"),)
    second = replace(second, images=(replace(second.images[0], objects=objects),))
    with pytest.raises(ValueError, match="objects in several categories: 'race car': 'road', 'sport'"):
        merge_datasets([first, second], CONFIG)
    merged = merge_datasets([first, second], replace(CONFIG, first_category_wins=True))
    assert [(one.object_label, one.categories) for one in merged.conflicts] == [("race car", ("road", "sport"))]
    assert {one.category for image in merged.dataset.images for one in image.objects} == {"road"}
    named = merge_datasets([first, second], replace(CONFIG, categories={"race car": "vehicle"}))
    assert named.conflicts == ()
    assert {one.category for image in named.dataset.images for one in image.objects} == {"vehicle"}


def test_same_photographs_are_told_by_content(first: PartDataset, second: PartDataset, tmp_path: Path) -> None:
    # The two images of `first` are drawn alike; that of `second` is of another colour.
    (same,) = merge_datasets([first, second], CONFIG).same_photographs
    assert (same.image_ids, same.file_names) == ((1, 2), ("a/photos/5.png", "a/photos/9.png"))
    (tmp_path / "b" / "5.png").write_bytes((tmp_path / "a" / "photos" / "5.png").read_bytes())
    (same,) = merge_datasets([first, second], CONFIG).same_photographs
    assert same.image_ids == (1, 2, 3)


@pytest.mark.parametrize("category", ["race car", "road"])
def test_a_folder_name_is_no_category(tmp_path: Path, category: str) -> None:
    """Old data sets gave every object without a category the name of the folder ("train", "valid")."""
    sides = [
        make_dataset(
            tmp_path / name,
            [make_image(1, make_instance(1, "race car", ("wheel",), name), make_instance(2, "jet", (), name))],
            name,
        )
        for name in ("train", "valid")
    ]
    third = make_dataset(tmp_path / "c", [make_image(1, make_instance(1, "race car", ("wheel",), category))], "c")
    merged = merge_datasets([*sides, third], CONFIG)
    assert merged.conflicts == ()
    found = {(one.label, one.category) for image in merged.dataset.images for one in image.objects}
    assert found == {("race car", category), ("jet", "jet")}
    # A name that some objects alone have as their category is a category.
    mixed = [make_image(1, make_instance(1, "race car", ("wheel",), "train"), make_instance(2, "jet", (), "air"))]
    sides[0] = make_dataset(tmp_path / "train", mixed, "train")
    with pytest.raises(ValueError, match=r"'race car': 'train', 'road'.*--categories FILE.*--category_conflicts first"):
        merge_datasets(
            [
                sides[0],
                make_dataset(tmp_path / "c", [make_image(1, make_instance(1, "race car", ("wheel",), "road"))], "c"),
            ],
            CONFIG,
        )
