"""Measures the accuracy of guesses that see only the choices, to find hints in the wrong answers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from threadpoolctl import threadpool_limits

from partonomy.metrics.bootstrap import NUM_RESAMPLES, Estimate, ImageRatio, bootstrap_ratios
from partonomy.structures import Subject

NUM_FOLDS = 5
"""Number of folds of images for everything that is learned from right answers."""
FOLD_SEED = 0
CENTRAL = "central choice"
CLASS_PARTS = "parts known of the object's class"
LEARNED = "learned"
CHANCE = "chance"
MIN_IMAGES_TO_LEARN = 4 * NUM_FOLDS
MIN_QUESTIONS_OF_CONSTANT = 8
"""Below this number, one place of all right answers may be chance: at 5 choices, in 1 of 78,125 sets of 8 questions."""
SCORE_DECIMALS = 9
SIZE_GROUPS = ("1", "2", "3", "4+")
"""Groups of questions, by the number of parts in the right answer."""


@dataclass(frozen=True)
class BlindQuestion:
    """A question's choices, without image and question.

    Attributes:
        image_id: the image, which is the unit of the bootstrap and of the folds.
        texts: the texts of the choices.
        items: for each choice, its part names or the words of its object's name.
        correct_index: index of the right choice.
        object_label: the object that the question is about; "" if it is what is asked.
    """

    image_id: int
    texts: tuple[str, ...]
    items: tuple[tuple[str, ...], ...]
    correct_index: int
    object_label: str = ""


class Feature(StrEnum):
    """A numeric feature of a choice.

    characters, words: length of the text.
    items: number of parts.
    middle: minus the distance of that number from its mean over the choices.
    centrality: minus the sum of symmetric differences to the other choices' item sets (edit distance).
    choice_frequency: mean over its items of the number of choices of the type that list the item.
    truth_frequency: like choice_frequency, but over the right answers of other folds of images. In a small set, or
        one with equally frequent classes, the rarest choice is right slightly too often, because the other folds lack
        this right answer.
    class_vocabulary: share of its items that right answers of other folds of images list for the same object class.
    alphabet: rank of the text among the choices in alphabetical order.
    position: index of the choice.
    """

    CHARACTERS = "characters"
    WORDS = "words"
    ITEMS = "items"
    MIDDLE = "middle"
    CENTRALITY = "centrality"
    CHOICE_FREQUENCY = "choice_frequency"
    TRUTH_FREQUENCY = "truth_frequency"
    CLASS_VOCABULARY = "class_vocabulary"
    ALPHABET = "alphabet"
    POSITION = "position"


@dataclass(frozen=True)
class ClassVocabularies:
    """The items of right answers by object class, for each fold of images without the fold's own images.

    Attributes:
        folds: image -> fold.
        known: for every fold, object class -> items of the right answers of the other folds.
    """

    folds: Mapping[int, int]
    known: tuple[Mapping[str, frozenset[str]], ...]

    @classmethod
    def of(cls, questions: Sequence[BlindQuestion]) -> "ClassVocabularies":
        """Collect them from questions of all types: a part is known wherever it was right."""
        image_ids = [question.image_id for question in questions]
        folds = dict(zip(image_ids, image_folds(image_ids).tolist(), strict=True))
        known: list[dict[str, set[str]]] = [defaultdict(set) for _ in range(NUM_FOLDS)]
        for question in questions:
            for fold in range(NUM_FOLDS):
                if fold != folds[question.image_id]:
                    known[fold][question.object_label].update(question.items[question.correct_index])
        return cls(folds, tuple({label: frozenset(items) for label, items in one.items()} for one in known))

    def shares(self, question: BlindQuestion) -> list[float]:
        """Return, for every choice, the share of its items that are known."""
        known = self.known[self.folds[question.image_id]].get(question.object_label, frozenset())
        return [len(known.intersection(items)) / len(set(items)) if items else 0.0 for items in question.items]


def choice_features(
    questions: Sequence[BlindQuestion], vocabularies: ClassVocabularies | None = None
) -> dict[Feature, np.ndarray]:
    """Compute every feature of every choice for the questions of one type.

    Args:
        questions: the questions.
        vocabularies: of the questions of all types; None to collect them from these.

    Returns:
        float64 (Q, C) each, where C is the largest number of choices; NaN if a question has fewer. All numbers are sums
        of integers divided once, so that equal choices have exactly equal features.
    """
    vocabularies = vocabularies or ClassVocabularies.of(questions)
    folds = image_folds([question.image_id for question in questions])
    in_choices = Counter(item for question in questions for items in question.items for item in set(items))
    in_truths = [
        Counter(
            item
            for question, own in zip(questions, folds, strict=True)
            if own != fold
            for item in set(question.items[question.correct_index])
        )
        for fold in range(NUM_FOLDS)
    ]
    per_choice: dict[Feature, Callable[[BlindQuestion], list[float]]] = {
        Feature.CHARACTERS: lambda question: [float(len(text)) for text in question.texts],
        Feature.WORDS: lambda question: [float(len(text.split())) for text in question.texts],
        Feature.ITEMS: lambda question: [float(len(set(items))) for items in question.items],
        Feature.MIDDLE: _middle,
        Feature.CENTRALITY: _centrality,
        Feature.CHOICE_FREQUENCY: lambda question: [_mean_count(items, in_choices) for items in question.items],
        Feature.CLASS_VOCABULARY: vocabularies.shares,
        Feature.ALPHABET: _alphabet,
        Feature.POSITION: lambda question: [float(place) for place in range(len(question.texts))],
    }
    found = {feature: _pad([function(question) for question in questions]) for feature, function in per_choice.items()}
    found[Feature.TRUTH_FREQUENCY] = _pad(
        [
            [_mean_count(items, in_truths[fold]) for items in question.items]
            for question, fold in zip(questions, folds, strict=True)
        ]
    )
    return {feature: found[feature] for feature in Feature}


def image_folds(image_ids: Sequence[int]) -> np.ndarray:
    """Return the fold of every question, int64 (Q,).

    All questions of an image share a fold, and fold sizes differ by at most one image. A fixed seed determines the
    images of each fold.
    """
    images, rows = np.unique(np.asarray(image_ids, dtype=np.int64), return_inverse=True)
    order = np.random.default_rng(FOLD_SEED).permutation(len(images))
    return (order % NUM_FOLDS)[rows]


def _middle(question: BlindQuestion) -> list[float]:
    """Compare the numbers of items multiplied by the number of choices, so that the mean stays an integer."""
    counts = [len(set(items)) for items in question.items]
    return [-float(abs(count * len(counts) - sum(counts))) for count in counts]


def _centrality(question: BlindQuestion) -> list[float]:
    sets = [frozenset(items) for items in question.items]
    return [-float(sum(len(one ^ other) for other in sets)) for one in sets]


def _mean_count(items: Sequence[str], counts: Counter[str]) -> float:
    distinct = set(items)
    return sum(counts[item] for item in distinct) / len(distinct) if distinct else 0.0


def _alphabet(question: BlindQuestion) -> list[float]:
    ordered = sorted({text.casefold() for text in question.texts})
    return [float(ordered.index(text.casefold())) for text in question.texts]


def _pad(rows: Sequence[Sequence[float]]) -> np.ndarray:
    padded = np.full((len(rows), max((len(row) for row in rows), default=0)), np.nan)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


ORDERS = {Feature.POSITION: "in {} position", Feature.ALPHABET: "in {} place by alphabet"}
"""Features that a file's order of choices determines, with the words for a constant place."""


