"""Stage `evaluate`: accuracy of one method's networks on the test images, under a grid of drift levels."""

import json

from bayesft.data import Images
from bayesft.drift import FAULT_MODELS
from bayesft.evaluation.grid import accuracy_grid, sigma_grid
from bayesft.files import write_text
from bayesft.training import Trained
from stages.common import data_file, models_folder, results_file, run, stage


def main(task: str, method: str, seed: int) -> None:
    """Evaluate one method on one task with one seed: every network in its folder."""
    item, folder = f"{task}-{method}-{seed}", models_folder(task, method, seed)
    files = sorted(folder.glob("*.safetensors"))
    with stage("evaluate", item, lambda p: (p.budget.evaluate.draws, p.drift), (data_file(task), *files)) as s:
        p = s.parameters
        sigmas = sigma_grid(p.sigma_max, p.budget.evaluate.sigma_step)
        images = Images.load(data_file(task))
        test = images.standardised(s.device)["test"]
        rows = {}
        for file in files:
            trained = Trained.load(file)
            accuracies = accuracy_grid(
                trained,
                test,
                FAULT_MODELS[p.drift.model],
                sigmas,
                p.budget.evaluate.draws,
                (task, seed),
                parameters=p.drift.parameters,
                label=f"{task} {file.stem} seed {seed}",
                checkpoint=s.checkpoint,
            )
            rows[file.stem] = {"accuracy": accuracies.tolist(), "about": trained.about}
            print(
                f"{task} {file.stem} seed {seed}: accuracy {accuracies[0].mean():.3f} clean, {accuracies.mean():.3f} "
                f"on average up to sigma {sigmas[-1]}"
            )
        result = {"sigmas": sigmas, "data": images.about, "device": s.device, "rows": rows}
        write_text(results_file(task, method, seed), json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
