"""A search whose trials run on a local Ray cluster of two workers: the same numbers as in one process."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import joblib
import ray
import torch
from ray.util.joblib import register_ray

from bayesft import tune
from bayesft.data import Split
from bayesft.methods import load
from bayesft.search.algorithm1 import search
from bayesft.settings import Recipe, SearchSettings
from bayesft.training import Problem


@dataclass(frozen=True)
class Noting(Problem):
    """A problem that notes in a folder in which process its networks are measured."""

    folder: str = ""

    def scores(self, *arguments):
        """The scores, with a note."""
        Path(self.folder, str(os.getpid())).touch()
        return super().scores(*arguments)


FOLDER = Path(sys.argv[1])


def train(values: dict) -> torch.nn.Module:
    """A network, with a note of the process that makes it."""
    (FOLDER / f"tune {os.getpid()}").touch()
    network = torch.nn.Linear(16, 4)
    network.weight.data *= values["scale"]
    return network


def main() -> None:
    torch.set_num_threads(1)
    images, labels = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
    network = {"network": "mlp", "inputs": 16, "hidden": [12, 8], "outputs": 4}
    parts, recipe = (Split(images[:40], labels[:40]), Split(images[40:], labels[40:])), Recipe(epochs=4, batch_size=16)
    settings = SearchSettings(trials=6, initial=2, epochs=2, draws=2, weights="scratch", batch=3)
    alone = search(Problem("tiny", network, 4, *parts, recipe, 0), load("bayesft"), settings)
    options = {"space": {"scale": (0.1, 2.0)}, "trials": 4, "batch": 2, "levels": (0.5,), "draws": 2, "progress": False}
    tuned_alone = tune(train, (images.flatten(1), labels), **options)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=2, ray_remote_args={"num_cpus": 1}):
        noting = Noting("tiny", network, 4, *parts, recipe, 0, folder=str(FOLDER))
        together = search(noting, load("bayesft"), settings)
        tuned = tune(train, (images.flatten(1), labels), **options)
    cpus = ray.cluster_resources()["CPU"]
    ray.shutdown()
    others = [path.name for path in FOLDER.iterdir() if path.name.split()[-1] != str(os.getpid())]
    equal = [[t.values, t.objective] for t in tuned.trials] == [[t.values, t.objective] for t in tuned_alone.trials]
    workers = sum(not name.startswith("tune") for name in others)
    found = {"cpus": cpus, "workers": workers, "same": alone.trials == together.trials}
    print(json.dumps({**found, "tune": equal, "tune elsewhere": len(others) > workers}))


if __name__ == "__main__":
    main()
