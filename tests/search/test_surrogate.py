"""The surrogate against the formulas of a Gaussian process, and what it makes of the trials."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import norm

from bayesft.search.surrogate import Surrogate

KERNELS = ["squared_exponential", "matern52"]
RULES = ["ei", "mean", "lcb"]


def trials(count: int, dimensions: int, seed: int = 0, noise: float = 0.03):
    """Points, noisy values of a smooth function, and standard errors that differ."""
    random = np.random.default_rng(seed)
    points = random.random((count, dimensions))
    values = 0.4 + 0.3 * np.sin(3 * points).sum(1) + noise * random.normal(size=count)
    return points, values, random.uniform(0.3, 2, count) * noise


def posterior_by_hand(surrogate: Surrogate, kernel: str, points, values, errors, at):
    """Mean and standard deviation of the noise-free objective at `at`, eq. (8), with the fitted kernel's numbers."""
    fitted, noise = surrogate.regressor.kernel_, surrogate.regressor.noise_
    noise = fitted.k2.noise_level if noise is None else noise  # the regressor may set it apart for predictions
    variance, lengths = fitted.k1.k1.constant_value, fitted.k1.k2.length_scale

    def k(a, b):
        r = cdist(a / lengths, b / lengths)
        if kernel == "squared_exponential":
            return variance * np.exp(-(r**2) / 2)
        return variance * (1 + 5**0.5 * r + 5 / 3 * r**2) * np.exp(-(5**0.5) * r)

    offset, scale = values.mean(), values.std()
    normalised = (values - offset) / scale
    covariance = k(points, points) + noise * np.eye(len(points)) + np.diag((errors / scale) ** 2)
    inverse, across = np.linalg.inv(covariance), k(points, at)
    mean = across.T @ inverse @ normalised
    deviation = np.sqrt(np.clip(variance - np.einsum("ij,ik,kj->j", across, inverse, across), 0, None))
    return offset + scale * mean, scale * deviation, scale * noise**0.5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("count, dimensions", [(3, 1), (4, 2), (5, 3)])
