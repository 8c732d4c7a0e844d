"""The decision boundary under drift: a tiny run."""

import pytest
import torch

import bayesft.evaluation.boundary
from bayesft.drift import LogNormalDrift
from bayesft.evaluation.boundary import COPIES, SIDE, Boundaries, decision_boundaries
from bayesft.settings import Recipe

SIGMAS = (0.0, 1.0)
RECIPE = Recipe(epochs=25, batch_size=30, lr=0.02, weight_decay=0, clip_norm=1)


def run() -> Boundaries:
    return decision_boundaries(RECIPE, LogNormalDrift(), SIGMAS, 60, 4, "all")


@pytest.fixture(scope="module")
def boundaries() -> Boundaries:
    return run()


def test_shapes_and_ranges(boundaries):
    assert boundaries.probability.shape == (2, COPIES, SIDE, SIDE)
    assert (boundaries.probability[0] == boundaries.probability[0, 0]).all()  # without drift, copies are alike
    assert boundaries.horizontal.shape == boundaries.vertical.shape == (SIDE,)
    assert boundaries.sigmas.tolist() == list(SIGMAS)
    assert boundaries.accuracy.shape == (2, 4)
    assert boundaries.points.shape == (60, 2) and boundaries.labels.shape == (60,)
    assert boundaries.labels.bincount().tolist() == [30, 30]
    for share in (boundaries.probability, boundaries.accuracy):
        assert share.min() >= 0 and share.max() <= 1
    assert all(axis.diff().min() > 0 for axis in (boundaries.horizontal, boundaries.vertical))


def test_accuracy_without_drift_has_no_spread_and_under_drift_it_has(boundaries):
    clean, drifted = boundaries.accuracy
    assert clean.unique().numel() == 1 and clean[0] > 0.8
    assert drifted.unique().numel() > 1
    assert not torch.equal(boundaries.probability[0], boundaries.probability[1])


def test_the_map_lies_under_the_points(boundaries):
    x, y = boundaries.points.T
    column = (x[:, None] - boundaries.horizontal).abs().argmin(1)
    row = (y[:, None] - boundaries.vertical).abs().argmin(1)
    predicted = (boundaries.probability[0, 0, row, column] > 0.5).long()
    right = (predicted == boundaries.labels).double().mean()
    # Up to the points that are less than a step of the map away from the boundary.
    assert abs(right - boundaries.accuracy[0, 0]) <= 2 / 60


def test_the_points_are_not_those_of_the_training(boundaries, monkeypatch):
    fit, trained_on = bayesft.evaluation.boundary.fit, []

    def recorded(model, data, recipe, **options):
        trained_on.append(data.images)
        return fit(model, data, recipe, **options)

    monkeypatch.setattr(bayesft.evaluation.boundary, "fit", recorded)
    run()
    assert trained_on[0].shape == (60, 2)
    assert torch.cdist(trained_on[0], boundaries.points).min() > 0


def test_load_reads_what_save_wrote(boundaries, tmp_path):
    boundaries.save(tmp_path / "new" / "boundary.safetensors")
    loaded = Boundaries.load(tmp_path / "new" / "boundary.safetensors")
    assert list(vars(loaded)) == list(vars(boundaries))
    for name, tensor in vars(boundaries).items():
        assert vars(loaded)[name].dtype == tensor.dtype and torch.equal(vars(loaded)[name], tensor), name


def test_a_second_run_is_the_same(boundaries, tmp_path):
    torch.manual_seed(9)
    boundaries.save(tmp_path / "first")
    run().save(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
