"""Wrong answers: distinct, wrong, a few mutations away, and central or not by mode."""

from collections import Counter

import numpy as np
import pytest

from partonomy.questions.answer_mutator import AnswerMutator, MutationContext, MutationMode
from partonomy.questions.balanced_answers import draw_tree
from partonomy.questions.draws import Draws
from partonomy.questions.part_sampler import PartSampler

NUM_PARTS = 14
CORRECT = frozenset({0, 1, 2, 3})
CATEGORY = tuple(range(9))
QUERY = (0, 1, 2, 3, 10, 11)


def make_mutator(mode: MutationMode, synonyms: dict[int, frozenset[int]] | None = None) -> AnswerMutator:
    groups = [(synonyms or {}).get(part, frozenset({part})) for part in range(NUM_PARTS)]
    return AnswerMutator(mode, PartSampler(np.zeros((NUM_PARTS, NUM_PARTS)), np.zeros(NUM_PARTS)), groups)


def draw_many(mode: MutationMode, num_draws: int = 400) -> list[tuple[frozenset[int], ...]]:
    mutator, generator = make_mutator(mode), Draws(0)
    context = MutationContext(CORRECT, CATEGORY, QUERY)
    drawn = [mutator.draw_wrong_answers(context, generator) for _ in range(num_draws)]
    return [answers for answers in drawn if answers is not None]


@pytest.mark.parametrize("mode", list(MutationMode))
def test_answers_are_four_distinct_wrong_sets(mode: MutationMode) -> None:
    drawn = draw_many(mode)
    assert len(drawn) == 400
    for answers in drawn:
        assert len({CORRECT, *answers}) == 5
        assert all(answers)


def test_paper_mutates_the_right_answer_once_to_three_times_within_the_category() -> None:
    changes: Counter[tuple[int, int]] = Counter()
    for answers in draw_many(MutationMode.PAPER):
        for answer in answers:
            assert answer <= set(CATEGORY)
            changes[len(CORRECT - answer), len(answer - CORRECT)] += 1
    # (removed, added): at most three of each and at least one change; three replacements occur.
    assert all(removed <= 3 and added <= 3 and removed + added > 0 for removed, added in changes)
    assert changes[3, 3] > 0
    # One mutation is as likely an addition as a removal.
    assert changes[0, 1] == pytest.approx(changes[1, 0], rel=0.25)


def test_authors_mutate_at_most_twice_and_use_the_query_s_parts() -> None:
    added: Counter[int] = Counter()
    for answers in draw_many(MutationMode.AUTHORS):
        for answer in answers:
            assert len(CORRECT - answer) <= 2
            assert len(answer - CORRECT) <= 2
            added.update(answer - CORRECT)
    share = (added[10] + added[11]) / sum(added.values())
    assert share > 0.75  # 0.9 from the two related parts, 0.1 from all; less where one is used up
    assert any(added[part] for part in (4, 5, 6, 7, 8, 9, 12, 13))


def blind_accuracy(mode: MutationMode) -> float:
    """How often the choice nearest to all others (symmetric difference) is the right one; ties count by share."""
    hits = []
    for answers in draw_many(mode):
        choices = [CORRECT, *answers]
        distances = [sum(len(one ^ other) for other in choices) for one in choices]
        hits.append((distances[0] == min(distances)) / distances.count(min(distances)))
    return float(np.mean(hits))


def test_balanced_answers_give_no_centre_away() -> None:
    assert blind_accuracy(MutationMode.PAPER) > 0.6
    assert blind_accuracy(MutationMode.BALANCED) < 0.3  # chance: 0.2


def test_no_true_part_is_added_in_other_words() -> None:
    synonyms = {0: frozenset({0, 4}), 4: frozenset({0, 4})}
    mutator, generator = make_mutator(MutationMode.PAPER, synonyms), Draws(0)
    for _ in range(200):
        answers = mutator.draw_wrong_answers(MutationContext(CORRECT, CATEGORY, QUERY), generator)
        assert answers is not None
        assert not any(4 in answer for answer in answers)


def test_balanced_answers_are_never_right_in_other_words() -> None:
    synonyms = {0: frozenset({0, 4}), 4: frozenset({0, 4})}
    mutator, generator = make_mutator(MutationMode.BALANCED, synonyms), Draws(0)
    for _ in range(300):
        answers = mutator.draw_wrong_answers(MutationContext(frozenset({0, 1}), (0, 1, 4, 5), ()), generator)
        assert answers is None or frozenset({4, 1}) not in answers


def test_without_related_parts_all_parts_are_candidates() -> None:
    mutator = make_mutator(MutationMode.PAPER)
    answers = mutator.draw_wrong_answers(MutationContext(frozenset({0}), (0,), ()), Draws(0))
    assert answers is not None
    assert len(set(answers)) == 4


def test_too_small_a_vocabulary_gives_up() -> None:
    # Two parts have three non-empty subsets: one right and two wrong ones, four are needed.
    mutator = AnswerMutator(
        MutationMode.PAPER, PartSampler(np.zeros((2, 2)), np.zeros(2)), [frozenset({0}), frozenset({1})]
    )
    assert mutator.draw_wrong_answers(MutationContext(frozenset({0}), (0, 1), ()), Draws(0)) is None


def test_trees_are_uniform_and_ordered() -> None:
    # Cayley: 4^2 = 16 labelled trees on 4 nodes, 4 of them stars, 1 of these centred on node 0.
    generator = Draws(0)
    trees = [draw_tree(4, generator) for _ in range(8000)]
    assert all(parent <= child for tree in trees for child, parent in enumerate(tree))
    assert sum(tree == (0, 0, 0) for tree in trees) / len(trees) == pytest.approx(1 / 16, abs=0.012)
    assert sum(tree == (0, 1, 1) for tree in trees) / len(trees) == pytest.approx(3 / 16, abs=0.02)
