"""Estimates by hand: Student-t intervals over seeds or over draws."""

import math

import numpy as np
import pytest

from bayesft.evaluation.statistics import Estimate, estimate, holm, p_value, paired

# Quantiles of Student's t from a table: 97.5 % with 2 and 3 degrees of freedom, 95 % with 2.
T2, T3, T2_90 = 4.302653, 3.182446, 2.919986


def assert_is(found: Estimate, mean: float, half_width: float, over: str, count: int):
    assert found.mean == pytest.approx(mean, rel=1e-6, abs=1e-12)
    assert found.half_width == pytest.approx(half_width, rel=1e-6, abs=1e-12)
    assert (found.over, found.count) == (over, count)
    assert found.low == pytest.approx(mean - half_width) and found.high == pytest.approx(mean + half_width)


def test_several_seeds_give_an_interval_over_the_means_of_their_draws():
    # The means over draws are 1, 2, 3; the draws differ far more than the seeds do, which must not matter.
    assert_is(estimate([[-9, 11], [2, 2], [103, -97]]), 2, T2 * 1 / math.sqrt(3), "seeds", 3)


def test_one_seed_gives_an_interval_over_its_draws():
    assert_is(estimate([[1, 2, 3, 4]]), 2.5, T3 * math.sqrt(5 / 3) / 2, "draws", 4)


def test_the_confidence_can_be_chosen():
    assert_is(estimate([[1], [2], [3]], confidence=0.9), 2, T2_90 / math.sqrt(3), "seeds", 3)


def test_equal_values_have_no_width():
    assert_is(estimate(np.full((2, 5), 0.25)), 0.25, 0, "seeds", 2)


def test_a_single_value_has_no_interval():
    found = estimate([[0.75]])
    assert (found.mean, found.over, found.count) == (0.75, "draws", 1)
    assert math.isnan(found.half_width) and math.isnan(found.low) and math.isnan(found.high)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    found = [estimate(random.normal(3, 2, (1, 5)), confidence=0.8) for _ in range(1500)]
    covered = sum(e.low <= 3 <= e.high for e in found) / len(found)
    assert abs(covered - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 1500)


@pytest.mark.parametrize("values", [[], [[]], [1.0, 2.0], 1.0, np.zeros((0, 3)), np.zeros((2, 0)), np.zeros((2, 2, 2))])
def test_other_shapes_are_refused(values):
    with pytest.raises(ValueError, match="need \\(seeds, draws\\)"):
        estimate(values)
    with pytest.raises(ValueError, match="need \\(seeds, draws\\)"):
        paired(values, values)


def test_paired_over_seeds_by_hand():
    first, second = [[5, 7], [1, 3], [9, 11]], [[4, 6], [0, 0], [5, 9]]  # differences of the means: 1, 2, 3
    assert_is(paired(first, second), 2, T2 / math.sqrt(3), "seeds", 3)
    assert_is(paired(second, first, 0.9), -2, T2_90 / math.sqrt(3), "seeds", 3)


def test_paired_over_draws_by_hand():
    assert_is(paired([[11, 22, 33, 44]], [[10, 20, 30, 40]]), 2.5, T3 * math.sqrt(5 / 3) / 2, "draws", 4)


def test_pairing_takes_out_what_both_have_in_common():
    common = np.random.default_rng(0).normal(0, 10, (4, 6))
    found = paired(common + 0.5, common)
    assert_is(found, 0.5, 0, "seeds", 4)
    assert estimate(common).half_width > 1


@pytest.mark.parametrize("other", [(2, 5), (3, 4)])
def test_paired_refuses_unequal_counts(other):
    with pytest.raises(ValueError):
        paired(np.zeros((3, 5)), np.zeros(other))


@pytest.mark.parametrize("other", [(1, 5), (3, 1), (5,), ()])
def test_paired_refuses_a_single_seed_or_draw_against_several(other):
    with pytest.raises(ValueError):
        paired(np.zeros((3, 5)), np.zeros(other))


def test_holm_by_hand():
    nan = float("nan")
    found = holm([0.01, 0.04, nan, 0.03, 0.5])
    assert found == pytest.approx([0.04, 0.09, nan, 0.09, 0.5], nan_ok=True)  # 4 × 0.01, 3 × 0.03, its successor's 0.09
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8]) and len(holm([])) == 0


def test_p_agrees_with_the_interval():
    values = [1.0, 2.0, 3.0]
    assert p_value(values, null=2 - T2 / math.sqrt(3)) == pytest.approx(0.05, rel=1e-5)  # the end of the interval
    assert p_value(values, null=2) == 1 and math.isnan(p_value([1.0]))
    assert p_value([0.5, 0.5, 0.5]) == 0 and p_value([0.5, 0.5], null=0.5) == 1
