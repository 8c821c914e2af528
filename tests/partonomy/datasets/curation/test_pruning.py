"""What falls below the threshold, and what goes with it."""

from pathlib import Path

import pytest

from partonomy.datasets.curation.prune import CountBy, DroppedPart, Pruning, prune_dataset
from partonomy.structures import PartDataset
from tests.partonomy.tiny_world import make_image, make_instance

# Masks per object-part: car wheel 2, car door 1, bus wheel 1, jet wing 1, jet wheel 1. Per part: wheel 4, the others 1.
DATASET = PartDataset(
    "hand",
    Path("."),
    (
        make_image(1, make_instance(1, "car", ("wheel", "door")), make_instance(2, "car", ())),
        make_image(2, make_instance(3, "car", ("wheel",)), make_instance(4, "cat", ())),
        make_image(3, make_instance(5, "bus", ("wheel",))),
        make_image(4, make_instance(6, "jet", ("wing", "wheel"))),
        make_image(5, make_instance(7, "cat", ())),
    ),
)


def left(pruning: Pruning) -> dict[int, list[tuple[str, list[str]]]]:
    return {
        image.image_id: [(one.label, [part.label for part in one.parts]) for one in image.objects]
        for image in pruning.dataset.images
    }


def test_counted_over_all_objects() -> None:
    pruning = prune_dataset(DATASET, 2, "part")
    assert pruning.parts == (DroppedPart("car", "door", 1, 1), DroppedPart("jet", "wing", 1, 1))
    # No cat ever has a part; image 5 shows nothing but a cat. The second car of image 1 stays: it is a car.
    assert pruning.objects == ("cat",)
    assert [image.image_id for image in pruning.images] == [5]
    wheel = ["wheel"]
    assert left(pruning) == {
        1: [("car", wheel), ("car", [])],
        2: [("car", wheel)],
        3: [("bus", wheel)],
        4: [("jet", wheel)],
    }


def test_counted_per_object() -> None:
    pruning = prune_dataset(DATASET, 2, "object_part")
    assert [(one.object_label, one.part_label) for one in pruning.parts] == [
        ("bus", "wheel"),
        ("car", "door"),
        ("jet", "wheel"),
        ("jet", "wing"),
    ]
    assert pruning.objects == ("bus", "cat", "jet")
    assert [image.image_id for image in pruning.images] == [3, 4, 5]
    assert left(pruning) == {1: [("car", ["wheel"]), ("car", [])], 2: [("car", ["wheel"])]}


@pytest.mark.parametrize("count_by", ["part", "object_part"])
def test_a_threshold_of_one_keeps_every_part(count_by: CountBy) -> None:
    assert prune_dataset(DATASET, 1, count_by).parts == ()


def test_the_threshold_itself_is_enough() -> None:
    assert {one.part_label for one in prune_dataset(DATASET, 4, "part").parts} == {"door", "wing"}
    with pytest.raises(ValueError, match="no part has 5 annotations"):
        prune_dataset(DATASET, 5, "part")
    with pytest.raises(ValueError, match="must be 1 or more"):
        prune_dataset(DATASET, 0, "part")