@dataclass(frozen=True)
class BlindRule:
    """Chooses the choice with the highest (or lowest) value of a feature."""

    name: str
    feature: Feature
    is_highest: bool


PART_RULES = (
    BlindRule("shortest text", Feature.CHARACTERS, False),
    BlindRule("longest text", Feature.CHARACTERS, True),
    BlindRule("fewest words", Feature.WORDS, False),
    BlindRule("most words", Feature.WORDS, True),
    BlindRule("fewest parts", Feature.ITEMS, False),
    BlindRule("most parts", Feature.ITEMS, True),
    BlindRule("middle number of parts", Feature.MIDDLE, True),
    BlindRule(CENTRAL, Feature.CENTRALITY, True),
    BlindRule("outermost choice", Feature.CENTRALITY, False),
    BlindRule("commonest parts in choices", Feature.CHOICE_FREQUENCY, True),
    BlindRule("rarest parts in choices", Feature.CHOICE_FREQUENCY, False),
    BlindRule("commonest parts in other right answers", Feature.TRUTH_FREQUENCY, True),
    BlindRule("rarest parts in other right answers", Feature.TRUTH_FREQUENCY, False),
    BlindRule(CLASS_PARTS, Feature.CLASS_VOCABULARY, True),
    BlindRule("first by alphabet", Feature.ALPHABET, False),
    BlindRule("last by alphabet", Feature.ALPHABET, True),
)
OBJECT_RULES = (
    *PART_RULES[:4],
    BlindRule(CENTRAL, Feature.CENTRALITY, True),
    BlindRule("outermost choice", Feature.CENTRALITY, False),
    BlindRule("commonest words in choices", Feature.CHOICE_FREQUENCY, True),
    BlindRule("rarest words in choices", Feature.CHOICE_FREQUENCY, False),
    BlindRule("commonest words in other right answers", Feature.TRUTH_FREQUENCY, True),
    BlindRule("rarest words in other right answers", Feature.TRUTH_FREQUENCY, False),
    *PART_RULES[-2:],
)


