"""Numbers of the description, and charts for few and for many labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partonomy.datasets.curation.describe import describe_dataset, write_description
from partonomy.structures import PartDataset
from tests.partonomy.tiny_world import make_image, make_instance

SMALL = PartDataset(
    "small",
    Path("."),
    (
        make_image(1, make_instance(1, "car", ("door", "wheel")), make_instance(2, "car", ("wheel",))),
        make_image(2, make_instance(3, "bus", ("wheel",)), make_instance(4, "cat", ())),
        make_image(3),
    ),
)


def make_large(num_objects: int) -> PartDataset:
    """As many objects, the n-th in 1 + 600 // n images, with two of twice as many parts."""
    images = []
    for number in range(num_objects):
        parts = (f"part {2 * number}", f"part {number % 7}")
        images += [
            make_image(len(images) + i, make_instance(1, f"object {number}", parts))
            for i in range(1 + 60 // (number + 1))
        ]
    return PartDataset("large", Path("."), tuple(images))


def test_numbers() -> None:
    description = describe_dataset(SMALL)
    assert list(description.images_per_object.items()) == [("bus", 1), ("car", 1)]  # the cat has no part
    assert list(description.masks_per_part.items()) == [("wheel", 3), ("door", 1)]
    assert description.masks_per_object_part == {("car", "wheel"): 2, ("bus", "wheel"): 1, ("car", "door"): 1}
    assert description.parts_per_image.tolist() == [3, 1, 0]
    assert description.parts_per_object.tolist() == [2, 1, 1]
    # Every drawn part is 2 x 10 of 16 x 20 pixels: one sixteenth.
    assert description.area_shares.tolist() == [1 / 16] * 4
    assert description.mask_parts == ("door", "wheel", "wheel", "wheel")
    assert description.tiny_share == 0.0
    assert description.area_quantiles() == (1 / 16,) * 7


def test_nothing_to_describe() -> None:
    with pytest.raises(ValueError, match="small: none of the 1 images has an annotated part"):
        describe_dataset(PartDataset("small", Path("."), SMALL.images[2:]))


@pytest.mark.parametrize("dataset", [SMALL, make_large(120)], ids=["small", "large"])
def test_page_holds_every_chart(dataset: PartDataset, tmp_path: Path) -> None:
    *charts, page = write_description(describe_dataset(dataset), tmp_path / "out")
    assert len(charts) == 7
    for path in charts:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.std() > 5, f"{path.name} is blank"
        assert max(pixels.shape) < 2500
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 7
    assert "http" not in html.replace("http-equiv", "")
    for label in list(describe_dataset(dataset).images_per_object)[:5]:
        assert label in html
    assert ("more</td>" in html) == (dataset is not SMALL)
    assert '<tr class="rare">' in html
