"""POPE: is an object in the image? Yes-or-no questions that catch hallucination (COCO val2014, three categories)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partonomy.benchmarks.records import AnswerRecord, mean_score, ratio_by_image
from partonomy.benchmarks.task import Source, first_of_each_group
from partonomy.benchmarks.vqa import (
    ACCURACY,
    VqaFunctions,
    VqaItem,
    VqaOptions,
    VqaProtocol,
    check_unique,
    compat_score,
    define_vqa,
    find_file,
    find_folder,
    read_question_id,
    short_answer_prompt,
)
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, parse_json, shorten
from partonomy.metrics.bootstrap import ImageRatio, MeanOfRatios

CATEGORIES = ("random", "popular", "adversarial")
ALL_CATEGORIES = "all"
YES, NO = "yes", "no"
NEGATIVE_WORDS = frozenset({"No", "no", "not"})
COMPAT_INSTRUCTION = 'Please answer the question with "Yes" or "No".'
MEAN_F1 = "mean_f1"


def read_pope(root: Path, split: str) -> tuple[VqaItem, ...]:
    """Read `coco_pope_<category>.json` (JSON lines; in `root`, `root/coco` or `root/output/coco`).

    Args:
        root: Folder of the download; it also holds the images, in `val2014` or `coco/val2014`.
        split: A category, or "all".

    Raises:
        FileNotFoundError: A file or the image folder is missing.
        ValueError: The category is unknown or a record is malformed; the message names the file and the line.
    """
    if split not in (*CATEGORIES, ALL_CATEGORIES):
        raise ValueError(f"POPE has no split {split!r}; choose {', '.join((*CATEGORIES, ALL_CATEGORIES))}")
    folder = find_folder(root, ("val2014", "coco/val2014", "images"))
    items: list[VqaItem] = []
    for category in CATEGORIES if split == ALL_CATEGORIES else (split,):
        name = f"coco_pope_{category}.json"
        path = find_file(root, (name, f"coco/{name}", f"output/coco/{name}"))
        lines = path.read_bytes().splitlines()
        read = [_read_line(line, f"{path}, line {n}", category, folder) for n, line in enumerate(lines, 1) if line]
        items += check_unique(read, path)
    return tuple(items)


def pope_prompt(item: VqaItem, protocol: VqaProtocol) -> str:
    """Return the question with its instruction; the compatible protocol asks for "Yes" or "No"."""
    if protocol is VqaProtocol.PARTONOMY_COMPAT:
        return short_answer_prompt(item.question, protocol, COMPAT_INSTRUCTION)
    return short_answer_prompt(item.question, protocol)


def pope_prediction(reply: str) -> str:
    """Read a reply as "no" if the word No, no or not precedes the first period, and as "yes" otherwise."""
    words = reply.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return NO if NEGATIVE_WORDS.intersection(words) else YES


def pope_score(reply: str, item: VqaItem, protocol: VqaProtocol) -> float:
    """Score 1 if the reply is read as the label; in the compatible protocol, if it contains the label anywhere.

    The authors' code iterates over the label's letters as if they were answers, so a reply of one such letter earns
    a fraction. Here it scores 0.
    """
    if protocol is VqaProtocol.PARTONOMY_COMPAT:
        return compat_score(reply, item.answers)
    return float(pope_prediction(reply) == item.answers[0])


def pope_metrics(records: Sequence[AnswerRecord], protocol: VqaProtocol) -> dict[str, ImageRatio | MeanOfRatios]:
    """Return accuracy, precision, recall, F1 and the share of "yes" per category, and LLaVA's headline, the mean F1.

    A failed question counts as a wrong answer and is left out of the share of "yes". The compatible protocol reports
    the mean score over all categories pooled.
    """
    if protocol is VqaProtocol.PARTONOMY_COMPAT:
        return {"accuracy": mean_score(records)}
    categories = [category for category in CATEGORIES if any(record.group == category for record in records)]
    ratios = {name: ratio for category in categories for name, ratio in _category_ratios(records, category).items()}
    mean = MeanOfRatios(tuple(ratios[f"{category}_f1"] for category in categories), len(records))
    return {MEAN_F1: mean, **ratios}


def _category_ratios(records: Sequence[AnswerRecord], category: str) -> dict[str, ImageRatio]:
    """Return the ratios of one category; their rows are the images of all categories."""
    true_yes, said_yes, replied, asked = [], [], [], []
    for record in records:
        is_asked = record.group == category
        is_yes = record.truths[0] == YES
        asked.append(is_asked)
        replied.append(is_asked and record.is_scored)
        true_yes.append(is_asked and is_yes)
        says_yes = record.prediction == YES if record.is_scored else not is_yes
        said_yes.append(is_asked and says_yes)
    is_hit = np.array(true_yes) & np.array(said_yes)
    is_correct = np.array(asked) & (np.array(true_yes) == np.array(said_yes))
    predicted, positive = np.array(said_yes, dtype=np.int64), np.array(true_yes, dtype=np.int64)
    hits = is_hit.astype(np.int64)
    replied_yes = np.array(replied) & np.array(said_yes)
    named: dict[str, tuple[Sequence[bool] | np.ndarray, Sequence[bool] | np.ndarray]] = {
        "accuracy": (is_correct, asked),
        "precision": (hits, predicted),
        "recall": (hits, positive),
        "f1": (2 * hits, predicted + positive),
        "yes_ratio": (replied_yes, replied),
    }
    return {
        f"{category}_{name}": ratio_by_image(records, [int(x) for x in top], [int(x) for x in bottom])
        for name, (top, bottom) in named.items()
    }


def _read_line(line: bytes, where: str, category: str, folder: Path) -> VqaItem:
    record = parse_json(line, f"{where}: not valid JSON")
    try:
        return _read_record(record, category, folder)
    except RECORD_ERRORS as error:
        raise ValueError(f"{where}: not a question of POPE ({type(error).__name__}: {error})") from error


def _read_record(record: Mapping[str, Any], category: str, folder: Path) -> VqaItem:
    image = check_relative_path(record["image"], "image")
    if record["label"] not in (YES, NO):
        raise ValueError(f"'label' must be {YES} or {NO}, got {shorten(record['label'])}")
    return VqaItem(
        item_id=f"{category}-{read_question_id(record['question_id'])}",
        image_id=image,
        image_path=folder / image,
        question=check_text(record["text"], "text"),
        answers=(record["label"],),
        group=category,
    )


FUNCTIONS = VqaFunctions(
    pope_prompt,
    pope_prediction,
    pope_score,
    pope_metrics,
    (YES, NO),
    lambda protocol: MEAN_F1 if protocol is VqaProtocol.LLAVA_OFFICIAL else ACCURACY,
)


def _read(source: Source, options: VqaOptions) -> Sequence[VqaItem]:
    return read_pope(source.root, str(source.split))


BENCHMARK = define_vqa(
    "pope",
    "Is an object in the image? Yes-or-no questions that catch hallucination",
    ", ".join((*CATEGORIES, ALL_CATEGORIES)),
    FUNCTIONS,
    options=VqaOptions,
    read=_read,
    default_split=lambda options: ALL_CATEGORIES,
    keep=first_of_each_group,
)
