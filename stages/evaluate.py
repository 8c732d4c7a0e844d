"""Stage `evaluate@<row>`: what the networks of one row do on test data under a grid of drift levels."""

from pathlib import Path
from typing import Any

from bayesft.data import Scenes
from bayesft.drift import FaultModel, FeatureFault, any_fault
from bayesft.evaluation.calibrated import calibrated_accuracy_grid, calibration_images, layer_choices
from bayesft.evaluation.grid import counted_grid, sigma_grid
from bayesft.files import write_json
from bayesft.training import Trained
from stages.common import MODELS, RESULTS, Item, Stage, dataset, fingerprint, run
from stages.parameters import load_part
from stages.problem import load_images


def main(row: str) -> None:
    """Evaluate one row of the report, or "ablation"."""
    stage = Stage(f"evaluate-{row}", RESULTS / row)
    stage.work(evaluate, planned(stage))


def planned(stage: Stage) -> list[Item]:
    """The items of a stage, with their σ."""
    sigma_max = load_part("sigma_max")
    items = [{**item, "sigmas": sigma_grid(sigma_max, item["sigma_step"])} for item in stage.items]
    for item in items:
        if c := item["calibration"]:
            item["calibration"] = {**c, "sigmas": sigma_grid(sigma_max, c["sigma_step"])}
    return items


def evaluate(stage: Stage, item: Item) -> str:
    """Measure the networks of one task and seed, and write the results."""
    content, where = measured(stage, item), RESULTS / item["row"] / f"{item['task']}-{item['seed']}"
    write_json(where.with_name(f"{where.name}.json"), content)
    if item["data"] == "pennfudan":
        _draw(stage, item, where.with_name(f"{where.name}.pictures.safetensors"))
    shown = content["rows"].get(item["row"]) or next(iter(content["rows"].values()))
    return f"{shown['accuracy'][0][0]:.3f} clean, {_mean(shown):.3f} on average up to σ = {item['sigmas'][-1]:g}"


def networks_of(item: Item) -> list[Path]:
    """The files of an item's networks.

    Raises:
        ValueError: There is none.
    """
    folder = MODELS / item["row"] / f"{item['task']}-{item['seed']}"
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no network: run dvc repro, which trains it")
    return files


def measured(stage: Stage, item: Item) -> dict[str, Any]:
    """What the networks of one task and seed do. It is kept by network and σ: a longer grid costs its new σ."""
    files, detects = networks_of(item), item["data"] == "pennfudan"
    rows, about = (_detector if detects else _classifier)(stage, item, files)
    content = {"task": item["task"], "seed": item["seed"], "sigmas": item["sigmas"], "data": about,
               "device": stage.device, "rows": rows}  # fmt: skip
    if item["calibration"]:
        file = files[0].with_name(f"{item['row']}.safetensors")
        content["calibrated"] = (_calibrated_detector if detects else _calibrated)(stage, item, file)
    return content


def _mean(row: dict) -> float:
    levels = [sum(level) / len(level) for level in row["accuracy"]]
    return sum(levels) / len(levels)


def _key(stage: Stage, item: Item, file: Path, **more: object) -> str:
    """The key of the measurements of one network: everything that decides them but the levels."""
    decides = {k: item[k] for k in ("code", "task", "seed", "data", "images", "pixels", "drift", "draws")} | more
    return stage.key(decides, fingerprint(file), fingerprint(dataset(item["data"])))


def _fault(item: Item) -> FaultModel | FeatureFault:
    return any_fault(item["drift"]["model"], item["drift"]["settings"])


def _classifier(stage: Stage, item: Item, files: list[Path]) -> tuple[dict, dict]:
    images = load_images(item)
    test, fault = images.standardised(stage.device)["test"], _fault(item)
    rows = {}
    for file in files:
        trained = Trained.load(file)
        with stage.store.keep(_key(stage, item, file)) as checkpoint:
            accuracies, not_finite = counted_grid(
                trained,
                test,
                fault,
                item["sigmas"],
                item["draws"],
                (item["task"], item["seed"]),
                parameters=item["drift"]["parameters"],
                label=f"{item['label']} {file.stem}",
                checkpoint=checkpoint,
            )
        rows[file.stem] = {"accuracy": accuracies.tolist(), "about": trained.about}
        if not_finite.any():
            rows[file.stem]["not_finite"] = not_finite.mean(1).tolist()
    return rows, {**images.about, "classes": images.classes}


