"""The shapes that docstrings state, for any number of levels, draws, examples and channels."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bayesft
from bayesft.calibration import calibration_reference
from bayesft.data import Split
from bayesft.drift import LogNormalDrift, drifted_parameters, monte_carlo, monte_carlo_grid, select
from bayesft.evaluation.calibrated import calibrated_accuracy_grid
from bayesft.evaluation.devices import on_devices
from bayesft.evaluation.grid import accuracy_grid
from bayesft.models import build
from bayesft.search.surrogate import Surrogate
from bayesft.tasks import TASKS
from bayesft.training import Trained
from bayesft.training.trained import accuracy_score

few = st.integers(1, 4)
sizes = st.fixed_dictionaries({"levels": few, "draws": few, "examples": st.integers(2, 9), "width": st.integers(1, 5)})
quick = settings(max_examples=15, deadline=None)


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 3)
    return nn.Sequential(*layers).eval()


def data(examples: int) -> Split:
    generator = torch.Generator().manual_seed(examples)
    return Split(torch.randn(examples, 1, 8, 8, generator=generator), torch.arange(examples) % 3)


def levels_of(count: int) -> list[float]:
    return [0.3 * i for i in range(count)]


@quick
@given(sizes)
def test_a_monte_carlo_estimate_has_a_row_a_level_and_a_column_a_draw(size):
    model, (images, labels), levels = network(size["width"]), data(size["examples"]), levels_of(size["levels"])
    given_ = (model, images, labels, accuracy_score, LogNormalDrift())
    grid = monte_carlo_grid(*given_, levels, range(size["draws"]), ("k",))
    assert grid.shape == (size["levels"], size["draws"]) and grid.dtype == torch.float64
    assert monte_carlo(*given_, 0.3, range(size["draws"]), ("k",)).shape == (size["draws"],)


@quick
@given(sizes)
def test_a_faulty_copy_has_the_shapes_of_its_parameters(size):
    model = network(size["width"])
    copies = drifted_parameters(model, LogNormalDrift(), 0.5, ("k",), 0)
    assert {name: copy.shape for name, copy in copies.items()} == {n: p.shape for n, p in select(model).items()}


@quick
@given(sizes)
def test_accuracies_are_levels_by_draws_in_every_evaluation(size):
    test, levels, expected = data(size["examples"]), levels_of(size["levels"]), (size["levels"], size["draws"])
    specification = TASKS["lenet-mnist"].specification
    model = network(size["width"])
    assert on_devices(model, test, LogNormalDrift(), levels, size["draws"], ("k",), "all").shape == expected
    digits = Split(torch.rand(size["examples"], 1, 28, 28), test.labels)
    trained = Trained.of(build(specification, 0), specification)
    found = accuracy_grid(trained, digits, LogNormalDrift(), levels, size["draws"], ("k",))
    calibrated = calibrated_accuracy_grid(
        trained, digits, digits.images, LogNormalDrift(), levels, size["draws"], ("k",)
    )
    for each in (found, calibrated):
        assert each.shape == expected and each.dtype == np.float64 and ((each >= 0) & (each <= 1)).all()


@quick
@given(sizes)
def test_a_measured_network_has_a_line_a_level_and_a_score_an_example(size):
    test, levels = data(size["examples"]), levels_of(size["levels"])
    found = bayesft.evaluate(network(size["width"]), test, levels=levels, draws=size["draws"], progress=False)
    assert len(found.table()) == len(found.mean) == size["levels"]
    assert found.scores.shape == (size["levels"], size["draws"])
    assert found.examples.shape == (size["levels"], size["examples"])


@quick
@given(sizes)
def test_a_reference_has_two_numbers_a_channel(size):
    reference = calibration_reference(network(size["width"]), data(size["examples"]).images)
    channels = {name: [tuple(t.shape) for t in calls[-1][1:]] for name, calls in reference.moments.items()}
    width = (size["width"],)
    assert channels == {"0": [width, width], "1": [width, width], "4": [(3,), (3,)]}


@quick
@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5))
def test_the_surrogate_has_a_mean_and_a_deviation_a_point(trials, dimensions, asked):
    points = np.random.default_rng(0).random((trials, dimensions))
    surrogate = Surrogate(points, points.sum(1), np.full(trials, 0.01), "squared_exponential")
    at = np.random.default_rng(1).random((asked, dimensions))
    mean, deviation = surrogate.posterior(at)
    assert mean.shape == deviation.shape == (asked,)
    for rule in ("ei", "mean", "lcb"):
        assert surrogate.acquisition(at, rule).shape == (asked,)
