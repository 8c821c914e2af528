"""The draws are NumPy's, number for number (the lazy order apart): on them the bytes of every built data set rest."""

from collections import Counter

import numpy as np
import pytest

from partonomy.questions.draws import Draws

ENTROPIES = (0, 7, [0, 3, 91], [2, 2**40, 2**32 - 1], [2**70])


@pytest.mark.parametrize("entropy", ENTROPIES, ids=str)
def test_draws_are_those_of_numpy(entropy: int | list[int]) -> None:
    ours, numpys, dice = Draws(entropy), np.random.default_rng(entropy), np.random.default_rng(1)
    for _ in range(3000):
        kind, count = int(dice.integers(3)), int(dice.integers(1, 100))
        if kind == 0:
            assert ours.random() == numpys.random()
        elif kind == 1:
            assert ours.below(count) == numpys.integers(count)
        else:
            assert ours.permutation(count - 1) == numpys.permutation(count - 1).tolist()


def test_numbers_that_are_drawn_again_are_drawn_again() -> None:
    """Of 3 * 2^30 numbers one quarter of 32 bits is refused; of 2^31 + 1 nearly half."""
    for count in (3 * 2**30, 2**31 + 1, 2**32 - 1):
        ours, numpys = Draws(count), np.random.default_rng(count)
        assert [ours.below(count) for _ in range(500)] == [int(numpys.integers(count)) for _ in range(500)]
        assert ours.random() == numpys.random()


def test_half_a_word_of_zeros_is_used_like_any_other() -> None:
    """A word gives two draws, of its lower and its upper 32 bits, here 5 and 0; NumPy keeps an upper half of 0, too."""
    ours = Draws(0)
    ours._words = [9, 5]  # the last one is next
    # Place 2 of 0, 1, 2: 5 & 3 = 1, swapped with 1. Place 1 of 0, 2, 1: 0 & 1 = 0, swapped with 0.
    assert ours.permutation(3) == [2, 0, 1]
    assert ours._words == [9]
    ours._words = [9, 5]
    assert [ours.below(2**31), ours.below(2**31)] == [2, 0]  # 5 * 2^31 / 2^32 = 2.5
    assert ours._words == [9]


def test_nothing_to_choose_from() -> None:
    for count in (0, -1, 2**32):
        with pytest.raises(ValueError, match="cannot draw one of"):
            Draws(0).below(count)


def test_a_lazy_order_lists_each_number_once_and_draws_no_more_than_is_asked_for() -> None:
    assert sorted(Draws(3).in_random_order(9)) == list(range(9))
    assert list(Draws(0).in_random_order(0)) == []
    ours, same = Draws(5), Draws(5)
    assert next(ours.in_random_order(9)) == same.below(9)
    assert ours.random() == same.random()


def test_all_lazy_orders_are_as_likely() -> None:
    """6 orders of 3 numbers in 6,000 tries: 1,000 each, give or take four standard deviations of 29."""
    generator = Draws(1)
    counts = Counter(tuple(generator.in_random_order(3)) for _ in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 4 * 29 for count in counts.values())
