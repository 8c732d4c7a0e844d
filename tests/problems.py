"""A tiny problem, four patterns under noise, that every method learns in a moment."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bayesft.data import Split
from bayesft.methods import Method, load
from bayesft.settings import Recipe
from bayesft.training import Problem, Trained

SIDE = 4
SPECIFICATION = {"network": "mlp", "inputs": SIDE**2, "hidden": [12, 8], "outputs": 4}
RECIPE = Recipe(epochs=4, batch_size=16, lr=0.02)


def patterns(count: int, part: int = 0, classes: int = 4, side: int = SIDE, noise: float = 0.4) -> Split:
    """Images (count, 1, side, side) of so many patterns. Parts differ in their noise alone."""
    clean = torch.randn(classes, 1, side, side, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    around = torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(part))
    return Split(clean[labels] + noise * around, labels)


def tiny(kind: type[Problem] = Problem, epochs: int = 4, **changes: Any) -> Problem:
    """The tiny problem, with changes."""
    given = {
        "task": "tiny",
        "specification": SPECIFICATION,
        "classes": 4,
        "train": patterns(40),
        "validation": patterns(40, part=1),
        "recipe": RECIPE.model_copy(update={"epochs": epochs}),
        "seed": 0,
    }
    return kind(**{**given, **changes})


def train(method: Method, problem: Problem, **values: Any) -> Trained:
    """A network trained by `method`. Settings that are not given are the defaults, or low in their ranges."""
    own = method.Settings().model_dump() | {h.name: h.value(0.25) for h in method.hyperparameters(problem)}
    given = {need: train(load(need), problem) for need in method.needs}
    return method.train(problem, {**own, **values}, given)[method.name]


@cache
def trained_erm() -> Trained:
    """A network that has learnt the tiny problem."""
    return train(load("erm"), tiny(epochs=30))


def flat(state: Mapping[str, Tensor]) -> Tensor:
    """All tensors of a state as one vector."""
    return torch.cat([tensor.flatten() for tensor in state.values()])


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
