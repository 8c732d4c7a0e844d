"""Published files, by checksum: from a folder that has them, a mirror, or the official hosts.

A file is used only when its checksum is the published one, and takes its final name only then. A damaged file is
named in the error and never left in place of a good one.
"""

import http.client
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from bayesft.files import atomic, checksum

TIMEOUT_S = 30


class FetchError(RuntimeError):
    """A published file could not be had: the message says what was tried, and what to do."""


@dataclass(frozen=True)
class Source:
    """One published file: its name, its checksum, and the places that publish it, in the order to try them."""

    name: str
    md5: str
    urls: tuple[str, ...]


def fetch(source: Source, folder: Path, mirror: str | None = None, set_name: str = "") -> Path:
    """The path of `source` in `folder`, with the published checksum; downloads it when it is not there.

    `mirror`, a folder or a base URL, is tried before the official hosts; it holds the file as `<set_name>/<name>`
    or as `<name>`. A damaged file in the mirror stops the run, since whoever named a mirror wants to know.

    Raises FetchError: no place has the file, or the mirror's copy is damaged.
    """
    target = Path(folder) / source.name
    if target.exists():
        if checksum(target, "md5") == source.md5:
            return target
        target.unlink()  # damaged since it was fetched: fetch it again
    failures = []
    for place, from_mirror in _places(source, mirror, set_name):
        try:
            _copy_verified(place, source, target)
            return target
        except _Damaged as damage:
            if from_mirror:
                raise FetchError(
                    f"{damage}. The mirror's copy is damaged or another file: replace it, or unset the mirror"
                ) from None
            failures.append(str(damage))
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{place}: {type(error).__name__}: {error}")
    tried = "\n  ".join(failures)
    raise FetchError(
        f"{source.name} (md5 {source.md5}) could not be fetched. Tried:\n  {tried}\n"
        "Set data.mirror (or BAYESFT_MIRROR) to a folder or URL that has it, or use data.source=embedded"
    )


def _places(source: Source, mirror: str | None, set_name: str) -> list[tuple[str | Path, bool]]:
    places: list[tuple[str | Path, bool]] = []
    if mirror and "://" in mirror:
        base = mirror.rstrip("/")
        places += [(f"{base}/{set_name}/{source.name}", True), (f"{base}/{source.name}", True)]
    elif mirror:
        places += [(Path(mirror) / set_name / source.name, True), (Path(mirror) / source.name, True)]
    return places + [(url, False) for url in source.urls]


class _Damaged(Exception):
    pass


def _copy_verified(place: str | Path, source: Source, target: Path) -> None:
    with atomic(target) as temporary:
        if isinstance(place, Path):
            shutil.copyfile(place, temporary)
        else:
            _download(place, temporary)
        found = checksum(temporary, "md5")
        if found != source.md5:
            size = temporary.stat().st_size
            raise _Damaged(f"{place}: {size} bytes with md5 {found}, expected md5 {source.md5}")


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, open(path, "wb") as file:
        length = response.headers.get("Content-Length")
        with tqdm(
            desc=url.rsplit("/", 1)[-1], total=int(length) if length else None, unit="B", unit_scale=True, leave=False
        ) as bar:
            while block := response.read(1 << 18):
                file.write(block)
                bar.update(len(block))
