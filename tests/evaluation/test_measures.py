"""The area under a curve over a fixed range, and σ50: known answers, and what must not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesft.evaluation.grid import sigma_grid
from bayesft.evaluation.measures import half_level, weights


def test_the_area_of_known_curves():
    assert weights([0.0, 0.5, 1.0]) @ [1.0, 0.5, 0.0] == pytest.approx(0.5)
    assert weights([0.0, 1.0], 0.5) @ [1.0, 0.0] == pytest.approx(0.75)  # the line is cut where the range ends
    assert weights([0.0, 0.25, 1.0], 1.0) @ [1.0, 1.0, 0.0] == pytest.approx(0.25 + 0.375)
    assert weights([0.0]) @ [0.7] == pytest.approx(0.7)


def test_a_range_that_was_not_evaluated_has_no_area():
    assert weights([0.0, 0.6, 1.2], 1.5) is None
    assert weights([0.0, 0.6, 1.2], 1.2) is not None


@given(st.floats(0.05, 0.7), st.floats(0.9, 2.0), st.floats(0.1, 0.9))
def test_neither_step_nor_end_of_the_grid_changes_the_area_of_a_line(step, sigma_max, end):
    levels = np.array(sigma_grid(sigma_max, step))
    found = weights(levels, end)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert found @ (1 - levels / 3) == pytest.approx(1 - end / 6)


def test_half_level_between_two_levels():
    assert half_level([0.0, 1.0, 2.0], [0.8, 0.6, 0.2]) == pytest.approx(1.5)
    assert half_level([0.0, 1.0, 2.0], [0.8, 0.4, 0.9]) == pytest.approx(1.0)  # the first time
    assert np.isnan(half_level([0.0, 1.0], [0.8, 0.5]))
    assert np.isnan(half_level([0.5, 1.0], [0.8, 0.1]))
