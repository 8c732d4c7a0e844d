"""Stage `ftt-train`: the networks of the chapter on fault-tolerant training, plain and trained under a fault."""

from bayesft.fault_tolerance import ROWS
from bayesft.files import read_json
from bayesft.store import copy_item
from stages.common import MODELS, RESULTS, Item, Stage, run
from stages.train import trained


def main() -> None:
    """Train every row of the chapter."""
    stage = Stage("ftt-train")
    stage.work(train, [named(item) for item in stage.items])


def train(stage: Stage, item: Item) -> str:
    """Train one network, where the store does not have it, and copy it to data/models/ftt."""
    place, about = trained(stage, item)
    copy_item(place, MODELS / "ftt" / f"{item['fault']}-{item['row']}-{item['seed']}")
    return about


def named(item: Item) -> Item:
    """The item with its network: the one that a search names, where it does."""
    row = ROWS[item["row"]]
    if row.search is None:
        return item
    found = read_json(RESULTS / "ftt-search" / f"{item['fault']}-{row.search}.json")
    return {**item, "specification": found["networks"][row.network]}


if __name__ == "__main__":
    run(main)
