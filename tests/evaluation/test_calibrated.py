"""Accuracies of calibrated copies: by hand, resumed, and of a device that drifts on."""

import numpy as np
import pytest
import torch

from bayesft.calibration import calibrate, calibration_reference
from bayesft.drift import LogNormalDrift, drifted_parameters
from bayesft.drift.copies import swapped
from bayesft.evaluation.calibrated import calibrated_accuracy_grid, calibration_images
from bayesft.evaluation.grid import accuracy_grid
from bayesft.training import Checkpoint, Trained
from tests.problems import tiny, trained_erm

KEY = ("task", 0)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return trained_erm()


def by_hand(trained, data, images, sigma, draw, used=None) -> float:
    (network,) = trained.networks()
    reference = calibration_reference(network, images)
    with swapped(network, drifted_parameters(network, LogNormalDrift(), sigma, KEY, draw)):
        device = calibrate(network, reference, images, fold=used is None)
    if used is not None:
        for name, theta in drifted_parameters(network, LogNormalDrift(), used, KEY, draw).items():
            device.get_parameter(name).data.copy_(theta)
    with torch.no_grad():
        return float((device(data.images).argmax(1) == data.labels).double().mean())


def test_each_copy_is_that_of_the_plain_grid_calibrated(trained, tmp_path):
    problem = tiny()
    images, sigmas = problem.train.images[:20], [0.0, 0.7, 1.4]
    with Checkpoint(tmp_path) as checkpoint:
        arguments = (trained, problem.validation, images, LogNormalDrift())
        found = calibrated_accuracy_grid(*arguments, sigmas, 3, KEY, checkpoint=checkpoint)
        longer = calibrated_accuracy_grid(*arguments, [*sigmas, 2.0], 3, KEY, checkpoint=checkpoint)
    assert np.array_equal(longer[:3], found) and longer.shape == (4, 3)
    expected = [[by_hand(trained, problem.validation, images, s, draw) for draw in range(3)] for s in sigmas]
    assert np.allclose(found, expected)
    plain = accuracy_grid(trained, problem.validation, LogNormalDrift(), sigmas, 3, KEY)
    assert np.allclose(found[0], plain[0]) and not np.allclose(found, plain)


def test_a_device_drifts_on_after_it_was_calibrated(trained):
    problem = tiny()
    images = problem.train.images[:20]
    found = calibrated_accuracy_grid(
        trained, problem.validation, images, LogNormalDrift(), [0.4, 1.2], 2, KEY, calibrated_at=0.4
    )
    expected = [[by_hand(trained, problem.validation, images, 0.4, draw, s) for draw in range(2)] for s in (0.4, 1.2)]
    assert np.allclose(found, expected)


def test_members_have_references_of_their_own(trained):
    problem = tiny()
    images = problem.train.images[:20]
    both = Trained(trained.specification, [trained.members[0], trained.members[0]])
    arguments = (problem.validation, images, LogNormalDrift(), [0.9], 4, KEY)
    assert np.array_equal(calibrated_accuracy_grid(both, *arguments), calibrated_accuracy_grid(trained, *arguments))


def test_images_are_chosen_by_the_key():
    images = torch.zeros(50, 1)
    chosen = calibration_images(images, 20, KEY)
    assert len(set(chosen)) == 20 and chosen == calibration_images(images, 20, KEY)
    assert chosen[:8] == calibration_images(images, 8, KEY)  # fewer are among more
    assert chosen != calibration_images(images, 20, ("task", 1))
    assert sorted(calibration_images(images, 99, KEY)) == list(range(50))
