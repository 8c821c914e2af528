import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partonomy.metrics.bootstrap import (
    Estimate,
    ImageRatio,
    MeanOfRatios,
    bootstrap_ratios,
    paired_differences,
    resample_ratios,
)


def ratio(numerators: list[float], denominators: list[float], empty: float = 0.0) -> ImageRatio:
    """A metric over images."""
    return ImageRatio(np.array(numerators), np.array(denominators), len(numerators), empty)


def difference(first: ImageRatio, second: ImageRatio, num_resamples: int = 1000) -> Estimate:
    """The paired difference of one metric."""
    return paired_differences((first,), (second,), np.random.default_rng(0), num_resamples)[0]


def test_two_images_by_hand() -> None:
    # Images with IoU 0 and 1. A resample of two holds the second image 0, 1 or 2 times with probability 1/4, 1/2, 1/4,
    # so that the mean is 0, .5 or 1 and the 95% interval reaches from 0 to 1.
    samples = resample_ratios([ratio([0, 1], [1, 1])], np.random.default_rng(0), 4000)[:, 0]
    values, counts = np.unique(samples, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert (counts / 4000).tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    (estimate,) = bootstrap_ratios([ratio([0, 1], [1, 1])], np.random.default_rng(0))
    assert (estimate.value, estimate.low, estimate.high, estimate.count) == (0.5, 0.0, 1.0, 2)


def test_ratio_of_sums_weighs_images_by_their_masks() -> None:
    # 3 masks with IoU sum 3 and 1 mask with IoU 0: micro 3/4. Resamples: 0/2, 3/4, 6/6.
    samples = resample_ratios([ratio([3, 0], [3, 1])], np.random.default_rng(1), 500)[:, 0]
    assert sorted(set(samples.tolist())) == [0.0, 0.75, 1.0]


def test_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(2).normal(0.5, 0.1, 400)
    (estimate,) = bootstrap_ratios(
        [ImageRatio(values, np.ones(400), 400)], np.random.default_rng(0), num_resamples=4000
    )
    half_width = 1.96 * values.std() / 20
    assert estimate.low == pytest.approx(values.mean() - half_width, abs=1e-3)
    assert estimate.high == pytest.approx(values.mean() + half_width, abs=1e-3)


def test_constant_metric_has_a_point_interval() -> None:
    (estimate,) = bootstrap_ratios([ratio([1, 1, 1], [1, 1, 1])], np.random.default_rng(0))
    assert (estimate.low, estimate.high) == (1.0, 1.0)


def test_nothing_counted_is_none() -> None:
    nothing = ImageRatio(np.zeros(3), np.zeros(3), 0)
    estimates = bootstrap_ratios([nothing, ratio([1, 0, 1], [1, 1, 1])], np.random.default_rng(0))
    assert (estimates[0].value, estimates[0].low, estimates[0].high, estimates[0].count) == (None, None, None, 0)
    assert estimates[1].value == pytest.approx(2 / 3)
    assert bootstrap_ratios([ImageRatio(np.zeros(0), np.zeros(0), 0)], np.random.default_rng(0))[0].value is None


def test_resample_without_denominator_takes_the_empty_value() -> None:
    samples = resample_ratios([ratio([1, 0], [1, 0], empty=1.0)], np.random.default_rng(0), 200)
    assert set(samples.ravel().tolist()) == {1.0}
    assert ratio([0, 0], [0, 0], empty=1.0).value == 1.0


def test_same_seed_same_interval() -> None:
    metric = ratio([0.2, 0.9, 0.4, 0.1], [1, 1, 1, 1])
    first, second = (bootstrap_ratios([metric], np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_paired_difference_of_equal_gains_has_no_width() -> None:
    # Every image gains exactly .1, so each resample does, though the images themselves differ widely.
    base = np.array([0.1, 0.9, 0.3, 0.5, 0.0])
    first, second = ImageRatio(base + 0.1, np.ones(5), 5), ImageRatio(base, np.ones(5), 5)
    gain = difference(first, second)
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))


def test_paired_difference_needs_the_same_images() -> None:
    with pytest.raises(ValueError, match="not the same ones"):
        difference(ratio([1], [1]), ratio([1, 1], [1, 1]))


def test_paired_differences_share_their_resamples() -> None:
    draws = np.random.default_rng(3).random((4, 20))
    first, second, third, fourth = (ImageRatio(values, np.ones(20), 20) for values in draws)
    nothing = ImageRatio(np.zeros(20), np.zeros(20), 0)
    together = paired_differences((first, third, first), (second, fourth, nothing), np.random.default_rng(0))
    # Alone or together, the same generator draws the same images for a metric. (The sums' last bit depends on the CPU:
    # its matrix product of one column may add in another order than that of three.)
    for found, alone in zip(together[:2], (difference(first, second), difference(third, fourth)), strict=True):
        assert (found.value, found.low, found.high) == pytest.approx((alone.value, alone.low, alone.high), abs=1e-12)
    assert together[2] == Estimate(None, None, None, 0)
    assert paired_differences((), (), np.random.default_rng(0)) == ()


@settings(deadline=None)  # a busy machine takes long over any example
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
def test_a_paired_difference_changes_its_sign_with_the_order(pairs: list[tuple[float, float]]) -> None:
    first, second = (ratio([pair[side] for pair in pairs], [1.0] * len(pairs)) for side in (0, 1))
    there = difference(first, second, 50)
    back = difference(second, first, 50)
    assert there.value is not None
    assert back.value == pytest.approx(-there.value, abs=1e-12)
    assert (back.low, back.high) == pytest.approx((-(there.high or 0.0), -(there.low or 0.0)), abs=1e-12)
    same = difference(first, first, 50)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_means_of_ratios_are_compared_from_the_resamples_of_their_parts() -> None:
    parts = (ratio([1, 0, 1], [1, 1, 1]), ratio([0, 2, 0], [1, 2, 0]))
    others = (ratio([0, 0, 1], [1, 1, 1]), ratio([1, 1, 0], [1, 2, 0]))
    first, second = MeanOfRatios(parts, 6), MeanOfRatios(others, 6)
    found = paired_differences((parts[0], first), (others[0], second), np.random.default_rng(3))
    # The mean of the parts' values: (2/3 + 2/3) / 2 and (1/3 + 2/3) / 2.
    assert found[1].value == pytest.approx(2 / 3 - 1 / 2)
    samples = resample_ratios((parts[0], *parts, others[0], *others), np.random.default_rng(3), 1000)
    by_hand = samples[:, 1:3].mean(axis=1) - samples[:, 4:6].mean(axis=1)
    assert (found[1].low, found[1].high) == tuple(np.percentile(by_hand, (2.5, 97.5)))
    assert found[0] == paired_differences(parts[:1], others[:1], np.random.default_rng(3))[0], "no other resamples"
    assert [one.count for one in found] == [3, 3]
    nothing = MeanOfRatios((), 0)
    assert paired_differences((nothing,), (nothing,), np.random.default_rng(0)) == (Estimate(None, None, None, 0),)
    with pytest.raises(ValueError, match="the runs cover 2 and 3 images"):
        paired_differences((first,), (ratio([1, 1], [1, 1]),), np.random.default_rng(0))