@dataclass(frozen=True)
class BlindScore:
    """Expected accuracy of a rule with its confidence interval, also by `SIZE_GROUPS` (none for object questions)."""

    rule: str
    accuracy: Estimate
    by_size: tuple[Estimate, ...]


@dataclass(frozen=True)
class BlindResult:
    """All blind baselines on the questions of one type; `chance` is the exact expectation of a uniform guess.

    `constant` names the places that the right answer always has ("first position"): they belong to the file's order and
    tell nothing about the choices, so no rule uses them.
    """

    question_type: str
    subject: Subject
    chance: BlindScore
    scores: tuple[BlindScore, ...]
    constant: tuple[str, ...] = ()

    @property
    def num_questions(self) -> int:
        """Number of questions."""
        return self.chance.accuracy.count

    @property
    def best_fixed(self) -> BlindScore:
        """The best fixed rule, selected on the same questions and therefore slightly optimistic."""
        fixed = [score for score in self.scores if score.rule != LEARNED]
        return max(fixed, key=lambda score: score.accuracy.value or 0.0)

    def find(self, rule: str) -> BlindScore | None:
        """Return the score of a rule; None if it was not applied (`learned` with too few images)."""
        return next((score for score in self.scores if score.rule == rule), None)


@dataclass(frozen=True)
class BlindGuesses:
    """The outcome of every rule on each of Q questions.

    Attributes:
        question_type: Name of the type, or of several pooled types.
        subject: Whether the choices are parts or objects.
        hits: Rule -> float64 (Q,), probability of hitting the right choice; `chance` is one of the rules.
        sizes: int (Q,), number of items of the right answer.
        image_ids: int (Q,), image of each question.
        constant: see `BlindResult`.
    """

    question_type: str
    subject: Subject
    hits: Mapping[str, np.ndarray]
    sizes: np.ndarray
    image_ids: np.ndarray
    constant: tuple[str, ...] = ()


def guess_blindly(
    question_type: str,
    subject: Subject,
    questions: Sequence[BlindQuestion],
    vocabularies: ClassVocabularies | None = None,
    *,
    is_learned: bool = True,
) -> BlindGuesses:
    """Apply every blind baseline to the questions of one type.

    Args:
        question_type: Name in the result.
        subject: Whether the choices are parts or objects.
        questions: At least one question.
        vocabularies: See `choice_features`.
        is_learned: Whether to fit the regression, too.

    Raises:
        ValueError: There are no questions.
    """
    if not questions:
        raise ValueError(f"there are no questions of the type {question_type} to guess")
    features = choice_features(questions, vocabularies)
    correct = np.array([question.correct_index for question in questions])
    constant = _constant_places(features, correct)
    for feature in constant.values():
        features.pop(feature, None)
    num_choices = np.array([len(question.texts) for question in questions])
    image_ids = np.array([question.image_id for question in questions])
    hits = {CHANCE: 1.0 / num_choices}
    for rule in PART_RULES if subject is Subject.PARTS else OBJECT_RULES:
        values = features.get(rule.feature)
        if values is not None:
            hits[rule.name] = expected_hits(values if rule.is_highest else -values, correct)
    for place in range(int(num_choices.max()) if Feature.POSITION in features else 0):
        # A question without such a position is guessed uniformly.
        hits[f"position {place + 1}"] = np.where(num_choices > place, correct == place, 1.0 / num_choices)
    if is_learned and len(np.unique(image_ids)) >= MIN_IMAGES_TO_LEARN:
        scores = _learned_scores(features, correct, image_folds(image_ids.tolist()))
        hits |= {} if scores is None else {LEARNED: expected_hits(scores, correct)}
    sizes = np.array([len(set(question.items[question.correct_index])) for question in questions])
    return BlindGuesses(question_type, subject, hits, sizes, image_ids, tuple(constant))


def _constant_places(features: Mapping[Feature, np.ndarray], correct: np.ndarray) -> dict[str, Feature]:
    """Return the features of order by which the right answer has the same place in every question, under their words.

    A single place may be chance in a few questions, but a file that lists right answers first always does.
    """
    if len(correct) < MIN_QUESTIONS_OF_CONSTANT:
        return {}
    rows = np.arange(len(correct))
    constant = {}
    for feature, words in ORDERS.items():
        values = features[feature]
        places = {
            "first": values[rows, correct] == np.nanmin(values, axis=1),
            "last": values[rows, correct] == np.nanmax(values, axis=1),
            "the same": values[rows, correct] == values[0, correct[0]],
        }
        word = next((word for word, is_there in places.items() if is_there.all()), None)
        if word is not None:
            constant[words.format(word)] = feature
    return constant


