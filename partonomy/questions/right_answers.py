"""Finds the right answers that an object offers, and draws the one to ask about (mutation mode `balanced`).

The compared objects determine a question's answer. If they are drawn uniformly, as in the paper, some answers become so
frequent ("eye, leg" in a third of the intersections of an animal) that anyone who has seen many questions knows them
without the image, whatever the wrong answers are. Here, an answer is drawn with a weight that falls with its frequency,
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
"""Lower bound of shares, so that answers that hardly any object offers do not get unbounded weights."""

Shares = Mapping[frozenset[int], float]


@dataclass(frozen=True)
class Concepts:
    """The concepts that a question compares the instance with, and the parts that answer it."""

    answer: frozenset[int]
    concept: str | None = None
    other: str | None = None


@dataclass(frozen=True)
class AskedParts:
    """The visible parts of an object that is asked about, as indices into the vocabulary."""

    label: str
    parts: frozenset[int]


class RightAnswers:
    """The right answers of a data set.

    Internally, part sets are integers with bit p for part p, because every image is compared with every object.

    Args:
        asked: the object asked about in each image.
        graph: the vocabulary.
        owned: object label -> the parts it has (`find_owned_parts`).

    Attributes:
        shares: for every kind of question, the share of each right answer over the draws of the compared objects.
        num_images: for every kind of question, the number of images that it can be asked about.
        weights: for every kind of question, the weight of each right answer in the draw, by its bits.
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
        """Return the kind of the questions of a form about an object."""
        return AnswerKind(form, self._category[label])

    def draw(self, form: str, asked: AskedParts, generator: Draws) -> Iterator[Concepts]:
        """Yield every right answer once, in random order, with objects that lead to it; nothing if there is none."""
        parts = _to_bits(asked.parts)
        offered = self._offered(form, asked.label, parts)
        if not offered:  # if no image of the category offers an answer, its kind has no weights
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
        """Return the parts of a set, sorted."""
        if bits not in self._listed:
            self._listed[bits] = tuple(part for part in range(bits.bit_length()) if bits >> part & 1)
        return self._listed[bits]

    def _offered(self, form: str, label: str, parts: int) -> dict[int, float]:
        """Return each right answer's probability for uniformly drawn compared objects; empty if it cannot be asked."""
        if form == "identification":
            return {parts: 1.0}
        common = [parts & has for other, has in self._has.items() if other != label]
        if form == "positive":
            return _frequencies([answer for answer in common if answer])
        if form == "negative":
            return _frequencies([parts ^ shared for shared in common if shared and parts != shared])
        return _average([rests for rests in map(self._rests_of, filter(None, common)) if rests])

    def _rests_of(self, shared: int) -> dict[int, float]:
        """Return the frequencies of what second objects leave of the shared parts; empty rests are dropped."""
        if shared not in self._rests:
            rests = (shared & ~has for has in self._has.values())
            self._rests[shared] = _frequencies([rest for rest in rests if rest])
        return self._rests[shared]

    def _ways(self, form: str, label: str, parts: int, answer: int) -> list[tuple[str | None, str | None]]:
        """Return every choice of compared objects that leads to an answer."""
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
    """Return, for every object, the parts that count as its own: its parts and their synonyms."""
    index = {label: number for number, label in enumerate(graph.parts)}
    return {
        label: frozenset().union(*(synonyms[index[part]] for part in parts))
        for label, parts in graph.object_parts.items()
    }


@dataclass(frozen=True)
class _Offer:
    """Right answers with their probabilities, and the number of images that offer them."""

    count: int
    answers: Mapping[int, float]


def _spread(offers: Sequence[_Offer]) -> dict[int, float]:
    """Return weights under which no right answer is much more frequent than the objects make necessary."""
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
    """Return the share of each answer, in order of first occurrence."""
    return {answer: _add_up(count, len(answers)) for answer, count in Counter(answers).items()}


@lru_cache(maxsize=1 << 16)
def _add_up(count: int, total: int) -> float:
    """Add 1 / total `count` times; a product could differ in its last bit."""
    value = 0.0
    for _ in range(count):
        value += 1.0 / total
    return value


def _to_bits(parts: Iterable[int]) -> int:
    bits = 0
    for part in parts:
        bits |= 1 << part
    return bits
