"""Stage `evaluate`: accuracy of a task's networks on the test images, under a grid of drift levels."""

import json
import shutil
from pathlib import Path

from bayesft.data import Images
from bayesft.drift import FAULT_MODELS
from bayesft.evaluation.grid import accuracy_grid, sigma_grid
from bayesft.files import checksum, write_text
from bayesft.training import Trained
from stages.common import data_file, models_folder, results_file, run, stage
from stages.parameters import Parameters


def main(task: str, seed: int) -> None:
    """Evaluate every network of one task, or of an ablation ("ablation-mnist"), with one seed.

    What was measured is kept by network and σ: a new end of the grid costs its new σ, a retrained method its own.
    """

    def matters(p):
        return p.budget(task).evaluate.draws, p.drift

    with stage("evaluate", f"{task}-{seed}", matters, (data_file(task),), keep=True) as s:
        p, budget = s.parameters, s.parameters.budget(task).evaluate
        sigmas = sigma_grid(p.sigma_max, budget.sigma_step)
        images = Images.load(data_file(task))
        test = images.standardised(s.device)["test"]
        rows = {}
        for file in _networks(p, task, seed):
            trained = Trained.load(file)
            accuracies = accuracy_grid(
                trained,
                test,
                FAULT_MODELS[p.drift.model],
                sigmas,
                budget.draws,
                (task, seed),
                parameters=p.drift.parameters,
                label=f"{task} {file.stem} seed {seed}",
                checkpoint=s.checkpoint,
                identity=f"{file.stem} {checksum(file)[:16]}",
            )
            rows[file.stem] = {"accuracy": accuracies.tolist(), "about": trained.about}
            print(
                f"{task} {file.stem} seed {seed}: accuracy {accuracies[0].mean():.3f} clean, {accuracies.mean():.3f} "
                f"on average up to sigma {sigmas[-1]}"
            )
        about = {**images.about, "classes": images.classes}
        result = {"sigmas": sigmas, "data": about, "device": s.device, "rows": rows}
        write_text(results_file(task, seed), json.dumps(result, indent=1) + "\n")


def _networks(p: Parameters, task: str, seed: int) -> list[Path]:
    """The files of the run's networks. Those of methods that params.yaml no longer names are removed.

    This stage depends on their folder, which would read as changed with leftovers in it; DVC's cache has them.
    """
    folder = models_folder(task, seed)
    if task.startswith("ablation-"):
        return sorted(folder.glob("*.safetensors"))
    methods = p.methods_of(task)
    for leftover in folder.iterdir():
        if leftover.name not in methods:
            shutil.rmtree(leftover)
    return [file for method in methods for file in sorted((folder / method).glob("*.safetensors"))]


if __name__ == "__main__":
    run(main, "task", "seed")
