"""Stage `drift`: a method that trains a fresh network under drift: drift-aware training, without and with dropout."""

from importlib import import_module

from bayesft.drift import FAULT_MODELS
from stages.common import data_file, models_folder, run, stage
from stages.problem import load_problem


def main(task: str, method: str, seed: int) -> None:
    """Train one method on one task with one seed."""
    if method not in ("drift_aware", "drift_dropout"):
        raise ValueError(f"method {method!r}: must be one of drift_aware, drift_dropout")

    def matters(p):
        return p.recipe(task), p.specification(task), p.method_settings(task, method), p.drift

    with stage("drift", f"{task}-{method}-{seed}", matters, (data_file(task),)) as s:
        p = s.parameters
        problem, settings = load_problem(s, task, seed, p.specification(task)), p.method_settings(task, method)
        # The module of this method alone: a change in another one's code does not concern it.
        train = import_module(f"bayesft.training.{method}").train
        trained = train(problem, FAULT_MODELS[p.drift.model], **settings, parameters=p.drift.parameters)
        trained.save(models_folder(task, seed) / method / f"{method}.safetensors")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
