"""What an item's method is given: the network, the data, the recipe, the seed."""

from bayesft.data import Images, Scenes
from bayesft.drift import any_fault
from bayesft.settings import Recipe
from bayesft.training import Checkpoint, Problem
from stages.common import Item, Stage, dataset


def load_problem(stage: Stage, item: Item, checkpoint: Checkpoint | None = None) -> Problem:
    """The problem that an item's method is given: never a test image.

    Args:
        stage: The stage, whose device computes.
        item: The item, as the plan has it.
        checkpoint: Where a killed training finds its state.

    Returns:
        The problem, a `DetectionProblem` for a detector.
    """
    drift = item["drift"]
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
    return Problem(**about, classes=images.classes, train=parts["train"], validation=parts["validation"])


def load_images(item: Item) -> Images:
    """The images of an item: so many of each part, at the side that its budget says."""
    return Images.load(dataset(item["data"])).limited(item["images"]).scaled(item["pixels"])
