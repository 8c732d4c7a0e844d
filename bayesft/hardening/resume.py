"""Folders in which a killed call finds its work again. A folder belongs to one call."""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesft.hardening.batches import Batches, checksum, tensors

if TYPE_CHECKING:  # loaded where it is used: it takes longer than the rest
    from bayesft.training import Checkpoint


@contextmanager
def opened(folder: str | Path, argument: str, about: Mapping[str, Any]) -> Iterator["Checkpoint"]:
    """The folder, locked, if it is new or belongs to the call that `about` describes.

    Args:
        folder: it is made where it is missing.
        argument: the name of the argument, for messages.
        about: what the call is compared by, of numbers and texts.

    Raises:
        ValueError: the folder belongs to another call.
        RuntimeError: another process is at work in it.
    """
    from bayesft.training import Checkpoint

    with Checkpoint(Path(folder)) as checkpoint:
        found = checkpoint.load("call")
        if found is None:
            checkpoint.save("call", {}, dict(about))
        else:
            differ = [name for name in {**found[1], **about} if found[1].get(name) != about.get(name)]
            if differ:
                raise ValueError(
                    f"{argument} = {str(folder)!r}: the folder belongs to another call, which differs in "
                    f"{', '.join(differ)}; give another folder, or remove this one"
                )
        yield checkpoint


def fingerprint(*values: Any) -> int:
    """A checksum of all tensors in data (batches), in the tensors of a dictionary, or in single tensors."""
    found = 0
    for value in values:
        for part in value if isinstance(value, Batches) else [value]:
            for tensor in tensors(part):
                head = repr((tuple(tensor.shape), str(tensor.dtype))).encode()
                found = checksum(tensor, zlib.crc32(head, found))
    return found
