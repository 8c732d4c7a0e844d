"""Stage `drift`: a method that trains a fresh network under drift: drift-aware training."""

from bayesft.drift import FAULT_MODELS
from bayesft.training import drift_aware
from stages.common import data_file, models_folder, run, stage
from stages.problem import load_problem


def main(task: str, method: str, seed: int) -> None:
    """Train one method on one task with one seed."""
    if method != "drift_aware":
        raise ValueError(f"method {method!r}: must be drift_aware")

    def matters(p):
        return p.recipe(task), p.specification(task), p.method_settings(task, method), p.drift

    with stage("drift", f"{task}-{method}-{seed}", matters, (data_file(task),)) as s:
        p = s.parameters
        problem, settings = load_problem(s, task, seed, p.specification(task)), p.method_settings(task, method)
        trained = drift_aware.train(problem, FAULT_MODELS[p.drift.model], **settings, parameters=p.drift.parameters)
        trained.save(models_folder(task, seed) / method / "drift_aware.safetensors")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
