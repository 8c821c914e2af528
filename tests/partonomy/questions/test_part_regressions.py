"""The regressions behind the part sampler: scikit-learn's optimum, found from distinct part sets."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from partonomy.questions.part_sampler import TEMPERATURE, fit_part_regressions, fit_part_sampler

NUM_PARTS = 30


def draw_part_sets(num_instances: int = 3000) -> list[frozenset[int]]:
    """Six kinds of object with up to nine parts each, shared between kinds; one part is always there, one never."""
    generator = np.random.default_rng(3)
    kinds = [generator.choice(NUM_PARTS - 2, size=size, replace=False) for size in (3, 4, 5, 6, 7, 9)]
    chances = [generator.beta(4.0, 1.0, len(kind)) for kind in kinds]
    part_sets = []
    for number in generator.integers(len(kinds), size=num_instances):
        visible = kinds[number][generator.random(len(kinds[number])) < chances[number]]
        part_sets.append(frozenset([*visible.tolist(), NUM_PARTS - 2]))
    return part_sets


def fit_every_row(part_sets: list[frozenset[int]]) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn on one row per instance, as the paper fits: weights with a zero diagonal, biases."""
    rows = np.array([[part in part_set for part in range(NUM_PARTS)] for part_set in part_sets], dtype=float)
    weights, biases = np.zeros((NUM_PARTS, NUM_PARTS)), np.zeros(NUM_PARTS)
    for part in range(NUM_PARTS):
        if rows[:, part].min() < rows[:, part].max():
            reference = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10)
            reference.fit(np.delete(rows, part, axis=1), rows[:, part])
            weights[:, part] = np.insert(reference.coef_[0], part, 0.0)
            biases[part] = reference.intercept_[0]
    return weights, biases


def test_coefficients_and_sampled_distribution_equal_scikit_learn_on_every_row() -> None:
    part_sets = draw_part_sets()
    assert len(set(part_sets)) < len(part_sets) / 5
    weights, biases = fit_every_row(part_sets)
    sampler = fit_part_sampler(part_sets, NUM_PARTS)
    np.testing.assert_allclose(sampler.weights, weights, atol=1e-5)
    np.testing.assert_allclose(sampler.biases, biases, atol=1e-5)
    assert np.abs(weights).max() > 1.0
    everything = range(NUM_PARTS)
    for present in sorted(set(part_sets), key=sorted)[::10]:
        logits = (weights[sorted(present)].sum(axis=0) + biases) / TEMPERATURE
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(sampler.predicted_chances(present, everything), expected, atol=1e-5)
        allowed = [part for part in everything if part not in present]
        chances = sampler.predicted_chances(present, allowed)
        np.testing.assert_allclose(chances, expected[allowed] / expected[allowed].sum(), atol=1e-5)


def test_a_part_that_all_or_none_have_has_the_logit_zero() -> None:
    fitted = fit_part_regressions(draw_part_sets(), NUM_PARTS)
    for part in (NUM_PARTS - 2, NUM_PARTS - 1):
        assert fitted.biases[part] == 0.0
        assert not fitted.weights[:, part].any()
    assert not np.diag(fitted.weights).any()


def test_the_optimum_of_two_parts_by_hand() -> None:
    # Part 1 given part 0. Of 40 instances with part 0, 30 have part 1; of 40 without, 10 (they have part 2).
    # Stationary: 40 s(b) + 40 s(b + w) = 40 (bias, not penalised) and 40 s(b + w) - 30 = -w (weight), so b = -w / 2 and
    # 40 s(w / 2) = 30 - w. At w = 1.8: 40 s(0.9) = 28.438 > 28.2; at w = 1.7: 40 s(0.85) = 28.023 < 28.3. Between them:
    # w = 1.754: 40 s(0.877) = 28.248, 30 - w = 28.246.
    part_sets = [*[frozenset({0, 1})] * 30, *[frozenset({0})] * 10, *[frozenset({1})] * 10, *[frozenset()] * 30]
    fitted = fit_part_regressions(part_sets, 2)
    assert fitted.weights[0, 1] == pytest.approx(1.754, abs=1e-3)
    assert fitted.biases[1] == pytest.approx(-0.877, abs=1e-3)
    # The table is symmetric, so part 0 given part 1 has the same optimum.
    assert fitted.weights[1, 0] == pytest.approx(fitted.weights[0, 1], abs=1e-9)


def test_parts_that_never_or_always_meet_stay_finite() -> None:
    # Perfectly separable: only the penalty keeps the weights finite.
    part_sets = [frozenset({0, 1})] * 20_000 + [frozenset({2})] * 20_000
    fitted = fit_part_regressions(part_sets, 3)
    assert np.isfinite(fitted.weights).all()
    assert fitted.weights[0, 1] > 3 > -3 > fitted.weights[2, 1]
