"""Stage `download`: the tensors of a task, from verified files or from what the package embeds."""

from bayesft.data import load_images
from bayesft.tasks import TASKS
from stages.common import ROOT, data_file, run
from stages.parameters import load


def main(task: str) -> None:
    """Make the data of a task, or of an ablation ("ablation-mnist")."""
    parameters = load()
    name = TASKS[task].data if task in TASKS else task.removeprefix("ablation-")
    images = load_images(name, parameters.data.source, ROOT / "data/raw" / name, parameters.mirror)
    images = images.limited(parameters.budget(task).data.model_dump())
    images.save(data_file(task))
    print(f"{task}: {images.about['name']}, images used: {images.about['images_used']}")


if __name__ == "__main__":
    run(main, "task")
