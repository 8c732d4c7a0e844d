"""Stage `adapt`: a method that begins with the trained ERM network: FTNA, ReRAM-V."""

from importlib import import_module

from bayesft.training import Trained
from stages.common import data_file, models_folder, run, stage
from stages.problem import load_problem


def main(task: str, method: str, seed: int) -> None:
    """Train one method on one task with one seed."""
    models = models_folder(task, seed)
    erm_file, folder = models / "erm/erm.safetensors", models / method

    def matters(p):
        return p.recipe(task), p.specification(task), p.method_settings(task, method), p.chosen_scale.devices

    with stage("adapt", f"{task}-{method}-{seed}", matters, (data_file(task), erm_file)) as s:
        p, erm = s.parameters, Trained.load(erm_file)
        problem, settings = load_problem(s, task, seed, p.specification(task)), p.method_settings(task, method)
        # The module of this method alone: a change in another one's code does not concern it.
        train = import_module(f"bayesft.training.{method}").train
        if method == "reram_v":
            repaired, programmed = train(problem, erm, **settings, devices=p.chosen_scale.devices)
            repaired.save(folder / "reram_v.safetensors")
            programmed.save(folder / "erm-programmed.safetensors")
        else:
            train(problem, erm, **settings).save(folder / f"{method}.safetensors")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
