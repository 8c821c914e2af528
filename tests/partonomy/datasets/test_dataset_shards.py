"""Shards of a data set folder: its images in order, and the errors of the whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from partonomy.datasets.annotation_file import read_shard_annotations
from partonomy.datasets.store import load_dataset
from partonomy.sharding import Shard, all_shards
from tests.partonomy.cli.test_curate import make_folder
from tests.partonomy.datasets.checked_file import Content


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "a", "first", 7)


def test_shards_of_a_data_set_are_its_images_in_order(data_set: Path) -> None:
    whole = load_dataset(data_set)
    for count in (1, 2, 3, 9):
        shards = [load_dataset(data_set, shard) for shard in all_shards(count)]
        assert sum((shard.images for shard in shards), ()) == whole.images
        assert {(shard.name, shard.image_root) for shard in shards} == {(whole.name, whole.image_root)}
    assert [len(load_dataset(data_set, shard).images) for shard in all_shards(3)] == [2, 2, 3]


def double_annotation(content: Content) -> None:
    content["annotations"].append(dict(content["annotations"][0]))


def double_image(content: Content) -> None:
    content["images"].append(dict(content["images"][0]))


def unknown_image(content: Content) -> None:
    content["annotations"][0]["image_id"] = 99


def no_integer(content: Content) -> None:
    content["annotations"][0]["id"] = "x"


@pytest.mark.parametrize("edit", [double_annotation, double_image, unknown_image, no_integer])
@pytest.mark.parametrize("shard", all_shards(3))
def test_what_one_process_refuses_every_shard_refuses(
    data_set: Path, edit: Callable[[Content], None], shard: Shard
) -> None:
    path = data_set / "annotations.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    messages = []
    for one in (None, shard):
        with pytest.raises(ValueError, match="annotations.json") as error:
            load_dataset(data_set, one)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_lists_in_another_order_or_missing(data_set: Path) -> None:
    path = data_set / "annotations.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: content[key] for key in ("annotations", "images", "categories")}))
    with pytest.raises(ValueError, match="the list 'images' comes after 'annotations'"):
        read_shard_annotations(path, Shard(0, 2))
    path.write_text(json.dumps({"images": content["images"], "categories": content["categories"]}))
    with pytest.raises(ValueError, match="the list 'annotations' is missing"):
        read_shard_annotations(path, Shard(0, 2))


def test_a_data_set_without_annotations(data_set: Path) -> None:
    (data_set / "annotations.json").write_text(
        json.dumps({"images": [{"id": n, "file_name": f"{n}.png", "height": 4, "width": 4} for n in (1, 2, 3)]})[:-1]
        + ', "categories": [], "annotations": []}'
    )
    assert [image.image_id for image in load_dataset(data_set, Shard(1, 2)).images] == [2, 3]
