"""Accuracy device by device, as it is and calibrated."""

import numpy as np
import pytest
import torch
from torch import nn

from bayesft.data import Split
from bayesft.drift import LogNormalDrift, features
from bayesft.drift.faults import StuckCells
from bayesft.drift.features import MiBB
from bayesft.evaluation.devices import CALIBRATIONS, on_devices
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe
from bayesft.training import fit
from tests.problems import patterns

SIDE = 8
TRAIN, TEST = patterns(160, side=SIDE, noise=1.0), patterns(100, part=1, side=SIDE, noise=1.0)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
        model = nn.Sequential(*body, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))
    return fit(model, TRAIN, Recipe(epochs=15, batch_size=32, lr=0.01), seed=0, label="x").eval()


@pytest.mark.parametrize("fault", [StuckCells(), MiBB(), LogNormalDrift()])
@pytest.mark.parametrize("how", [None, *CALIBRATIONS])
def test_a_device_is_one_draw_for_all_images(network, fault, how):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    level = {MiBB: 0.01}.get(type(fault), 0.3)
    parameters = "convolutions" if fault == StuckCells() else "all"
    options = (3, ("a test",), parameters, how, TRAIN.images)
    found = on_devices(network, TEST, fault, [level], *options)
    assert found.shape == (1, 3) and len(set(found[0])) > 1
    assert (found == on_devices(network, TEST, fault, [level], *options)).all()
    assert (on_devices(network, TEST, fault, [level, 2 * level], *options)[0] == found[0]).all()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("how", [None, "bn-device", "channels"])
def test_the_test_images_meet_the_same_faults_with_calibration_and_without(network, monkeypatch, how):
    seeds = []

    def noted(*key):
        seeds.append(key)
        return derive_seed(*key)

    monkeypatch.setattr(features, "derive_seed", noted)
    on_devices(network, TEST, MiBB(), [0.01], 1, ("a test",), "all", how, TRAIN.images)
    plain = [key for key in seeds if "calibration" not in key]
    assert {(key[0], key[1], *key[-2:]) for key in plain} == {("a test", 0, 0, 0)}, "draw 0, batch 0, call 0"
    assert (len(plain) < len(seeds)) == (how is not None)


def test_calibration_on_each_device_helps_where_statistics_shift(network):
    def mean(how):
        return on_devices(network, TEST, StuckCells(), [0.3], 12, ("x",), "convolutions", how, TRAIN.images).mean()

    assert mean("bn-device") > mean(None) + 0.03
    assert mean("channels") > mean(None) + 0.03


def test_without_a_fault_calibration_by_its_own_training_images_changes_little(network):
    plain = on_devices(network, TEST, StuckCells(), [0.0], 1, (), "convolutions")
    for how in CALIBRATIONS:
        found = on_devices(network, TEST, StuckCells(), [0.0], 1, (), "convolutions", how, TRAIN.images)
        assert np.abs(found - plain).max() < 0.06


def test_an_unknown_calibration_is_refused(network):
    with pytest.raises(ValueError, match="how = 'bn': must be one of bn-device, bn-pooled, channels, or None"):
        on_devices(network, Split(*TEST), StuckCells(), [0.1], 1, (), "convolutions", "bn")
