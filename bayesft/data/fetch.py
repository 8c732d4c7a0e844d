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
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
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
    """One published file.

    Args:
        name: Its name.
        md5: Its published checksum, in hexadecimal digits.
        urls: The places that publish it, in the order to try them.
    """

    name: str
    md5: str
    urls: tuple[str, ...]

    def problem(self, path: Path) -> str | None:
        """What is wrong with the copy at `path`; None when it has the published checksum."""
        return _differs(path, "md5", self.md5)


def fetch(source: Source, folder: Path, mirror: str | None = None, set_name: str = "") -> Path:
    """The path of a published file, verified by its checksum. It is downloaded when it is not there.

    Args:
        source: The file.
        folder: Where it is kept.
        mirror: A folder or a base URL, tried before the official hosts. It holds the file as `<set_name>/<name>` or as
            `<name>`. None: no mirror.
        set_name: The data set's name, "" for none.

    Returns:
        The path in `folder`.

    Raises:
        FetchError: No place has the file, or the mirror's copy is damaged or cannot be read.
        ValueError: The mirror is neither a folder nor an address that may be written down.
        OSError: The file cannot be written into `folder`.
    """
    return fetch_verified(source.name, source.urls, folder, mirror, set_name, source.problem)


def fetch_verified(
    name: str, urls: Sequence[str], folder: Path, mirror: str | None, set_name: str, problem: Problem
) -> Path:
    """The path of a file, as `fetch` gives it, with a check of its own.

    Args:
        name: The file's name.
        urls: The places that publish it, in the order to try them.
        folder, mirror, set_name: As for `fetch`.
        problem: Says what is wrong with a copy; None when nothing is.

    Returns:
        The path in `folder`.

    Raises:
        FetchError, ValueError, OSError: As for `fetch`.
    """
    target = Path(folder) / name
    failures: list[str] = []
    if _kept_or_mirrored(target, mirror, set_name, problem, failures):
        return target
    for url in urls:
        try:
            copy_verified(url, target, problem)
            return target
        except (Damaged, Unreadable) as error:
            failures.append(str(error))
    tried = "\n  ".join(failures)
    raise FetchError(
        f"{name} could not be had. Tried:\n  {tried}\n"
        "Set data.mirror (or BAYESFT_MIRROR) to a folder or URL that has it, or use data.source=embedded"
    )


def fetch_mirrored(name: str, folder: Path, mirror: str | None, set_name: str, problem: Problem) -> Path | None:
    """The path of a file that `folder` or the mirror has; None when neither has it.

    A mirror may hold a part of a data set under a name of its own, and what is loaded must not depend on a bad
    connection: so only a clear "not there" gives None.

    Args:
        name, folder, mirror, set_name, problem: As for `fetch_verified`.

    Returns:
        The path in `folder`, or None.

    Raises:
        FetchError: The mirror's copy is damaged or cannot be read; whoever named a mirror wants to know.
        ValueError, OSError: As for `fetch`.
    """
    target = Path(folder) / name
    return target if _kept_or_mirrored(target, mirror, set_name, problem, []) else None


def _kept_or_mirrored(target: Path, mirror: str | None, set_name: str, problem: Problem, failures: list[str]) -> bool:
    """Whether the file `target` is there or the mirror has it. What was tried in vain is added to `failures`."""
    if target.is_dir():
        shutil.rmtree(target)
        failures.append(f"{target}: a folder in place of the file (now removed)")
    elif target.exists():
        found = problem(target)
        if found is None:
            return True
        target.unlink()
        failures.append(f"{target}: {found} (now removed)")
    for place in mirror_places(target.name, mirror, set_name):
        try:
            copy_verified(place, target, problem)
            return True
        except Damaged as damage:
            raise FetchError(
                f"{damage}. The mirror's copy is damaged or another file: replace it, or unset the mirror"
            ) from None
        except Unreadable as error:
            if not error.absent:
                raise FetchError(f"{error}. The mirror cannot be read: repair or unset it") from None
            failures.append(f"{place}: not there")
    return False


def listed_in_sums(name: str, mirror: str, set_name: str) -> Problem:
    """A check of a file against the mirror's own list of checksums, `SHA256SUMS` at its root.

    Args:
        name: The file's name.
        mirror, set_name: As for `fetch`.

    Returns:
        The check, as `fetch_mirrored` takes it.

    Raises:
        FetchError: From the check: the list is there, and can't be read.
    """

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


@dataclass(frozen=True)
class Limits:
    """What an archive may hold. It is checked before anything of a member is unpacked.

    Args:
        names: What a member's whole name matches.
        members: The largest number of members.
        largest: The largest size of a member, in bytes.
        total: The largest size of all members together, in bytes.
    """

    names: re.Pattern[str]
    members: int
    largest: int
    total: int

    def check(self, path: Path, name: str, is_file: bool, size: int) -> None:
        """Refuse a member of an archive that is not as it should be.

        Args:
            path: The archive, for the message.
            name: The member's whole name.
            is_file: Whether it is a regular file.
            size: Its size when it is unpacked, in bytes.

        Raises:
            ValueError: It is no regular file, too large, or of a name that is not allowed.
        """
        if not is_file or size > self.largest or not self.names.fullmatch(name):
            raise ValueError(f"{path}: unexpected member {name!r} ({size} bytes, at most {self.largest} are allowed)")

    def check_all(self, path: Path, members: int, total: int) -> None:
        """Refuse an archive that has too many members or too many bytes.

        Args:
            path: The archive, for the message.
            members: The number of members, or of those that were seen so far.
            total: Their size when they are unpacked, in bytes.

        Raises:
            ValueError: There are too many.
        """
        if members > self.members or total > self.total:
            raise ValueError(
                f"{path}: {members} members of {total} bytes in all, or more; "
                f"at most {self.members} and {self.total} bytes are allowed"
            )


