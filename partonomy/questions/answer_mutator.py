"""Wrong answers: part sets a few mutations away from the right one (paper, appendix B).

Parts are indices into the sorted vocabulary, so that sorted indices are sorted labels. Three modes:
- `paper`: 1 to 3 mutations of the right answer; added parts come from the object's category.
- `authors`: as the authors' public code draws: 1 or 2 mutations (its upper bound of 3 is exclusive); the uniform share
  of added parts comes from the object and the concepts it is compared with (the paper: from the same category), the
  predicted share from all parts. As there, the parts of the right answer, under any of their names, are the only ones
  never added. Two things are not copied: that code may compare an object with its own class, and it inserts added parts
  at random places (here parts are always sorted).
- `balanced`: no choice stands out. In the other two the right answer is the centre of the choices and lists commoner
  parts, which a blind guess can use (the paper admits the first); `python -m partonomy blind` measures it. Here wrong
  answers are also mutated from wrong ones, by steps that come and go as right answers do (`answer_model`), and the
  objects that a question compares with are drawn so that right answers spread out (`right_answers`). So a part that is
  never right in a kind of question is hardly ever offered in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from partonomy.questions.answer_model import AnswerKind, AnswerModel, make_flat_model
from partonomy.questions.balanced_answers import BalancedAnswers
from partonomy.questions.draws import Draws
from partonomy.questions.part_sampler import PartSampler

NUM_WRONG_ANSWERS = 4
NUM_TRIES = 20
MAX_MUTATIONS = 3
AUTHORS_MAX_MUTATIONS = 2
NOTHING = frozenset[int]()


class MutationMode(StrEnum):
    """How wrong answers are derived; see the module's text."""

    PAPER = "paper"
    AUTHORS = "authors"
    BALANCED = "balanced"


class Operation(StrEnum):
    """One mutation."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"


OPERATIONS = (Operation.ADD, Operation.REMOVE, Operation.REPLACE)


@dataclass(frozen=True)
class MutationContext:
    """What the mutations of one question may use.

    Attributes:
        correct: the right answer's parts.
        category_parts: parts of any object of the category, sorted.
        query_parts: parts of the object and of the concepts it is compared with, sorted (`authors`); empty for the
            part-whole types, where the authors' code offers none.
        kind: whose right answers the wrong ones must look like (`balanced`); None: nothing is known of them.
    """

    correct: frozenset[int]
    category_parts: tuple[int, ...]
    query_parts: tuple[int, ...]
    kind: AnswerKind | None = None


@dataclass(frozen=True)
class _Start:
    """The right answer (sorted), its parts in any words, and the related parts (sorted) that may be added to it."""

    parts: list[int]
    excluded: frozenset[int]
    related: list[int]


class AnswerMutator:
    """Draws wrong answers.

    Args:
        mode: see the module's text.
        sampler: draws the parts to add.
        synonyms: for every part, the parts that mean the same, itself included.
        models: how right answers are distributed, by kind (`balanced`).
    """

    def __init__(
        self,
        mode: MutationMode,
        sampler: PartSampler,
        synonyms: Sequence[frozenset[int]],
        models: Mapping[AnswerKind, AnswerModel] | None = None,
    ) -> None:
        self._mode = mode
        self._models = models or {}
        self._sampler = sampler
        self._synonyms = synonyms
        self._balanced = BalancedAnswers(synonyms)
        self._num_parts = len(synonyms)
        self._has_synonyms = any(len(group) > 1 for group in synonyms)
        self._max_mutations = AUTHORS_MAX_MUTATIONS if mode is MutationMode.AUTHORS else MAX_MUTATIONS

    @property
    def needs_query_parts(self) -> bool:
        """Whether `MutationContext.query_parts` is used."""
        return self._mode is MutationMode.AUTHORS

    def draw_wrong_answers(self, context: MutationContext, generator: Draws) -> tuple[frozenset[int], ...] | None:
        """Draw four wrong part sets: distinct, not empty, none right or right in other words.

        Returns:
            The sets, or None when one of them was not found in 20 tries.
        """
        if self._mode is MutationMode.BALANCED:
            model = self._find_model(context)
            return self._balanced.draw(context.correct, NUM_WRONG_ANSWERS, model, generator)
        answers = [context.correct]
        start = self._make_start(context)
        for _ in range(NUM_WRONG_ANSWERS):
            answer = self._draw_distinct(start, answers, context, generator)
            if answer is None:
                return None
            answers.append(answer)
        return tuple(answers[1:])

    def _find_model(self, context: MutationContext) -> AnswerModel:
        """The model of the question's kind; without one, all answers of the category's parts are taken to be alike."""
        if context.kind is not None and context.kind in self._models:
            return self._models[context.kind]
        is_enough = len(context.category_parts) >= len(context.correct) + NUM_WRONG_ANSWERS
        return make_flat_model(context.category_parts if is_enough else range(self._num_parts))

    def _make_start(self, context: MutationContext) -> _Start:
        excluded = self._in_any_words(context.correct)
        related = context.query_parts if self._mode is MutationMode.AUTHORS else context.category_parts
        return _Start(sorted(context.correct), excluded, [part for part in related if part not in excluded])

    def _in_any_words(self, parts: frozenset[int]) -> frozenset[int]:
        """The parts and their synonyms."""
        if not self._has_synonyms:
            return parts
        return parts.union(*(self._synonyms[part] for part in parts))

    def _draw_distinct(
        self,
        start: _Start,
        answers: Sequence[frozenset[int]],
        context: MutationContext,
        generator: Draws,
    ) -> frozenset[int] | None:
        for _ in range(NUM_TRIES):
            answer = self._mutate(start, generator)
            if answer and answer not in answers and not self._means_same(answer, context.correct):
                return answer
        return None

    def _mutate(self, start: _Start, generator: Draws) -> frozenset[int]:
        """Apply 1 to 3 mutations; a part touched once is not touched again; an impossible mutation is left out."""
        left, added = start.parts.copy(), list[int]()  # so what was added is never removed
        for _ in range(1 + generator.below(self._max_mutations)):
            operation = OPERATIONS[generator.below(len(OPERATIONS))] if left or added else Operation.ADD
            adds, removes = operation is not Operation.REMOVE, operation is not Operation.ADD
            place = generator.below(len(left)) if removes and left else None
            new = self._draw_added(left, added, start, generator) if adds else None
            if (removes and place is None) or (adds and new is None):
                continue
            if place is not None:
                left.pop(place)
            if new is not None:
                added.append(new)
        return frozenset(left + added)

    def _draw_added(self, left: list[int], added: list[int], start: _Start, generator: Draws) -> int | None:
        """Draw a part that was not touched and is no synonym of a part listed now or at the start.

        The start is the right answer, so no true part is added in other words.
        """
        # What was touched is either of the start or was added to it, so this leaves it out, too.
        more = self._in_any_words(frozenset(added)) if added else NOTHING
        related = [part for part in start.related if part not in more] if added else start.related
        allowed = related
        if self._mode is MutationMode.AUTHORS or not related:
            more |= start.excluded
            allowed = [part for part in range(self._num_parts) if part not in more]
        return self._sampler.sample(left + added, related, allowed, generator) if allowed else None

    def _means_same(self, answer: frozenset[int], correct: frozenset[int]) -> bool:
        """Whether two answers name the same parts, be it in other words."""
        if not self._has_synonyms:
            return answer == correct
        return all(self._synonyms[part] & correct for part in answer) and all(
            self._synonyms[part] & answer for part in correct
        )
