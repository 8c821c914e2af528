"""Fits one model of the right answers per form of question and object class (mutation mode `balanced`).

A model's walk starts with the part frequencies and sizes of the right answers. Wrong answers are then drawn, and the
weight of each part or size that they have less often than right answers is raised until the two agree. Where a class
leaves too few wrong answers of its own parts, `hints` chooses among several sets.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from partonomy.datasets.concept_graph import ConceptGraph
from partonomy.datasets.instances import InstanceRule, choose_instances
from partonomy.questions.answer_model import AnswerKind, AnswerModel, draw_place, make_answer_model
from partonomy.questions.balanced_answers import BalancedAnswers
from partonomy.questions.draws import Draws
from partonomy.questions.hints import NUM_CHOSEN_FROM, Hints, Listable, PartWords, fit_weights
from partonomy.questions.right_answers import AskedParts, RightAnswers, Shares, find_owned_parts
from partonomy.structures import PartDataset

MAX_FEW_ANSWERS = 24
"""Kinds with at most this many right answers need no walk: other right answers serve as wrong ones."""
MIN_EVENING, MAX_EVENING = 0.02, 0.5
"""Bounds of the weight of equal part frequencies, mixed with the counted ones; see `_even_out`."""
MAX_START_SHARE = 0.999
SMALLEST_SIZE_SHARE = 1e-4
IMAGES_EVENED = 0.5
"""A compromise between rules that count a question's own image (for which 0 would be right) and others (1)."""
NUM_ROUNDS = 8
NUM_FULL_ROUNDS = 4
"""Rounds whose correction is applied in full; later ones are damped to keep their noise out of the weights."""
NUM_SIMULATED = 200
NUM_WEIGHED = 200
"""Simulated questions that the weights of the hints are fitted to."""
NUM_WRONG = 4
SOFTENING = 0.01
"""Added to both of the compared shares, because the counts of rare parts are too small for a meaningful ratio."""


@dataclass(frozen=True)
class _Marginals:
    """Fractions of answers that list each part, and that have 1, 2, ..., N parts."""

    parts: dict[int, float]
    sizes: list[float]


@dataclass(frozen=True)
class _Offered:
    """The right answers of a kind with their objects: the share of each, and the parts its wrong answers may list."""

    kind: AnswerKind
    share: float
    shares: Mapping[AskedParts, float]
    listable: Mapping[AskedParts, Listable]

    def answers(self) -> list[tuple[frozenset[int], float]]:
        """Return the right answers with their shares."""
        return [(asked.parts, share) for asked, share in self.shares.items()]

    def parts(self) -> list[int]:
        """Return the parts that may be listed, foreign ones included, sorted."""
        return sorted({part for one in self.listable.values() for part in one.more})

    def draw(self, num_draws: int, generator: Draws) -> list[AskedParts]:
        """Draw right answers by their shares."""
        answers = sorted(self.shares, key=lambda one: (sorted(one.parts), one.label))
        cumulative = list(accumulate(self.shares[answer] for answer in answers))
        return [answers[draw_place(cumulative, generator)] for _ in range(num_draws)]


@dataclass(frozen=True)
class BalancedFit:
    """What `balanced` needs from a data set: its right answers and their models."""

    right: RightAnswers
    models: Mapping[AnswerKind, AnswerModel]


def fit_balanced(
    dataset: PartDataset,
    graph: ConceptGraph,
    synonyms: Sequence[frozenset[int]],
    seed: int,
    instances: InstanceRule = InstanceRule.IMAGE,
) -> BalancedFit:
    """Find the right answers that the images of a data set offer, and fit a model to each kind.

    Args:
        dataset: the annotations.
        graph: the data set's vocabulary.
        synonyms: for every part, the parts that mean the same, including itself.
        seed: seed of the answers drawn for the fit.
        instances: which instances of an image are asked about.
    """
    index = {label: number for number, label in enumerate(graph.parts)}
    asked = (
        AskedParts(instance.label, frozenset(index[part.label] for part in instance.parts))
        for image in dataset.images
        for instance in choose_instances(image, instances)
    )
    right = RightAnswers(asked, graph, find_owned_parts(graph, synonyms))
    return BalancedFit(right, fit_answer_models(right, synonyms, PartWords.of(graph.parts), seed))


def fit_answer_models(
    right: RightAnswers, synonyms: Sequence[frozenset[int]], words: PartWords, seed: int
) -> dict[AnswerKind, AnswerModel]:
    """Fit one model per form of question and object class; `RightAnswers.listable` decides which parts it lists.

    The weights of the hints are fitted to all classes of a category together, because most rules ignore the class.

    Args:
        right: the data set's right answers.
        synonyms: for every part, the parts that mean the same, including itself.
        words: the length of the parts' names.
        seed: seed of the answers drawn for the fit.
    """
    generator = Draws(seed)
    models: dict[AnswerKind, AnswerModel] = {}
    for kind, by_label in right.shares_by_label.items():
        offered = []
        for label in sorted({asked.label for asked in by_label}):
            one = _offer(right, kind, label)
            offered.append(one)
            target = _even_out(_marginals(one.answers(), one.parts()), one.share * right.num_images[kind])
            model = _fit_walk(one, target, synonyms, generator)
            if NUM_WRONG < len(one.shares) <= MAX_FEW_ANSWERS:
                model = dataclasses.replace(model, few=dict(sorted(one.answers(), key=lambda row: sorted(row[0]))))
            models[one.kind] = model
        models |= _weigh_hints(offered, models, right.shares[kind], BalancedAnswers(synonyms, words), generator)
    return models


