"""Reads a question's answers from an entry of imported predictions, in the schema of `question_prediction`.

The keys are `predicted_answer` and `predicted_object_answer` (a choice by its index or text), `answer_scores` and
`object_answer_scores` (for each choice a log-probability, or an object with the four fields of `ChoiceScore`),
`predicted_segmentations` (masks by part, or in the order of the correct answer's phrases), and `generated_text` with
`generated_segmentations`, `generated_spans` and `generated_confidences`. With log-probabilities alone, the best one is
the choice under every selector, as the numbers of tokens are unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from partonomy.benchmarks.imported import SCORE_KEYS, Entry, find_choice, read_scores
from partonomy.benchmarks.partonomy.records import Capability
from partonomy.files import check_text, is_integer, shorten
from partonomy.metrics.multiple_choice import ChoiceSelection, Selector, TiedChoices, select_all, select_only
from partonomy.models.contract import Generation
from partonomy.structures import CharSpan, ChoiceScore, Question, Subject
from partonomy.suggestions import nearest

CHOICE_KEYS = {Subject.PARTS: "predicted_answer", Subject.OBJECT: "predicted_object_answer"}
SCORES_KEYS = {Subject.PARTS: "answer_scores", Subject.OBJECT: "object_answer_scores"}
MASKS_KEY = "predicted_segmentations"
TEXT_KEY, OWN_MASKS_KEY = "generated_text", "generated_segmentations"
SPANS_KEY, CONFIDENCES_KEY = "generated_spans", "generated_confidences"
SCORES = "scores"
"""Name of the log-probabilities among the answers that a file offers; all other names are capabilities."""


@dataclass(frozen=True)
class ReadChoice:
    """A choice as the file gives it; `scores` is None unless all fields of `ChoiceScore` are known."""

    scores: tuple[ChoiceScore, ...] | None
    selection: ChoiceSelection


KEYS = frozenset(
    {*CHOICE_KEYS.values(), *SCORES_KEYS.values(), MASKS_KEY, TEXT_KEY, OWN_MASKS_KEY, SPANS_KEY, CONFIDENCES_KEY}
)
PREFIXES = ("predicted_", "generated_")
SIMILARITY = 0.8
"""A key with one of the prefixes that is as similar as this to the key of an answer is taken for a misspelt one."""


def answers_of_question(content: Mapping[str, Any]) -> frozenset[str]:
    """Return the capabilities of which an entry has an answer, and `SCORES`.

    Raises:
        ValueError: A key is misspelt.
    """
    for key in content:
        near = nearest(key, KEYS, SIMILARITY) if key.startswith(PREFIXES) and key not in KEYS else None
        if near is not None:
            raise ValueError(f"there is no key {key!r}; did you mean {near!r}?")
    has_scores = any(content.get(key) is not None for key in SCORES_KEYS.values())
    is_there = {
        Capability.CHOICES.value: has_scores or any(content.get(key) is not None for key in CHOICE_KEYS.values()),
        Capability.MASKS.value: content.get(MASKS_KEY) is not None,
        Capability.GENERATION.value: content.get(TEXT_KEY) is not None,
        SCORES: has_scores,
    }
    return frozenset(name for name, is_given in is_there.items() if is_given)


def read_choice(entry: Entry, subject: Subject, choices: Sequence[str]) -> ReadChoice | None:
    """Return the choice of an entry; None if it has none.

    Args:
        entry: The entry.
        subject: Parts or object.
        choices: The choices' texts.

    Raises:
        ValueError: The choice or its scores are malformed, or contradict each other.
    """
    key, scores_key = CHOICE_KEYS[subject], SCORES_KEYS[subject]
    index = find_choice(entry.content.get(key), choices, repr(key))
    given = entry.content.get(scores_key)
    if given is None:
        return None if index is None else ReadChoice(None, select_only(index))
    values = read_scores(given, len(choices), repr(scores_key))
    is_complete = all(len(value) == len(SCORE_KEYS) for value in values)
    if is_complete:
        scores = tuple(ChoiceScore(**value) for value in values)  # type: ignore[arg-type]  # read_scores checked them
        read = ReadChoice(scores, select_all(scores))
    else:
        log_probs = [value[SCORE_KEYS[0]] for value in values]
        best = tuple(place for place, value in enumerate(log_probs) if value == max(log_probs))
        read = ReadChoice(None, ChoiceSelection(best[0], best[0], best[0], TiedChoices(best, best, best)))
    if index is not None and index not in read.selection.indices(Selector.SEQUENCE):
        raise ValueError(
            f"{key!r} is choice {index}, but choice {read.selection.sequence} has the highest value in {scores_key!r}; "
            "leave one of the two out"
        )
    return read


def read_part_masks(entry: Entry, question: Question) -> np.ndarray | None:
    """Return the masks of the correct answer's phrases; None if the entry has none.

    Of parts without a mask, those behind the last one with a mask are missing predictions, the others empty masks.

    Returns:
        bool (N, H, W), N at most the number of phrases.

    Raises:
        ValueError: A mask is malformed or has another size, or belongs to no part of the correct answer.
    """
    given = entry.content.get(MASKS_KEY)
    if given is None:
        return None
    size = (question.height, question.width)
    labels = [part.label for part in question.masks]
    if isinstance(given, list):
        if len(given) > len(labels):
            raise ValueError(f"{MASKS_KEY!r} has {len(given)} masks for the parts {', '.join(labels)}")
        return entry.masks(given, *size, repr(MASKS_KEY))
    if not isinstance(given, Mapping):
        raise ValueError(f"{MASKS_KEY!r} must be an object of masks by part, or a list, got {shorten(given)}")
    unknown = [label for label in given if label not in labels]
    if unknown:
        raise ValueError(
            f"{MASKS_KEY!r} names {shorten(unknown[0])}, and the correct answer has the parts {', '.join(labels)}"
        )
    by_label = {label: _label_masks(entry, label, values, size) for label, values in given.items()}
    found: list[np.ndarray | None] = []
    for place, label in enumerate(labels):
        masks, number, repeats = by_label.get(label, ()), labels[:place].count(label), labels.count(label)
        if len(masks) > repeats > 1:
            raise ValueError(
                f"{MASKS_KEY!r} has {len(masks)} masks for {label!r}, which the answer names {repeats} times"
            )
        # Several masks of a part that is named once are one mask, as in the published records.
        own = masks if repeats == 1 else masks[number : number + 1]
        found.append(np.logical_or.reduce(own) if len(own) else None)
    while found and found[-1] is None:
        found.pop()
    filled = [np.zeros(size, dtype=bool) if mask is None else mask for mask in found]
    return np.stack(filled) if filled else np.zeros((0, *size), dtype=bool)


def read_generation(entry: Entry, question: Question) -> Generation | None:
    """Return the model's own answer; None if the entry has none.

    Without `generated_spans`, each phrase of `generated_segmentations` is looked up in the text, as often as it has
    masks.

    Raises:
        ValueError: A mask is malformed or has another size, or a phrase is not in the text.
    """
    text = entry.text(TEXT_KEY)
    if text is None:
        return None
    given = entry.content.get(OWN_MASKS_KEY)
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"{OWN_MASKS_KEY!r} must be an object of masks by phrase, got {shorten(given)}")
    size = (question.height, question.width)
    masks = {
        phrase: _label_masks(entry, phrase, values, size, OWN_MASKS_KEY) for phrase, values in (given or {}).items()
    }
    spans = _find_spans(text, masks) if entry.content.get(SPANS_KEY) is None else _read_spans(entry, text)
    ordered, used = [], dict.fromkeys(masks, 0)
    for span in spans:
        phrase = text[span.start : span.end]
        number = used.get(phrase, 0)
        if number >= len(masks.get(phrase, ())):
            break  # fewer masks than phrases: the last ones have none
        ordered.append(masks[phrase][number])
        used[phrase] = number + 1
    if sum(used.values()) != sum(map(len, masks.values())):
        left = next(phrase for phrase, number in used.items() if number < len(masks[phrase]))
        raise ValueError(f"{OWN_MASKS_KEY!r} has a mask of {shorten(left)} without its place in {SPANS_KEY!r}")
    stacked = np.stack(ordered) if ordered else np.zeros((0, *size), dtype=bool)
    return Generation(text, spans, stacked, _confidences(entry, len(spans)))


def _label_masks(
    entry: Entry, label: str, values: object, size: tuple[int, int], key: str = MASKS_KEY
) -> tuple[np.ndarray, ...]:
    """Read the masks of one part: a list of them, one mask, or null for none."""
    if values is None:
        return ()
    name = f"{key!r} of {shorten(label)}"
    if isinstance(values, list) and not (values and isinstance(values[0], int | float)):
        return tuple(entry.masks(values, *size, name))
    return (entry.mask(values, *size, name),)


def _find_spans(text: str, masks: Mapping[str, Sequence[np.ndarray]]) -> tuple[CharSpan, ...]:
    spans = []
    for phrase, own in masks.items():
        start = 0
        for _ in own:
            start = text.find(check_text(phrase, f"a phrase of {OWN_MASKS_KEY!r}"), start)
            if start < 0:
                raise ValueError(
                    f"{OWN_MASKS_KEY!r} has {len(own)} masks of {shorten(phrase)}, which {TEXT_KEY!r} contains less "
                    f"often; give {SPANS_KEY!r}"
                )
            spans.append(CharSpan(start, start + len(phrase)))
            start += len(phrase)
    return tuple(sorted(spans, key=lambda span: (span.start, span.end)))


def _read_spans(entry: Entry, text: str) -> tuple[CharSpan, ...]:
    values = entry.content[SPANS_KEY]
    is_list = isinstance(values, list) and all(isinstance(value, list) and len(value) == 2 for value in values)
    if not is_list or not all(is_integer(one) for value in values for one in value):
        raise ValueError(f"{SPANS_KEY!r} must be a list of [start, end] in characters, got {shorten(values)}")
    for start, end in values:
        if not 0 <= start < end <= len(text):
            raise ValueError(f"{SPANS_KEY!r}: [{start}, {end}] is no part of a text of {len(text)} characters")
    return tuple(CharSpan(start, end) for start, end in values)


def _confidences(entry: Entry, number: int) -> tuple[float, ...]:
    values = entry.content.get(CONFIDENCES_KEY)
    if values is None:
        return (1.0,) * number
    is_number = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 for value in values
    )
    if not is_number or len(values) != number:
        raise ValueError(f"{CONFIDENCES_KEY!r} must be a list of {number} numbers in [0, 1], got {shorten(values)}")
    return tuple(float(value) for value in values)