def _calibrated(stage: Stage, item: Item, file: Path) -> dict:
    """The accuracies of calibrated copies of a row's network, and what else is asked of its calibration."""
    c, key, trained = item["calibration"], (item["task"], item["seed"]), Trained.load(file)
    parts = load_images(item).standardised(stage.device)
    train, fault = parts["train"].images, _fault(item)

    def measured(images: int = c["images"], **how: Any) -> list:
        given = {"layers": c["layers"], **how}
        about = {"draws": c["draws"], "calibration": {"images": images, **given}}
        with stage.store.keep(_key(stage, item, file, **about)) as checkpoint:
            return calibrated_accuracy_grid(
                trained, parts["test"], train[calibration_images(train, images, key)], fault, c["sigmas"], c["draws"],
                key, parameters=item["drift"]["parameters"], label=f"{item['label']} calibrated", checkpoint=checkpoint,
                **given,
            ).tolist()  # fmt: skip

    found = {"images": min(c["images"], len(train)), "sigmas": c["sigmas"], "accuracy": measured()}
    if asked := c["details"]:
        layers = layer_choices(trained.networks()[0])
        found["details"] = {
            "images": {str(n): measured(n) for n in asked["images"] if n <= len(train)},
            "layers": {name: measured(layers=names) for name, names in layers.items()},
            "calibrated_at": {f"{sigma:g}": measured(calibrated_at=sigma) for sigma in asked["sigmas"]},
        }
    return found


def _calibrated_detector(stage: Stage, item: Item, file: Path) -> dict:
    """The same of a detector, without details."""
    from bayesft.evaluation.detection import calibrated_map_grid
    from bayesft.models import detector  # noqa: F401 (the network's name is known from here on)

    c, key = item["calibration"], (item["task"], item["seed"])
    network = Trained.load(file).networks(stage.device)[0]
    parts = Scenes.load(dataset(item["data"])).limited(item["images"]).parts
    fault = _fault(item)
    chosen = [parts["train"][i] for i in calibration_images(parts["train"], c["images"], key)]
    about = {"draws": c["draws"], "calibration": {"images": c["images"], "layers": c["layers"]}}
    with stage.store.keep(_key(stage, item, file, **about)) as checkpoint:
        values = calibrated_map_grid(
            network, parts["test"], chosen, fault, c["sigmas"], c["draws"], key, layers=c["layers"],
            parameters=item["drift"]["parameters"], label=f"{item['label']} calibrated", checkpoint=checkpoint,
        )  # fmt: skip
    metrics = {name: value.tolist() for name, value in values.items()}
    return {"images": len(chosen), "sigmas": c["sigmas"], "accuracy": metrics["box_map_50"], "metrics": metrics}


def _detector(stage: Stage, item: Item, files: list[Path]) -> tuple[dict, dict]:
    from bayesft.evaluation.detection import map_grid
    from bayesft.models import detector  # noqa: F401 (the network's name is known from here on)

    scenes, fault = Scenes.load(dataset(item["data"])).limited(item["images"]), _fault(item)
    rows, key, parameters = {}, (item["task"], item["seed"]), item["drift"]["parameters"]
    test = scenes.parts["test"]
    for file in files:
        trained = Trained.load(file)
        network = trained.networks(stage.device)[0]
        with stage.store.keep(_key(stage, item, file)) as checkpoint:
            values = map_grid(
                network, test, fault, item["sigmas"], item["draws"], key, parameters=parameters,
                label=f"{item['label']} {file.stem}", checkpoint=checkpoint,
            )  # fmt: skip
        metrics = {name: value.tolist() for name, value in values.items()}
        rows[file.stem] = {"accuracy": metrics["box_map_50"], "metrics": metrics, "about": trained.about}
    return rows, scenes.about


def _draw(stage: Stage, item: Item, place: Path) -> None:
    """The pictures of Figure 4: what a row's detector finds at some σ."""
    from bayesft.evaluation.pictures import detection_pictures
    from bayesft.models import detector  # noqa: F401 (the network's name is known from here on)

    scenes, shown, parameters = Scenes.load(dataset(item["data"])), item["pictures"], item["drift"]["parameters"]
    test = scenes.limited(item["images"]).parts["test"]
    networks = {file.stem: Trained.load(file).networks(stage.device)[0] for file in networks_of(item)}
    key = (item["task"], item["seed"])
    pictures = detection_pictures(networks, test, _fault(item), shown["sigmas"], key, shown["images"], parameters)
    pictures.save(place)


if __name__ == "__main__":
    run(main, "row")