def pool_guesses(name: str, guesses: Sequence[BlindGuesses]) -> BlindGuesses:
    """Pool the questions of several types, keeping only rules that were applied to all of them.

    Args:
        name: Name in the result.
        guesses: At least one outcome, all with the same subject.
    """
    rules = [rule for rule in guesses[0].hits if all(rule in one.hits for one in guesses)]
    return BlindGuesses(
        name,
        guesses[0].subject,
        {rule: np.concatenate([one.hits[rule] for one in guesses]) for rule in rules},
        np.concatenate([one.sizes for one in guesses]),
        np.concatenate([one.image_ids for one in guesses]),
        tuple(words for words in guesses[0].constant if all(words in one.constant for one in guesses)),
    )


def estimate_guesses(
    guesses: BlindGuesses, generator: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> BlindResult:
    """Compute every rule's mean accuracy and confidence interval, overall and by the right answer's number of parts.

    Args:
        guesses: Outcome per question.
        generator: Source of the resamples; all rules share them.
        num_resamples: Number of resamples.
    """
    images, rows = np.unique(guesses.image_ids, return_inverse=True)
    groups = _size_masks(guesses.sizes) if guesses.subject is Subject.PARTS else ()
    subsets = [np.ones(len(rows), dtype=bool), *groups]
    ratios = []
    for values in guesses.hits.values():
        for subset in subsets:
            weights = subset.astype(np.float64)
            numerators = np.bincount(rows, values * weights, minlength=len(images))
            denominators = np.bincount(rows, weights, minlength=len(images))
            ratios.append(ImageRatio(numerators, denominators, int(subset.sum())))
    estimates = bootstrap_ratios(ratios, generator, num_resamples)
    step = len(subsets)
    chance, *scores = (
        BlindScore(rule, estimates[number * step], tuple(estimates[number * step + 1 : (number + 1) * step]))
        for number, rule in enumerate(guesses.hits)
    )
    return BlindResult(guesses.question_type, guesses.subject, chance, tuple(scores), guesses.constant)


def expected_hits(scores: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return the probability of hitting the right choice by taking the highest one, with ties broken uniformly.

    Args:
        scores: float (Q, C), NaN if a question has no such choice.
        correct: int (Q,), index of the right choice.

    Returns:
        float64 (Q,): 1 / number of highest choices if the right one is among them, else 0.
    """
    is_highest = scores == np.nanmax(scores, axis=1, keepdims=True)
    return is_highest[np.arange(len(correct)), correct] / is_highest.sum(axis=1)


def _learned_scores(
    features: Mapping[Feature, np.ndarray], correct: np.ndarray, folds: np.ndarray
) -> np.ndarray | None:
    """Return the scores (Q, C) of a logistic regression "this choice is right" on all features, fitted on other folds.

    Features are standardised within their question and enter with their squares, so that medium or extreme values can
    be preferred. The result is None if a fold leaves nothing to learn from.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  (most of a second to import)

    inputs, is_choice = _standardise(features)
    num_questions, num_choices, _ = inputs.shape
    is_right = correct[:, None] == np.arange(num_choices)[None, :]
    scores = np.full((num_questions, num_choices), np.nan)
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        rows, labels = inputs[train][is_choice[train]], is_right[train][is_choice[train]]
        if not labels.any() or labels.all():
            return None
        with threadpool_limits(limits=1):
            regression = LogisticRegression(C=1.0, max_iter=1000).fit(rows, labels)
        logits = regression.decision_function(inputs[test][is_choice[test]])
        # Equal choices must tie, but a matrix product may differ in its last bit from row to row.
        block = np.full((int(test.sum()), num_choices), np.nan)
        block[is_choice[test]] = np.round(logits, SCORE_DECIMALS)
        scores[test] = block
    return scores


def _standardise(features: Mapping[Feature, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the regression's inputs (Q, C, 2 F - 1 + C), 0 for missing choices, and a mask of existing ones (Q, C)."""
    is_choice = ~np.isnan(features[Feature.ITEMS])
    columns = []
    for feature, values in features.items():
        if feature is Feature.POSITION:
            places = np.arange(values.shape[1])
            columns += [(values == place).astype(np.float64) for place in places]
            continue
        centred = values - np.nanmean(values, axis=1, keepdims=True)
        spread = np.nanstd(values, axis=1, keepdims=True)
        scaled = np.where(is_choice, centred / np.where(spread > 0, spread, 1.0), 0.0)
        columns += [scaled, scaled**2]
    return np.stack(columns, axis=2), is_choice


def _size_masks(sizes: np.ndarray) -> tuple[np.ndarray, ...]:
    last = len(SIZE_GROUPS)
    return tuple(sizes == size if size < last else sizes >= last for size in range(1, last + 1))
