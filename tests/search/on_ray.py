"""A search whose trials run on a local Ray cluster of two workers: the same numbers as in one process."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import joblib
import ray
import torch
from ray.util.joblib import register_ray

from bayesft.data import Split
from bayesft.drift import LogNormalDrift
from bayesft.models import find_sites
from bayesft.search.algorithm1 import objective, search
from bayesft.settings import Recipe, SearchSettings
from bayesft.training import Problem, dropout_rates


def noted(folder, *arguments):
    """The objective, noting in which process it was measured."""
    Path(folder, str(os.getpid())).touch()
    return objective(*arguments)


def main() -> None:
    torch.set_num_threads(1)
    images, labels = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
    network = {"network": "mlp", "inputs": 16, "hidden": [12, 8], "outputs": 4}
    parts = Split(images[:40], labels[:40]), Split(images[40:], labels[40:])
    problem = Problem("tiny", network, 4, *parts, Recipe(epochs=4, batch_size=16), 0)
    settings = SearchSettings(trials=6, initial=2, epochs=2, draws=2, weights="scratch", batch=3)
    rates = dropout_rates.tunable(find_sites(problem.fresh(), images[:1]), settings.bounds)
    alone = search(problem, rates, settings, LogNormalDrift())
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    folder = Path(sys.argv[1])
    with joblib.parallel_config(backend="ray", n_jobs=2, ray_remote_args={"num_cpus": 1}):
        together = search(problem, rates, settings, LogNormalDrift(), measure=partial(noted, folder))
    cpus = ray.cluster_resources()["CPU"]
    ray.shutdown()
    workers = [path for path in folder.iterdir() if path.name != str(os.getpid())]
    print(json.dumps({"cpus": cpus, "workers": len(workers), "same": alone.trials == together.trials}))


if __name__ == "__main__":
    main()
