"""The data sets by name, from either source."""

from pathlib import Path
from types import ModuleType

from bayesft.data import mnist
from bayesft.data.fetch import fetch
from bayesft.data.images import Images

DATA_SETS: dict[str, ModuleType] = {"mnist": mnist}
SOURCES = ("embedded", "official")


def load_images(name: str, source: str, folder: Path, mirror: str | None = None) -> Images:
    """The data set `name` from `source`: "embedded" needs no file; "official" fetches and verifies into `folder`.

    Raises FetchError when an official file can't be had, ValueError for an unknown name or source.
    """
    if name not in DATA_SETS or source not in SOURCES:
        raise ValueError(f"data set {name!r} from {source!r}: sets {sorted(DATA_SETS)}, sources {list(SOURCES)}")
    module = DATA_SETS[name]
    if source == "embedded":
        images = module.embedded()
        return Images(images.parts, images.classes, {**images.about, "source": source})
    for file in module.OFFICIAL:
        fetch(file, folder, mirror, name)
    images = module.official(folder)
    md5s = {file.name: file.md5 for file in module.OFFICIAL}
    return Images(images.parts, images.classes, {**images.about, "source": source, "md5": md5s})
