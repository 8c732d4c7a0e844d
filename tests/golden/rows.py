"""A tiny run of every method on an MLP, LeNet-5 and a residual network, and what is kept of it."""

import sys
from functools import partial

import torch

from bayesft.data import Split, load_images
from bayesft.drift import LogNormalDrift
from bayesft.evaluation.grid import accuracy_grid
from bayesft.models import find_sites
from bayesft.search.algorithm1 import search
from bayesft.settings import Recipe, SearchSettings
from bayesft.training import Problem, Trained, awp, drift_aware, drift_dropout, dropout_rates, erm, ftna, reram_v
from bayesft.training import uniform
from bayesft.training.drift_aware import drift_gradient
from bayesft.training.tunable import train as train_under

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
    return Problem(name, specification, images.classes, parts["train"], parts["validation"], recipe, 0), parts["test"]


def rows(name: str) -> dict[str, Trained]:
    """Every row of the reports, trained in a moment."""
    p, _ = problem(name)
    sites = find_sites(p.fresh(), p.train.images[:1], "stage" if name == "resnet" else "layer")
    inherit = SearchSettings(
        trials=4, initial=2, epochs=1, draws=2, sigmas=NETWORKS[name][3], bounds=(0.0, 0.5), weights="inherit"
    )
    scratch = inherit.model_copy(update={"weights": "scratch", "epochs": 2, "top": 2})
    found = {"erm": erm.train(p), "awp": awp.train(p, 0.01), "uniform": uniform.train(p, 0.2)}
    found["drift_aware"] = drift_aware.train(p, FAULT, 0.5, "all")
    found["drift_dropout"] = drift_dropout.train(p, FAULT, 0.2, 0.5, "all")
    found["ftna"] = ftna.train(p, found["erm"])
    found["reram_v"], found["erm-programmed"] = reram_v.train(p, found["erm"], 0.5, 2, 2)
    rates = dropout_rates.tunable(sites, inherit.bounds)
    for row, settings in (("bayesft", inherit), ("random", inherit.model_copy(update={"strategy": "random"}))):
        result = search(p, rates, settings, FAULT, name=f"{row} search")
        found[row] = dropout_rates.train(p, sites, result.values, row, **result.about)
        if row == "bayesft":
            found["bayesft-alg1"] = result.best_model
    gradient = partial(drift_gradient, FAULT, parameters="all", rise=drift_dropout.RISE)
    for row, tunable in (
        ("awp-tuned", awp.tunable()),
        ("drift_aware-tuned", drift_aware.tunable(FAULT, "all")),
        ("uniform-tuned", uniform.tunable(sites, scratch.bounds)),
        ("drift_dropout-tuned", drift_dropout.tunable(sites, scratch.bounds, lambda s: gradient(sigma_train=s))),
        ("bayesft-tuned", rates),
    ):
        result = search(p, tunable, scratch, FAULT, name=f"{row} search")
        found[row] = train_under(p, tunable, result.values, row, **result.about)
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


if __name__ == "__main__":
    import json
    from pathlib import Path

    file = Path(__file__).with_name("golden.json")
    kept = {name: all_numbers(name) for name in NETWORKS}
    file.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"wrote {file}", file=sys.stderr)
