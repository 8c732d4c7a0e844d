"""Files of results: tensors and a description, which say what they are."""

from pathlib import Path
from typing import Any

from torch import Tensor

from bayesft.tensors import load_tensors, save_tensors

KIND = "bayesft"


def save(path: str | Path, kind: str, content: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a description, atomically. The same content gives the same bytes.

    Args:
        path: the file.
        kind: what it is, which `load` compares.
        content: tensors by name.
        about: what JSON can hold.
    """
    save_tensors(Path(path), content, {KIND: kind, **about})


def load(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` wrote.

    Raises:
        ValueError: there is no such file, it is damaged, or it is of another kind.
    """
    if not Path(path).is_file():
        raise ValueError(f"path = {path}: there is no such file")
    try:
        content, about = load_tensors(Path(path))
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.pop(KIND, None) != kind:
        raise ValueError(f"path = {path}: no saved {kind}, or damaged")
    return content, about
