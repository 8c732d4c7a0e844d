"""Stage `boundary`: the classifier of Figure 1, whose decision boundary moves as its weights drift."""

from pathlib import Path

from bayesft.drift import FAULT_MODELS
from bayesft.evaluation.boundary import decision_boundaries
from bayesft.settings import Recipe
from stages.common import run, stage


def main() -> None:
    """Train the classifier and map its decisions at each level of drift."""
    with stage("boundary", "moons", lambda p: (p.boundary, p.training.recipe, p.drift)) as s:
        b, drift = s.parameters.boundary, s.parameters.drift
        recipe = Recipe(**s.parameters.training.recipe.model_dump(), epochs=b.epochs, batch_size=64, lr=b.lr)
        maps = decision_boundaries(recipe, FAULT_MODELS[drift.model], b.sigmas, b.points, b.draws, drift.parameters)
        maps.save(Path("data/boundary.safetensors"))


if __name__ == "__main__":
    run(main)
