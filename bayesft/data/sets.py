"""The data sets by name, from either source."""

from pathlib import Path
from types import ModuleType

from bayesft.data import cifar10, gtsrb, mnist
from bayesft.data.images import Images

DATA_SETS: dict[str, ModuleType] = {"mnist": mnist, "cifar10": cifar10, "gtsrb": gtsrb}
SOURCES = ("embedded", "official")


def load_images(name: str, source: str, folder: Path, mirror: str | None = None) -> Images:
    """The data set `name` from `source`: "embedded" needs no file; "official" fetches and verifies into `folder`.

    `about` then has "name", which says what the images are, "source", and for official ones the checksums that were
    verified ("md5" or "sha256", by file).

    Raises FetchError when an official file can't be had, ValueError for an unknown name or source or for a file
    that can't be decoded.
    """
    if name not in DATA_SETS or source not in SOURCES:
        raise ValueError(f"data set {name!r} from {source!r}: sets {sorted(DATA_SETS)}, sources {list(SOURCES)}")
    module = DATA_SETS[name]
    images = module.embedded() if source == "embedded" else module.official(Path(folder), mirror)
    return Images(images.parts, images.classes, {**images.about, "source": source})
