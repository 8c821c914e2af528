"""Wrong answers of `balanced`: distinct in meaning, and right answers of other questions where there are few."""

from dataclasses import replace

from partonomy.questions.answer_model import make_answer_model, make_flat_model
from partonomy.questions.balanced_answers import BalancedAnswers
from partonomy.questions.draws import Draws
from partonomy.questions.hints import Listable

EXACT = [frozenset({part}) for part in range(8)]
# 0 and 4 are one part in two words, 5 and 6 another.
TWINS = {0: {0, 4}, 4: {0, 4}, 5: {5, 6}, 6: {5, 6}}
SYNONYMS = [frozenset(TWINS.get(part, {part})) for part in range(8)]
CORRECT = frozenset({0, 1})


def test_no_true_part_and_no_part_twice_in_other_words() -> None:
    model, generator = make_flat_model(range(8)), Draws(0)
    listed: set[int] = set()
    for _ in range(300):
        answers = BalancedAnswers(SYNONYMS).draw(CORRECT, 4, model, generator)
        assert answers is not None
        meanings = {frozenset(min(SYNONYMS[part]) for part in answer) for answer in (CORRECT, *answers)}
        assert len(meanings) == 5, "no two mean the same"
        for answer in answers:
            assert 4 not in answer
            assert not {5, 6} <= answer
            listed |= answer
    assert listed == {0, 1, 2, 3, 5, 6, 7}, "true parts come back from wrong answers"


def test_of_few_right_answers_the_others_are_wrong() -> None:
    few = {frozenset({part}): 0.2 for part in range(1, 6)} | {frozenset({0, 1}): 0.1}
    model = replace(make_flat_model(range(8)), few=few)
    generator = Draws(0)
    for _ in range(50):
        answers = BalancedAnswers(EXACT).draw(CORRECT, 4, model, generator)
        assert answers is not None
        assert len(set(answers)) == 4
        assert set(answers) <= set(few) - {CORRECT}
    # 4 is 0 in other words: {1}, {2}, {3} and {5} are left.
    assert set(BalancedAnswers(SYNONYMS).draw(CORRECT, 4, model, generator) or ()) == {
        frozenset({part}) for part in (1, 2, 3, 5)
    }


def test_too_few_of_them_are_not_enough() -> None:
    model = replace(make_flat_model(range(8)), few={CORRECT: 0.5, frozenset({2}): 0.5})
    answers = BalancedAnswers(EXACT).draw(CORRECT, 4, model, Draws(0))
    assert answers is not None
    assert len({CORRECT, *answers}) == 5


def test_too_small_a_vocabulary_gives_up() -> None:
    # Two parts have three non-empty subsets: one right and two wrong ones, four are needed.
    assert BalancedAnswers(EXACT).draw(frozenset({0}), 4, make_flat_model(range(2)), Draws(0)) is None


def test_a_class_of_single_parts_still_gets_wrong_answers() -> None:
    """Right answers of one part each: four such sets exist, so one wrong answer must be of another size."""
    model = make_answer_model(dict.fromkeys(range(4), 0.25), [1.0, 1e-9, 1e-9, 1e-9])
    listable = Listable(parts=(0, 1, 2, 3), more=(0, 1, 2, 3), own=frozenset(range(4)))
    for seed in range(20):
        answers = BalancedAnswers(EXACT).draw(frozenset({0}), 4, model, Draws(seed), listable)
        assert answers is not None
        assert len({frozenset({0}), *answers}) == 5
