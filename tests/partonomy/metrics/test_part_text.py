import pytest
from sklearn.metrics import precision_recall_fscore_support

from partonomy.metrics.part_text import PartTextStatistics, failed_statistics, part_text_statistics


def test_golden_over_two_questions() -> None:
    # Question 1: chose {wing, wheel, door} for {wing, wheel}: 2 matched, 3 predicted, 2 true.
    # Question 2: chose {hull} for {mast, sail}: 0 matched, 1 predicted, 2 true. Sums: 2, 4, 4.
    total = part_text_statistics(["wing", "wheel", "door"], ["wing", "wheel"]) + part_text_statistics(
        ["hull"], ["mast", "sail"]
    )
    assert total == PartTextStatistics(2, 4, 4)
    assert (total.precision, total.recall, total.f1) == (0.5, 0.5, 0.5)


def test_names_are_stripped_lowered_and_counted_once() -> None:
    assert part_text_statistics([" Tail Fin", "tail fin "], ["tail fin"]) == PartTextStatistics(1, 1, 1)


def test_limits() -> None:
    assert part_text_statistics(["a"], ["a"]).f1 == 1.0
    assert part_text_statistics(["a"], ["b"]).f1 == 0.0
    nothing = part_text_statistics([], ["b"])
    assert (nothing.precision, nothing.recall, nothing.f1) == (0.0, 0.0, 0.0)
    assert PartTextStatistics().f1 == 0.0


def test_failure_lowers_precision_and_recall() -> None:
    total = part_text_statistics(["a", "b"], ["a", "b"]) + failed_statistics(["c", "d"])
    assert (total.precision, total.recall) == (0.5, 0.5)


def test_equals_scikit_learn_micro_average() -> None:
    names = ("a", "b", "c", "d")
    predicted = [{"a", "b"}, {"c"}, {"a", "b", "c", "d"}]
    true = [{"a"}, {"c", "d"}, {"d", "b"}]
    total = PartTextStatistics()
    for chosen, truth in zip(predicted, true, strict=True):
        total = total + part_text_statistics(chosen, truth)
    flags_predicted = [[int(name in chosen) for name in names] for chosen in predicted]
    flags_true = [[int(name in truth) for name in names] for truth in true]
    precision, recall, f1, _ = precision_recall_fscore_support(flags_true, flags_predicted, average="micro")
    assert (total.precision, total.recall, total.f1) == pytest.approx((precision, recall, f1))
