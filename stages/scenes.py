"""Stage `download-detection`: the scenes of the detection task, from verified files or drawn by the package."""

from bayesft.data import pennfudan, streets
from stages.common import ROOT, data_file, run
from stages.parameters import load


def main(task: str) -> None:
    """Make the scenes of the detection task."""
    p = load()
    budget = p.chosen_scale.detection
    if p.data.source == "embedded":
        scenes = streets.embedded(budget.network.size)
    else:
        scenes = pennfudan.official(ROOT / "data/raw/pennfudan", p.mirror, budget.network.size)
    scenes = scenes.limited(budget.data.model_dump())
    scenes.save(data_file(task))
    print(f"{task}: {scenes.about['name']}, images used: {scenes.about['images_used']}")


if __name__ == "__main__":
    run(main, "task")
