from dataclasses import replace

import numpy as np
import pytest
import torch

from partonomy.masks import encode_mask
from partonomy.structures import RLE, CharSpan
from plum.data.collate import Collator
from plum.models.tiny import tiny_model_config
from plum.structures import IGNORE_INDEX, TEXT_ONLY, Exchange, Sample
from plum.train_config import DataConfig, SourceConfig
from tests.plum.data.tokenizers_for_tests import byte_level

DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),), max_text_tokens=200)


def _mask(rows: int, height: int = 12, width: int = 16) -> RLE:
    mask = np.zeros((height, width), dtype=bool)
    mask[:rows] = True
    return encode_mask(mask)


def _image(height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


WHEELS = Exchange("Where?", "a front wheel and a wheel", (CharSpan(2, 13), CharSpan(20, 25)), (_mask(3), _mask(5)))
DOOR = Exchange("And?", "the door", (CharSpan(4, 8),), (_mask(7),))
VQA = Exchange("Is there a wheel?", "Yes.", is_tagged=False)
MANY = Sample("w/0", "test", _image(), ((VQA,), (WHEELS, DOOR)), part_map=np.ones((12, 16), dtype=np.int64))
NONE = Sample("w/1", "test", None, ((VQA,),))
TALL = Sample("w/2", "test", _image(16, 8), ((replace(WHEELS, masks=(_mask(1, 16, 8), _mask(2, 16, 8))),),))


@pytest.fixture(scope="module")
def collator() -> Collator:
    return Collator(byte_level(), tiny_model_config(len(byte_level())), DATA)


def test_mixed_batch(collator: Collator) -> None:
    batch = collator([MANY, NONE, TALL])
    assert batch.sample_ids == ("w/0", "w/1", "w/2")
    assert batch.shown.rows.tolist() == [[0], [0], [TEXT_ONLY], [1]]
    assert batch.clip_pixels.shape == (2, 3, 16, 16)
    assert batch.sam_pixels.shape == (2, 3, 32, 32)
    assert [frame.original for frame in batch.frames] == [(12, 16), (16, 8)]
    assert [frame.resized for frame in batch.frames] == [(24, 32), (32, 16)]
    assert batch.spans.conversation.tolist() == [1, 1, 1, 3, 3]
    assert [int(mask.sum()) for mask in batch.masks] == [3 * 16, 5 * 16, 7 * 16, 8, 16]
    assert all(mask.dtype == torch.bool for mask in batch.masks)
    assert batch.ignore_masks == (None, None)
    assert batch.part_maps[0, :12].eq(1).all()  # 12 of 16 rows
    assert batch.part_maps[0, 12:].eq(IGNORE_INDEX).all()
    assert batch.part_maps[1].eq(IGNORE_INDEX).all()


def test_sams_input_is_made_of_images_with_something_to_segment_alone(collator: Collator) -> None:
    question = replace(MANY, conversations=((VQA,),), part_map=None)
    batch = collator([question, NONE, TALL, question, replace(question, part_map=MANY.part_map)])
    assert batch.sam_rows is not None
    assert batch.sam_rows.tolist() == [1, 3]
    assert batch.clip_pixels.shape[0] == 4
    assert torch.equal(batch.sam_pixels, torch.cat([collator([TALL]).sam_pixels, collator([MANY]).sam_pixels]))
    empty = collator([question]).sam_rows
    assert empty is not None
    assert empty.tolist() == []


def test_spans_read_back_the_phrases(collator: Collator) -> None:
    batch = collator([NONE, MANY, TALL])
    bounds = zip(batch.spans.conversation, batch.spans.start, batch.spans.end, strict=True)
    phrases = [str(byte_level().decode(batch.input_ids[row, start:end].tolist())).strip() for row, start, end in bounds]
    assert phrases == ["front wheel", "wheel", "door", "front wheel", "wheel"]


def test_padding_is_on_the_right_and_supervises_nothing(collator: Collator) -> None:
    batch = collator([MANY, NONE])
    for row in range(3):
        length = int(batch.attention_mask[row].sum())
        assert batch.attention_mask[row, :length].all()
        assert batch.input_ids[row, length:].eq(byte_level().pad_token_id).all()
        assert batch.labels[row, length:].eq(IGNORE_INDEX).all()
        assert batch.tags[row, length:].eq(IGNORE_INDEX).all()


def test_a_batch_equals_its_samples_one_by_one(collator: Collator) -> None:
    together, alone = collator([MANY, TALL]), [collator([MANY]), collator([TALL])]
    assert torch.equal(together.sam_pixels, torch.cat([batch.sam_pixels for batch in alone]))
    assert torch.equal(together.clip_pixels, torch.cat([batch.clip_pixels for batch in alone]))
    row = 0
    for batch in alone:
        for single in range(len(batch.input_ids)):
            length = int(batch.attention_mask[single].sum())
            assert torch.equal(together.labels[row, :length], batch.labels[single, :length])
            assert torch.equal(together.tags[row, :length], batch.tags[single, :length])
            row += 1
    assert together.spans.start.tolist() == [start for batch in alone for start in batch.spans.start.tolist()]


def test_text_only_and_spanless_batches_have_empty_tensors(collator: Collator) -> None:
    batch = collator([NONE])
    assert batch.clip_pixels.shape == (0, 3, 16, 16)
    assert batch.sam_pixels.shape == (0, 3, 32, 32)
    assert batch.part_maps.shape == (0, 16, 16)
    assert len(batch.spans) == 0
    assert batch.spans.start.dtype == torch.long
    assert batch.masks == ()
    assert batch.tags.eq(IGNORE_INDEX).all()


def test_ignore_masks_are_kept(collator: Collator) -> None:
    ignore = np.zeros((12, 16), dtype=bool)
    ignore[0, 0] = True
    (found,) = collator([replace(MANY, ignore_mask=ignore)]).ignore_masks
    assert found is not None
    assert found.nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (replace(MANY, conversations=()), "no conversation"),
        (replace(MANY, conversations=((replace(DOOR, masks=()),),)), "1 phrases and 0 masks"),
        (replace(NONE, conversations=((DOOR,),)), "has masks but the sample has no image"),
        (replace(MANY, conversations=((replace(DOOR, masks=(_mask(1, 12, 15),)),),)), "mask is 12 x 15 .*of 12 x 16"),
        (replace(MANY, part_map=np.zeros((3, 3), dtype=np.int64)), "part map is 3 x 3 .*of 12 x 16"),
        (replace(MANY, ignore_mask=np.zeros((3, 3), dtype=bool)), "ignore mask is 3 x 3"),
        (replace(MANY, conversations=((Exchange("q " * 300, "a"),),)), "more than max_text_tokens = 200"),
    ],
)
def test_bad_samples_are_named(collator: Collator, sample: Sample, message: str) -> None:
    with pytest.raises(ValueError, match=f"{sample.sample_id}.*{message}"):
        collator([sample])
