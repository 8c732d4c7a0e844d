"""Stage `train`: a method that trains a fresh network without a look at drift: ERM, AWP, uniform dropout."""

from importlib import import_module

from stages.common import data_file, models_folder, run, stage
from stages.parameters import base_method
from stages.problem import load_problem


def main(task: str, method: str, seed: int) -> None:
    """Train one method, or its variant on the network without batch norm, on one task with one seed."""

    def matters(p):
        return p.recipe(task), p.specification(task, method), p.method_settings(task, method)

    with stage("train", f"{task}-{method}-{seed}", matters, (data_file(task),)) as s:
        # The module of this method alone: a change in another one's code does not concern it.
        train = import_module(f"bayesft.training.{base_method(method)}").train
        problem = load_problem(s, task, seed, s.parameters.specification(task, method))
        trained = train(problem, **s.parameters.method_settings(task, method))
        trained.save(models_folder(task, seed) / method / f"{method}.safetensors")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
