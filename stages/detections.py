"""Stage `evaluate-detection`: mAP of the detectors on the test scenes against drift, and what Figure 4 shows."""

import json

from bayesft.data.scenes import Scenes
from bayesft.drift import FAULT_MODELS
from bayesft.evaluation.detection import map_grid
from bayesft.evaluation.grid import sigma_grid
from bayesft.evaluation.pictures import detection_pictures
from bayesft.files import checksum, write_text
from bayesft.models import detector  # noqa: F401 (the network's name is known from here on)
from bayesft.training import Trained
from stages.common import data_file, networks_of, pictures_file, results_file, run, stage


def main(task: str, seed: int) -> None:
    """Evaluate the detectors of one seed. What was measured is kept by network and σ."""

    def matters(p):
        return p.chosen_scale.detection.evaluate.draws, p.drift

    with stage("evaluate", f"{task}-{seed}", matters, (data_file(task),), keep=True) as s:
        p, budget, scenes = s.parameters, s.parameters.chosen_scale.detection.evaluate, Scenes.load(data_file(task))
        sigmas, fault = sigma_grid(p.sigma_max, budget.sigma_step), FAULT_MODELS[p.drift.model]
        rows, networks = {}, {}
        for file in networks_of(task, seed, p.detection.methods):
            trained = Trained.load(file)
            networks[file.stem] = trained.networks(s.device)[0]
            values = map_grid(
                networks[file.stem],
                scenes.parts["test"],
                fault,
                sigmas,
                budget.draws,
                (task, seed),
                parameters=p.drift.parameters,
                label=f"{task} {file.stem} seed {seed}",
                checkpoint=s.checkpoint,
                identity=f"{file.stem} {checksum(file)[:16]}",
            )
            metrics = {name: value.tolist() for name, value in values.items()}
            rows[file.stem] = {"accuracy": metrics["box_map_50"], "metrics": metrics, "about": trained.about}
            clean, mean = values["box_map_50"][0].mean(), values["box_map_50"].mean()
            print(f"{task} {file.stem} seed {seed}: box mAP@0.5 {clean:.3f} clean, {mean:.3f} up to sigma {sigmas[-1]}")
        shown = {row: network for row, network in networks.items() if row in p.detection.methods}
        pictured = p.detection.pictures
        pictures = detection_pictures(
            shown, scenes.parts["test"], fault, list(pictured.sigmas), (task, seed), pictured.images, p.drift.parameters
        )
        pictures.save(pictures_file(task, seed))
        result = {"sigmas": sigmas, "data": scenes.about, "device": s.device, "rows": rows}
        write_text(results_file(task, seed), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run(main, "task", "seed")
