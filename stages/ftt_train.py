"""Stage `ftt-train`: the networks of the chapter on fault-tolerant training, plain and trained under a fault."""

from pathlib import Path

from bayesft.fault_tolerance import ROWS
from bayesft.files import read_json
from bayesft.store import copy_item
from stages.common import MODELS, RESULTS, Item, Stage, run
from stages.train import trained


def main() -> None:
    """Train every row of the chapter."""
    stage = Stage("ftt-train", MODELS / "ftt")
    stage.work(train, [named(item) for item in stage.items])


def train(stage: Stage, item: Item) -> str:
    """Train one network, where the store does not have it, and copy it to data/models/ftt."""
    place, about = trained(stage, item)
    copy_item(place, MODELS / "ftt" / f"{item['fault']}-{item['row']}-{item['seed']}")
    return about


def named(item: Item) -> Item:
    """The item with its network: the one that a search names, where it does."""
    file = found_by(item)
    if file is None:
        return item
    return {**item, "specification": read_json(file)["networks"][ROWS[item["row"]].network]}


def found_by(item: Item) -> Path | None:
    """The file of the search that names an item's network, where one does."""
    search = ROWS[item["row"]].search
    return None if search is None else RESULTS / "ftt-search" / f"{item['fault']}-{search}.json"


if __name__ == "__main__":
    run(main)
