"""Which right answers an object offers, and which of them is asked about (mutation mode `balanced`).

The objects that a question compares with decide its answer. Drawn uniformly, as the paper does, they make some answers
so frequent ("eye, leg" in a third of the intersections of an animal) that whoever has seen many questions knows them
without the image, whatever the wrong answers are. Here an answer is drawn with a weight that falls with its frequency,
so that the answers of a category spread out; then objects that lead to it are drawn uniformly.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.concept_graph import ConceptGraph
from partonomy.questions.answer_model import AnswerKind
from partonomy.questions.templates import FORMS

NUM_SPREAD_ROUNDS = 30
SPREAD_POWER = 0.5
SPREAD_FLOOR = 0.01
"""Shares below it count as this much: no weight grows without bound for answers that hardly any object offers."""

Shares = Mapping[frozenset[int], float]


@dataclass(frozen=True)
class Concepts:
    """What a question compares the instance with, and the parts that answer it."""

    answer: frozenset[int]
    concept: str | None = None
    other: str | None = None


@dataclass(frozen=True)
class AskedParts:
    """The visible parts of one object that is asked about, as indices into the vocabulary."""

    label: str
    parts: frozenset[int]


class RightAnswers:
    """The right answers of a data set.

    Args:
        asked: the object asked about in every image.
        graph: vocabulary.
        owned: object label -> the parts it has (`find_owned_parts`).

    Attributes:
        shares: for every kind of question the share of each right answer, over the draw of the compared objects.
        num_images: for every kind of question the number of images that it can be asked about.
    """

    def __init__(self, asked: Iterable[AskedParts], graph: ConceptGraph, owned: Mapping[str, frozenset[int]]) -> None:
        self._has = dict(sorted(owned.items()))
        self._category = graph.object_category
        self._rests: dict[frozenset[int], dict[frozenset[int], float]] = {}
        counts = Counter(asked)
        rows: dict[AnswerKind, list[_Offer]] = defaultdict(list)
        for one in sorted(counts, key=lambda one: (one.label, sorted(one.parts))):
            for form in FORMS:
                offered = self._offered(form, one)
                if offered:
                    rows[self.kind(form, one.label)].append(_Offer(counts[one], offered))
        self._weights = {kind: _spread(offers) for kind, offers in rows.items()}
        self.shares: Mapping[AnswerKind, Shares] = {
            kind: _shares(offers, self._weights[kind]) for kind, offers in rows.items()
        }
        self.num_images: Mapping[AnswerKind, int] = {
            kind: sum(offer.count for offer in offers) for kind, offers in rows.items()
        }
        self._rests.clear()

    def kind(self, form: str, label: str) -> AnswerKind:
        """Kind of the questions of a form about an object."""
        return AnswerKind(form, self._category[label])

    def draw(self, form: str, asked: AskedParts, generator: np.random.Generator) -> Iterator[Concepts]:
        """Yield every right answer once, in random order, each with objects that lead to it; nothing if none is."""
        offered = self._offered(form, asked)
        if not offered:  # perhaps no image of the category offers one, and then its kind has no weights
            return
        weights = self._weights[self.kind(form, asked.label)]
        answers = sorted(offered, key=sorted)
        left = [offered[answer] * weights[answer] for answer in answers]
        while answers:
            cumulative = np.cumsum(left)
            place = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
            answer = answers.pop(min(place, len(answers) - 1))
            left.pop(min(place, len(left) - 1))
            ways = self._ways(form, asked, answer)
            yield ways[int(generator.integers(len(ways)))]

    def _offered(self, form: str, asked: AskedParts) -> dict[frozenset[int], float]:
        """Probability of each right answer when the compared objects are drawn uniformly; empty: cannot be asked."""
        if form == "identification":
            return {asked.parts: 1.0}
        common = [asked.parts & self._has[other] for other in self._has if other != asked.label]
        if form == "positive":
            return _average([{answer: 1.0} for answer in common if answer])
        if form == "negative":
            return _average([{asked.parts - shared: 1.0} for shared in common if shared and asked.parts - shared])
        return _average([rests for rests in map(self._rests_of, filter(None, common)) if rests])

    def _rests_of(self, shared: frozenset[int]) -> dict[frozenset[int], float]:
        """What a second object leaves of shared parts. The asked object and the first leave nothing: not drawn."""
        if shared not in self._rests:
            rests = (shared - has for has in self._has.values())
            self._rests[shared] = _average([{rest: 1.0} for rest in rests if rest])
        return self._rests[shared]

    def _ways(self, form: str, asked: AskedParts, answer: frozenset[int]) -> list[Concepts]:
        """Every choice of compared objects that leads to an answer."""
        if form == "identification":
            return [Concepts(answer)]
        ways = []
        for concept in self._has:
            shared = asked.parts & self._has[concept]
            if concept == asked.label or not shared:
                continue
            if form == "difference":
                others = self._has if answer <= shared else ()
                ways += [Concepts(answer, concept, other) for other in others if shared - self._has[other] == answer]
            elif answer == (shared if form == "positive" else asked.parts - shared):
                ways.append(Concepts(answer, concept))
        return ways


def find_owned_parts(graph: ConceptGraph, synonyms: Sequence[frozenset[int]]) -> dict[str, frozenset[int]]:
    """Return, for every object, the parts that count as its own: those it has, and their synonyms."""
    index = {label: number for number, label in enumerate(graph.parts)}
    return {
        label: frozenset().union(*(synonyms[index[part]] for part in parts))
        for label, parts in graph.object_parts.items()
    }


@dataclass(frozen=True)
class _Offer:
    """So many images offer these right answers with these probabilities."""

    count: int
    answers: Mapping[frozenset[int], float]


def _spread(offers: Sequence[_Offer]) -> dict[frozenset[int], float]:
    """Weights of right answers under which none is much more frequent than the objects make it."""
    weights = {answer: 1.0 for offer in offers for answer in offer.answers}
    for _ in range(NUM_SPREAD_ROUNDS):
        shares = _shares(offers, weights)
        weights = {
            answer: weight / max(shares[answer], SPREAD_FLOOR) ** SPREAD_POWER for answer, weight in weights.items()
        }
        largest = max(weights.values())
        weights = {answer: weight / largest for answer, weight in weights.items()}
    return weights


def _shares(offers: Sequence[_Offer], weights: Mapping[frozenset[int], float]) -> dict[frozenset[int], float]:
    shares: dict[frozenset[int], float] = dict.fromkeys(weights, 0.0)
    num_images = sum(offer.count for offer in offers)
    for offer in offers:
        total = sum(share * weights[answer] for answer, share in offer.answers.items())
        for answer, share in offer.answers.items():
            shares[answer] += offer.count / num_images * share * weights[answer] / total
    return shares


def _average(distributions: Sequence[Mapping[frozenset[int], float]]) -> dict[frozenset[int], float]:
    mean: dict[frozenset[int], float] = defaultdict(float)
    for distribution in distributions:
        for answer, share in distribution.items():
            mean[answer] += share / len(distributions)
    return dict(mean)
