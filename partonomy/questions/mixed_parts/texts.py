"""Questions and answers about a pair of images, from templates (`templates.yaml`).

A phrase that has masks in both images, such as a common part, is named once and stands for two masks.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from partonomy.datasets.grounded_text import GroundedAnswer
from partonomy.datasets.mixed_parts import PairObject, PairPart, PairSample, PairTask
from partonomy.files import shorten
from partonomy.questions.draws import Draws
from partonomy.structures import RLE, CharSpan
from partonomy.yaml_files import read_yaml

DEFAULT_TEMPLATES = Path(__file__).with_name("templates.yaml")
LIST_SLOT = "{list}"
ARTICLE = "the "
ONE, SEVERAL = "one", "several"

Forms = Mapping[str, Sequence[str]]
"""Sentences for a list of one phrase and of several."""


@dataclass(frozen=True)
class NamedMasks:
    """A label, and its masks with the index of their image."""

    label: str
    masks: tuple[tuple[int, RLE], ...]


@dataclass(frozen=True)
class PairTexts:
    """A question, its answer, and the answer's masks in reading order."""

    question: str
    answer: GroundedAnswer
    masks: tuple[RLE, ...]


@dataclass(frozen=True)
class PairTemplates:
    """The content of a template file; see `templates.yaml`."""

    questions: Mapping[PairTask, Sequence[str]]
    mask_requests: Sequence[str]
    objects: Forms
    answers: Mapping[PairTask, Forms]
    between: str
    last: str

    def question(self, task: PairTask, draws: Draws) -> str:
        """Draw a question, with a request for masks in half of the cases."""
        question = _draw(self.questions[task], draws)
        return f"{question} {_draw(self.mask_requests, draws)}" if draws.below(2) else question

    def texts(self, sample: PairSample, draws: Draws, *, is_shuffled: bool) -> PairTexts:
        """Draw the question and the answer of a sample.

        Args:
            sample: The sample.
            draws: Source of the draws; see `draws_of`.
            is_shuffled: Whether the phrases of a list are in random order, as in training, or in the order of images
                and labels.
        """
        question = self.question(sample.task, draws)
        objects, parts = name_targets(sample.objects), name_targets(sample.parts)
        if sample.task is PairTask.COMMON_OBJECTS:
            sentences = [(objects, self.answers[sample.task])]
        else:
            sentences = [(objects, self.objects), (parts, self.answers[sample.task])]
        text, spans, images, masks = "", [], [], []
        for named, forms in sentences:
            if is_shuffled:
                named = [named[place] for place in draws.permutation(len(named))]  # noqa: PLW2901
            form = _draw(forms[ONE if len(named) == 1 else SEVERAL], draws)
            before, after = form.split(LIST_SLOT)
            text += (" " if text else "") + before
            for place, one in enumerate(named):
                text += "" if place == 0 else self.last if place == len(named) - 1 else self.between
                span = CharSpan(len(text), len(text) + len(ARTICLE) + len(one.label))
                text += ARTICLE + one.label
                spans += [span] * len(one.masks)
                images += [image for image, _ in one.masks]
                masks += [mask for _, mask in one.masks]
            text += after
        return PairTexts(question, GroundedAnswer(text, tuple(spans), tuple(images)), tuple(masks))


def draws_of(seed: int, sample_id: str) -> Draws:
    """Return the draws of a sample, independent of all other samples."""
    digest = hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()
    return Draws([int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")])


def name_targets(targets: Sequence[PairObject] | Sequence[PairPart]) -> list[NamedMasks]:
    """Unite the targets of one label, in the order of their first mask; images of a label in order."""
    of_label: dict[str, list[tuple[int, RLE]]] = {}
    for target in targets:
        of_label.setdefault(target.label, []).append((target.image, target.mask))
    return [NamedMasks(label, tuple(sorted(found, key=lambda one: one[0]))) for label, found in of_label.items()]


@cache
def load_pair_templates(path: Path = DEFAULT_TEMPLATES) -> PairTemplates:
    """Read a template file.

    Raises:
        ValueError: The file lacks a text, or a sentence lacks its list; the message names the entry.
    """
    content = read_yaml(path)
    try:
        questions, answers = content["questions"], content["answers"]
        templates = PairTemplates(
            {task: _texts(questions[task], f"questions: {task}") for task in PairTask},
            _texts(content["mask_requests"], "mask_requests"),
            _forms(content["objects"], "objects"),
            {task: _forms(answers[task], f"answers: {task}") for task in PairTask},
            content["separators"]["between"],
            content["separators"]["last"],
        )
    except KeyError as error:
        raise ValueError(f"{path}: the entry {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return templates


def _forms(content: Any, name: str) -> Forms:
    forms = {kind: _texts(content[kind], f"{name}: {kind}") for kind in (ONE, SEVERAL)}
    for texts in forms.values():
        for text in texts:
            if text.count(LIST_SLOT) != 1:
                raise ValueError(f"{name}: {text!r} must contain {LIST_SLOT} exactly once")
    return forms


def _texts(content: Any, name: str) -> tuple[str, ...]:
    if not isinstance(content, list) or not content or not all(isinstance(text, str) and text for text in content):
        raise ValueError(f"{name}: must be a list of texts, got {shorten(content)}")
    return tuple(content)


def _draw(texts: Sequence[str], draws: Draws) -> str:
    return texts[draws.below(len(texts))]
