"""Which hyperparameters to try next: ask for points, tell what they were worth."""

from collections.abc import Sequence

import numpy as np

from bayesft.search.surrogate import check_space, propose_batch
from bayesft.settings import SearchSettings


class Optimizer:
    """Proposals of a search in the unit cube, by the surrogate of eqs. (5)-(9), at random, or on a grid.

    The points depend on the trials that were told and on the seed alone, so a search that resumes asks for the same
    points again.

    Args:
        dimensions: d, the number of hyperparameters.
        settings: The strategy, the design, the acquisition, the kernel and the number of trials.
        seed: The seed of every random choice.

    Raises:
        ValueError: There is nothing to search, more than a surrogate can tell apart, or no room for so many trials.
    """

    def __init__(self, dimensions: int, settings: SearchSettings, seed: int):
        check_space(dimensions, settings.trials)
        self.dimensions, self.settings, self.seed = dimensions, settings, seed
        self.points: list[Sequence[float]] = []
        self.values: list[float] = []
        self.errors: list[float] = []

    def ask(self, count: int = 1) -> np.ndarray:
        """The next `count` points to try side by side: (count, d), in [0, 1]."""
        settings = self.settings
        finite = [value for value in self.values if np.isfinite(value)]
        worst = min(finite, default=0.0)  # a failed trial counts like the worst one
        return propose_batch(
            count,
            np.array(self.points).reshape(-1, self.dimensions),
            np.array([value if np.isfinite(value) else worst for value in self.values]),
            np.array(self.errors),
            self.dimensions,
            self.seed,
            strategy=settings.strategy,
            design=settings.design,
            rule=settings.acquisition,
            kernel=settings.kernel,
            initial=settings.initial,
            trials=settings.trials,
        )

    def tell(self, point: Sequence[float], value: float, error: float) -> None:
        """Learn how a trial ended.

        Args:
            point: The trial's place in the unit cube, (d,).
            value: Its objective u_n; NaN for a failed trial, which counts like the worst one.
            error: The standard error of u_n.
        """
        self.points.append(point)
        self.values.append(value)
        self.errors.append(error if np.isfinite(value) else 0.0)
