"""Which right answers an object offers, and which of them is asked about (mutation mode `balanced`).

The objects that a question compares with decide its answer. Drawn uniformly, as the paper does, they make some answers
so frequent ("eye, leg" in a third of the intersections of an animal) that whoever has seen many questions knows them
without the image, whatever the wrong answers are. Here an answer is drawn with a weight that falls with its frequency,
so that the answers of a category spread out; then objects that lead to it are drawn uniformly.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from partonomy.datasets.concept_graph import ConceptGraph
from partonomy.questions.answer_model import AnswerKind, draw_place
from partonomy.questions.draws import Draws
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

    Inside, part sets are whole numbers, bit p for part p: every image is compared with every object.

    Args:
        asked: the object asked about in every image.
        graph: vocabulary.
        owned: object label -> the parts it has (`find_owned_parts`).

    Attributes:
        shares: for every kind of question the share of each right answer, over the draw of the compared objects.
        num_images: for every kind of question the number of images that it can be asked about.
        weights: for every kind of question the weight of each right answer in the draw, by its bits.
    """

    def __init__(self, asked: Iterable[AskedParts], graph: ConceptGraph, owned: Mapping[str, frozenset[int]]) -> None:
        self._has = {label: _to_bits(parts) for label, parts in sorted(owned.items())}
        self._category = graph.object_category
        self._rests: dict[int, dict[int, float]] = {}
        self._listed: dict[int, tuple[int, ...]] = {}
        counts = Counter(asked)
        rows: dict[AnswerKind, list[_Offer]] = defaultdict(list)
        for one in sorted(counts, key=lambda one: (one.label, sorted(one.parts))):
            for form in FORMS:
                offered = self._offered(form, one.label, _to_bits(one.parts))
                if offered:
                    rows[self.kind(form, one.label)].append(_Offer(counts[one], offered))
        self.weights: Mapping[AnswerKind, Mapping[int, float]] = {
            kind: _spread(offers) for kind, offers in rows.items()
        }
        self.shares: Mapping[AnswerKind, Shares] = {
            kind: {frozenset(self._parts(bits)): share for bits, share in _shares(offers, self.weights[kind]).items()}
            for kind, offers in rows.items()
        }
        self.num_images: Mapping[AnswerKind, int] = {
            kind: sum(offer.count for offer in offers) for kind, offers in rows.items()
        }
        self._rests.clear()

    @classmethod
    def from_weights(
        cls,
        graph: ConceptGraph,
        owned: Mapping[str, frozenset[int]],
        weights: Mapping[AnswerKind, Mapping[int, float]],
    ) -> "RightAnswers":
        """Restore the draws from the `weights` of fitted ones; `shares` and `num_images` are empty."""
        restored = cls((), graph, owned)
        restored.weights = weights
        return restored

    def kind(self, form: str, label: str) -> AnswerKind:
        """Kind of the questions of a form about an object."""
        return AnswerKind(form, self._category[label])

    def draw(self, form: str, asked: AskedParts, generator: Draws) -> Iterator[Concepts]:
        """Yield every right answer once, in random order, each with objects that lead to it; nothing if none is."""
        parts = _to_bits(asked.parts)
        offered = self._offered(form, asked.label, parts)
        if not offered:  # perhaps no image of the category offers one, and then its kind has no weights
            return
        weights = self.weights[self.kind(form, asked.label)]
        answers = sorted(offered, key=self._parts)
        left = [offered[answer] * weights[answer] for answer in answers]
        while answers:
            place = draw_place(list(accumulate(left)), generator)
            answer = answers.pop(place)
            left.pop(place)
            ways = self._ways(form, asked.label, parts, answer)
            concept, other = ways[generator.below(len(ways))]
            yield Concepts(frozenset(self._parts(answer)), concept, other)

    def _parts(self, bits: int) -> tuple[int, ...]:
        """The parts of a set, sorted."""
        if bits not in self._listed:
            self._listed[bits] = tuple(part for part in range(bits.bit_length()) if bits >> part & 1)
        return self._listed[bits]

    def _offered(self, form: str, label: str, parts: int) -> dict[int, float]:
        """Probability of each right answer when the compared objects are drawn uniformly; empty: cannot be asked."""
        if form == "identification":
            return {parts: 1.0}
        common = [parts & has for other, has in self._has.items() if other != label]
        if form == "positive":
            return _frequencies([answer for answer in common if answer])
        if form == "negative":
            return _frequencies([parts ^ shared for shared in common if shared and parts != shared])
        return _average([rests for rests in map(self._rests_of, filter(None, common)) if rests])

    def _rests_of(self, shared: int) -> dict[int, float]:
        """What a second object leaves of shared parts. The asked object and the first leave nothing: not drawn."""
        if shared not in self._rests:
            rests = (shared & ~has for has in self._has.values())
            self._rests[shared] = _frequencies([rest for rest in rests if rest])
        return self._rests[shared]

    def _ways(self, form: str, label: str, parts: int, answer: int) -> list[tuple[str | None, str | None]]:
        """Every choice of compared objects that leads to an answer."""
        if form == "identification":
            return [(None, None)]
        others = ((other, parts & has) for other, has in self._has.items() if other != label)
        if form == "difference":
            return [
                (concept, other)
                for concept, shared in others
                if not answer & ~shared
                for other, has in self._has.items()
                if shared & ~has == answer
            ]
        shared_parts = answer if form == "positive" else parts ^ answer
        return [(other, None) for other, shared in others if shared == shared_parts]


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
    answers: Mapping[int, float]


def _spread(offers: Sequence[_Offer]) -> dict[int, float]:
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


def _shares(offers: Sequence[_Offer], weights: Mapping[int, float]) -> dict[int, float]:
    shares: dict[int, float] = dict.fromkeys(weights, 0.0)
    num_images = sum(offer.count for offer in offers)
    for offer in offers:
        total = sum(share * weights[answer] for answer, share in offer.answers.items())
        for answer, share in offer.answers.items():
            shares[answer] += offer.count / num_images * share * weights[answer] / total
    return shares


def _average(distributions: Sequence[Mapping[int, float]]) -> dict[int, float]:
    mean: dict[int, float] = defaultdict(float)
    for distribution in distributions:
        for answer, share in distribution.items():
            mean[answer] += share / len(distributions)
    return dict(mean)


def _frequencies(answers: Sequence[int]) -> dict[int, float]:
    """Share of each answer, by first occurrence."""
    return {answer: _add_up(count, len(answers)) for answer, count in Counter(answers).items()}


@lru_cache(maxsize=1 << 16)
def _add_up(count: int, total: int) -> float:
    """1 / total added `count` times; the last bit of a product could be another."""
    value = 0.0
    for _ in range(count):
        value += 1.0 / total
    return value


def _to_bits(parts: Iterable[int]) -> int:
    bits = 0
    for part in parts:
        bits |= 1 << part
    return bits
