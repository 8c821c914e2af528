"""Draws wrong answers: part sets a few mutations away from the right one (paper, section 3.2).

Parts are indices into the sorted vocabulary, so that sorted indices are sorted labels. There are three modes:
- `paper`: 1 to 3 mutations of the right answer; added parts come from the object's category. If it has none, they come
  from the object itself and the objects that it is compared with.
- `authors`: the draws of the authors' public code: 1 or 2 mutations (its upper bound of 3 is exclusive). The uniform
  share of added parts comes from the object and the concepts that it is compared with (paper: from the same category),
  the predicted share from all parts. Only the parts of the right answer, under any of their names, are never added.
  Two details differ here: that code may compare an object with its own class, and it inserts added parts at random
  positions (here parts are always sorted).
- `balanced`: no choice stands out. In the other modes, the right answer is the centre of the choices and lists more
  frequent parts, which a blind guess can exploit (the paper admits the former); `python -m partonomy blind` measures
  it. In this mode, wrong answers are also mutated from wrong ones, by steps that preserve the distribution of the
  class's right answers (`answer_model`), the compared objects are drawn so that right answers spread out
  (`right_answers`), and of several sets of wrong answers one is drawn that gives little away (`hints`). Wrong answers
  mostly list parts that the object's class has. A class whose parts are mostly all visible still favours the guess
  that they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from partonomy.questions.answer_model import AnswerKind, AnswerModel, make_flat_model
from partonomy.questions.balanced_answers import BalancedAnswers
from partonomy.questions.draws import Draws
from partonomy.questions.hints import Listable, PartWords
from partonomy.questions.part_sampler import PartSampler

NUM_WRONG_ANSWERS = 4
NUM_TRIES = 20
MAX_MUTATIONS = 3
AUTHORS_MAX_MUTATIONS = 2
NOTHING = frozenset[int]()


class MutationMode(StrEnum):
    """The method of deriving wrong answers; see the module's docstring."""

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
    """The information that the mutations of one question may use.

    Attributes:
        correct: the right answer's parts.
        category_parts: parts of any object of the category, sorted; without a category, those of the object and of the
            objects that it is compared with.
        query_parts: parts of the object and of the concepts that it is compared with, sorted (`authors`); empty for the
            part-whole types, for which the authors' code offers none.
        kind: the kind whose right answers the wrong ones must resemble (`balanced`); None if nothing is known of them.
        listable: the parts that wrong answers may list (`balanced`); None for all of the kind's.
    """

    correct: frozenset[int]
    category_parts: tuple[int, ...]
    query_parts: tuple[int, ...]
    kind: AnswerKind | None = None
    listable: Listable | None = None


@dataclass(frozen=True)
class _Start:
    """The right answer (sorted), its parts and their synonyms, and the related parts (sorted) that may be added."""

    parts: list[int]
    excluded: frozenset[int]
    related: list[int]


class AnswerMutator:
    """Draws wrong answers.

    Args:
        mode: see the module's docstring.
        sampler: draws the parts to add.
        synonyms: for every part, the parts that mean the same, including itself.
        models: the distribution of right answers, by kind (`balanced`).
        words: the length of the parts' names (`balanced`).
    """

    def __init__(
        self,
        mode: MutationMode,
        sampler: PartSampler,
        synonyms: Sequence[frozenset[int]],
        models: Mapping[AnswerKind, AnswerModel] | None = None,
        words: PartWords | None = None,
    ) -> None:
        self._mode = mode
        self._models = models or {}
        self._sampler = sampler
        self._synonyms = synonyms
        self._balanced = BalancedAnswers(synonyms, words)
        self._num_parts = len(synonyms)
        self._has_synonyms = any(len(group) > 1 for group in synonyms)
        self._max_mutations = AUTHORS_MAX_MUTATIONS if mode is MutationMode.AUTHORS else MAX_MUTATIONS

    def draw_wrong_answers(self, context: MutationContext, generator: Draws) -> tuple[frozenset[int], ...] | None:
        """Draw four distinct, non-empty wrong part sets, none of which means the same as the right answer.

        Returns:
            The sets, or None if one of them was not found in 20 tries.
        """
        if self._mode is MutationMode.BALANCED:
            model = self._models.get(context.kind) if context.kind is not None else None
            if model is None:  # no image of the category offers an answer
                return self._balanced.draw(context.correct, NUM_WRONG_ANSWERS, self._flat_model(context), generator)
            return self._balanced.draw(context.correct, NUM_WRONG_ANSWERS, model, generator, context.listable)
        answers = [context.correct]
        start = self._make_start(context)
        for _ in range(NUM_WRONG_ANSWERS):
            answer = self._draw_distinct(start, answers, context, generator)
            if answer is None:
                return None
            answers.append(answer)
        return tuple(answers[1:])

    def _flat_model(self, context: MutationContext) -> AnswerModel:
        """Return a flat model of the category's parts."""
        is_enough = len(context.category_parts) >= len(context.correct) + NUM_WRONG_ANSWERS
        return make_flat_model(context.category_parts if is_enough else range(self._num_parts))

    def _make_start(self, context: MutationContext) -> _Start:
        excluded = self._in_any_words(context.correct)
        related = context.query_parts if self._mode is MutationMode.AUTHORS else context.category_parts
        return _Start(sorted(context.correct), excluded, [part for part in related if part not in excluded])

    def _in_any_words(self, parts: frozenset[int]) -> frozenset[int]:
        """Return the parts and their synonyms."""
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
        """Apply the mode's number of mutations; no part is changed twice, and impossible mutations are skipped."""
        left, added = start.parts.copy(), list[int]()  # kept apart so that an added part is never removed
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
        """Draw an unchanged part that is not a synonym of a part listed now or at the start.

        The start is the right answer, so no true part is added under another name.
        """
        # Every changed part was in the start or was added to it, so this also excludes changed parts.
        more = self._in_any_words(frozenset(added)) if added else NOTHING
        related = [part for part in start.related if part not in more] if added else start.related
        allowed = related
        if self._mode is MutationMode.AUTHORS or not related:
            more |= start.excluded
            allowed = [part for part in range(self._num_parts) if part not in more]
        return self._sampler.sample(left + added, related, allowed, generator) if allowed else None

    def _means_same(self, answer: frozenset[int], correct: frozenset[int]) -> bool:
        """Return whether two answers name the same parts, possibly under other names."""
        if not self._has_synonyms:
            return answer == correct
        return all(self._synonyms[part] & correct for part in answer) and all(
            self._synonyms[part] & answer for part in correct
        )
