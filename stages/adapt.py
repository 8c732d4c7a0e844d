"""Stage `adapt`: a method that begins with the trained ERM network: FTNA, ReRAM-V."""

from importlib import import_module

from bayesft.training import Trained
from stages.common import data_file, models_folder, run, stage
from stages.problem import load_problem


def main(task: str, method: str, seed: int) -> None:
    """Train one method on one task with one seed."""
    item, erm_file = f"{task}-{method}-{seed}", models_folder(task, "erm", seed) / "erm.safetensors"

    def matters(p):
        return p.recipe, getattr(p.training, method), p.budget.devices

    with stage("adapt", item, matters, (data_file(task), erm_file)) as s:
        problem, erm, folder = load_problem(s, task, seed), Trained.load(erm_file), models_folder(task, method, seed)
        settings = getattr(s.parameters.training, method).model_dump()
        # The module of this method alone: a change in another one's code does not concern it.
        train = import_module(f"bayesft.training.{method}").train
        if method == "reram_v":
            repaired, programmed = train(problem, erm, **settings, devices=s.parameters.budget.devices)
            repaired.save(folder / "reram_v.safetensors")
            programmed.save(folder / "erm-programmed.safetensors")
        else:
            train(problem, erm, **settings).save(folder / f"{method}.safetensors")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
