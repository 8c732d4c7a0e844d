"""Stage `evaluate`: accuracy of a task's networks on the test images, under a grid of drift levels."""

import json

from bayesft.data import Images
from bayesft.drift import FAULT_MODELS
from bayesft.evaluation.grid import accuracy_grid, sigma_grid
from bayesft.files import checksum, write_text
from bayesft.training import Trained
from stages.common import data_file, models_folder, networks_of, results_file, run, stage


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
        if task.startswith("ablation-"):
            files = sorted(models_folder(task, seed).glob("*.safetensors"))
        else:
            files = networks_of(task, seed, p.methods_of(task))
        for file in files:
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


if __name__ == "__main__":
    run(main, "task", "seed")
