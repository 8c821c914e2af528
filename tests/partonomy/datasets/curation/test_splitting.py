"""Stratified halves: quotas, rare labels, photographs that stay together, one draw per seed."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from partonomy.datasets.curation.split import split_dataset
from partonomy.structures import AnnotatedImage, PartDataset
from tests.partonomy.tiny_world import make_image, make_instance

SIZES = {"car": 40, "jet": 10, "bus": 7, "cat": 3, "dog": 2, "ray": 1}


@pytest.fixture
def dataset(tmp_path: Path) -> PartDataset:
    """63 images of one object each, in files of different content."""
    labels = [label for label, size in SIZES.items() for _ in range(size)]
    images = []
    for number, label in enumerate(labels):
        (tmp_path / f"{number}.png").write_bytes(bytes([number]))
        images.append(make_image(number, make_instance(number, label, ("wheel",))))
    return PartDataset("world", tmp_path, tuple(images))


def labels(images: tuple[AnnotatedImage, ...]) -> Counter[str]:
    return Counter(image.objects[0].label for image in images)


def ids(dataset: PartDataset) -> set[int]:
    return {image.image_id for image in dataset.images}


def test_quotas(dataset: PartDataset) -> None:
    sides = split_dataset(dataset, 0.2, seed=0)
    assert (sides.train.name, sides.val.name, sides.num_held_together) == ("world_train", "world_val", 0)
    assert ids(sides.train) | ids(sides.val) == ids(dataset)
    assert not ids(sides.train) & ids(sides.val)
    # A fifth of 63 is 12.6, so 13. Rounded down: car 8, jet 2, bus 1, cat 0, dog 0, ray 0 = 11; two more go to the
    # largest remainders, cat .6 and then bus or dog with .4 each; ray has one image, which stays.
    counts = labels(sides.val.images)
    assert sum(counts.values()) == 13
    assert (counts["car"], counts["jet"], counts["cat"], counts["ray"]) == (8, 2, 1, 0)
    assert sorted((counts["bus"], counts["dog"])) in ([0, 2], [1, 1])
    assert set(labels(sides.train.images)) == set(SIZES)


def test_the_draw_depends_on_the_seed_not_on_the_order(dataset: PartDataset) -> None:
    first = ids(split_dataset(dataset, 0.2, seed=0).val)
    shuffled = list(dataset.images)
    random.Random(1).shuffle(shuffled)
    assert ids(split_dataset(replace(dataset, images=tuple(shuffled)), 0.2, seed=0, num_workers=2).val) == first
    assert ids(split_dataset(dataset, 0.2, seed=1).val) != first


def test_counts_are_those_of_scikit_learn(dataset: PartDataset) -> None:
    """Where scikit-learn can split at all (no rare label), every label has the same number within one."""
    common = tuple(image for image in dataset.images if SIZES[image.objects[0].label] >= 7)
    dataset = replace(dataset, images=common)
    own = labels(split_dataset(dataset, 0.2, seed=3).val.images)
    names = np.array([image.objects[0].label for image in common])
    (_, test), *_ = StratifiedShuffleSplit(1, test_size=0.2, random_state=3).split(names, names)
    theirs = Counter(names[test].tolist())
    assert all(abs(own[label] - theirs[label]) <= 1 for label in ("car", "jet", "bus"))
    assert abs(sum(own.values()) - sum(theirs.values())) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_one_photograph_is_on_one_side(dataset: PartDataset, seed: int) -> None:
    """Images 0 and 50 have the same bytes, 1 and 41 one COCO number, 2 and 3 neither."""
    (dataset.image_root / "50.png").write_bytes(bytes([0]))
    renamed = {1: "a/COCO_train2014_000000000007.png", 41: "b/000000000007.png"}
    images = []
    for image in dataset.images:
        name = renamed.get(image.image_id, image.file_name)
        (dataset.image_root / name).parent.mkdir(exist_ok=True)
        (dataset.image_root / name).write_bytes((dataset.image_root / image.file_name).read_bytes())
        images.append(replace(image, file_name=name))
    sides = split_dataset(replace(dataset, images=tuple(images)), 0.5, seed)
    assert sides.num_held_together == 4
    val = ids(sides.val)
    assert ((0 in val) == (50 in val)) and ((1 in val) == (41 in val))  # noqa: PT018


def test_photographs_would_be_torn_without_the_check(dataset: PartDataset) -> None:
    """The same seeds do separate images 0 and 50 when their bytes differ."""
    sides = [ids(split_dataset(dataset, 0.5, seed).val) for seed in range(5)]
    assert any((0 in val) != (50 in val) for val in sides)


def test_images_without_parts_are_a_stratum_of_their_own(dataset: PartDataset) -> None:
    bare = [replace(image, objects=()) for image in dataset.images[:10]]
    sides = split_dataset(replace(dataset, images=(*bare, *dataset.images[10:])), 0.2, seed=0)
    assert len(ids(sides.val) & set(range(10))) == 2


def test_what_cannot_be_split(dataset: PartDataset) -> None:
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="val_share must lie between 0 and 1"):
            split_dataset(dataset, share, seed=0)
    with pytest.raises(ValueError, match="leave one side empty"):
        split_dataset(replace(dataset, images=dataset.images[-1:]), 0.2, seed=0)
    (dataset.image_root / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"3\.png: image file not found"):
        split_dataset(dataset, 0.2, seed=0)
