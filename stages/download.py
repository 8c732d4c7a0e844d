"""Stage `download`: the tensors of a task, from verified files or from what the package embeds."""

from bayesft.data import load_images
from bayesft.tasks import ABLATION_DATA, TASKS
from stages.common import ROOT, data_file, run
from stages.parameters import load


def main(task: str) -> None:
    """Make the data of a task, or of the ablation."""
    parameters = load()
    name = ABLATION_DATA if task == "ablation" else TASKS[task].data
    images = load_images(name, parameters.data.source, ROOT / "data/raw" / name, parameters.mirror)
    images = images.limited(parameters.budget.data.model_dump())
    images.save(data_file(task))
    print(f"{task}: {images.about['name']}, images used: {images.about['images_used']}")


if __name__ == "__main__":
    run(main, "task")
