"""TextVQA: questions about text in images with ten human answers each (validation v0.5.1, 5,000 questions)."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partonomy.benchmarks.records import AnswerRecord, mean_score
from partonomy.benchmarks.task import Source
from partonomy.benchmarks.vqa import (
    NUM_HUMAN_ANSWERS,
    VqaFunctions,
    VqaItem,
    VqaOptions,
    VqaProtocol,
    check_unique,
    compat_score,
    define_vqa,
    find_file,
    find_folder,
    process_answer,
    read_question_id,
    read_texts,
    short_answer_prompt,
    soft_score,
)
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, read_json, shorten
from partonomy.metrics.bootstrap import ImageRatio

IMAGE_FOLDERS = ("train_images", "images", "val_images")


def read_textvqa(root: Path, split: str, with_ocr: bool) -> tuple[VqaItem, ...]:
    """Read `TextVQA_0.5.1_<split>.json` and, for the OCR tokens, `TextVQA_Rosetta_OCR_v0.2_<split>.json`.

    Args:
        root: Folder of both files and of the images (`train_images/<image_id>.jpg`, as the archive has them).
        split: "val" or "train"; the test split has no public answers.
        with_ocr: Whether to read the OCR tokens.

    Raises:
        FileNotFoundError: A file or the image folder is missing.
        ValueError: A record is malformed; the message names the file and the record.
    """
    path = find_file(root, (f"TextVQA_0.5.1_{split}.json",))
    folder = find_folder(root, IMAGE_FOLDERS)
    tokens = _read_ocr(find_file(root, (f"TextVQA_Rosetta_OCR_v0.2_{split}.json",))) if with_ocr else None
    items = []
    for index, record in enumerate(_data(path)):
        where = f"{path}, data[{index}]"
        try:
            item = _read_record(record, folder)
        except RECORD_ERRORS as error:
            raise ValueError(f"{where}: not a question of TextVQA ({type(error).__name__}: {error})") from error
        if tokens is not None:
            if item.image_id not in tokens:
                raise ValueError(f"{where}: the OCR file has no entry for the image {item.image_id!r}; pass --no_ocr")
            item = dataclasses.replace(item, ocr_tokens=tokens[item.image_id])
        items.append(item)
    return check_unique(items, path)


def textvqa_prompt(item: VqaItem, protocol: VqaProtocol) -> str:
    """Return the question, the OCR tokens on a line (official protocol, if they were read) and the instruction."""
    question = item.question
    if protocol is VqaProtocol.LLAVA_OFFICIAL and item.ocr_tokens is not None:
        question = f"{question}\nReference OCR token: {', '.join(item.ocr_tokens)}"
    return short_answer_prompt(question, protocol)


def textvqa_prediction(reply: str) -> str:
    """Return the text that is compared with the human answers."""
    return process_answer(reply)


def textvqa_score(reply: str, item: VqaItem, protocol: VqaProtocol) -> float:
    """Return the soft score of ten answers; the compatible protocol falls back to containment."""
    return (soft_score if protocol is VqaProtocol.LLAVA_OFFICIAL else compat_score)(reply, item.answers)


def textvqa_ratios(records: Sequence[AnswerRecord], protocol: VqaProtocol) -> dict[str, ImageRatio]:
    """Return the accuracy, which is the mean soft score."""
    return {"accuracy": mean_score(records)}


def _data(path: Path) -> list[Any]:
    data = read_json(path).get("data")
    if not isinstance(data, list):
        raise ValueError(f"{path}: 'data' must be a list of records")
    return data


def _read_record(record: Mapping[str, Any], folder: Path) -> VqaItem:
    image_id = check_relative_path(record["image_id"], "image_id")
    answers = read_texts(record["answers"], "'answers'")
    if len(answers) != NUM_HUMAN_ANSWERS:
        raise ValueError(f"'answers' must have {NUM_HUMAN_ANSWERS} strings, got {shorten(answers)}")
    return VqaItem(
        item_id=read_question_id(record["question_id"]),
        image_id=image_id,
        image_path=folder / f"{image_id}.jpg",
        question=check_text(record["question"], "question"),
        answers=answers,
    )


def _read_ocr(path: Path) -> dict[str, tuple[str, ...]]:
    tokens = {}
    for index, record in enumerate(_data(path)):
        try:
            words = read_texts(record["ocr_tokens"], "'ocr_tokens'")
            tokens[check_text(record["image_id"], "image_id")] = words
        except RECORD_ERRORS as error:
            raise ValueError(f"{path}, data[{index}]: not an OCR record ({type(error).__name__}: {error})") from error
    return tokens


FUNCTIONS = VqaFunctions(textvqa_prompt, textvqa_prediction, textvqa_score, textvqa_ratios)
NO_OCR = "no OCR tokens"
"""Note that is printed after the protocol if no OCR tokens were shown."""


@dataclass(frozen=True)
class TextVqaOptions(VqaOptions):
    """How questions are put and scored.

    Attributes:
        no_ocr: leave the OCR tokens out of the question; partonomy_compat always does.
    """

    no_ocr: bool = False

    @property
    def note(self) -> str:
        """A note, printed after the protocol, that no OCR tokens were shown."""
        return "" if self.has_ocr else NO_OCR

    @property
    def has_ocr(self) -> bool:
        """Whether the OCR tokens are read and shown."""
        return self.protocol is VqaProtocol.LLAVA_OFFICIAL and not self.no_ocr


def _read(source: Source, options: TextVqaOptions) -> Sequence[VqaItem]:
    return read_textvqa(source.root, str(source.split), options.has_ocr)


BENCHMARK = define_vqa(
    "textvqa",
    "Questions about text in images",
    "val",
    FUNCTIONS,
    options=TextVqaOptions,
    read=_read,
    default_split=lambda options: "val",
)