class _Header(tarfile.TarInfo):
    """A header of a tar archive. The long names and the attributes that may stand before a member are short."""

    LONGEST = 1 << 16
    EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
                  tarfile.GNUTYPE_LONGLINK)  # fmt: skip

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        """The header in `buf`. An extension that is too long is refused before it is read."""
        header = super().frombuf(buf, encoding, errors)
        if header.type in cls.EXTENSIONS and header.size > cls.LONGEST:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


def tar_members(path: Path, limits: Limits) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar archive, compressed or not. What is in a file is not verified.

    Args:
        path: The archive.
        limits: What it may hold.

    Yields:
        Name and content of each file.

    Raises:
        ValueError: The archive is damaged, holds a link, or something that `limits` does not allow.
    """
    count = total = 0
    try:
        with tarfile.open(path, tarinfo=_Header) as archive:
            for member in archive:
                count, total = count + 1, total + member.size
                limits.check_all(path, count, total)
                if not member.isdir():
                    limits.check(path, member.name, member.isfile(), member.size)
                    file = archive.extractfile(member)
                    assert file is not None  # of a regular file
                    yield member.name, file.read()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole tar archive: {error}") from None


def zip_members(path: Path, limits: Limits) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a zip archive.

    Args:
        path, limits: As for `tar_members`.

    Yields:
        Name and content of each file.

    Raises:
        ValueError: The archive is damaged, or holds something that `limits` does not allow.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            limits.check_all(path, len(members), sum(member.file_size for member in members))
            files = [member for member in members if not member.is_dir()]
            for member in files:
                limits.check(path, member.filename, True, member.file_size)
            for member in files:
                yield member.filename, archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: not a whole zip archive: {error}") from None


def checked_mirror(mirror: str | None) -> str | None:
    """A mirror as it is meant: without blanks around it, with ~ expanded; None for an empty one.

    Raises:
        ValueError: It is an address with a user, a password or a query, or one that is not read. The message does
            not repeat it, since it may hold a secret.
    """
    mirror = (mirror or "").strip()
    if "://" not in mirror:
        return str(Path(mirror).expanduser()) if mirror else None
    parts = urllib.parse.urlsplit(mirror)
    if parts.scheme not in ("http", "https", "file"):
        raise ValueError(f"an address of {parts.scheme}: must be a folder, or an address of http, https or file")
    if parts.username is not None or parts.password is not None or parts.query:
        raise ValueError(
            "an address with a user name, a password or a query, which would be written into files that are shared: "
            "must be a folder, or an address without them"
        )
    return mirror


def mirror_places(name: str, mirror: str | None, set_name: str) -> list[str | Path]:
    """Where a mirror may hold a file, in the order to try.

    Args:
        name: The file's name.
        mirror, set_name: As for `fetch`.

    Returns:
        Paths, or addresses.

    Raises:
        FetchError: The mirror is a folder that does not exist.
        ValueError: The mirror is an address that is not allowed.
    """
    base = checked_mirror(mirror)
    if base is None:
        return []
    names = [f"{set_name}/{name}", name] if set_name else [name]
    if "://" in base:
        return [f"{base.rstrip('/')}/{n}" for n in names]
    if not Path(base).is_dir():
        raise FetchError(f"{Path(base).absolute()}: the mirror is no folder that exists: correct it, or unset it")
    return [Path(base) / n for n in names]


class Damaged(Exception):
    """A copy is not the published file: the message says where it was, and what is wrong with it."""


class Unreadable(Exception):
    """A place cannot be read: the message says which, and why. `absent`: it said clearly that it has no such file."""

    def __init__(self, place: str | Path, error: Exception):
        super().__init__(f"{place}: {type(error).__name__}: {error}")
        self.absent = _not_there(error)


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
    """Copy or download a file, and check it.

    Args:
        place: Where it is: a path or an address.
        target: Where it goes. A damaged copy never takes this name.
        problem: As for `fetch_verified`.

    Raises:
        Damaged: There is a problem with what `place` has.
        Unreadable: `place` cannot be read.
        OSError: `target` cannot be written.
    """
    try:
        with atomic(target) as temporary:
            with open(temporary, "wb") as file:
                for block in _blocks(place):
                    file.write(block)
            found = problem(temporary)
            if found is not None:
                raise Damaged(f"{place}: {found}")
    except OSError as error:
        raise OSError(f"{target} cannot be written: {error}") from None


def _blocks(place: str | Path) -> Iterator[bytes]:
    """What `place` has, block by block, with a progress bar.

    Raises:
        Unreadable: `place` cannot be read.
    """
    try:
        if isinstance(place, Path):
            with open(place, "rb") as file:
                while block := file.read(1 << 18):
                    yield block
            return
        with urllib.request.urlopen(place, timeout=TIMEOUT_S) as response:
            length, name = response.headers.get("Content-Length"), place.rsplit("/", 1)[-1]
            with tqdm(desc=name, total=int(length) if length else None, unit="B", unit_scale=True, leave=False) as bar:
                while block := response.read(1 << 18):
                    yield block
                    bar.update(len(block))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unreadable(place, error) from None
