"""Accuracy of a trained network under a grid of drift levels σ, on the test images: the curves of Figures 2 and 3."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bayesft.data import Split
from bayesft.drift import FaultModel, monte_carlo_grid
from bayesft.training import Checkpoint, Trained

LEVELS_AT_ONCE = 4  # they share their draws; what a killed run has to do again


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
    An image with an output that is not finite counts as wrong. Where there are several members (devices), draw t
    meets member t modulo their number. Every few σ are kept in `checkpoint` as soon as they are done, under `identity`
    (by default the label), which must name the network: what is found there is taken for its own.
    """

    def score(outputs: Tensor, labels: Tensor) -> Tensor:
        return ((trained.decode(outputs) == labels) & outputs.isfinite().all(1)).float()

    identity = identity or label
    networks = trained.networks(data.labels.device)
    result = np.zeros((len(sigmas), draws))
    missing = []
    for row, sigma in enumerate(sigmas):
        found = checkpoint.load(_name(identity, sigma)) if checkpoint else None
        if found:
            result[row] = found[0]["accuracy"].numpy()
        else:
            missing.append(row)
    if len(missing) < len(sigmas):
        tqdm.write(f"{label}: resuming after σ {len(sigmas) - len(missing)} of {len(sigmas)}")
    with tqdm(total=len(missing), desc=label, unit="σ", disable=None) as progress:
        for start in range(0, len(missing), LEVELS_AT_ONCE):
            rows = missing[start : start + LEVELS_AT_ONCE]
            levels = [sigmas[row] for row in rows]
            for i, network in enumerate(networks):
                mine = list(range(i, draws, len(networks)))
                values = monte_carlo_grid(
                    network, data.images, data.labels, score, fault, levels, mine, key, parameters, memory_mib
                )
                result[np.ix_(rows, mine)] = values.numpy()
            for row in rows if checkpoint else ():
                checkpoint.save(_name(identity, sigmas[row]), {"accuracy": torch.from_numpy(result[row])})
            progress.update(len(rows))
    return result


def _name(identity: str, sigma: float) -> str:
    return f"{identity} sigma {sigma}"
