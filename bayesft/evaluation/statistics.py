"""Means with Student-t intervals: over training seeds where there are several, over drift draws where there is one.

An interval over draws says how exactly *this* network was measured; one over seeds, how the method does when it is
trained anew. The two must not be mixed, so each estimate says which it is.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Estimate:
    """A mean, the half-width of its interval, and what the interval is over: "seeds" or "draws", and how many."""

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
    """The mean of `values` (seeds, draws) with its interval. Raises ValueError when there is nothing to average."""
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
    """The mean of first − second, both (seeds, draws), paired: the same seeds and, by common random numbers, draws.

    Raises ValueError when their shapes differ.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape:
        raise ValueError(f"values of shapes {first.shape} and {second.shape} can't be paired")
    return estimate(first - second, confidence)
