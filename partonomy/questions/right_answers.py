"""Finds the right answers that an object offers, and draws the one to ask about (mutation mode `balanced`).

The compared objects determine a question's answer. If they are drawn uniformly, as in the paper, some answers become so
frequent ("eye, leg" in a third of the intersections of an animal) that anyone who has seen many questions knows them
without the image, whatever the wrong answers are. Here, an answer is drawn with a weight that falls with its frequency,
so that the answers of a category spread out; then objects that lead to it are drawn uniformly.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from partonomy.datasets.concept_graph import ConceptGraph
from partonomy.questions.answer_model import AnswerKind, draw_place
from partonomy.questions.draws import Draws
from partonomy.questions.hints import Listable
from partonomy.questions.templates import FORMS

NUM_SPREAD_ROUNDS = 30
SPREAD_POWER = 0.5
MIN_LISTABLE = 4
"""Number of parts that wrong answers need at least: four have 15 non-empty subsets, three only 7."""
NUM_FOREIGN_PARTS = 3
"""Number of parts foreign to an object that wrong answers may list, at least."""
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
        shares_by_label: for every kind of question, `shares` of each object by itself; they add up to the object's
            share of the images.
        listed: for every form of question and object, the bits of all parts of its right answers.
    """

    def __init__(self, asked: Iterable[AskedParts], graph: ConceptGraph, owned: Mapping[str, frozenset[int]]) -> None:
        self._has = {label: _to_bits(parts) for label, parts in sorted(owned.items())}
        index = {label: number for number, label in enumerate(graph.parts)}
        self._own = {
            label: _to_bits(index[part] for part in parts) for label, parts in sorted(graph.object_parts.items())
        }
        self._category = {label: graph.object_category[label] if graph.is_grouped(label) else "" for label in self._own}
        self._related = {label: self._find_related(label) for label in self._own}
        self._listable: dict[tuple[str, str, int], Listable] = {}
        self._all = (1 << len(index)) - 1
        self._rests: dict[int, dict[int, float]] = {}
        self._listed: dict[int, tuple[int, ...]] = {}
        counts = Counter(asked)
        rows: dict[AnswerKind, list[_Offer]] = defaultdict(list)
        for one in sorted(counts, key=lambda one: (one.label, sorted(one.parts))):
            for form in FORMS:
                offered = self._offered(form, one.label, _to_bits(one.parts))
                if offered:
                    rows[self.kind(form, one.label)].append(_Offer(one.label, counts[one], offered))
        self.listed: Mapping[tuple[str, str], int] = {
            (kind.form, label): _unite(answer for offer in offers if offer.label == label for answer in offer.answers)
            for kind, offers in rows.items()
            for label in sorted({offer.label for offer in offers})
        }
        self.weights: Mapping[AnswerKind, Mapping[int, float]] = {
            kind: _spread(offers) for kind, offers in rows.items()
        }
        self.shares: Mapping[AnswerKind, Shares] = {
            kind: {frozenset(self._parts(bits)): share for bits, share in _shares(offers, self.weights[kind]).items()}
            for kind, offers in rows.items()
        }
        self.shares_by_label: Mapping[AnswerKind, Mapping[AskedParts, float]] = {
            kind: _shares_by_label(offers, self.weights[kind], self._parts) for kind, offers in rows.items()
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
        listed: Mapping[tuple[str, str], int],
    ) -> "RightAnswers":
        """Restore the draws from the `weights` and `listed` of fitted ones; all shares and `num_images` are empty."""
        restored = cls((), graph, owned)
        restored.weights, restored.listed = weights, listed
        return restored

    def kind(self, form: str, label: str) -> AnswerKind:
        """Return the kind of the questions of a form about an object; objects without a category share one kind."""
        return AnswerKind(form, self._category[label])

    def listable(self, form: str, label: str, correct: frozenset[int]) -> Listable:
        """Return the parts that wrong answers about an object may list.

        A part that the object's class does not have gives a wrong answer away to anyone who knows the class, and so
        does, in questions that compare, a part that is never right. Where the right answer leaves too few other parts,
        those of the class, of the classes that share a part with it (of its category, if it has one), and of the data
        set are taken, in this order.
        """
        key = (form, label, _to_bits(correct))
        if key not in self._listable:
            right = key[2] | self.listed.get((form, label), 0)
            own, *others = (self._own[label], self._related[label], self._all)
            parts = self._first_enough(right, (own, *others), MIN_LISTABLE)
            more = self._first_enough(parts, others, parts.bit_count() + NUM_FOREIGN_PARTS)
            self._listable[key] = Listable(
                self._parts(parts), self._parts(more), frozenset(self._parts(self._own[label]))
            )
        return self._listable[key]

    @staticmethod
    def _first_enough(bits: int, tiers: Iterable[int], num_needed: int) -> int:
        for more in tiers:
            if bits.bit_count() >= num_needed:
                break
            bits |= more
        return bits

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

    def _find_related(self, label: str) -> int:
        """Return the parts of the label's category; without one, of all objects that share a part with it."""
        own, category = self._own[label], self._category[label]
        others = ((other, bits) for other, bits in self._own.items() if self._category[other] == category)
        return _unite(bits for _, bits in others if category or bits & own)

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

    label: str
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


def _shares_by_label(
    offers: Sequence[_Offer], weights: Mapping[int, float], parts: Callable[[int], tuple[int, ...]]
) -> dict[AskedParts, float]:
    shares: dict[AskedParts, float] = defaultdict(float)
    num_images = sum(offer.count for offer in offers)
    for label in sorted({offer.label for offer in offers}):
        own = [offer for offer in offers if offer.label == label]
        part_of_all = sum(offer.count for offer in own) / num_images
        own_weights = {answer: weights[answer] for offer in own for answer in offer.answers}
        for answer, share in _shares(own, own_weights).items():
            shares[AskedParts(label, frozenset(parts(answer)))] += part_of_all * share
    return dict(shares)


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


def _unite(sets: Iterable[int]) -> int:
    bits = 0
    for one in sets:
        bits |= one
    return bits


def _to_bits(parts: Iterable[int]) -> int:
    bits = 0
    for part in parts:
        bits |= 1 << part
    return bits
