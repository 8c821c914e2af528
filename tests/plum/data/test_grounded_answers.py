"""Questions, answers and masks of one's own: every form is read, every mistake is named, a split shares no image."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.masks import decode_mask, encode_mask, rle_to_json
from partonomy.structures import CharSpan
from plum.data.build import build_mixture, held_out_images
from plum.data.readers.grounded_answers import read_grounded_answers, split_grounded_answers
from plum.data.sources.grounded_answers import GroundedAnswersSource
from plum.train_config import DataConfig, SourceConfig

HEIGHT, WIDTH = 10, 12
ANSWER = "It has a wheel, a left wing and a wheel."
Json = dict[str, Any]


def box(left: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[2:5, left : left + 3] = True
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    for number in range(4):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 50 * number, np.uint8)).save(tmp_path / f"{number}.png")
    Image.fromarray(box(6).astype(np.uint8)).save(tmp_path / "masks" / "wing.png")
    Image.fromarray(np.zeros((HEIGHT + 1, WIDTH), np.uint8)).save(tmp_path / "large.png")
    return tmp_path


def record(**changes: object) -> Json:
    polygon = [[1, 2, 4, 2, 4, 5, 1, 5]]
    masks = [polygon, "masks/wing.png", rle_to_json(encode_mask(box(0)))]
    content = {"image": "0.png", "question": "Parts?", "answer": ANSWER, "phrases": ["wheel#2", "left wing", "wheel#1"]}
    return {**content, "masks": masks, **changes}


def write(folder: Path, *records: Json, name: str = "mine.json") -> Path:
    path = folder / name
    lines = name.endswith(".jsonl")
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    return path


@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl"])
def test_masks_of_every_form_go_to_their_phrases(folder: Path, name: str) -> None:
    (image,) = read_grounded_answers(write(folder, record(), name=name))
    ((exchange,),) = image.conversations
    assert (image.height, image.width) == (HEIGHT, WIDTH)
    assert [ANSWER[span.start : span.end] for span in exchange.spans] == ["wheel", "left wing", "wheel"]
    masks = [decode_mask(mask) for mask in exchange.masks]
    assert np.array_equal(masks[0], box(0))
    assert np.array_equal(masks[1], box(6))
    assert np.array_equal(masks[2], box(1))
    assert exchange.spans[0] == CharSpan(9, 14)


def test_records_of_an_image_are_its_conversations(folder: Path) -> None:
    turns = [{"question": "One?", "answer": "Yes."}, {key: value for key, value in record().items() if key != "image"}]
    path = write(folder, record(), record(image="1.png"), {"image": "0.png", "conversation": turns})
    first, second = read_grounded_answers(path)
    assert [len(one.conversations) for one in (first, second)] == [2, 1]
    assert [exchange.question for exchange in first.conversations[1]] == ["One?", "Parts?"]
    assert first.conversations[1][0].masks == ()
    source = GroundedAnswersSource(path, conversations_per_image=1)
    sample = source.sample(0, np.random.default_rng(0))
    assert len(sample.conversations) == 1
    assert sample.image is not None
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert source.text_length(0, np.random.default_rng(0)) == sum(
        len(one.question) + len(one.answer) for one in sample.conversations[0]
    )
    assert len(list(source.exchanges())) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda one: one.update(phrases=["wheel#2"]), r"1 phrases and 3 masks: each phrase needs one mask"),
        (lambda one: one.update(phrases=["wheel", "left wing", "wing"]), r"'wheel' occurs several times"),
        (lambda one: one.update(phrases=["door", "left wing", "wheel#1"]), r"'door' is not in the answer"),
        (lambda one: one.update(phrases=["wing", "left wing#1", "wheel#1"]), "overlap|is asked for|is not|wing"),
        (lambda one: one.update(question=""), "'question'"),
        (lambda one: one.pop("answer"), "'answer'"),
        (lambda one: one.update(masks=[[], "masks/wing.png", []]), "the mask of 'wheel#2'"),
        (lambda one: one.update(masks="masks/wing.png"), "'masks' must be a list"),
        (lambda one: one.update(phrases="wheel"), "'phrases' must be a list"),
        (lambda one: one.update(label="x"), "unknown key 'label'; the keys are image, conversation, question"),
        (lambda one: one.update(conversation=[]), "give 'question' or 'conversation', not both"),
        (lambda one: one["masks"].__setitem__(1, "large.png"), r"the mask of 'left wing': .*large\.png is 11 x 12"),
    ],
)
def test_a_broken_record_is_named(folder: Path, damage: Callable[[Json], object], message: str) -> None:
    broken = record()
    damage(broken)
    with pytest.raises(ValueError, match=message) as caught:
        read_grounded_answers(write(folder, record(), broken))
    assert "mine.json, record 2: " in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "none.png"}, "record 1: .*none.png: image file not found; 'image' is relative"),
        ({"masks": [[[1, 2, 4, 2, 4, 5]], "masks/none.png", [[1, 2, 4, 2, 4, 5]]]}, "none.png: mask file not found"),
    ],
)
def test_a_missing_file_is_named(folder: Path, changes: Json, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        read_grounded_answers(write(folder, record(**changes)))
    with pytest.raises(FileNotFoundError, match="no such file; correct the path"):
        read_grounded_answers(folder / "nowhere.json")


def test_a_broken_line_is_named(folder: Path) -> None:
    path = write(folder, record(), name="mine.jsonl")
    path.write_text(path.read_text() + "\n{")
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 2: not valid JSON"):
        read_grounded_answers(path)


def test_an_empty_file_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="holds no record"):
        read_grounded_answers(write(folder))


def test_a_mixture_leaves_excluded_images_out(folder: Path) -> None:
    path, held_out = (
        write(folder, record(), record(image="1.png")),
        write(folder, record(image="1.png"), name="val.json"),
    )
    source = SourceConfig("grounded_answers", str(held_out))
    assert held_out_images([source]) == {folder / "1.png"}
    mixture = build_mixture(DataConfig(sources=(SourceConfig("grounded_answers", str(path)),)), 0, with_part_maps=False)
    assert len(mixture.sources[0]) == 2
    with pytest.raises(ValueError, match="no image is left to train on: all 2 are excluded"):
        GroundedAnswersSource(path, 3, excluded={folder / "0.png", folder / "1.png"})


def test_a_split_shares_no_image_and_keeps_every_record(folder: Path) -> None:
    names = ["0.png", "1.png", "2.png", "3.png", "1.png"]
    path = write(folder, *(record(image=name) for name in names))
    sides = folder / "out" / "train.json", folder / "out" / "val.json"
    assert split_grounded_answers(path, sides, 0.25, seed=1) == (3, 1)
    train, val = map(read_grounded_answers, sides)
    assert {image.path.resolve() for image in (*train, *val)} == {folder / f"{number}.png" for number in range(4)}
    assert not {image.path.name for image in train} & {image.path.name for image in val}
    assert sum(len(image.conversations) for image in (*train, *val)) == len(names)
    (original, *_) = read_grounded_answers(path)
    (moved,) = [image for image in (*train, *val) if image.path.name == "0.png"]
    assert moved.conversations == original.conversations
    before = [side.read_bytes() for side in sides]
    assert split_grounded_answers(path, sides, 0.25, seed=1) == (3, 1)
    assert [side.read_bytes() for side in sides] == before
    with pytest.raises(ValueError, match=r"is of other records, or of another share or seed; delete it"):
        split_grounded_answers(path, sides, 0.5, seed=1)
    for share in (0.0, 1.0, 0.9):
        with pytest.raises(ValueError, match="leaves a side empty"):
            split_grounded_answers(path, sides, share, seed=1)
