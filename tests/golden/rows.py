"""A tiny run of every method on an MLP, LeNet-5 and a residual network, and what is kept of it."""

import stages  # noqa: F401 (before PyTorch: the instructions that a run uses)

# isort: split
import sys

import torch

from bayesft.data import Split, load_images
from bayesft.drift import LogNormalDrift
from bayesft.evaluation.grid import accuracy_grid
from bayesft.methods import load
from bayesft.search.algorithm1 import search, train_row
from bayesft.settings import Recipe, SearchSettings
from bayesft.training import Problem, Trained

FAULT = LogNormalDrift()
NETWORKS = {
    "mlp": ("mnist", {"network": "mlp"}, 192, (0.3, 0.9)),
    "lenet": ("mnist", {"network": "lenet5"}, 128, (0.3, 0.9)),
    "resnet": ("cifar10", {"network": "resnet18", "width": 0.125}, 64, (0.2, 0.4)),
}


def problem(name: str) -> tuple[Problem, Split]:
    """The problem and the test images."""
    data, specification, count, _ = NETWORKS[name]
    images = load_images(data, "embedded", None).limited({"train": count, "validation": 64, "test": 64})
    parts = images.standardised()
    recipe = Recipe(epochs=2, batch_size=32, lr=3e-3)
    return Problem(
        name,
        specification,
        images.classes,
        parts["train"],
        parts["validation"],
        recipe,
        0,
        FAULT,
        granularity="stage" if name == "resnet" else "layer",
        bounds=(0.0, 0.5),
    ), parts["test"]


GIVEN = {
    "erm": {},
    "awp": {"gamma": 0.01},
    "uniform": {"rate": 0.2},
    "drift_aware": {"sigma_train": 0.5},
    "drift_dropout": {"rate": 0.2, "sigma_train": 0.5},
    "ftna": {},
    "reram_v": {"sigma_device": 0.5, "rounds": 2, "devices": 2},
    "calibration_aware": {"rate": 0.2, "sigma_train": 0.5},
    "ftt": {"alpha": 0.7, "level": 1.0, "bits": 8},
    "drift_ftt": {"alpha": 0.7, "level": 1.0, "bits": 8, "sigma_train": 0.3},
}


def rows(name: str) -> dict[str, Trained]:
    """Every row of the reports, trained in a moment."""
    p, _ = problem(name)
    inherit = SearchSettings(
        trials=4, initial=2, epochs=1, draws=2, sigmas=NETWORKS[name][3], bounds=(0.0, 0.5), weights="inherit"
    )
    scratch = inherit.model_copy(update={"weights": "scratch", "epochs": 2, "top": 2})
    found: dict[str, Trained] = {}
    for method, values in GIVEN.items():
        found |= train_row(p, load(method), values, found)
    for method, settings in (("bayesft", inherit), ("random", inherit.model_copy(update={"strategy": "random"}))):
        found |= train_row(p, load(method), {}, {}, search(p, load(method), settings))
    published = load("algorithm1")
    found["bayesft-alg1"] = train_row(p, published, {}, {}, search(p, published, inherit))["algorithm1"]
    for method in ("awp", "drift_aware", "uniform", "drift_dropout", "bayesft"):
        found |= train_row(p, load(method), {}, {}, search(p, load(method), scratch), f"{method}-tuned")
    return found


def numbers(name: str, row: str, trained: Trained) -> dict[str, list[float]]:
    """What tells a training from another one: the mean size of its weights, its accuracy, its trials."""
    _, test = problem(name)
    sizes = [
        torch.cat([v.double().abs().flatten() for v in member.values() if v.is_floating_point()]).mean().item()
        for member in trained.members
    ]
    accuracy = accuracy_grid(trained, test, FAULT, [0.0, 0.6], 2, (name, 0), label=row)
    kept = {"weights": sizes, "accuracy": accuracy.flatten().tolist()}
    if "trials" in trained.about:
        kept["values"] = [value for trial in trained.about["trials"] for value in trial["values"]]
        kept["objective"] = [trial["objective"] for trial in trained.about["trials"]]
    return {key: [float(f"{value:.7g}") for value in values] for key, values in kept.items()}


def all_numbers(name: str) -> dict[str, dict[str, list[float]]]:
    """The numbers of every row of a network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {row: numbers(name, row, trained) for row, trained in rows(name).items()}
    finally:
        torch.set_num_threads(threads)


def rounding() -> list[float]:
    """How this processor rounds a product of matrices and a convolution."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 300, generator=g), torch.randn(300, 64, generator=g)
    x, w = torch.randn(4, 8, 16, 16, generator=g), torch.randn(8, 8, 3, 3, generator=g)
    return [float((a @ b).double().sum()), float(torch.conv2d(x, w).double().pow(3).sum())]


if __name__ == "__main__":
    import json
    from pathlib import Path

    file = Path(__file__).with_name("golden.json")
    kept = {"rounding": rounding(), "networks": {name: all_numbers(name) for name in NETWORKS}}
    file.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"wrote {file}", file=sys.stderr)
