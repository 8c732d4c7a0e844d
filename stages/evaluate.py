"""Stage `evaluate@<row>`: what the networks of one row do on test data under a grid of drift levels."""

from pathlib import Path

from bayesft.data import Scenes
from bayesft.drift import fault_model
from bayesft.evaluation.grid import accuracy_grid, sigma_grid
from bayesft.files import write_json
from bayesft.training import Trained
from stages.common import MODELS, RESULTS, Item, Stage, dataset, fingerprint, run
from stages.parameters import load_part
from stages.train import load_images


def main(row: str) -> None:
    """Evaluate one row of the report, or "ablation"."""
    stage = Stage(f"evaluate-{row}")
    sigma_max = load_part("sigma_max")
    items = [{**item, "sigmas": sigma_grid(sigma_max, item["sigma_step"])} for item in stage.items]
    stage.work(evaluate, items)


def evaluate(stage: Stage, item: Item) -> str:
    """Measure the networks of one task and seed, and write the results.

    What was measured is kept by network and σ: a longer grid costs its new σ.
    """
    name = f"{item['task']}-{item['seed']}"
    folder = MODELS / item["row"] / name
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no network: run dvc repro, which trains it")
    detects = item["data"] == "pennfudan"
    measured, about = (_detector if detects else _classifier)(stage, item, files)
    where = RESULTS / item["row"]
    content = {"task": item["task"], "seed": item["seed"], "sigmas": item["sigmas"], "data": about,
               "device": stage.device, "rows": measured}  # fmt: skip
    write_json(where / f"{name}.json", content)
    shown = measured.get(item["row"]) or next(iter(measured.values()))
    return f"{shown['accuracy'][0][0]:.3f} clean, {_mean(shown):.3f} on average up to σ = {item['sigmas'][-1]:g}"


def _mean(row: dict) -> float:
    levels = [sum(level) / len(level) for level in row["accuracy"]]
    return sum(levels) / len(levels)


def _key(stage: Stage, item: Item, file: Path) -> str:
    """The key of the measurements of one network: everything that decides them but the levels."""
    decides = {k: item[k] for k in ("code", "task", "seed", "data", "images", "pixels", "drift", "draws")}
    return stage.key(decides, fingerprint(file), fingerprint(dataset(item["data"])))


def _classifier(stage: Stage, item: Item, files: list[Path]) -> tuple[dict, dict]:
    images = load_images(item)
    test, fault = images.standardised(stage.device)["test"], fault_model(item["drift"]["model"], item["drift"]["settings"])
    rows = {}
    for file in files:
        trained = Trained.load(file)
        with stage.store.keep(_key(stage, item, file)) as checkpoint:
            accuracies = accuracy_grid(
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
    return rows, {**images.about, "classes": images.classes}


def _detector(stage: Stage, item: Item, files: list[Path]) -> tuple[dict, dict]:
    from bayesft.evaluation.detection import map_grid
    from bayesft.evaluation.pictures import detection_pictures
    from bayesft.models import detector  # noqa: F401 (the network's name is known from here on)

    scenes, fault = Scenes.load(dataset(item["data"])).limited(item["images"]), fault_model(item["drift"]["model"], item["drift"]["settings"])
    rows, key, parameters = {}, (item["task"], item["seed"]), item["drift"]["parameters"]
    test, shown = scenes.parts["test"], item["pictures"]
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
        pictures = detection_pictures(
            {file.stem: network}, test, fault, shown["sigmas"], key, shown["images"], parameters
        )
        pictures.save(RESULTS / item["row"] / f"{item['task']}-{item['seed']}.pictures.safetensors")
    return rows, scenes.about


if __name__ == "__main__":
    run(main, "row")
