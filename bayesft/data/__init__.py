"""Data sets as tensors in memory: sources, verification, decoding, embedded stand-ins.

To add a data set, write a module with `OFFICIAL`, the files that it is published as, and two functions,
`official(folder)` and `embedded()`, each of which returns `Images`; then name it in `sets.DATA_SETS`.
"""

from bayesft.data.fetch import FetchError, Source, fetch
from bayesft.data.images import Images, Split
from bayesft.data.sets import DATA_SETS, load_images

__all__ = ["DATA_SETS", "FetchError", "Images", "Source", "Split", "fetch", "load_images"]
