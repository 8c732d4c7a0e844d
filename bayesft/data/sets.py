"""The data sets by name, from either source."""

from pathlib import Path
from types import ModuleType

from bayesft.data import cifar10, gtsrb, mnist
from bayesft.data.images import Images

DATA_SETS: dict[str, ModuleType] = {"mnist": mnist, "cifar10": cifar10, "gtsrb": gtsrb}
SOURCES = ("embedded", "official")


def load_images(name: str, source: str, folder: Path, mirror: str | None = None) -> Images:
    """A data set by name.

    Args:
        name: One of `DATA_SETS`.
        source: "embedded" needs no file; "official" fetches and verifies files.
        folder: Where official files are kept.
        mirror: As for `fetch`.

    Returns:
        The images. `about` has "name", which says what they are, "source", and for official ones the checksums that
        were verified ("md5" or "sha256", by file).

    Raises:
        FetchError: An official file can't be had.
        ValueError: The name or the source is unknown, or a file can't be decoded.
    """
    if name not in DATA_SETS or source not in SOURCES:
        raise ValueError(f"data set {name!r} from {source!r}: sets {sorted(DATA_SETS)}, sources {list(SOURCES)}")
    module = DATA_SETS[name]
    images = module.embedded() if source == "embedded" else module.official(Path(folder), mirror)
    return Images(images.parts, images.classes, {**images.about, "source": source})
