"""The problem that a method is given: never any test image."""

from bayesft.data import Images
from bayesft.training import Problem
from stages.common import Stage, data_file


def load_problem(stage: Stage, task: str, seed: int, specification: dict) -> Problem:
    """The task's training and validation images, standardised, with the network, the recipe and the seed."""
    images = Images.load(data_file(task))
    parts = images.standardised(stage.device)
    return Problem(
        task,
        specification,
        images.classes,
        parts["train"],
        parts["validation"],
        stage.parameters.recipe(task),
        seed,
        stage.checkpoint,
    )
