"""A store of finished items: folders of files, each under a key that names everything that decides its content.

An item is made once. It is whole or absent: it is written beside its place, with a list of checksums, and moved there
at once. A damaged item is named, set aside and made anew. A process that finds an item in work waits for it.

`python -m bayesft.store FOLDER --unused-days 30` removes what no run has used for so long.
"""

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bayesft.files import checksum, fsync, temporary_folder, write_text
from bayesft.training.checkpoint import Checkpoint

LIST = "item.json"  # the key of an item, and the checksum of each of its files


class Store:
    """Finished items by key, below one folder.

    Args:
        folder: The folder. It is made when it is needed.
        say: Called with a line for people, when an item is damaged or another process is at work on it.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print):
        self.folder, self.say = Path(folder), say

    def place(self, key: str) -> Path:
        """The folder of the item `key`."""
        return self.folder / key[:2] / key

    def find(self, key: str) -> Path | None:
        """The folder of the finished item `key`, every file of it verified; None when there is none."""
        place = self.place(key)
        if not place.exists():
            return None
        wrong = problem(place, key)
        if wrong is None:
            _mark_used(place)
            return place
        aside = place.with_name(f"{place.name}.damaged-{time.time_ns()}")
        place.rename(aside)
        self.say(f"{place}: {wrong}. It is set aside as {aside.name} and made anew")
        return None

    def make(self, key: str, build: Callable[[Path, Checkpoint], None]) -> Path:
        """The folder of the item `key`, which is built when there is none.

        Args:
            key: Names everything that decides the item.
            build: Writes the item's files into the folder that it is given. It may keep states in the checkpoint,
                which a killed build finds again.

        Returns:
            The folder, whose files are not to be changed.
        """
        with self._held(key):
            found = self.find(key)  # perhaps another process has made it meanwhile
            if found:
                return found
            place = self.place(key)
            with Checkpoint(self.folder / "unfinished" / key) as checkpoint, temporary_folder(place) as folder:
                build(folder, checkpoint)
                seal(folder, key)
                folder.rename(place)
                fsync(place.parent)
                checkpoint.clear()
            return place

    @contextmanager
    def keep(self, key: str) -> Iterator[Checkpoint]:
        """A checkpoint that stays, for measurements that a later run extends. Other processes wait for it."""
        with self._held(key), Checkpoint(self.folder / "measured" / key) as checkpoint:
            _mark_used(checkpoint.folder)
            yield checkpoint

    def adopt(self, listing: Path) -> bool:
        """Take a copy of an item that lies elsewhere, where it is whole and the store lacks it.

        Args:
            listing: The item's list, beside its files.

        Returns:
            Whether a copy was taken.
        """
        try:
            content = json.loads(listing.read_text(encoding="utf-8"))
            key, files = str(content["key"]), list(content["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        place = self.place(key)
        if any(Path(name).name != name for name in (key, *files)) or not key or place.exists():
            return False
        if problem(listing.parent, key, listing.name) is not None:
            return False
        with self._held(key), temporary_folder(place) as copy:
            if place.exists():  # by now: another process adopted it
                return False
            for name in files:
                shutil.copyfile(listing.parent / name, copy / name)
            seal(copy, key)
            copy.rename(place)
            fsync(place.parent)
        return True

    def entries(self) -> list[Path]:
        """The folders of all items, damaged ones that were set aside, measurements and states of unfinished items."""
        if not self.folder.is_dir():
            return []
        groups = [group for group in self.folder.iterdir() if group.is_dir() and group.name != "locks"]
        return sorted(entry for group in groups for entry in group.iterdir() if entry.suffix != ".lock")

    def prune(self, unused_days: float) -> list[Path]:
        """Remove every entry that no run has used for so many days and that no process holds.

        Args:
            unused_days: Days since the last use. 0 removes every entry.

        Returns:
            The folders that were removed.
        """
        oldest, removed = time.time() - unused_days * 86400, []
        for entry in self.entries():
            key = entry.name.lstrip(".").split(".")[0]  # of what is set aside and of a part as well
            lock = self._lock(key)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                if entry.exists() and _last_used(entry) <= oldest:
                    aside = entry.with_name(f".{entry.name.lstrip('.')}.part")  # so that no run finds a half of it
                    entry.rename(aside)
                    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
                    removed.append(entry)
            finally:
                lock.release()
        return removed

    def _lock(self, key: str) -> FileLock:
        path = self.folder / "locks" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    @contextmanager
    def _held(self, key: str) -> Iterator[None]:
        """Hold the lock of an item. Where another process holds it, say so and wait."""
        lock = self._lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.say(f"another process makes the item {key}: waiting for it (lock {lock.lock_file})")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def seal(folder: Path, key: str) -> None:
    """Write the list of an item's files, with the key and the checksums."""
    files = {path.name: checksum(path) for path in sorted(folder.iterdir())}
    for path in folder.iterdir():
        fsync(path)
    write_text(folder / LIST, json.dumps({"key": key, "files": files}, indent=1) + "\n")


def problem(folder: Path, key: str, listing: str = LIST) -> str | None:
    """What is wrong with an item, or None.

    Args:
        folder: The folder of its files.
        key: The key that it should have.
        listing: The name of its list.

    Returns:
        A line for people, or None when every file is whole.
    """
    try:
        content = json.loads((folder / listing).read_text(encoding="utf-8"))
        files = dict(content["files"])
        if content["key"] != key:
            return f"its list names another item ({content['key']})"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its list {listing} is damaged or missing ({type(error).__name__})"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"the file {name} is missing"
        if checksum(path) != expected:
            return f"the file {name} is damaged (its SHA-256 differs from the list's)"
    return None


def copy_item(source: Path, target: Path, name: str = "") -> None:
    """Copy the files of an item into a folder that may have other items.

    Args:
        source: The item's folder.
        target: Where the files go.
        name: Tells its list from those of other items there; "" where it is alone.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, target / (f"{name}.{LIST}" if name and path.name == LIST else path.name))


def size(path: Path) -> int:
    """The bytes of all files at and below `path`."""
    files = [path, *path.rglob("*")] if path.exists() else []
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def _mark_used(folder: Path) -> None:
    """Note that a run uses `folder` now. A store that may only be read stays as it is."""
    with suppress(OSError):
        os.utime(folder)


def _last_used(entry: Path) -> float:
    return max(path.lstat().st_mtime for path in (entry, *entry.glob("*")))


def main() -> None:
    """Print the size of a store, and remove what no run has used for a while."""
    parser = argparse.ArgumentParser(prog="python -m bayesft.store", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unused-days", type=float, default=math.inf, help="remove what was not used for so many days")
    given = parser.parse_args()
    if not given.unused_days >= 0:
        sys.exit(f"error: --unused-days is {given.unused_days}: must be 0 or more")
    store, before = Store(given.folder), size(given.folder)
    count, removed = len(store.entries()), store.prune(given.unused_days)
    was, now = (f"{bytes_ / 2**20:.1f} MiB" for bytes_ in (before, size(given.folder)))
    print(f"{given.folder}: {count} entries, {was}; removed {len(removed)}; now {now}")


if __name__ == "__main__":
    main()
