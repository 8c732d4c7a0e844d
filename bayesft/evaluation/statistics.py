"""Means with Student-t intervals: over training seeds where there are several, over drift draws where there is one.

An interval over draws says how exactly *this* network was measured; one over seeds, how the method does when it is
trained anew. The two must not be mixed, so each estimate says which it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Args:
        mean: The mean.
        half_width: Half the width of the interval; NaN for a single value.
        over: What the interval is over: "seeds" or "draws".
        count: The number of these.
    """

    mean: float
    half_width: float
    over: str
    count: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width


def estimate(values: np.ndarray, confidence: float = 0.95) -> Estimate:
    """The mean of values with its interval.

    Args:
        values: (seeds, draws).
        confidence: The probability that the interval covers the mean.

    Returns:
        The estimate: over the means of the seeds where there are several, else over the draws.

    Raises:
        ValueError: There is nothing to average, or `values` has another number of dimensions.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"values of shape {values.shape}: need (seeds, draws)")
    over, sample = ("seeds", values.mean(1)) if len(values) > 1 else ("draws", values[0])
    count = len(sample)
    half_width = float("nan")
    if count > 1:
        half_width = float(stdtrit(count - 1, (1 + confidence) / 2) * sample.std(ddof=1) / count**0.5)
    return Estimate(float(sample.mean()), half_width, over, count)


def paired(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> Estimate:
    """The mean of first − second, paired: the same seeds and, by common random numbers, the same draws.

    Args:
        first: (seeds, draws).
        second: (seeds, draws).
        confidence: As for `estimate`.

    Returns:
        The estimate of the difference.

    Raises:
        ValueError: Their shapes differ, or there is nothing to average.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape:
        raise ValueError(f"values of shapes {first.shape} and {second.shape} can't be paired")
    return estimate(first - second, confidence)


def p_value(values: np.ndarray, null: float = 0.0) -> float:
    """The two-sided p of Student's t test that the mean of `values` (n,) is `null`. NaN with fewer than two values."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return float("nan")
    apart, spread = values.mean() - null, values.std(ddof=1) / len(values) ** 0.5
    if spread <= 1e-12:  # all alike but for rounding
        return float(abs(apart) <= 1e-12)
    return float(2 * stdtr(len(values) - 1, -abs(apart) / spread))


def holm(p: Sequence[float]) -> np.ndarray:
    """The p-values of a family of tests, corrected for their number (Holm 1979).

    The k-th least of m is multiplied by m − k + 1; none falls below one before it; none exceeds 1. NaN, a test that
    could not be made, stays NaN and does not count.
    """
    given = np.asarray(p, float)
    found, made = np.full(len(given), np.nan), np.flatnonzero(~np.isnan(given))
    order = made[np.argsort(given[made], kind="stable")]
    found[order] = np.minimum(1, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return found
