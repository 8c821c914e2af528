"""What a chat model wrote about an image, taken apart: pairs, and names with boxes turned into targets and `{seg}`."""

import re
from dataclasses import dataclass

from partonomy.datasets.mmr import TARGET_MARK, MmrQuestion, MmrTarget
from partonomy.questions.mmr_filters import Criterion, Fault
from partonomy.questions.mmr_scene import Scene, SceneTarget

BOX_TOLERANCE = 1.0
"""Pixels by which the sides of a repeated box may differ from the listed one: models round."""

_HEAD = re.compile(r"^[\s>#*_-]*(question|answer)\s*(\d+)\s*[*_]*\s*:[*_]*\s*", re.IGNORECASE | re.MULTILINE)
_NUMBER = r"-?\d+(?:\.\d+)?"
_BOX = re.compile(rf"\s*[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]")
_LOOSE_NAME = re.compile(r"\b[a-z]\w*_\d+(?:['’]s \w+)?", re.IGNORECASE)


@dataclass(frozen=True)
class RawPair:
    """A question and its answer as they were written; one of them may be missing."""

    question: str
    answer: str


@dataclass(frozen=True)
class ReadPair:
    """A pair with its targets, or what kept it from being read."""

    question: MmrQuestion
    faults: tuple[Fault, ...]


def split_reply(reply: str) -> tuple[RawPair, ...]:
    """Find "Question n:" and "Answer n:" in a reply; what stands before the first is left out.

    A question without its answer, and the other way round, is a pair with an empty text.
    """
    heads = list(_HEAD.finditer(reply))
    pairs: list[RawPair] = []
    open_number = ""
    for place, head in enumerate(heads):
        end = heads[place + 1].start() if place + 1 < len(heads) else len(reply)
        text = " ".join(reply[head.end() : end].split())
        if head[1].lower() == "question":
            pairs.append(RawPair(text, ""))
            open_number = head[2]
        elif head[2] == open_number:
            pairs[-1] = RawPair(pairs[-1].question, text)
            open_number = ""
        else:
            pairs.append(RawPair("", text))
    return tuple(pairs)


def read_pair(raw: RawPair, scene: Scene, question_id: str) -> ReadPair:
    """Turn every "name [box]" of an answer into plain words and `{seg}`.

    Returns:
        The pair with the targets that were found. Faults of coherence: a name or box that the image does not have, a
        name without its box.
    """
    by_name = {one.numbered.lower(): one for one in scene.targets}
    names = re.compile(
        r"(?<!\w)(" + "|".join(map(re.escape, sorted(by_name, key=len, reverse=True))) + r")\s*$", re.IGNORECASE
    )
    text, copied = "", 0
    targets: list[MmrTarget] = []
    faults: list[Fault] = []
    for found in _BOX.finditer(raw.answer):
        before = raw.answer[copied : found.start()]
        copied = found.end()
        name = names.search(before)
        if name is None:
            faults.append(_fault("a box stands behind no listed name", before[-40:] + found[0]))
            text += before
            continue
        target = by_name[name[1].lower()]
        if not _is_box_of(found, target):
            faults.append(_fault("a box is not that of its name", f"{target.numbered}{found[0]}"))
        targets.append(target.target)
        text += f"{before[: name.start()]}{target.phrase} {TARGET_MARK}"
    text += raw.answer[copied:]
    faults += [_fault("a name stands without its box", found[0]) for found in _LOOSE_NAME.finditer(text)]
    if TARGET_MARK in raw.answer + raw.question:
        faults.append(_fault(f"the text holds {TARGET_MARK} of its own", raw.answer))
    return ReadPair(MmrQuestion(question_id, raw.question, tuple(targets), text.strip()), tuple(faults))


def _is_box_of(found: re.Match[str], target: SceneTarget) -> bool:
    x, y, width, height = target.box
    listed = (x, y, x + width, y + height)
    return all(abs(float(said) - side) <= BOX_TOLERANCE for said, side in zip(found.groups(), listed, strict=True))


def _fault(reason: str, detail: str) -> Fault:
    return Fault(Criterion.COHERENCE, reason, detail)
