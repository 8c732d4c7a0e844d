"""Stage `download`: the data sets of the run, from verified files or from what the package embeds."""

import shutil
from pathlib import Path

from bayesft.data import load_images
from bayesft.training import Checkpoint
from stages.common import DATASETS, ROOT, Item, Stage, dataset, run


def main() -> None:
    """Make the file of every data set that the plan names."""
    stage = Stage("download")
    DATASETS.mkdir(parents=True, exist_ok=True)
    stage.work(make, stage.items)


def make(stage: Stage, item: Item) -> str:
    """Make one data set, where the store does not have it."""
    name = item["data"]
    file = f"{name}.safetensors"

    def build(folder: Path, checkpoint: Checkpoint) -> None:
        raw, mirror = ROOT / "data/raw" / name, item["mirror"]
        if name != "pennfudan":
            load_images(name, item["source"], raw, mirror).save(folder / file)
            return
        from bayesft.data import pennfudan, streets

        size = item["size"]
        scenes = streets.embedded(size) if item["source"] == "embedded" else pennfudan.official(raw, mirror, size)
        scenes.save(folder / file)

    place = stage.store.make(stage.key(item), build)
    shutil.copyfile(place / file, dataset(name))
    return f"{(place / file).stat().st_size / 2**20:.1f} MiB, {item['source']}"


if __name__ == "__main__":
    run(main)
