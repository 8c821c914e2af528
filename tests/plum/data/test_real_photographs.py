"""Every source over real photographs: large, not square, several instances of a class, parts of a few pixels."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.sources.coco import read_coco
from partonomy.datasets.sources.records import CocoConfig
from plum.data.build import IMAGE_SOURCES
from plum.data.collate import Collator
from plum.data.sources.part_images import PartImages, collect_classes
from plum.models.tiny import tiny_model_config
from plum.train_config import DataConfig, SourceConfig
from tests.plum.data.tokenizers_for_tests import byte_level

REAL_DATA = os.environ.get("PARTONOMY_REAL_DATA")
pytestmark = pytest.mark.skipif(not REAL_DATA, reason="PARTONOMY_REAL_DATA does not name the folder of photographs")
DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),))


@pytest.fixture(scope="module")
def images() -> PartImages:
    folder = Path(str(REAL_DATA)) / "ade20k_parts"
    dataset = read_coco(CocoConfig(folder / "instances_parts.json", folder / "images")).dataset
    few = replace(dataset, images=dataset.images[:5])
    return PartImages(few, collect_classes([few]))


@pytest.mark.parametrize("kind", IMAGE_SOURCES)
def test_sources_collate(images: PartImages, kind: str) -> None:
    source = IMAGE_SOURCES[kind](images, 3)
    samples = [source.sample(index, np.random.default_rng(index)) for index in range(len(source))]
    batch = Collator(byte_level(), tiny_model_config(len(byte_level())), DATA)(samples)
    assert len(batch.frames) == len(images)
    assert len(batch.masks) == len(batch.spans)
    image_of_mask = batch.spans.image.tolist()
    for mask, image in zip(batch.masks, image_of_mask, strict=True):
        assert tuple(mask.shape) == batch.frames[image].original
        assert mask.any()
    tagged = int((batch.tags == 1).sum())
    assert tagged == len(batch.spans)
