"""Stage `train`: a method that trains a fresh network without a look at drift: ERM, AWP, uniform dropout."""

from importlib import import_module

from stages.common import data_file, models_folder, run, stage
from stages.problem import load_problem


def main(task: str, method: str, seed: int) -> None:
    """Train one method on one task with one seed."""
    item = f"{task}-{method}-{seed}"
    with stage("train", item, lambda p: (p.recipe, getattr(p.training, method)), (data_file(task),)) as s:
        # The module of this method alone: a change in another one's code does not concern it.
        train = import_module(f"bayesft.training.{method}").train
        trained = train(load_problem(s, task, seed), **getattr(s.parameters.training, method).model_dump())
        trained.save(models_folder(task, method, seed) / f"{method}.safetensors")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
