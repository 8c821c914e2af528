from pathlib import Path

import pytest
from PIL import Image

from tests.partonomy.datasets import checked_file
from tests.partonomy.datasets.coco_file import CocoFile


@pytest.fixture
def coco(tmp_path: Path) -> CocoFile:
    """A file with one empty image of id 0."""
    folder = tmp_path / "garage"
    folder.mkdir()
    file = CocoFile(folder)
    file.add_image(0)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The photographs of `checked_file.sound`."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 2):
        Image.new("RGB", (checked_file.WIDTH, checked_file.HEIGHT), (number, 120, 30)).save(folder / f"{number}.png")
    return folder
