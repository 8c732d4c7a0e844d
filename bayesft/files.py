"""Files that are either whole or absent: atomic writes, checksums, readers that name a damaged file."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`. What is written there replaces `path` at once, or not at all.

    The file gets the mode that the umask gives, and is on the disk before it takes its name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # of a write to a full disk
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Give an empty folder beside the path `beside`, to be filled and renamed. What is left of it is removed.

    One process at a time may ask for it, so what is there at the start was left by a process that was killed.
    """
    folder = beside.with_name(f".{beside.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, with the same bytes on every system."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


class Unusable(ValueError):
    """A file is missing or damaged; the message names it."""


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        Unusable: The file is missing or damaged.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Unusable(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise Unusable(f"{path} is damaged ({error})") from None


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