def test_posterior_mean_is_eq_8_in_units_of_the_objective(kernel, count, dimensions):
    points, values, errors = trials(count, dimensions)
    surrogate = Surrogate(points, 100 + 50 * values, 50 * errors, kernel)
    at = np.random.default_rng(5).random((20, dimensions))
    expected, _, _ = posterior_by_hand(surrogate, kernel, points, 100 + 50 * values, 50 * errors, at)
    np.testing.assert_allclose(surrogate.posterior(at)[0], expected, rtol=1e-6)
    assert np.ptp(expected) > 0.1  # or the test says nothing


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scatter", [0.05, 0.15])
def test_posterior_deviation_is_that_of_the_noise_free_objective(kernel, scatter):
    # Neighbours disagree by more than their errors say: that must go to the white noise of training.
    points = np.array([0.0, 0.01, 0.33, 0.34, 0.66, 0.67, 0.99, 1.0])[:, None]
    values = 0.4 + 0.3 * np.sin(3 * points[:, 0]) + scatter * np.array([1, -1] * 4)
    errors = np.full(8, 0.005)
    surrogate = Surrogate(points, values, errors, kernel)
    at = np.linspace(0, 1, 21)[:, None]
    _, expected, white = posterior_by_hand(surrogate, kernel, points, values, errors, at)
    if white < scatter / 2:
        pytest.fail("too little white noise for the test to tell")
    np.testing.assert_allclose(surrogate.posterior(at)[1], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_posterior_deviation_is_eq_8_where_the_white_noise_is_negligible(kernel):
    points, values, errors = trials(5, 2, noise=0.01)
    surrogate = Surrogate(points, values, errors, kernel)
    at = np.random.default_rng(5).random((20, 2))
    _, expected, white = posterior_by_hand(surrogate, kernel, points, values, errors, at)
    assert white < 0.001
    np.testing.assert_allclose(surrogate.posterior(at)[1], expected, atol=0.001)
    assert expected.max() > 0.01


@pytest.mark.parametrize("kernel", KERNELS)
def test_exact_trials_of_a_smooth_objective_are_met(kernel):
    points = np.linspace(0, 1, 7)[:, None]
    values = 0.5 + 0.2 * np.sin(4 * points[:, 0])
    mean, _ = Surrogate(points, values, np.full(7, 1e-4), kernel).posterior(points)
    np.testing.assert_allclose(mean, values, atol=0.005)


@pytest.mark.parametrize("kernel", KERNELS)
def test_of_two_trials_at_one_place_the_better_measured_counts(kernel):
    points = np.array([0.0, 0.15, 0.3, 0.499, 0.501, 0.7, 0.85, 1.0])[:, None]
    smooth = 0.5 + 0.3 * np.sin(5 * points[:, 0])
    middle = 0.5 + 0.3 * np.sin(2.5)
    values = smooth + [0, 0, 0, -0.05, 0.05, 0, 0, 0]

    def in_the_middle(*errors):
        errors = np.array([0.03, 0.03, 0.03, *errors, 0.03, 0.03, 0.03])
        return Surrogate(points, values, errors, kernel).posterior(np.array([[0.5]]))[0][0]

    assert in_the_middle(0.1, 0.1) == pytest.approx(middle, abs=0.01)
    assert in_the_middle(0.01, 0.1) < middle - 0.03
    assert in_the_middle(0.1, 0.01) > middle + 0.03


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_trial_pulls_the_less_the_worse_it_was_measured(kernel):
    points = np.linspace(0, 1, 9)[:, None]
    values = 0.5 + 0.3 * np.sin(5 * points[:, 0])
    values[4] += 0.1

    def at_the_odd_one(error):
        errors = np.full(9, 0.03)
        errors[4] = error
        return Surrogate(points, values, errors, kernel).posterior(points[4:5])[0][0]

    pulls = [at_the_odd_one(error) for error in (0.01, 0.07, 10.0)]
    assert all(better > worse + 0.003 for better, worse in zip(pulls, pulls[1:], strict=False))
    assert pulls[0] > values[4] - 0.06 and pulls[-1] < values[4] - 0.08


def test_units_of_the_objective_do_not_matter():
    points, values, errors = trials(6, 2)
    at = np.random.default_rng(5).random((9, 2))
    mean, deviation = Surrogate(points, values, errors, KERNELS[0]).posterior(at)
    other_mean, other_deviation = Surrogate(points, 8 * values - 4, 8 * errors, KERNELS[0]).posterior(at)
    np.testing.assert_allclose(other_mean, 8 * mean - 4, rtol=1e-4)
    np.testing.assert_allclose(other_deviation, 8 * deviation, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_equal_trials_give_a_flat_posterior(value):
    points, _, errors = trials(5, 2)
    surrogate = Surrogate(points, np.full(5, value), errors, KERNELS[0])
    mean, deviation = surrogate.posterior(np.random.default_rng(1).random((10, 2)))
    np.testing.assert_allclose(mean, value, atol=1e-9)
    assert np.isfinite(deviation).all()
    for rule in RULES:
        assert np.isfinite(surrogate.acquisition(points + 0.01, rule)).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_maximum_of_a_parabola_is_found_between_the_trials(kernel):
    points = np.array([[0.0], [0.15], [0.35], [0.55], [0.8], [1.0]])
    values = 0.9 - (points[:, 0] - 0.45) ** 2
    surrogate = Surrogate(points, values, np.full(6, 1e-3), kernel)
    grid = np.linspace(0, 1, 201)[:, None]
    assert grid[np.argmax(surrogate.acquisition(grid, "mean")), 0] == pytest.approx(0.45, abs=0.04)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_rate_that_does_not_matter_gets_the_longer_scale(kernel):
    points = np.random.default_rng(3).random((12, 2))
    surrogate = Surrogate(points, np.sin(6 * points[:, 0]), np.full(12, 1e-3), kernel)
    matters, does_not = surrogate.regressor.kernel_.k1.k2.length_scale
    assert does_not > 3 * matters


@pytest.mark.parametrize("kernel", KERNELS)
def test_acquisitions_are_their_formulas(kernel):
    points, values, errors = trials(5, 2)
    surrogate = Surrogate(points, values, errors, kernel)
    at = np.random.default_rng(6).random((50, 2))
    mean, deviation = surrogate.posterior(at)
    np.testing.assert_allclose(surrogate.acquisition(at, "mean"), mean)

    # The others are in units of the normalised objective, which change no choice.
    lcb = surrogate.offset + surrogate.scale * surrogate.acquisition(at, "lcb")
    np.testing.assert_allclose(lcb, mean + 1.96 * deviation)

    improvement = mean - surrogate.posterior(points)[0].max()  # over the best posterior mean at a trial
    z = improvement / deviation
    ei = surrogate.scale * surrogate.acquisition(at, "ei")
    np.testing.assert_allclose(ei, improvement * norm.cdf(z) + deviation * norm.pdf(z), rtol=1e-6, atol=1e-12)
    assert (ei >= 0).all() and ei.max() > 0


def test_expected_improvement_is_not_over_a_lucky_observation():
    points = np.linspace(0, 1, 5)[:, None]
    values = np.array([0.50, 0.51, 0.90, 0.51, 0.50])
    errors = np.array([0.01, 0.01, 0.50, 0.01, 0.01])  # the best was measured badly
    surrogate = Surrogate(points, values, errors, KERNELS[0])
    at = np.array([[0.25]])
    mean, deviation = (v[0] for v in surrogate.posterior(at))
    over_luck = deviation * norm.pdf((mean - 0.9) / deviation) + (mean - 0.9) * norm.cdf((mean - 0.9) / deviation)
    assert surrogate.scale * surrogate.acquisition(at, "ei")[0] > over_luck + 1e-4


def test_unknown_rule_is_refused():
    points, values, errors = trials(4, 2)
    with pytest.raises(ValueError, match="'pi': must be one of ei, mean, lcb"):
        Surrogate(points, values, errors, KERNELS[0]).acquisition(points, "pi")


def test_fit_repeats():
    points, values, errors = trials(6, 3)
    at = np.random.default_rng(7).random((5, 3))
    first, second = (Surrogate(points, values, errors, KERNELS[0], seed=3).posterior(at) for _ in range(2))
    assert np.array_equal(first, second)
