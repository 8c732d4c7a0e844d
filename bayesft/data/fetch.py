"""Published files, by checksum: from a folder that has them, a mirror, or the official hosts; archives in memory.

A file is used only when its checksum is the published one, and takes its final name only then. A damaged file is
named in the error and never left in place of a good one. No archive is ever unpacked to disk.
"""

import http.client
import lzma
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from bayesft.files import atomic, checksum

TIMEOUT_S = 30
SUMS = "SHA256SUMS"
# What is wrong with a file, or None when it is what it should be.
Problem = Callable[[Path], str | None]


class FetchError(RuntimeError):
    """A published file could not be had: the message says what was tried, and what to do."""


@dataclass(frozen=True)
class Source:
    """One published file: its name, its checksum, and the places that publish it, in the order to try them."""

    name: str
    md5: str
    urls: tuple[str, ...]

    def problem(self, path: Path) -> str | None:
        """What is wrong with the copy at `path`; None when it has the published checksum."""
        return _differs(path, "md5", self.md5)


def fetch(source: Source, folder: Path, mirror: str | None = None, set_name: str = "") -> Path:
    """The path of `source` in `folder`, with the published checksum; downloads it when it is not there.

    `mirror`, a folder or a base URL, is tried before the official hosts; it holds the file as `<set_name>/<name>`
    or as `<name>`.

    Raises FetchError: no place has the file, or the mirror's copy is damaged or cannot be read.
    """
    found = fetch_mirrored(source.name, folder, mirror, set_name, source.problem)
    if found:
        return found
    failures = [f"{place}: not there" for place in mirror_places(source.name, mirror, set_name)]
    target = Path(folder) / source.name
    for url in source.urls:
        try:
            copy_verified(url, target, source.problem)
            return target
        except Damaged as damage:
            failures.append(str(damage))
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{url}: {type(error).__name__}: {error}")
    tried = "\n  ".join(failures)
    raise FetchError(
        f"{source.name} (md5 {source.md5}) could not be fetched. Tried:\n  {tried}\n"
        "Set data.mirror (or BAYESFT_MIRROR) to a folder or URL that has it, or use data.source=embedded"
    )


def fetch_mirrored(name: str, folder: Path, mirror: str | None, set_name: str, problem: Problem) -> Path | None:
    """The path of the file `name` in `folder`, where it is already or the mirror has it; None when neither is so.

    `problem` says what is wrong with a copy. A mirror may hold a part of a data set under a name of its own, and
    what is loaded must not depend on a bad connection: so only a clear "not there" gives None.

    Raises FetchError: the mirror's copy is damaged or cannot be read; whoever named a mirror wants to know.
    """
    target = Path(folder) / name
    if target.exists():
        if problem(target) is None:
            return target
        target.unlink()  # damaged since it was fetched: fetch it again
    for place in mirror_places(name, mirror, set_name):
        try:
            copy_verified(place, target, problem)
            return target
        except Damaged as damage:
            raise FetchError(
                f"{damage}. The mirror's copy is damaged or another file: replace it, or unset the mirror"
            ) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not _not_there(error):
                raise FetchError(
                    f"{place}: {type(error).__name__}: {error}. The mirror cannot be read: repair or unset it"
                ) from None
    return None


def listed_in_sums(name: str, mirror: str, set_name: str) -> Problem:
    """A check of the file `name` against the mirror's own list of checksums, `SHA256SUMS` at its root."""

    def problem(path: Path) -> str | None:
        place = mirror_places(SUMS, mirror, "")[0]
        try:
            if isinstance(place, Path):
                text = place.read_text("utf-8")
            else:
                with urllib.request.urlopen(place, timeout=TIMEOUT_S) as response:
                    text = response.read(1 << 20).decode()
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not _not_there(error):
                raise FetchError(f"{place}: {type(error).__name__}: {error}. It is needed to verify {name}") from None
            return f"no {place} to verify it by"
        lines = re.findall(r"^([0-9a-fA-F]{64}) [ *](?:\./)?(\S+)\s*$", text, re.MULTILINE)
        digests = {file: digest.lower() for digest, file in lines if file in (f"{set_name}/{name}", name)}
        if not digests:
            return f"{place} does not list it"
        return _differs(path, "sha256", digests.get(f"{set_name}/{name}") or digests[name])

    return problem


def tar_members(path: Path, expected: re.Pattern, largest: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar archive, compressed or not. What is in a file is not verified.

    Raises ValueError: the archive is damaged, or it holds a link, a name that is not `expected`, or a file of more
    than `largest` bytes.
    """
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if not member.isdir():
                    _expect(path, member.name, member.isfile(), member.size, expected, largest)
                    yield member.name, archive.extractfile(member).read()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole tar archive: {error}") from None


def zip_members(path: Path, expected: re.Pattern, largest: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a zip archive; raises ValueError as `tar_members` does."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    _expect(path, member.filename, True, member.file_size, expected, largest)
                    yield member.filename, archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: not a whole zip archive: {error}") from None


def _expect(path: Path, name: str, is_file: bool, size: int, expected: re.Pattern, largest: int) -> None:
    if not is_file or size > largest or not expected.fullmatch(name):
        raise ValueError(f"{path}: unexpected member {name!r} ({size} bytes)")


def mirror_places(name: str, mirror: str | None, set_name: str) -> list[str | Path]:
    """Where a mirror may hold the file `name`."""
    if not mirror:
        return []
    names = [f"{set_name}/{name}", name] if set_name else [name]
    return [f"{mirror.rstrip('/')}/{n}" if "://" in mirror else Path(mirror) / n for n in names]


class Damaged(Exception):
    """A copy is not the published file: the message says where it was, and what is wrong with it."""


def _not_there(error: Exception) -> bool:
    # A store of objects answers 403 for a name that it does not have when it lists none.
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (403, 404, 410)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(reason, (FileNotFoundError, NotADirectoryError))


def _differs(path: Path, algorithm: str, expected: str) -> str | None:
    found = checksum(path, algorithm)
    if found == expected:
        return None
    return f"{path.stat().st_size} bytes with {algorithm} {found}, expected {algorithm} {expected}"


def copy_verified(place: str | Path, target: Path, problem: Problem) -> None:
    """Copy or download `place`, a path or an address, to `target`; raises Damaged where there is a problem with it."""
    with atomic(target) as temporary:
        if isinstance(place, Path):
            shutil.copyfile(place, temporary)
        else:
            _download(place, temporary)
        found = problem(temporary)
        if found is not None:
            raise Damaged(f"{place}: {found}")


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, open(path, "wb") as file:
        length = response.headers.get("Content-Length")
        with tqdm(
            desc=url.rsplit("/", 1)[-1], total=int(length) if length else None, unit="B", unit_scale=True, leave=False
        ) as bar:
            while block := response.read(1 << 18):
                file.write(block)
                bar.update(len(block))
