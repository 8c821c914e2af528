"""Makes MMR-like question-answer pairs with a chat model: writes the prompt, parses the reply and filters its pairs.

The prompt follows the paper (MMR paper, section 3.1 and Figures 6, 7 and 9). Names with boxes in a reply become targets
and `{seg}` marks. Pairs must pass the paper's three filters (section 3.2).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partonomy.datasets.sources.mmr import TARGET_MARK, Kind, MmrQuestion, MmrTarget
from partonomy.files import hash_json
from partonomy.images import load_image
from partonomy.questions.mmr.pairs import UNANSWERED, Criterion, Fault, MadePairs, Rejection, find_faults, reject
from partonomy.questions.mmr.scene import Scene, SceneTarget, kind_of, read_scene
from partonomy.structures import AnnotatedImage

_ROLE = """You are a visual assistant who looks at one image, {height} pixels high and {width} pixels wide. You are \
told which {things} it shows and where: each name is followed by its box [x1, y1, x2, y2], the left, top, right and \
bottom edge in pixels. Things of one kind are told apart by numbers, such as cup_1 and cup_2, and a part of a thing is \
written as cup_1's handle.

{listing}
"""
_TASK = """First sum up the image in one or two sentences, in the form "Global caption: ...". Do not use the list for \
it.

Then write questions about the image with their answers. Each question is about {topic}. It must take common sense to \
see what is meant: describe what one would do or want, and never say the name of a thing or part that belongs to the \
answer. The answer names everything that is meant, in a full sentence. Wherever a listed name stands in an answer, it \
stands exactly as listed with its box right behind it, for example: cup_1's handle [10, 20, 30, 60].

Write at least 3 pairs, and up to 5 where the list has enough for them, each in this form:
Question 1: ...
Answer 1: ...
"""
_REQUIREMENTS = """Requirements:
1. Write as somebody who looks at the image. Never speak of a list, boxes, coordinates or given information.
2. Ask only what has one definite answer.
3. No coordinates and no numbered names in a question.
4. Short, clear sentences, easy to understand.
5. A question describes a whole activity, a use or general knowledge; do not ask what something is for.
6. {amount} Do not hint at further ones.
7. Write the pairs even where the image shows people or brands.
8. Keep the form of the names: cup_1's handle [10, 20, 30, 60], not "a handle [cup_1's handle [10, 20, 30, 60]]".
9. What does not answer the question is not named in the answer."""

_THINGS = {
    None: "things and parts of things",
    Kind.MIXED: "things and parts of things",
    Kind.PART: "parts of things",
    Kind.OBJECT: "things",
}
_TOPICS = {
    None: "how parts belong together or belong to a thing, or about what parts are used for or known for",
    Kind.MIXED: "how a thing and its parts are used together, or about what they are known for",
    Kind.PART: "how different parts belong together, or about what parts are used for or known for",
    Kind.OBJECT: "how things belong together, or about what things are used for or known for",
}
_AMOUNTS = {
    None: "Where the list allows it, an answer names at least two parts.",
    Kind.MIXED: "An answer names at least one whole thing and at least one part.",
    Kind.PART: "Where the list allows it, an answer names at least two parts, and no whole thing with a box.",
    Kind.OBJECT: "Where the list allows it, an answer names at least two things, and no part of a thing.",
}
BOX_TOLERANCE = 1.0
"""Pixels by which the sides of a repeated box may differ from the listed one, because models round."""
_HEAD = re.compile(r"^[\s>#*_-]*(question|answer)\s*(\d+)\s*[*_]*\s*:[*_]*\s*", re.IGNORECASE | re.MULTILINE)
_NUMBER = r"-?\d+(?:\.\d+)?"
_BOX = re.compile(rf"\s*[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]")
_LOOSE_NAME = re.compile(r"\b[a-z]\w*_\d+(?:['’]s \w+)?", re.IGNORECASE)
Ask = Callable[[np.ndarray, str], str]
"""Shows an image, uint8 RGB (H, W, 3), with a prompt and returns the reply; raises NoReply for a single image."""


def listed_targets(scene: Scene, kind: Kind | None) -> tuple[SceneTarget, ...]:
    """Return the targets that a prompt of a kind lists."""
    if kind is Kind.PART:
        return tuple(one for one in scene.targets if one.part_name is not None)
    if kind is Kind.OBJECT:
        return tuple(one for one in scene.targets if one.part_name is None)
    return scene.targets


def write_prompt(scene: Scene, kind: Kind | None) -> str:
    """Write the prompt about an image; there must be at least one listed target."""
    listing = "; ".join(f"{one.numbered} {format_box(one)}" for one in listed_targets(scene, kind))
    role = _ROLE.format(height=scene.image.height, width=scene.image.width, things=_THINGS[kind], listing=f"{listing};")
    return "\n".join([role, _TASK.format(topic=_TOPICS[kind]), _REQUIREMENTS.format(amount=_AMOUNTS[kind])])


def format_box(target: SceneTarget) -> str:
    """Format a box as '[10, 20, 30, 60]': left, top, right and bottom, in pixels."""
    x, y, width, height = target.box
    return f"[{x}, {y}, {x + width}, {y + height}]"


def prompt_hash() -> str:
    """Return the sha256 of the prompt's texts."""
    return hash_json([_ROLE, _TASK, _REQUIREMENTS, *(list(one.values()) for one in (_THINGS, _TOPICS, _AMOUNTS))])


