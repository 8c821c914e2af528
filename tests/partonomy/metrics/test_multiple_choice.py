import math

import numpy as np
import pytest

from partonomy.metrics.multiple_choice import (
    DEFAULT_SELECTOR,
    ChoiceSelection,
    LengthAccuracy,
    Selector,
    accuracy_by_length,
    random_baseline,
    select_all,
    select_choice,
)
from partonomy.structures import ChoiceScore

# Three choices whose order differs under each selector:
#            sum    / tokens = mean    conversation: sum / tokens = mean
# 0 short   -4.0      2      -2.0      -30.0            10  -3.0
# 1 long    -9.0      9      -1.0      -34.0            17  -2.0
# 2 medium  -6.0      4      -1.5      -18.0            12  -1.5
SCORES = (
    ChoiceScore(-4.0, 2, -30.0, 10),
    ChoiceScore(-9.0, 9, -34.0, 17),
    ChoiceScore(-6.0, 4, -18.0, 12),
)


def test_selectors_golden() -> None:
    selection = select_all(SCORES)
    assert [selection.index(selector) for selector in Selector] == [0, 1, 2]


def test_a_tie_counts_its_share_under_each_selector() -> None:
    #            sum    / tokens = mean    conversation: sum / tokens = mean
    # 0          -4.0      2      -2.0      -30.0            10  -3.0
    # 1          -4.0      4      -1.0      -34.0            17  -2.0
    # 2          -6.0      6      -1.0      -24.0            12  -2.0
    # 3          -4.0      4      -1.0      -18.0             9  -2.0
    scores = [
        ChoiceScore(-4.0, 2, -30.0, 10),
        ChoiceScore(-4.0, 4, -34.0, 17),
        ChoiceScore(-6.0, 6, -24.0, 12),
        ChoiceScore(-4.0, 4, -18.0, 9),
    ]
    selection = select_all(scores)
    assert [selection.indices(selector) for selector in Selector] == [(0, 1, 3), (1, 2, 3), (1, 2, 3)]
    assert [selection.index(selector) for selector in Selector] == [0, 1, 1]
    assert [selection.credit(selector, correct_index=0) for selector in Selector] == [1 / 3, 0, 0]
    assert [selection.credit(selector, correct_index=3) for selector in Selector] == [1 / 3, 1 / 3, 1 / 3]
    assert select_choice(scores, Selector.SEQUENCE) == 0


def test_a_selection_of_an_earlier_version_counts_its_first_choice() -> None:
    assert ChoiceSelection(0, 1, 1).credit(Selector.SEQUENCE, correct_index=0) == 1
    assert ChoiceSelection(0, 1, 1).credit(Selector.SEQUENCE, correct_index=3) == 0


def test_the_paper_chooses_by_the_probability_of_the_sequence() -> None:
    """Appendix A.1; the accuracies of every table are those of this selector."""
    assert DEFAULT_SELECTOR is Selector.SEQUENCE
    assert select_all(SCORES).index(DEFAULT_SELECTOR) == 0


@pytest.mark.parametrize("broken", [ChoiceScore(math.nan, 1, -1.0, 1), ChoiceScore(-1.0, 0, -1.0, 1)])
def test_unusable_scores_are_errors(broken: ChoiceScore) -> None:
    with pytest.raises(ValueError, match="not usable"):
        select_choice([broken], Selector.SEQUENCE)


def test_random_baseline_golden() -> None:
    # Truth {a, b}; choices {a, b}, {a}, {c}, {a, c}: matched 2, 1, 0, 1 (mean 1); sizes 2, 1, 1, 2 (mean 1.5).
    baseline = random_baseline([[["a", "b"], ["a"], ["c"], ["a", "c"]]], [0])
    assert baseline is not None
    assert baseline.accuracy == 0.25
    assert baseline.precision == pytest.approx(1 / 1.5)
    assert baseline.recall == pytest.approx(1 / 2)
    assert baseline.f1 == pytest.approx(2 * 1 / (1.5 + 2))


def test_random_baseline_of_choices_of_one_size() -> None:
    """As many parts guessed as true: precision, recall and F1 are the same. Matched 2, 1, 0: mean 1 of 2."""
    baseline = random_baseline([[["a", "b"], ["a", "c"], ["c", "d"]]], [0])
    assert baseline is not None
    assert (baseline.precision, baseline.recall, baseline.f1) == (0.5, 0.5, 0.5)


def test_random_baseline_equals_many_guesses() -> None:
    questions = [
        [["a", "b"], ["a"], ["c"], ["a", "c"], ["b", "c", "d"]],
        [["x"], ["x", "y", "z"], ["y"], ["z"], ["x", "z"]],
    ]
    correct = [0, 1]
    baseline = random_baseline(questions, correct)
    assert baseline is not None
    generator = np.random.default_rng(0)
    matched = predicted = true = hits = 0
    num_draws = 20_000
    for guesses in generator.integers(0, 5, (num_draws, 2)):
        for choices, answer, guess in zip(questions, correct, guesses, strict=True):
            matched += len(set(choices[guess]) & set(choices[answer]))
            predicted += len(choices[guess])
            true += len(choices[answer])
            hits += int(guess == answer)
    assert hits / (2 * num_draws) == pytest.approx(baseline.accuracy, abs=0.01)
    assert matched / predicted == pytest.approx(baseline.precision, abs=0.01)
    assert matched / true == pytest.approx(baseline.recall, abs=0.01)


def test_random_baseline_of_no_question_is_none() -> None:
    assert random_baseline([], []) is None


def test_accuracy_by_length() -> None:
    rows = accuracy_by_length([2, 1, 2, 5], [True, False, False, True])
    assert rows == (LengthAccuracy(1, 1, 0), LengthAccuracy(2, 2, 1), LengthAccuracy(5, 1, 1))
    assert [row.accuracy for row in rows] == [0.0, 0.5, 1.0]
