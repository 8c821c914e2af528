"""The draws are NumPy's, number for number: on this the bytes of every built data set rest."""

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


def test_nothing_to_choose_from() -> None:
    for count in (0, -1, 2**32):
        with pytest.raises(ValueError, match="cannot draw one of"):
            Draws(0).below(count)