@dataclass(frozen=True)
class RawPair:
    """A question and its answer as the model wrote them; one of them may be empty."""

    question: str
    answer: str


@dataclass(frozen=True)
class ReadPair:
    """A pair with its targets, and the faults found while reading it."""

    question: MmrQuestion
    faults: tuple[Fault, ...]


def split_reply(reply: str) -> tuple[RawPair, ...]:
    """Find "Question n:" and "Answer n:" in a reply; text before the first one is ignored.

    A question without an answer, or an answer without a question, becomes a pair with an empty text.
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
        The pair with the targets that were found. Faults of coherence are a name or box that the image does not have,
        and a name without its box.
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


class NoReply(RuntimeError):
    """The model did not answer for this image; it may answer for others."""


class ChatMaker:
    """Makes pairs by asking a chat model once per image.

    Args:
        ask: the model. It should cache its answers, because an interrupted build asks again from the beginning.
        image_root: image folder of the data set.
        settings: the settings that determine the replies, as JSON values (the model's name, request options).
    """

    def __init__(self, ask: Ask, image_root: Path, settings: Mapping[str, object]) -> None:
        self._ask = ask
        self._image_root = image_root
        self.settings: Mapping[str, object] = {"maker": "chat", "prompt_sha256": prompt_hash(), **settings}

    def make(self, image: AnnotatedImage, kind: Kind | None) -> MadePairs:
        """Make the pairs of an image from the chat model's replies; see `PairMaker`.

        Raises:
            FileNotFoundError, ValueError: the image cannot be read; the message names it.
        """
        scene = read_scene(image)
        if not listed_targets(scene, kind):
            return MadePairs()
        pixels = load_image(self._image_root / image.file_name, image.height, image.width)
        try:
            reply = self._ask(pixels, write_prompt(scene, kind))
        except NoReply as error:
            return MadePairs(rejections=(Rejection(UNANSWERED, str(error), image.file_name, ""),))
        return judge_reply(reply, scene, kind)


def judge_reply(reply: str, scene: Scene, kind: Kind | None) -> MadePairs:
    """Parse a reply and keep the pairs without faults."""
    pairs = split_reply(reply)
    if not pairs:
        fault = Fault(Criterion.CLARITY, "the reply has no pair in the form asked for", reply[:80])
        return MadePairs(rejections=(reject("", "", fault),))
    questions: list[MmrQuestion] = []
    rejections: list[Rejection] = []
    asked: set[str] = set()
    for raw in pairs:
        read = read_pair(raw, scene, f"{scene.image.image_id}:{len(questions)}")
        faults = [*read.faults, *find_faults(read.question, scene)]
        if raw.question in asked:
            faults.append(Fault(Criterion.CLARITY, "the question was asked before", raw.question))
        if kind is not None and read.question.targets and kind_of(read.question) is not kind:
            faults.append(Fault(Criterion.COHERENCE, f"the targets are not {kind.value}", raw.answer))
        asked.add(raw.question)
        rejections += [reject(raw.question, raw.answer, fault) for fault in faults]
        if not faults:
            questions.append(read.question)
    return MadePairs(tuple(questions), tuple(rejections))
