"""LLaVA-Instruct-150k as downloaded: `llava_dataset/llava_instruct_150k.json` on the photographs of `coco/train2017`.

A record holds `image` and `conversations`: alternating turns from "human" and "gpt". The image token in the text is
dropped, since a conversation here always begins with its image. Dialogues are kept as one block of bytes: hundreds of
thousands of text objects would be copied into every loader process.
"""

import json
import logging
import os
from array import array
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partonomy.files import RECORD_ERRORS, check_relative_path, parse_json, printable, reason_of, shorten
from partonomy.progress import counted, progress
from plum.inputs.conversation import CONTROL_TOKENS, IMAGE_TOKEN
from plum.structures import Exchange

logger = logging.getLogger(__name__)

DIALOGUE_FILE = "llava_dataset/llava_instruct_150k.json"
IMAGE_FOLDER = "coco/train2017"
CUT = "dialogues end early, at a turn that is empty or not in turn"
EMPTY = "dialogues have no question with an answer and are left out"
NOT_HUMAN = "dialogues begin with an answer, which is dropped"
CONTROL = "dialogues had a control token inside their text, which is removed"


@dataclass(frozen=True)
class Dialogue:
    """A conversation about an image, or without one (`image_path` None)."""

    dialogue_id: str
    image_path: Path | None
    exchanges: tuple[Exchange, ...]


class Dialogues:
    """Packed dialogues, read by number.

    Args:
        dataset_dir: root of the LISA-style layout.
        excluded: image files to leave out.

    Raises:
        FileNotFoundError: the file or images are missing.
        ValueError: the file or a record is broken; the message names the file and the record.
    """

    def __init__(self, dataset_dir: Path, excluded: Container[Path] = ()) -> None:
        path = dataset_dir / DIALOGUE_FILE
        self._folder = dataset_dir / IMAGE_FOLDER
        self._ids: list[str] = []
        self._images: list[str | None] = []
        self._text = bytearray()
        self._ends = array("q", [0])
        self.num_exchanges = array("i")  # of every dialogue
        quirks: Counter[str] = Counter()
        num_excluded = 0
        records = _read_records(path)
        with progress(len(records), path.name, "dialogue") as shown:
            for number, record in enumerate(counted(records, shown)):
                try:
                    image = None if record.get("image") is None else check_relative_path(record["image"], "'image'")
                    turns = clean_turns(record["conversations"], quirks)
                except RECORD_ERRORS as error:
                    raise ValueError(f"{path}, record {number}: {reason_of(error)}") from error
                if image is not None and self._folder / image in excluded:
                    num_excluded += 1
                elif turns:
                    self._add(printable(str(record.get("id", number))), image, turns)
        for quirk, count in sorted(quirks.items()):
            logger.info("%s: %d %s", path, count, quirk)
        logger.info("%s: %d dialogues, %d excluded by their image", path, len(records), num_excluded)
        self._check_images()

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, index: int) -> Dialogue:
        """Unpack one dialogue."""
        pairs = json.loads(self._text[self._ends[index] : self._ends[index + 1]])
        image = self._images[index]
        exchanges = tuple(Exchange(question, answer, is_tagged=False) for question, answer in pairs)
        return Dialogue(self._ids[index], None if image is None else self._folder / image, exchanges)

    def _add(self, dialogue_id: str, image: str | None, turns: Sequence[tuple[str, str]]) -> None:
        self._ids.append(dialogue_id)
        self._images.append(image)
        self._text += json.dumps(turns, ensure_ascii=False).encode("utf-8", errors="replace")
        self._ends.append(len(self._text))
        self.num_exchanges.append(len(turns))

    def _check_images(self) -> None:
        needed = {image for image in self._images if image is not None}
        there = {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else set()
        # os.path.isfile: a name too long for the file system is a missing file, too.
        missing = sorted(image for image in needed - there if not os.path.isfile(self._folder / image))
        if missing:
            raise FileNotFoundError(
                f"{self._folder}: {len(missing)} of {len(needed)} images of {DIALOGUE_FILE} are missing, the first is "
                f"{missing[0]}"
            )


def clean_turns(turns: Any, quirks: Counter[str]) -> list[tuple[str, str]]:
    """Pair questions with answers.

    Args:
        turns: `conversations` of a record.
        quirks: counts irregularities by kind.

    Returns:
        (question, answer) pairs without image and control tokens. A first turn that is not a question is dropped, and
        so is everything from the first turn on that is empty or out of turn.

    Raises:
        ValueError: `turns` is not a list of turns.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"'conversations' must be a list of turns, got {shorten(turns)}")
    if turns and turns[0]["from"] != "human":
        quirks[NOT_HUMAN] += 1
        turns = turns[1:]
    words, has_control = [], False
    for turn in turns:
        text = turn["value"]
        if not isinstance(text, str):
            raise ValueError(f"'value' of a turn must be a string, got {shorten(text)}")
        text = text.replace(IMAGE_TOKEN, "") if turn["from"] == "human" else text
        has_control |= any(token in text for token in CONTROL_TOKENS)
        words.append(remove_control_tokens(text).strip())
    if has_control:
        quirks[CONTROL] += 1
    pairs = []
    for at in range(0, len(turns) - 1, 2):
        if (turns[at]["from"], turns[at + 1]["from"]) != ("human", "gpt") or not words[at] or not words[at + 1]:
            break
        pairs.append((words[at], words[at + 1]))
    if not pairs:
        quirks[EMPTY] += 1
    elif 2 * len(pairs) < len(turns):
        quirks[CUT] += 1
    return pairs


def remove_control_tokens(text: str) -> str:
    """Return the text without `<image>`, `<s>` and `</s>`, even if removing one creates another."""
    while any(token in text for token in CONTROL_TOKENS):
        for token in CONTROL_TOKENS:
            text = text.replace(token, "")
    return text


def _read_records(path: Path) -> list[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; see `python -m plum data-status`")
    records = parse_json(path.read_bytes(), f"{path}: not valid JSON")
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path}: expected a list of records, got {shorten(records)}")
    return records
