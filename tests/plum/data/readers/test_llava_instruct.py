import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plum.data.readers.llava_instruct import CONTROL, CUT, DIALOGUE_FILE, EMPTY, NOT_HUMAN, Dialogues, clean_turns


def turns(*texts: str, first: str = "human") -> list[dict[str, str]]:
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]


def write_dialogues(root: Path, *conversations: list[dict[str, str]], image: str | None = "1.jpg") -> Path:
    (root / "coco" / "train2017").mkdir(parents=True, exist_ok=True)
    if image is not None:
        Image.new("RGB", (4, 3)).save(root / "coco" / "train2017" / image)
    records: list[dict[str, Any]] = [
        {"id": f"dialogue{number}", "conversations": one} | ({} if image is None else {"image": image})
        for number, one in enumerate(conversations)
    ]
    path = root / DIALOGUE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records))
    return path


@pytest.mark.parametrize(
    ("conversation", "pairs", "quirks"),
    [
        (turns("<image>\nWhat?", "A cat."), [("What?", "A cat.")], {}),
        (turns("What?\n<image>", "A cat.", "And?", "No."), [("What?", "A cat."), ("And?", "No.")], {}),
        (turns("What <image> is it?", "x"), [("What  is it?", "x")], {}),
        (turns("Hello.", "What?", "A cat.", first="gpt"), [("What?", "A cat.")], {NOT_HUMAN: 1}),
        (turns("What?", "A cat.", "And?"), [("What?", "A cat.")], {CUT: 1}),
        (turns("What?", "A cat.", "", "No."), [("What?", "A cat.")], {CUT: 1}),
        (turns("What?", "A cat.") + turns("So.", "x", first="gpt"), [("What?", "A cat.")], {CUT: 1}),
        (turns("<image>", "A cat."), [], {EMPTY: 1}),
        ([], [], {EMPTY: 1}),
        (turns("What?</s>", "<s>A <image>cat."), [("What?", "A cat.")], {CONTROL: 1}),
        (turns("What?", "A<</s>/s> cat."), [("What?", "A cat.")], {CONTROL: 1}),
    ],
)
def test_turns_become_pairs(
    conversation: list[dict[str, str]], pairs: list[tuple[str, str]], quirks: dict[str, int]
) -> None:
    counted: Counter[str] = Counter()
    assert clean_turns(conversation, counted) == pairs
    assert dict(counted) == quirks


def test_dialogues_are_packed_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_dialogues(
        tmp_path, turns("Was ist das?\n<image>", "Eine Tür."), turns("<image>", "?"), turns("A?", "B.", "C?", "D.")
    )
    with caplog.at_level(logging.INFO):
        dialogues = Dialogues(tmp_path)
    assert len(dialogues) == 2
    assert list(dialogues.num_exchanges) == [1, 2]
    first = dialogues.read(0)
    assert (first.dialogue_id, first.image_path) == ("dialogue0", tmp_path / "coco/train2017/1.jpg")
    assert [(one.question, one.answer, one.is_tagged) for one in first.exchanges] == [
        ("Was ist das?", "Eine Tür.", False)
    ]
    assert [one.answer for one in dialogues.read(1).exchanges] == ["B.", "D."]
    assert f"1 {EMPTY}" in caplog.text


def test_dialogues_without_an_image_are_text_only(tmp_path: Path) -> None:
    write_dialogues(tmp_path, turns("A?", "B."), image=None)
    assert Dialogues(tmp_path).read(0).image_path is None


def test_excluded_images_leave_their_dialogues_out(tmp_path: Path) -> None:
    write_dialogues(tmp_path, turns("A?", "B."))
    assert len(Dialogues(tmp_path, {tmp_path / "coco/train2017/1.jpg"})) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected a list of records"),
        ([{"image": "1.jpg"}], "record 0: the key 'conversations' is missing"),
        ([{"image": "../1.jpg", "conversations": []}], "record 0: 'image' .*leaves the image folder"),
        ([{"conversations": "x"}], "record 0: 'conversations' must be a list of turns"),
        (
            [{"conversations": [{"from": "human", "value": 3}]}],
            "record 0: 'value' of a turn must be a string",
        ),
        ([{"conversations": [{"value": "x"}]}], "record 0: the key 'from' is missing"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, content: object, message: str) -> None:
    path = write_dialogues(tmp_path)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        Dialogues(tmp_path)
    assert "llava_instruct_150k.json" in str(caught.value)


def test_missing_images_are_named(tmp_path: Path) -> None:
    write_dialogues(tmp_path, turns("A?", "B."))
    (tmp_path / "coco/train2017/1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images of .* are missing, the first is 1\.jpg"):
        Dialogues(tmp_path)
