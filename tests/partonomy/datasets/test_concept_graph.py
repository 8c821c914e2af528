"""Concept graph and statistics of a hand-made data set."""

from pathlib import Path

import pytest

from partonomy.datasets.concept_graph import build_concept_graph
from partonomy.datasets.curation.statistics import DatasetStatistics, compute_statistics
from partonomy.structures import PartDataset
from tests.partonomy.tiny_world import make_image, make_instance

DATASET = PartDataset(
    "hand",
    Path("."),
    (
        make_image(1, make_instance(1, "car", ("wheel", "door"), "road"), make_instance(2, "jet", ("wing",), "air")),
        make_image(2, make_instance(3, "car", ("wheel", "hood"), "road"), make_instance(4, "cat", (), "pets")),
        make_image(3, make_instance(5, "bus", ("wheel",), "road")),
    ),
)


def test_graph() -> None:
    graph = build_concept_graph(DATASET)
    assert graph.objects == ("bus", "car", "jet")
    assert graph.parts == ("door", "hood", "wheel", "wing")
    assert graph.object_parts["car"] == ("door", "hood", "wheel")
    assert graph.siblings("car") == ("bus",)
    assert graph.siblings("jet") == ()
    assert graph.category_parts("bus") == ("door", "hood", "wheel")


def test_an_object_has_one_category() -> None:
    images = (*DATASET.images, make_image(4, make_instance(6, "car", ("door",), "toys")))
    with pytest.raises(ValueError, match="image 4, instance 6: 'car' is in category 'toys' here and in 'road'"):
        build_concept_graph(PartDataset("hand", Path("."), images))


def test_statistics() -> None:
    # Labels: car, jet, bus | door, hood, wheel, wing | car:3 + jet:1 + bus:1 = 5; masks 2 + 1 + 2 + 1 = 6.
    assert compute_statistics(DATASET) == DatasetStatistics(
        num_objects=3, num_parts=4, num_object_parts=5, num_images=3, num_masks=6, num_instances=5, num_object_centric=1
    )
