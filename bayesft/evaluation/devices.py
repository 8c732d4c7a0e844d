"""Accuracy of a network device by device, as it is and calibrated on each."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayesft.calibration import calibration_reference, reestimate_batch_norm
from bayesft.data import Split
from bayesft.drift import FaultModel, FeatureFault, drifted_parameters, monte_carlo_grid, struck
from bayesft.drift.montecarlo import STRUCK_IMAGES
from bayesft.drift.scope import Where
from bayesft.evaluation.calibrated import calibrated_copy
from bayesft.training import accuracy
from bayesft.training.trained import accuracy_score

POOL = 8  # devices whose statistics are averaged; none of them is one of those that are measured
CALIBRATIONS = {
    "bn-device": "batch norm estimated again on each device",
    "bn-pooled": "batch norm estimated again over many devices",
    "channels": "every channel calibrated on each device",
}


def on_devices(
    network: nn.Module,
    test: Split,
    fault: FaultModel | FeatureFault,
    levels: Sequence[float],
    devices: int,
    key: tuple[Any, ...],
    parameters: Where,
    how: str | None = None,
    examples: Tensor | None = None,
) -> np.ndarray:
    """The accuracy of a network on each of several devices: a device has one draw of the fault for all images.

    Args:
        network: The network, as it is stored (quantised, say). It is left alone.
        test: The test images.
        fault: The fault, of weights or of activations.
        levels: The S levels.
        devices: T, the number of devices.
        key: The name of the draws: equal keys are equal devices.
        parameters: Which parameters a fault of weights meets, as `scoped` takes them.
        how: One of `CALIBRATIONS`, or None for none.
        examples: Images without labels, (n, C, H, W), for a calibration.

    Returns:
        The accuracies (S, T).

    Raises:
        ValueError: `how` is unknown.
    """
    if how is not None and how not in CALIBRATIONS:
        raise ValueError(f"how = {how!r}: must be one of {', '.join(CALIBRATIONS)}, or None")
    if how is None:
        found = monte_carlo_grid(network, *test, accuracy_score, fault, levels, range(devices), key, parameters)
        return found.numpy()
    assert examples is not None  # they come with a calibration
    network, rows = deepcopy(network).eval(), []
    reference = calibration_reference(network, examples) if how == "channels" else None
    for level in levels:
        if how == "bn-pooled":
            pooled = _pooled(network, fault, level, key, parameters, examples)
            rows.append(on_devices(pooled, test, fault, [level], devices, key, parameters)[0])
            continue
        each = []
        for draw in range(devices):
            if reference is not None:
                copy = calibrated_copy(network, reference, examples, fault, level, key, draw, parameters)
                with torch.no_grad(), copy as device:
                    each.append(accuracy(device, test, batch=STRUCK_IMAGES))
            else:
                device = _estimated(network, fault, level, key, draw, parameters, examples)
                with struck(device, fault, level, key, draw):
                    each.append(accuracy(device, test, batch=STRUCK_IMAGES))
        rows.append(np.array(each))
    return np.stack(rows)


@torch.no_grad()
def _estimated(
    network: nn.Module,
    fault: FaultModel | FeatureFault,
    level: float,
    key: tuple[Any, ...],
    draw: int,
    parameters: Where,
    examples: Tensor,
) -> nn.Module:
    """The network on one device, its batch norm estimated again there.

    A fault of activations strikes the examples with draws of their own, so the test images meet those that they meet
    without calibration.
    """
    device = deepcopy(network)
    if not isinstance(fault, FeatureFault):
        for name, value in drifted_parameters(network, fault, level, key, draw, parameters).items():
            device.get_parameter(name).copy_(value)
    with struck(device, fault, level, (*key, "calibration"), draw):
        estimated = reestimate_batch_norm(device, examples)
    device.load_state_dict(estimated.state_dict())  # the copy that was estimated has the hooks of the fault
    return device


def _pooled(
    network: nn.Module,
    fault: FaultModel | FeatureFault,
    level: float,
    key: tuple[Any, ...],
    parameters: Where,
    examples: Tensor,
) -> nn.Module:
    """The network with running statistics that are means over devices of their own."""
    pool = (*key, "pool")
    devices = [_estimated(network, fault, level, pool, draw, parameters, examples) for draw in range(POOL)]
    each = [dict(device.named_buffers()) for device in devices]
    pooled = deepcopy(network)
    for name, buffer in pooled.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.stack([found[name] for found in each]).mean(0))
    return pooled
