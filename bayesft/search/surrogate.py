"""The Gaussian-process surrogate of the objective (eqs. 5-9 of BayesFT) and the choice of the next trial.

The kernel of eq. (9) is read as a constant times a squared exponential with a length scale for each dimension, plus
white noise; Matérn-5/2 is an option. The objective is a Monte-Carlo estimate, so the kernel's diagonal also gets each
trial's own squared standard error; scikit-optimize's `Optimizer` has no place for that, which is why ask and tell are
written here, on its regressor and its acquisition functions.

Rates are points of the unit cube here, (n, d); the bounds are applied by the caller.
"""

import warnings
from typing import Any

import numpy as np
from scipy.stats import qmc
from sklearn.exceptions import ConvergenceWarning
from skopt.acquisition import gaussian_ei, gaussian_lcb
from skopt.learning import GaussianProcessRegressor
from skopt.learning.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from bayesft.seeds import derive_seed
from bayesft.settings import Acquisition, Design, Kernel, Strategy

CLOSEST = 0.02  # no proposal nearer than this to an earlier one, in the unit cube
CANDIDATES = 4096
MAX_DIMENSIONS = 16  # with more, a surrogate of some twenty trials knows nothing


def check_space(dimensions: int, trials: int) -> None:
    """Refuse a search that a surrogate can't serve.

    Args:
        dimensions: d, the number of hyperparameters.
        trials: The number of trials.

    Raises:
        ValueError: There is nothing to search, more than can be told apart, or no room for all trials.
    """
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise ValueError(
            f"{dimensions} numbers to search, and a search can tell 1 to {MAX_DIMENSIONS} apart: let layers share "
            'theirs with granularity = "stage", or choose fewer sites'
        )
    room = int((1 / (2 * CLOSEST)) ** dimensions + 1e-9)  # however badly the trials lie
    if trials > room:
        raise ValueError(f"trials = {trials}: {dimensions} number(s) to search have room for {room}")


