"""What a killed run needs to go on where it was: a locked folder of whole files."""

import json
import shutil
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bayesft.files import atomic


class Checkpoint:
    """Named states (tensors and a JSON value each) in a folder that one process holds at a time.

    The folder's name must depend on everything that the run's result depends on: then what is found there is
    always the run's own. Used as a context manager; raises RuntimeError on entry when another process holds the
    folder (a stage that outlived the killed pipeline, say).
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
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

    def __exit__(self, *_) -> None:
        self._lock.release()

    def save(self, name: str, tensors: dict[str, Tensor], value: object = None) -> None:
        """Replace the state `name`, atomically."""
        with atomic(self.folder / f"{name}.safetensors") as temporary:
            # Tied parameters share memory, which the format refuses: hence copies.
            contents = {
                key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()
            }
            save_file(contents, temporary, {"value": json.dumps(value)})

    def load(self, name: str) -> tuple[dict[str, Tensor], object] | None:
        """The state `name` as it was saved, or None."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return None
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, json.loads(file.metadata()["value"])

    def discard(self, name: str) -> None:
        """Forget the state `name`, if there is one."""
        (self.folder / f"{name}.safetensors").unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything: the run is complete, and its results are where they belong."""
        shutil.rmtree(self.folder, ignore_errors=True)
        Path(self._lock.lock_file).unlink(missing_ok=True)
