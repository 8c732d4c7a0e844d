"""Stage `drift`: a method that trains a fresh network under drift: drift-aware training."""

from bayesft.drift import FAULT_MODELS
from bayesft.training import drift_aware
from stages.common import data_file, models_folder, run, stage
from stages.problem import load_problem


def main(task: str, method: str, seed: int) -> None:
    """Train one method on one task with one seed."""
    item = f"{task}-{method}-{seed}"
    with stage("drift", item, lambda p: (p.recipe, p.drift, getattr(p.training, method)), (data_file(task),)) as s:
        if method != "drift_aware":
            raise ValueError(f"method {method!r}: must be drift_aware")
        drift = s.parameters.drift
        sigma_train = s.parameters.training.drift_aware.sigma_train
        problem = load_problem(s, task, seed)
        trained = drift_aware.train(problem, FAULT_MODELS[drift.model], sigma_train, drift.parameters)
        trained.save(models_folder(task, method, seed) / "drift_aware.safetensors")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
