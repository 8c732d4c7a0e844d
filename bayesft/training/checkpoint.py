"""What a killed run needs to go on where it was: a locked folder of whole files."""

import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from bayesft.tensors import load_tensors, save_tensors


class Checkpoint:
    """Named states (tensors and a JSON value each) in a folder that one process holds at a time.

    The folder's name must depend on everything that the run's result depends on: then what is found there is always the
    run's own. It is a context manager.

    Args:
        folder: The folder. It is made when it is needed.
        save_after_s: A training saves its state at the end of an epoch when the last one is so many seconds old. A
            killed training repeats so much of its work, and one epoch.

    Raises:
        RuntimeError: On entry: another process holds the folder (a stage that outlived the killed pipeline, say).
    """

    def __init__(self, folder: Path, save_after_s: float = 1.0):
        self.folder, self.save_after_s = Path(folder), save_after_s
        self._lock = FileLock(self.folder.with_name(f"{self.folder.name}.lock"))

    def __enter__(self) -> "Checkpoint":
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"another process is at work on {self.folder.name} (lock {self._lock.lock_file}): "
                "wait for it, or end it, and run again"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def save(self, name: str, tensors: dict[str, Tensor], value: object = None) -> None:
        """Replace a state, atomically.

        Args:
            name: The name of the state.
            tensors: Its tensors, by name.
            value: Its JSON value.
        """
        save_tensors(self.folder / f"{name}.safetensors", tensors, value)

    def load(self, name: str) -> tuple[dict[str, Tensor], Any] | None:
        """The state `name` as it was saved, or None. A damaged one is named and set aside: its work is done again."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            return load_tensors(path)
        except ValueError as damage:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            tqdm.write(f"{damage}. It is set aside as {aside.name}, and its work is done again")
            return None

    def clear(self) -> None:
        """Forget everything: the run is complete, and its results are where they belong."""
        shutil.rmtree(self.folder, ignore_errors=True)
        Path(self._lock.lock_file).unlink(missing_ok=True)
