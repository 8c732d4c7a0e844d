"""Figure 1: how drift moves the decision boundary of a small classifier of two-dimensional points."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bayesft.data import Split
from bayesft.drift import FaultModel, drifted_parameters, monte_carlo
from bayesft.drift.scope import Where
from bayesft.models import build
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe
from bayesft.tensors import load_tensors, save_tensors
from bayesft.training.loop import fit
from bayesft.training.trained import accuracy_score

SIDE = 160  # points of the map along each axis
COPIES = 10  # whose boundaries are mapped
KEY = ("boundary", 0)


@dataclass(frozen=True)
class Boundaries:
    """What a classifier decides on a grid of points, for COPIES drifted copies at each σ.

    Args:
        probability: That of class 1, (S, COPIES, SIDE, SIDE): the vertical axis, then the horizontal one.
        horizontal: The horizontal places of the grid, (SIDE,).
        vertical: The vertical places of the grid, (SIDE,).
        sigmas: The levels, (S,).
        accuracy: The test accuracy of each of T copies, (S, T).
        points: The test points, (N, 2).
        labels: Their labels, (N,).
    """

    probability: Tensor
    horizontal: Tensor
    vertical: Tensor
    sigmas: Tensor
    accuracy: Tensor
    points: Tensor
    labels: Tensor

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        save_tensors(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "Boundaries":
        """Read what `save` wrote."""
        return cls(**load_tensors(path)[0])


def decision_boundaries(
    recipe: Recipe, fault: FaultModel, sigmas: tuple[float, ...], points: int, draws: int, parameters: Where
) -> Boundaries:
    """Train a 2-32-32-2 network on two noisy half-moons, and map its decisions under drift.

    Args:
        recipe: The recipe of the training.
        fault: The fault model.
        sigmas: The S drift levels.
        points: N, the number of training points, and of test points.
        draws: T, the number of copies whose accuracy is measured at each level.
        parameters: Which parameters drift, as `scoped` takes them.

    Returns:
        The maps.

    Raises:
        Diverged: The loss or its gradient is no longer finite.
    """
    train, test = (_moons(points, part) for part in ("train", "test"))
    specification = {"network": "mlp", "inputs": 2, "hidden": (32, 32), "outputs": 2}
    model = build(specification, derive_seed(*KEY, "initialisation"))
    fit(model, train, recipe, seed=derive_seed(*KEY), label="figure 1").eval()
    axis_x, axis_y = torch.linspace(-2.2, 2.2, SIDE), torch.linspace(-2.2, 2.2, SIDE)
    yy, xx = torch.meshgrid(axis_y, axis_x, indexing="ij")
    grid = torch.stack([xx.flatten(), yy.flatten()], 1)  # (SIDE², 2)
    maps, accuracies = [], []
    for sigma in sigmas:
        copies = [drifted_parameters(model, fault, sigma, KEY, draw, parameters) for draw in range(COPIES)]
        with torch.inference_mode():
            outputs = [torch.func.functional_call(model, copy, (grid,)) for copy in copies]
        maps.append(torch.stack([of_copy.softmax(1)[:, 1].view(SIDE, SIDE) for of_copy in outputs]))
        accuracies.append(monte_carlo(model, *test, accuracy_score, fault, sigma, range(draws), KEY, parameters))
    return Boundaries(
        torch.stack(maps), axis_x, axis_y, torch.tensor(sigmas), torch.stack(accuracies), test.images, test.labels
    )


def _moons(points: int, part: str) -> Split:
    from sklearn.datasets import make_moons  # takes a second, which `render` need not wait for

    x, y = make_moons(points, noise=0.2, random_state=derive_seed("moons", part) % 2**32)
    x = torch.from_numpy(x).float() - torch.tensor([0.5, 0.25])  # about centred, in both parts alike
    return Split(x * 1.2, torch.from_numpy(y))
