"""Stage `detect`: a detector, trained as it is, or with Algorithm 1 and its rates."""

import numpy as np

from bayesft.data.scenes import Scenes
from bayesft.drift import FAULT_MODELS
from bayesft.evaluation.detection import drifted_map
from bayesft.models.detector import detection_sites
from bayesft.search.algorithm1 import search
from bayesft.training import Problem, dropout_rates, erm
from bayesft.training.detection import columns, flipping_gradient
from stages.common import data_file, models_folder, run, stage


def main(task: str, method: str, seed: int) -> None:
    """Train one method on the detection task with one seed."""
    item, folder = f"{task}-{method}-{seed}", models_folder(task, seed) / method
    if method not in ("erm", "bayesft"):
        raise ValueError(f"method {method!r}: must be one of erm, bayesft")

    def matters(p):
        return p.detection_recipe, p.detector, (p.drift, p.detection_search) if method == "bayesft" else None

    with stage("detect", item, matters, (data_file(task),)) as s:
        p, scenes = s.parameters, Scenes.load(data_file(task))
        train, validation = (columns(scenes.parts[part], s.device) for part in ("train", "validation"))
        problem = Problem(
            task, p.detector, 1, train, validation, p.detection_recipe, seed, s.checkpoint, flipping_gradient
        )
        if method == "erm":
            erm.train(problem).save(folder / "erm.safetensors")
            return
        settings, fault = p.detection_search, FAULT_MODELS[p.drift.model]

        def measure(model, problem, settings, fault, purpose, draws, parameters) -> tuple[float, float]:
            """u of eq. (4) with the boxes' mAP@0.5 on validation scenes in place of −ℓ."""
            key = (problem.task, problem.seed, "search", *purpose)
            u = np.mean(
                [
                    [
                        drifted_map(model, scenes.parts["validation"], fault, sigma, t, key, parameters)["box_map_50"]
                        for t in range(draws)
                    ]
                    for sigma in settings.sigmas
                ],
                axis=0,
            )
            return float(u.mean()), float(u.std(ddof=1) / draws**0.5)

        sites = detection_sites(problem.fresh(), train.images.rows[0])
        rates_of_sites = dropout_rates.tunable(sites, settings.bounds, problem.gradient)
        result = search(problem, rates_of_sites, settings, fault, parameters=p.drift.parameters, measure=measure)
        trained = dropout_rates.train(problem, sites, result.values, method, **result.about)
        trained.save(folder / "bayesft.safetensors")
        result.best_model.save(folder / "bayesft-alg1.safetensors")
        rates = ", ".join(f"{site.name} {rate:.2f}" for site, rate in zip(sites, result.values, strict=True))
        print(f"{item}: {len(result.trials)} trials, best objective {result.best.objective:.4f}, chosen rates {rates}")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
