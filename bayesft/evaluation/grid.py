"""Accuracy of a trained network under a grid of drift levels σ, on the test images: the curves of Figures 2 and 3."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bayesft.data import Split
from bayesft.drift import FaultModel, monte_carlo
from bayesft.training import Checkpoint, Trained


def sigma_grid(sigma_max: float, step: float) -> list[float]:
    """0, step, 2·step, … up to and with `sigma_max`, which is added where it is no multiple of the step.

    Points are rounded to six digits, so grids of different ends share their points exactly.
    """
    points = [round(i * step, 6) for i in range(int(sigma_max / step + 1e-9) + 1)]
    return points if points[-1] == round(sigma_max, 6) else [*points, sigma_max]


def accuracy_grid(
    trained: Trained,
    data: Split,
    fault: FaultModel,
    sigmas: list[float],
    draws: int,
    key: tuple,
    *,
    parameters: str = "all",
    memory_mib: int = 28,
    label: str = "evaluation",
    checkpoint: Checkpoint | None = None,
    identity: str = "",
) -> np.ndarray:
    """Accuracy of each drifted copy: (len(sigmas), draws), float64.

    `key` names the draws (task and training seed): the same key gives the same drift to every method at every σ.
    Where there are several members (devices), draw t meets member t modulo their number. Each σ is kept in
    `checkpoint` as soon as it is done, under `identity` (by default the label), which must name the network: what is
    found there is taken for its own.
    """

    def score(outputs: Tensor, labels: Tensor) -> Tensor:
        return (trained.decode(outputs) == labels).float()

    identity = identity or label
    networks = trained.networks(data.labels.device)
    result = np.zeros((len(sigmas), draws))
    done = sum(checkpoint is not None and checkpoint.load(_name(identity, sigma)) is not None for sigma in sigmas)
    if done:
        tqdm.write(f"{label}: resuming after σ {done} of {len(sigmas)}")
    for row, sigma in enumerate(tqdm(sigmas, desc=label, unit="σ", disable=None)):
        found = checkpoint.load(_name(identity, sigma)) if checkpoint else None
        if found:
            result[row] = found[0]["accuracy"].numpy()
            continue
        for i, network in enumerate(networks):
            mine = list(range(i, draws, len(networks)))
            values = monte_carlo(
                network, data.images, data.labels, score, fault, sigma, mine, key, parameters, memory_mib
            )
            result[row, mine] = values.numpy()
        if checkpoint:
            checkpoint.save(_name(identity, sigma), {"accuracy": torch.from_numpy(result[row])})
    return result


def _name(identity: str, sigma: float) -> str:
    return f"{identity} sigma {sigma}"
