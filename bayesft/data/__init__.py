"""Data sets as tensors in memory: sources, verification, decoding, embedded stand-ins.

To add a data set, write a module with two functions, each of which returns `Images` in random order, and name it in
`sets.DATA_SETS`:

- `official(folder, mirror)` fetches the published files into `folder` (`fetch` verifies them), decodes them, and
  holds out a validation part that no seed changes. A mirror may hold a part of the data under another name
  (`fetch.fetch_mirrored`): `about["name"]` must then say how much of it there is.
- `embedded()` draws or loads a stand-in that needs no file, the same at each call; its name says what it stands for.

`about["name"]` goes under every figure; `about` also lists the checksums that were verified.
"""

from bayesft.data.fetch import FetchError, Source, fetch
from bayesft.data.images import Images, Split
from bayesft.data.scenes import Scenes
from bayesft.data.sets import DATA_SETS, load_images

__all__ = ["DATA_SETS", "FetchError", "Images", "Scenes", "Source", "Split", "fetch", "load_images"]