def _offer(right: RightAnswers, kind: AnswerKind, label: str) -> _Offered:
    """Collect the right answers of a kind about one object."""
    by_label = {asked: share for asked, share in right.shares_by_label[kind].items() if asked.label == label}
    total = sum(by_label.values())
    return _Offered(
        AnswerKind(kind.form, label),
        total,
        {asked: share / total for asked, share in by_label.items()},
        {asked: right.listable(kind.form, label, asked.parts) for asked in by_label},
    )


def _even_out(true: _Marginals, num_images: float) -> _Marginals:
    """Shrink the parts' shares towards each other, by the weight of half an image.

    A right answer adds to the counts of its own parts. Counted over the other images, its parts are therefore one image
    rarer than those of answers drawn from all counts, which gives it away in a small data set. Shrinking the shares
    makes the parts of wrong answers rarer, too.
    """
    counts = [share * num_images for share in true.parts.values()]
    mean = sum(counts) / len(counts)
    excess = sum(count * count for count in counts) / sum(counts) - mean  # of a listed part compared with any part
    weight = min(max(IMAGES_EVENED / excess if excess > 0 else MAX_EVENING, MIN_EVENING), MAX_EVENING)
    parts = {part: (1 - weight) * share + weight * mean / num_images for part, share in true.parts.items()}
    return _Marginals(parts, true.sizes)


def _fit_walk(offered: _Offered, true: _Marginals, synonyms: Sequence[frozenset[int]], generator: Draws) -> AnswerModel:
    parts = list(true.parts)
    logits = {part: _logit(min(share, MAX_START_SHARE)) for part, share in true.parts.items()}
    log_sizes = [math.log(share + SMALLEST_SIZE_SHARE) for share in true.sizes]
    for number in range(NUM_ROUNDS):
        wrong = _simulate(offered, _walk_model(logits, log_sizes), synonyms, generator)
        if not wrong:
            break
        found = _marginals(((answer, 1 / len(wrong)) for answer in wrong), parts)
        rate = 1.0 if number < NUM_FULL_ROUNDS else NUM_FULL_ROUNDS / (number + 1)
        for part in parts:
            logits[part] += rate * (_soft_logit(true.parts[part]) - _soft_logit(found.parts[part]))
        log_sizes = [
            value + rate * math.log((share + SOFTENING) / (drawn + SOFTENING))
            for value, share, drawn in zip(log_sizes, true.sizes, found.sizes, strict=True)
        ]
    return _walk_model(logits, log_sizes)


def _simulate(
    offered: _Offered, model: AnswerModel, synonyms: Sequence[frozenset[int]], generator: Draws
) -> list[frozenset[int]]:
    """Draw right answers by their shares, and wrong answers to them."""
    balanced = BalancedAnswers(synonyms)
    wrong: list[frozenset[int]] = []
    for asked in offered.draw(NUM_SIMULATED, generator):
        wrong += balanced.draw_one(asked.parts, NUM_WRONG, model, generator, offered.listable[asked]) or ()
    return wrong


def _weigh_hints(
    offered: Sequence[_Offered],
    models: Mapping[AnswerKind, AnswerModel],
    shares: Shares,
    answers: BalancedAnswers,
    generator: Draws,
) -> dict[AnswerKind, AnswerModel]:
    """Return the models of a category's objects with weights of the hints, fitted to simulated questions."""
    listed: dict[int, float] = defaultdict(float)
    for answer, share in shares.items():
        for part in answer:
            listed[part] += share
    hints = Hints(answers.words, listed)
    rows = []
    ends = list(accumulate(one.share for one in offered))
    for _ in range(NUM_WEIGHED):
        one = offered[draw_place(ends, generator)]
        (asked,) = one.draw(1, generator)
        listable = one.listable[asked]
        drawn = answers.draw_several(asked.parts, NUM_WRONG, models[one.kind], generator, listable)
        if len(drawn) == NUM_CHOSEN_FROM:
            rows.append([hints.find(asked.parts, wrong, listable.own) for wrong in drawn])
    if not rows:
        return {}
    weights, listed = fit_weights(np.array(rows)), dict(sorted(listed.items()))
    return {
        one.kind: dataclasses.replace(models[one.kind], hint_shares=listed, hint_weights=weights) for one in offered
    }


def _walk_model(logits: Mapping[int, float], log_sizes: Sequence[float]) -> AnswerModel:
    shares = {part: 1.0 / (1.0 + math.exp(-value)) for part, value in logits.items()}
    largest = max(log_sizes)
    return make_answer_model(shares, [math.exp(value - largest) for value in log_sizes])


def _marginals(answers: Iterable[tuple[frozenset[int], float]], parts: Sequence[int]) -> _Marginals:
    listed, sizes = dict.fromkeys(parts, 0.0), [0.0] * len(parts)
    for answer, share in answers:
        sizes[len(answer) - 1] += share
        for part in answer:
            listed[part] += share
    return _Marginals(listed, sizes)


def _logit(share: float) -> float:
    return math.log(share / (1.0 - share))


def _soft_logit(share: float) -> float:
    return math.log((share + SOFTENING) / (1.0 - share + SOFTENING))
