"""Accuracy of a network device by device, as it is and calibrated on each."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bayesft.calibration import calibration_reference, reestimate_batch_norm
from bayesft.data import Split
from bayesft.drift import FaultModel, FeatureFault, drifted_parameters, monte_carlo_grid, struck
from bayesft.drift.scope import Where
from bayesft.evaluation.calibrated import calibrated_copy
from bayesft.training.trained import accuracy_score

POOL = 8  # devices whose statistics are averaged; none of them is one of those that are measured
BATCH = 128
CALIBRATIONS = {
    "bn-device": "batch norm estimated again on each device",
    "bn-pooled": "batch norm estimated again over many devices",
    "channels": "every channel calibrated on each device",
}

Found = TypeVar("Found")


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
        parameters: Which parameters a fault of weights meets.
        how: One of `CALIBRATIONS`, or None for none.
        examples: Images without labels, for a calibration.

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
                with (
                    torch.no_grad(),
                    calibrated_copy(network, reference, examples, fault, level, key, draw, parameters) as device,
                ):
                    each.append(_accuracy(device, test))
            else:

                def measured(device: nn.Module) -> float:
                    return _accuracy(reestimate_batch_norm(device, examples), test)

                each.append(_with_device(network, fault, level, key, draw, parameters, measured))
        rows.append(np.array(each))
    return np.stack(rows)


@torch.no_grad()
def _with_device(
    network: nn.Module,
    fault: FaultModel | FeatureFault,
    level: float,
    key: tuple[Any, ...],
    draw: int,
    parameters: Where,
    look: Callable[[nn.Module], Found],
) -> Found:
    """What `look` finds of a copy of the network on one device, under its faults."""
    device = deepcopy(network)
    if isinstance(fault, FeatureFault):
        with struck(device, fault, level, key, draw):
            return look(device)
    for name, value in drifted_parameters(network, fault, level, key, draw, parameters).items():
        device.get_parameter(name).copy_(value)
    return look(device)


def _accuracy(network: nn.Module, test: Split) -> float:
    batches = zip(test.images.split(BATCH), test.labels.split(BATCH), strict=True)
    return sum(float(accuracy_score(network(x), y).sum()) for x, y in batches) / len(test)


def _pooled(
    network: nn.Module,
    fault: FaultModel | FeatureFault,
    level: float,
    key: tuple[Any, ...],
    parameters: Where,
    examples: Tensor,
) -> nn.Module:
    """The network with running statistics that are means over devices of their own."""

    def statistics(device: nn.Module) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in reestimate_batch_norm(device, examples).named_buffers()}

    each = [_with_device(network, fault, level, (*key, "pool"), draw, parameters, statistics) for draw in range(POOL)]
    pooled = deepcopy(network)
    for name, buffer in pooled.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.stack([found[name] for found in each]).mean(0))
    return pooled
