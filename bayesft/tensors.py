"""Tensors and a description in one safetensors file: one writer, one reader for all of the project."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bayesft.files import Unusable, atomic


def save_tensors(path: Path, tensors: dict[str, Tensor], about: Any = None) -> None:
    """Write tensors and a JSON value, atomically. The same content gives the same bytes.

    Args:
        path: The file.
        tensors: The tensors by name. Tied ones are written as copies.
        about: A value that JSON can hold. The order of a dictionary's entries changes no byte; that of inner ones does.

    Raises:
        OSError: The file cannot be written, on a full disk for example. The message names it.
    """
    if isinstance(about, dict):
        about = dict(sorted(about.items()))
    contents = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(contents, temporary, {"about": json.dumps(about)})  # one entry: several have no fixed order
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what `save_tensors` wrote.

    Returns:
        The tensors by name, and the JSON value.

    Raises:
        Unusable: The file is missing or damaged. It is a ValueError.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, json.loads((file.metadata() or {})["about"])
    except FileNotFoundError:
        raise Unusable(f"{path} is missing") from None
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise Unusable(f"{path} is damaged ({error})") from None
