"""Stage `search`: Algorithm 1, or its random control, and the final training under the rates that it chose."""

from dataclasses import asdict

from bayesft.drift import FAULT_MODELS
from bayesft.search.algorithm1 import search
from bayesft.training import dropout_rates
from stages.common import data_file, models_folder, run, stage
from stages.problem import load_problem


def main(task: str, method: str, seed: int) -> None:
    """Search with one strategy on one task with one seed."""
    item, folder = f"{task}-{method}-{seed}", models_folder(task, method, seed)
    with stage("search", item, lambda p: (p.recipe, p.drift, p.search_settings), (data_file(task),)) as s:
        if method not in ("bayesft", "random"):
            raise ValueError(f"method {method!r}: must be one of bayesft, random")
        problem, settings, drift = load_problem(s, task, seed), s.parameters.search_settings, s.parameters.drift
        fault = FAULT_MODELS[drift.model]
        result = search(problem, settings, fault, random=method == "random", parameters=drift.parameters)
        about = {
            "epochs_search": settings.trials * settings.epochs,
            "trials": [asdict(trial) for trial in result.trials],
        }
        trained = dropout_rates.train(problem, result.sites, result.rates, method, **about)
        trained.save(folder / f"{method}.safetensors")
        if method == "bayesft":
            result.best_model.save(folder / "bayesft-alg1.safetensors")
        best = result.best
        rates = ", ".join(f"{site.name} {rate:.2f}" for site, rate in zip(result.sites, result.rates, strict=True))
        found = f"best objective {best.objective:.4f} ± {best.standard_error:.4f}, chosen rates {rates}"
        print(f"{item}: {len(result.trials)} trials, {found}")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
