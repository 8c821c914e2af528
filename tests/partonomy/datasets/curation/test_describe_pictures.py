"""The photographs of a description."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.datasets.curation.describe_pictures import NUM_PICTURES, choose_images, draw_photographs
from partonomy.masks import encode_mask
from partonomy.structures import AnnotatedImage, PartDataset
from partonomy.visualize import part_colours
from tests.partonomy.tiny_world import make_image, make_instance


def make_small_mask(image: AnnotatedImage, num_pixels: int) -> AnnotatedImage:
    """The image with a first part of so many pixels."""
    one = image.objects[0]
    mask = np.zeros((image.height, image.width), dtype=bool)
    mask[0, :num_pixels] = True
    parts = (replace(one.parts[0], mask=encode_mask(mask)), *one.parts[1:])
    return replace(image, objects=(replace(one, parts=parts),))


def make_dataset(root: Path) -> PartDataset:
    """Twenty images of a wheel; 3 to 5 have a tiny one, 11 to 13 have more parts; the last has none."""
    images = [make_image(number, make_instance(number, "car", ("wheel",))) for number in range(20)]
    images[3:6] = [make_small_mask(image, 1 + place) for place, image in enumerate(images[3:6])]
    for place in (11, 12, 13):
        labels = ("door", "wheel", "window", "roof")[: place - 9]
        images[place] = make_image(place, make_instance(place, "car", labels))
    return PartDataset("cars", root, (*images, make_image(20)))


def test_the_smallest_and_the_most_crowded_are_shown(tmp_path: Path) -> None:
    images = make_dataset(tmp_path).images
    chosen = choose_images(images)
    names = [image.image_id for image, _ in chosen]
    assert len(names) == len(set(names)) == NUM_PICTURES == 12
    assert names[:3] == [3, 4, 5]
    assert names[3:6] == [13, 12, 11]
    assert 20 not in names
    assert [why for _, why in chosen[:4]] == [
        *(f"smallest mask: {100 * pixels / (16 * 20):.3g}% of the image" for pixels in (1, 2, 3)),
        "4 masks",
    ]
    assert {why for _, why in chosen[6:]} == {"random"}
    assert choose_images(images[::-1])[6:] == chosen[6:], "the random ones do not depend on the order"


def test_masks_are_drawn_in_the_colour_of_their_label(tmp_path: Path) -> None:
    image = make_dataset(tmp_path).images[13]
    Image.fromarray(np.full((image.height, image.width, 3), 128, dtype=np.uint8)).save(tmp_path / image.file_name)
    (photograph,) = draw_photographs(PartDataset("cars", tmp_path, (image,)))
    assert photograph.problem == ""
    assert [part.label for part in photograph.parts] == [part.label for part in image.objects[0].parts]
    assert [part.colour for part in photograph.parts] == list(part_colours(4))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(photograph.data)))).astype(int)
    assert pixels.shape == (image.height, image.width, 3)
    assert np.abs(pixels - 128).max() > 60


def test_an_unreadable_photograph_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    flags = ["--source", "synthetic", "--images", "14", "--image_size", "64", "--embedding_model", "char-ngram-tfidf"]
    assert main(["build", *flags, "--output", str(folder)]) == 0
    assert main(["describe", str(folder), "--output", str(tmp_path / "whole")]) == 0
    page = (tmp_path / "whole" / "describe.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 12
    assert "cannot be read" not in page + capsys.readouterr().out
    broken = draw_photographs_of(folder)[0]
    next(folder.rglob(Path(broken).name)).unlink()
    assert main(["describe", str(folder), "--output", str(tmp_path / "part")]) == 0
    page = (tmp_path / "part" / "describe.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 11
    assert page.count("cannot be read: ") == 1
    assert f"1 of 12 photographs cannot be read, such as {broken}: " in capsys.readouterr().out


def draw_photographs_of(folder: Path) -> list[str]:
    """The files that the description of a built folder shows."""
    from partonomy.datasets.store import load_dataset

    return [photograph.file_name for photograph in draw_photographs(load_dataset(folder))]
