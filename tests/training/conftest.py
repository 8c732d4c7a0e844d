"""A tiny problem, four patterns under noise, that every method learns in a moment."""

from collections.abc import Callable

import pytest
import torch

from bayesft.data import Split
from bayesft.settings import Recipe
from bayesft.training import Problem, Trained, erm

SIDE = 4
SPECIFICATION = {"network": "mlp", "inputs": SIDE**2, "hidden": [12, 8], "outputs": 4}
RECIPE = Recipe(epochs=4, batch_size=16, lr=0.02, weight_decay=1e-4, clip_norm=1.0)


def _separable(count: int, classes: int = 4, part: int = 0, side: int = SIDE, noise: float = 0.4) -> Split:
    patterns = torch.randn(classes, 1, side, side, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    around = torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(part))
    return Split(patterns[labels] + noise * around, labels)


@pytest.fixture(scope="session")
def separable() -> Callable[..., Split]:
    """Images (count, 1, side, side) of so many patterns; parts differ in their noise alone."""
    return _separable


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return RECIPE


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """The tiny problem, with changes."""

    def make(**changes) -> Problem:
        defaults = {
            "task": "tiny",
            "specification": SPECIFICATION,
            "classes": 4,
            "train": _separable(40),
            "validation": _separable(40, part=1),
            "recipe": RECIPE,
            "seed": 0,
        }
        return Problem(**{**defaults, **changes})

    return make


@pytest.fixture(scope="session")
def trained_erm(make_problem) -> Trained:
    """A network that has learnt the tiny problem."""
    return erm.train(make_problem(recipe=RECIPE.model_copy(update={"epochs": 30})))
