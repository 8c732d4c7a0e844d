"""Stage `ablate`: the networks of Figure 2, which differ in one factor, trained alike."""

from pathlib import Path

from bayesft.methods import load
from bayesft.store import copy_item
from bayesft.training import Checkpoint
from stages.common import MODELS, Item, Stage, run
from stages.problem import load_problem


def main() -> None:
    """Train every variant of every factor."""
    stage = Stage("ablate", MODELS / "ablation")
    stage.work(train, stage.items)


def train(stage: Stage, item: Item) -> str:
    """Train one variant, where the store does not have it, and copy it beside the others of its data set and seed."""
    copy_item(trained(stage, item), MODELS / "ablation" / f"{item['task']}-{item['seed']}", item["row"])
    return "trained"


def trained(stage: Stage, item: Item) -> Path:
    """The folder of a variant's network in the store."""

    def build(folder: Path, checkpoint: Checkpoint) -> None:
        erm = load("erm").train(load_problem(stage, item, checkpoint), {}, {})["erm"]
        erm.save(folder / f"{item['row']}.safetensors")

    return stage.made(item, build)


if __name__ == "__main__":
    run(main)
