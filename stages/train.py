"""Stage `train@<row>`: the networks of one row of the report, one for each task and seed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bayesft.files import read_json, write_json
from bayesft.methods import load
from bayesft.search.algorithm1 import SearchResult, Trial, search, train_row
from bayesft.settings import SearchSettings
from bayesft.store import copy_item
from bayesft.training import Checkpoint, Trained
from stages.common import MODELS, Item, Stage, run
from stages.problem import load_problem


def main(row: str) -> None:
    """Train one row of the report."""
    stage = Stage(f"train-{row}", MODELS / row)
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
    return stage.made(decides, build), "trained" if found is None else told(found)


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


def told(found: SearchResult) -> str:
    """What a search found, in a line."""
    chosen: dict[str, Any] = found.values
    values = ", ".join(f"{name} {value:.3g}" for name, value in chosen.items())
    best = found.best
    return f"{len(found.trials)} trials, best objective {best.objective:.4f} ± {best.standard_error:.4f}; {values}"


if __name__ == "__main__":
    run(main, "row")
