"""A tiny problem to search on."""

from collections.abc import Callable

import pytest
import torch

from bayesft.data import Split
from bayesft.settings import Recipe, SearchSettings
from bayesft.training import Problem


def _noisy_patterns(count: int, part: int) -> Split:
    patterns = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % 4
    noise = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(part))
    return Split(patterns[labels] + 0.8 * noise, labels)


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """Four patterns under noise, with changes."""

    def make(**changes) -> Problem:
        defaults = {
            "task": "tiny",
            "specification": {"network": "mlp", "inputs": 16, "hidden": [12, 8], "outputs": 4},
            "classes": 4,
            "train": _noisy_patterns(40, 0),
            "validation": _noisy_patterns(60, 1),
            "recipe": Recipe(epochs=4, batch_size=16, lr=0.02, weight_decay=1e-4, clip_norm=1.0),
            "seed": 0,
        }
        return Problem(**{**defaults, **changes})

    return make


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., SearchSettings]:
    """Four trials of two epochs, the first two without the surrogate, with changes."""

    def make(**changes) -> SearchSettings:
        defaults = {
            "acquisition": "ei",
            "kernel": "squared_exponential",
            "objective": "accuracy",
            "sigmas": (0.4, 1.0),
            "weights": "inherit",
            "granularity": "layer",
            "bounds": (0.1, 0.7),
            "lr": 0.01,
            "trials": 4,
            "initial": 2,
            "epochs": 2,
            "draws": 3,
        }
        return SearchSettings(**{**defaults, **changes})

    return make
