"""Stage `boundary`: the classifier of Figure 1, whose decision boundary moves as its weights drift."""

from pathlib import Path

from bayesft.drift import any_fault
from bayesft.evaluation.boundary import decision_boundaries
from bayesft.settings import Recipe
from stages.common import Item, Stage, run


def main() -> None:
    """Train the classifier and map its decisions at each level of drift."""
    stage = Stage("boundary")
    stage.work(make, stage.items)


def make(stage: Stage, item: Item) -> str:
    """Make data/boundary.safetensors."""
    b, drift = item["boundary"], item["drift"]
    recipe, fault = Recipe(**item["recipe"]), any_fault(drift["model"], drift["settings"])
    maps = decision_boundaries(recipe, fault, tuple(b["sigmas"]), b["points"], b["draws"], drift["parameters"])
    maps.save(Path("data/boundary.safetensors"))
    return f"{len(b['sigmas'])} levels"


if __name__ == "__main__":
    run(main)
