"""What a curve of accuracy against σ comes to: the area under it, and the σ at which half of its start is left."""

from collections.abc import Sequence

import numpy as np


def weights(sigmas: Sequence[float] | np.ndarray, end: float | None = None) -> np.ndarray | None:
    """What each level weighs in the area under a curve, by the trapezoid rule.

        A = 1/σ_end ∫₀^σ_end a(σ) dσ ≈ Σ_i w_i a(σ_i),  Σ_i w_i = 1

    The curve is a straight line between two levels, so the area changes little with the step of the grid, and levels
    beyond the end change nothing.

    Args:
        sigmas: The S levels, rising.
        end: σ_end, where the range ends that begins at the first level. None: at the last level.

    Returns:
        The weights (S,), or None where the levels end before the range does.
    """
    levels = np.asarray(sigmas, float)
    end = float(levels[-1] if end is None else end)
    if end > levels[-1] + 1e-9:
        return None
    found = np.zeros(len(levels))
    if len(levels) == 1 or end <= levels[0]:
        found[0] = 1
        return found
    for i, (low, high) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        inside = (min(high, end) - low) / (high - low)  # the share of the interval that is in the range
        if inside > 1e-9:  # ∫ of the line from `low` to there
            found[i] += (high - low) * (inside - inside**2 / 2)
            found[i + 1] += (high - low) * inside**2 / 2
    return found / (end - levels[0])


def half_level(sigmas: Sequence[float] | np.ndarray, curve: Sequence[float] | np.ndarray) -> float:
    """σ50: the level at which a curve first falls to half of its value at level 0, between two levels on a line.

    Args:
        sigmas: The S levels, rising.
        curve: The values (S,).

    Returns:
        The level. NaN where the curve does not fall so far, or where level 0 was not measured.
    """
    levels, mean = np.asarray(sigmas, float), np.asarray(curve, float)
    below = np.flatnonzero(mean <= mean[0] / 2)
    if levels[0] != 0 or not mean[0] > 0 or not len(below):
        return float("nan")
    i = below[0]
    share = (mean[i - 1] - mean[0] / 2) / (mean[i - 1] - mean[i])
    return float(levels[i - 1] + share * (levels[i] - levels[i - 1]))
