"""The walk of `balanced`: reversible with respect to the distribution it is made for."""

from collections import Counter
from itertools import combinations
from math import prod

import pytest

from partonomy.questions.answer_model import AnswerModel, draw_place, make_answer_model, make_flat_model
from partonomy.questions.draws import Draws

SHARES = {0: 0.8, 1: 0.5, 2: 0.3, 4: 0.1}
SIZE_WEIGHTS = (0.4, 0.3, 0.2, 0.1)
SETS = [frozenset(chosen) for size in range(1, 5) for chosen in combinations(SHARES, size)]


def target() -> dict[frozenset[int], float]:
    """Pi by its definition: sizes as given, sets of one size by the product of their parts' odds."""
    odds = {part: share / (1 - share) for part, share in SHARES.items()}
    products = {chosen: prod(odds[part] for part in chosen) for chosen in SETS}
    totals: Counter[int] = Counter()
    for chosen, product in products.items():
        totals[len(chosen)] += product  # type: ignore[assignment]
    return {chosen: SIZE_WEIGHTS[len(chosen) - 1] * products[chosen] / totals[len(chosen)] for chosen in SETS}


def rate(model: AnswerModel, before: frozenset[int], after: frozenset[int]) -> float:
    """Rate of a step, 0 between sets that are more than one step apart."""
    added, removed = after - before, before - after
    if len(added) > 1 or len(removed) > 1 or before == after:
        return 0.0
    weight = prod(model.root_odds[part] for part in added) / prod(model.root_odds[part] for part in removed)
    table = model.swap if added and removed else model.up if added else model.down
    return table[len(before)] * weight


def test_target_is_a_distribution() -> None:
    assert sum(target().values()) == pytest.approx(1.0)


def test_steps_are_in_detailed_balance() -> None:
    model, pi = make_answer_model(SHARES, SIZE_WEIGHTS), target()
    num_checked = 0
    for before in SETS:
        for after in SETS:
            there, back = rate(model, before, after), rate(model, after, before)
            assert (there > 0) == (back > 0)
            assert pi[before] * there == pytest.approx(pi[after] * back)
            num_checked += there > 0
    assert num_checked > 60


def test_step_draws_by_its_rates() -> None:
    model, generator = make_answer_model(SHARES, SIZE_WEIGHTS), Draws(0)
    start = frozenset({0, 2})
    rates = {after: rate(model, start, after) for after in SETS}
    drawn = Counter(model.step(start, [1, 4], generator) for _ in range(20_000))
    for after, expected in rates.items():
        assert drawn[after] / 20_000 == pytest.approx(expected / sum(rates.values()), abs=0.012)


def test_a_flat_model_adds_removes_and_replaces_alike() -> None:
    # All odds are 1: from s of N parts a step adds, removes or replaces with probability 1/3 each (paper, appendix B).
    model = make_flat_model(range(9))
    drawn = Counter(len(model.step(frozenset({0, 1, 2}), range(3, 9), Draws(seed))) for seed in range(6000))
    assert [drawn[size] / 6000 for size in (2, 3, 4)] == pytest.approx([1 / 3] * 3, abs=0.025)


def test_a_set_is_never_emptied() -> None:
    model, generator = make_flat_model(range(3)), Draws(0)
    assert all(model.step(frozenset({0}), [1, 2], generator) for _ in range(300))


def test_nowhere_to_go() -> None:
    model = make_flat_model(range(3))
    assert model.step(frozenset({0}), [], Draws(0)) == {0}


def test_draw_place_follows_the_increments() -> None:
    generator = Draws(0)
    drawn = Counter(draw_place([1.0, 1.0, 4.0], generator) for _ in range(4000))
    assert drawn[1] == 0
    assert drawn[2] / 4000 == pytest.approx(0.75, abs=0.025)
