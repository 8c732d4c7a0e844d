"""Stage `train@<row>`: the networks of one row of the report, one for each task and seed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bayesft.data import Images, Scenes
from bayesft.drift import any_fault
from bayesft.files import read_json, write_json
from bayesft.methods import load
from bayesft.search.algorithm1 import SearchResult, Trial, search, train_row
from bayesft.settings import Recipe, SearchSettings
from bayesft.store import copy_item
from bayesft.training import Checkpoint, Problem, Trained
from stages.common import MODELS, Item, Stage, dataset, run


def main(row: str) -> None:
    """Train one row of the report."""
    stage = Stage(f"train-{row}")
    if any(item["searched"] for item in stage.items):
        import bayesft.search.optimizer  # noqa: F401 (once, before the workers are forked)
    stage.work(train, stage.items)


def train(stage: Stage, item: Item) -> str:
    """Train one network, where the store does not have it, and copy it to data/models."""
    place, about = trained(stage, item)
    copy_item(place, MODELS / item["row"] / f"{item['task']}-{item['seed']}")
    return about


def trained(stage: Stage, item: Item) -> tuple[Path, str]:
    """The folder of an item's networks in the store, and a line that says what was found."""
    given = {need["row"]: trained(stage, need)[0] for need in item["needs"]}
    found = searched(stage, item["searched"]) if item["searched"] else None

    def build(folder: Path, checkpoint: Checkpoint) -> None:
        networks = {row: Trained.load(place / f"{row}.safetensors") for row, place in given.items()}
        problem = load_problem(stage, item, checkpoint)
        made = train_row(problem, load(item["method"]), item["values"], networks, found, item["row"])
        for name, network in made.items():
            network.save(folder / f"{name}.safetensors")

    decides = {key: item[key] for key in DECIDES + ("row", "method", "values", "needs", "searched")}
    decides |= {key: item[key] for key in ("level",) if key in item}
    return stage.made(decides, build), "trained" if found is None else _told(found)


# What decides the networks of an item, and not only in which order or under which name it is made.
DECIDES = (
    "code", "task", "seed", "data", "images", "pixels", "specification", "recipe", "drift", "granularity", "bounds",
)  # fmt: skip


def searched(stage: Stage, item: Item) -> SearchResult:
    """The search of an item, which rows of the same search share in the store."""

    def build(folder: Path, checkpoint: Checkpoint) -> None:
        problem, settings = load_problem(stage, item, checkpoint), SearchSettings(**item["search"])
        found = search(problem, load(item["method"]), settings, fixed=item["values"])
        found.best_model.save(folder / "best.safetensors")
        log = {"trials": [asdict(trial) for trial in found.trials], "values": found.values, "best": found.best.number}
        write_json(folder / "log.json", log)

    place = stage.made(item, build)
    log = read_json(place / "log.json")
    trials = [Trial(**{**entry, "values": tuple(entry["values"])}) for entry in log["trials"]]
    return SearchResult(trials, log["values"], trials[log["best"]], Trained.load(place / "best.safetensors"))


def load_problem(stage: Stage, item: Item, checkpoint: Checkpoint | None = None) -> Problem:
    """The problem that an item's method is given: never a test image."""
    drift, rest = item["drift"], {}
    about = {
        "task": item["task"],
        "specification": item["specification"],
        "recipe": Recipe(**item["recipe"]),
        "seed": item["seed"],
        "fault": any_fault(drift["model"], drift["settings"]),
        "parameters": drift["parameters"],
        "level": item.get("level"),
        "granularity": item["granularity"],
        "bounds": tuple(item["bounds"]),
        "checkpoint": checkpoint,
    }
    if item["data"] == "pennfudan":
        from bayesft.evaluation.detection import DetectionProblem
        from bayesft.training.detection import columns

        scenes = Scenes.load(dataset(item["data"])).limited(item["images"]).parts
        parts = {part: columns(scenes[part], stage.device) for part in ("train", "validation")}
        return DetectionProblem(**about, classes=1, **parts, scenes=scenes["validation"])
    images = load_images(item)
    parts = images.standardised(stage.device)
    rest = {part: parts[part] for part in ("train", "validation")}
    return Problem(**about, classes=images.classes, **rest)


def load_images(item: Item) -> Images:
    """The images of an item: so many of each part, at the side that its budget says."""
    return Images.load(dataset(item["data"])).limited(item["images"]).scaled(item["pixels"])


def _told(found: SearchResult) -> str:
    chosen: dict[str, Any] = found.values
    values = ", ".join(f"{name} {value:.3g}" for name, value in chosen.items())
    best = found.best
    return f"{len(found.trials)} trials, best objective {best.objective:.4f} ± {best.standard_error:.4f}; {values}"


if __name__ == "__main__":
    run(main, "row")
