"""Accuracy of a trained network under a grid of drift levels σ, on the test images: the curves of Figures 2 and 3."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bayesft.data import Split
from bayesft.drift import FaultModel, monte_carlo_grid
from bayesft.drift.scope import Where
from bayesft.training import Checkpoint, Trained


def sigma_grid(sigma_max: float, step: float) -> list[float]:
    """0, step, 2·step, … up to and with `sigma_max`, which is added where it is no multiple of the step.

    Multiples of the step are rounded to six digits, so grids of different ends share them exactly. A `sigma_max` that
    is added is not rounded.
    """
    points = [round(i * step, 6) for i in range(int(sigma_max / step + 1e-9) + 1)]
    return points if points[-1] == round(sigma_max, 6) else [*points, sigma_max]


def accuracy_grid(
    trained: Trained,
    data: Split,
    fault: FaultModel,
    sigmas: Sequence[float],
    draws: int,
    key: tuple[Any, ...],
    *,
    parameters: Where = "all",
    label: str = "evaluation",
    checkpoint: Checkpoint | None = None,
) -> np.ndarray:
    """Accuracy of each drifted copy of a network under a grid of drift levels.

    Args:
        trained: The network. Where it has several members (devices), draw t meets member t modulo their number.
        data: The test images.
        fault: The fault model.
        sigmas: The S drift levels.
        draws: T, the number of draws.
        key: The name of the draws (task and training seed). The same key gives the same drift to every method at every
            σ.
        parameters: Which parameters drift, as `scoped` takes them.
        label: The name in the progress bar.
        checkpoint: Where the levels that are done are kept. It must be the network's own.

    Returns:
        The accuracies (S, T), float64.
    """
    return counted_grid(
        trained, data, fault, sigmas, draws, key, parameters=parameters, label=label, checkpoint=checkpoint
    )[0]


def counted_grid(
    trained: Trained,
    data: Split,
    fault: FaultModel,
    sigmas: Sequence[float],
    draws: int,
    key: tuple[Any, ...],
    *,
    parameters: Where = "all",
    label: str = "evaluation",
    checkpoint: Checkpoint | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `accuracy_grid`, and how many images have an output that is not finite. These count as wrong.

    Drift inflates scales, so the outputs of a deep network can overflow at a large σ.

    Args:
        trained, data, fault, sigmas, draws, key, parameters, label, checkpoint: As for `accuracy_grid`.

    Returns:
        The accuracies (S, T), and the shares of images with an output that is not finite (S, T), float64.
    """
    many = len(data.labels) + 1  # a right answer adds 1 to the sum, an output that is not finite adds this

    def score(outputs: Tensor, labels: Tensor) -> Tensor:
        finite = outputs.isfinite().all(1)
        return ((trained.decode(outputs) == labels) & finite).float() + many * (~finite)

    networks = trained.networks(data.labels.device)

    def measure(levels: Sequence[float]) -> np.ndarray:
        result = np.zeros((len(levels), draws))
        for i, network in enumerate(networks):
            mine = list(range(i, draws, len(networks)))
            result[:, mine] = monte_carlo_grid(
                network, data.images, data.labels, score, fault, levels, mine, key, parameters
            ).numpy()
        return result

    sums = np.rint(resumed(sigmas, measure, label, checkpoint) * len(data.labels))
    not_finite, right = np.divmod(sums, many)
    return right / len(data.labels), not_finite / len(data.labels)


def resumed(
    sigmas: Sequence[float],
    measure: Callable[[Sequence[float]], np.ndarray],
    label: str,
    checkpoint: Checkpoint | None,
    together: int = 4,
) -> np.ndarray:
    """Measure at the levels that the checkpoint lacks, `together` at once, and keep what was measured.

    Args:
        sigmas: The S levels.
        measure: Gives what is measured at some levels, with these as first dimension.
        label: The name in the progress bar.
        checkpoint: Where it is kept, by level.
        together: The number of levels that one call of `measure` gets.

    Returns:
        What was measured, now and before: (S, ...).
    """
    found = checkpoint.load("levels") if checkpoint else None
    known = dict(found[0]) if found else {}
    missing = [sigma for sigma in sigmas if _name(sigma) not in known]
    if 0 < len(missing) < len(sigmas):
        tqdm.write(f"{label}: resuming after σ {len(sigmas) - len(missing)} of {len(sigmas)}")
    for start in tqdm(range(0, len(missing), together), desc=label, unit="levels", disable=None):
        levels = missing[start : start + together]
        known |= {_name(s): torch.from_numpy(v) for s, v in zip(levels, measure(levels), strict=True)}
        if checkpoint:
            checkpoint.save("levels", known)
    return np.stack([known[_name(sigma)].numpy() for sigma in sigmas])


def _name(sigma: float) -> str:
    return f"sigma {sigma!r}"