class Surrogate:
    """Posterior of the objective after n trials. Larger values are better.

    Args:
        points: The trials in the unit cube, (n, d).
        values: The estimates of their objectives, (n,).
        errors: The standard errors of these, (n,).
        kernel: "squared_exponential" or "matern52".
        seed: The seed of the restarts of the fit.
    """

    def __init__(self, points: np.ndarray, values: np.ndarray, errors: np.ndarray, kernel: Kernel, seed: int = 0):
        points, values, errors = np.asarray(points, float), np.asarray(values, float), np.asarray(errors, float)
        self.offset = values.mean()
        self.scale = values.std() or 1.0
        dimensions = points.shape[1]
        shape = {"squared_exponential": RBF, "matern52": lambda **k: Matern(nu=2.5, **k)}[kernel](
            length_scale=np.full(dimensions, 0.5), length_scale_bounds=(0.05, 5.0)
        )
        self.regressor = GaussianProcessRegressor(
            ConstantKernel(1.0, (0.05, 20.0)) * shape + WhiteKernel(1e-2, (1e-6, 1.0)),
            alpha=(errors / self.scale) ** 2 + 1e-10,
            noise="gaussian",  # the white noise is in the data, and not in what is predicted
            n_restarts_optimizer=4,
            random_state=seed,
        )
        with warnings.catch_warnings():
            # A length scale at its bound says that a rate does not matter: a finding, not a fault.
            warnings.simplefilter("ignore", ConvergenceWarning)
            # scikit-optimize minimises, so the regressor sees the normalised objective with its sign changed.
            with threadpool_limits(1):  # such small matrices are slower on several threads
                self.regressor.fit(points, -(values - self.offset) / self.scale)
        self.points = points

    def posterior(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the noise-free objective at `points` (m, d): two arrays (m,). Eq. (8)."""
        mean, deviation = self.regressor.predict(np.asarray(points, float), return_std=True)
        return self.offset - self.scale * mean, self.scale * deviation

    def acquisition(self, points: np.ndarray, rule: Acquisition) -> np.ndarray:
        """How much places are worth trying next. Larger is better; each rule has a unit of its own.

        Args:
            points: The places in the unit cube, (m, d).
            rule: "mean", the paper's rule, is the posterior mean. "ei" is the expected improvement over the best
                posterior mean at a trial: the best *observed* value would reward luck. "lcb" is the optimistic
                confidence bound.

        Returns:
            The acquisition of each, (m,).

        Raises:
            ValueError: The rule is unknown.
        """
        if rule == "mean":
            return self.posterior(points)[0]
        if rule == "ei":
            incumbent = self.regressor.predict(self.points).min()
            return gaussian_ei(points, self.regressor, y_opt=incumbent, xi=0.0)
        if rule == "lcb":
            return -gaussian_lcb(points, self.regressor, kappa=1.96)
        raise ValueError(f"acquisition {rule!r}: must be one of ei, mean, lcb")


def propose(
    points: np.ndarray,
    values: np.ndarray,
    errors: np.ndarray,
    dimensions: int,
    seed: int,
    *,
    strategy: Strategy = "gp",
    design: Design = "random",
    rule: Acquisition = "ei",
    kernel: Kernel = "squared_exponential",
    initial: int = 4,
    trials: int = 20,
) -> np.ndarray:
    """The next point to try after the n trials so far.

    It depends on the trials and the seed alone, so a search that resumes from its log goes on as if never interrupted.

    Args:
        points, values, errors: The trials so far, as for `Surrogate`; n may be 0.
        dimensions: d, the number of hyperparameters.
        seed: The seed of every random choice.
        strategy: "gp", the surrogate; "random", the control of the same budget; or "grid", `grid_point`.
        design: Where the first points of the surrogate's strategy lie: "random", or "sobol" for an even spread.
        rule: As for `Surrogate.acquisition`.
        kernel: As for `Surrogate`.
        initial: The number of points before the surrogate's first one.
        trials: The number of trials that a grid is made for.

    Returns:
        The point, (d,), in [0, 1].

    Raises:
        ValueError: The trials leave no room for a new one.
    """
    points = np.asarray(points, float).reshape(-1, dimensions)
    if strategy == "grid":
        return grid_point(len(points), trials, dimensions, seed)
    generator = np.random.default_rng(derive_seed(seed, "proposal", len(points)))
    candidates = generator.random((CANDIDATES, dimensions))
    model = None
    if strategy == "gp" and len(points) >= initial:
        model = Surrogate(points, values, errors, kernel, seed=derive_seed(seed, "surrogate", len(points)) % 2**32)
        best = points[np.argmax(model.posterior(points)[0])]
        near = best + generator.normal(0, 0.1, (CANDIDATES // 4, dimensions))
        candidates = np.vstack([candidates, near.clip(0, 1)])
    if strategy == "gp" and design == "sobol" and len(points) < initial:
        candidates = np.vstack([sobol_points(len(points), dimensions, seed), candidates])
    if len(points):
        distance = np.linalg.norm(candidates[:, None] - points[None], axis=2).min(1)
        if distance.max() < CLOSEST:
            raise ValueError(f"{len(points)} trials leave no room for another in {dimensions} dimension(s)")
        candidates = candidates[distance >= CLOSEST]
    if model is None:
        return candidates[0]
    return candidates[np.argmax(model.acquisition(candidates, rule))]


def propose_batch(
    count: int, points: np.ndarray, values: np.ndarray, errors: np.ndarray, dimensions: int, seed: int, **options: Any
) -> np.ndarray:
    """Several points to try side by side: `propose`, again and again.

    Each point is chosen as if those before it had turned out exactly as well as the best trial so far (the constant
    liar of Ginsbourger, Le Riche and Carraro, 2010), which keeps the next one away from them.

    Args:
        count: The number of points.
        points, values, errors, dimensions, seed: As for `propose`.
        options: The keyword arguments of `propose`.

    Returns:
        The points, (count, d), in [0, 1].

    Raises:
        ValueError: The trials leave no room for a new one.
    """
    points, values, errors = np.asarray(points, float).reshape(-1, dimensions), np.array(values), np.array(errors)
    lie = values.max(initial=-np.inf) if len(values) else 0.0
    proposed = []
    for _ in range(count):
        proposed.append(propose(points, values, errors, dimensions, seed, **options))
        points, values, errors = np.vstack([points, proposed[-1]]), np.append(values, lie), np.append(errors, 0.0)
    return np.array(proposed)


def sobol_points(start: int, dimensions: int, seed: int) -> np.ndarray:
    """64 points of Sobol's sequence from some number on: any first few of them lie evenly.

    The sequence is scrambled (Owen, 1998).

    Args:
        start: The number of the first point, from 0.
        dimensions: d.
        seed: The seed of the scrambling.

    Returns:
        The points, (64, d), in [0, 1].
    """
    sequence = qmc.Sobol(dimensions, rng=derive_seed(seed, "design") % 2**32)
    return sequence.random_base2((start + 63).bit_length())[start : start + 64]


def grid_point(number: int, trials: int, dimensions: int, seed: int) -> np.ndarray:
    """One point of the smallest regular grid that has a point for every trial, in random order.

    The points are the centres of equal cells, so the search has the same number of values in every dimension.

    Args:
        number: The number of the trial, from 0.
        trials: The number of trials.
        dimensions: d.
        seed: The seed of the order.

    Returns:
        The point, (d,), in [0, 1].
    """
    levels = next(k for k in range(1, trials + 1) if k**dimensions >= trials)
    cells = levels**dimensions
    order = np.random.default_rng(derive_seed(seed, "grid")).permutation(cells)
    return (np.array(np.unravel_index(order[number % cells], (levels,) * dimensions)) + 0.5) / levels
