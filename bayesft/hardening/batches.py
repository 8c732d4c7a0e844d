"""Data of any kind as a stream of batches, and what a batch is made of: inputs and targets."""

import copy
import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bayesft.hardening.state import seed_all
from bayesft.seeds import derive_seed

BATCH = 256  # examples of a pass, where the data come as tensors or as a dataset
LABELS = ("labels", "label", "y", "targets", "target")


class Batches:
    """Batches that can be read many times, in one order, and with one augmentation.

    Args:
        data: tensors (inputs..., targets), a Dataset, or an iterable of batches.
        forward: whether a function of the caller's takes the batches (`in_memory`).
        seed: what the random streams are seeded with before each batch, so each reading gives the same batches.
    """

    def __init__(self, data: Any, seed: int = 0, forward: bool = False):
        if isinstance(data, (Tensor, str, bytes, Mapping, nn.Module)) or not _readable(data):
            raise ValueError(
                f"data = {type(data).__name__}: must be a tuple of tensors (inputs..., targets), a Dataset or an "
                "iterable of batches"
            )
        parts = data if isinstance(data, (tuple, list)) else [data]
        if not forward and any(isinstance(each, np.ndarray) for each in parts):
            raise ValueError("data are NumPy arrays: must be tensors, torch.from_numpy(array)")
        if in_memory(data, forward):
            data = Columns(data)
        elif isinstance(data, Dataset) and not isinstance(data, DataLoader):
            data = DataLoader(data, batch_size=BATCH)
        self.data, self.seed = data, seed
        self.columns = data if isinstance(data, Columns) else None
        self.once = isinstance(data, Iterator)
        self._begun: list[Any] | None = None  # batches that were read
        self._order: int | None = None  # a checksum of all targets
        self._generator = getattr(data, "generator", None)
        self._generator = self._generator if isinstance(self._generator, torch.Generator) else None
        self._generator_state = self._generator.get_state() if self._generator else None

    def first(self) -> Any:
        """The first batch; an iterator that can be read once keeps it for its reading."""
        if not self.once:
            return next(self._read(), None)
        if self._begun is None:
            self._begun = list(self._read(1))
        return self._begun[0] if self._begun else None

    def __iter__(self) -> Iterator[Any]:
        begun = self._begun or []
        self._begun = None
        yield from begun
        yield from self._read(start=len(begun))

    def _read(self, count: int | None = None, start: int = 0) -> Iterator[Any]:
        seed_all(derive_seed("data", self.seed))
        if self._generator:
            self._generator.set_state(self._generator_state)
        batches = iter(self.data)
        number = start
        try:
            while count is None or number < start + count:
                seed_all(derive_seed("data", self.seed, number))
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                yield batch
                number += 1
        finally:
            if self._generator:
                self._generator.set_state(self._generator_state)

    def check_order(self, order: int) -> None:
        """Raise ValueError where this reading of the data had other targets (of this checksum) than the first one."""
        if self._order is None:
            self._order = order
        if order != self._order:
            raise ValueError(
                "data: a second reading gave other targets than the first; give a fixed order (shuffle=False)"
            )

    def mark(self) -> int:
        """A checksum of all targets, in the order in which they were read."""
        return self._order or 0


class Columns:
    """Tensors in memory as batches. The last batch is never a single example, which some networks can't take."""

    def __init__(self, tensors: Iterable[Tensor], size: int = BATCH):
        self.tensors, self.size = tuple(tensors), size
        lengths = [len(tensor) if tensor.dim() else 0 for tensor in self.tensors]
        if len(lengths) < 2 or len(set(lengths)) > 1 or 0 in lengths:
            raise ValueError(
                f"data are tensors of lengths {lengths}: need (inputs..., targets) of one length, and not empty"
            )

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        count = len(self.tensors[0])
        starts = list(range(0, count, self.size))
        if len(starts) > 1 and count - starts[-1] == 1:
            starts.pop()
        for start, end in zip(starts, [*starts[1:], count], strict=True):
            yield tuple(tensor[start:end] for tensor in self.tensors)


def in_memory(data: Any, forward: bool) -> bool:
    """Whether data are tensors (inputs..., targets). For a `forward`, a list of tensors is a list of batches."""
    kinds = tuple if forward else (tuple, list)
    return isinstance(data, kinds) and bool(data) and all(isinstance(each, Tensor) for each in data)


def _readable(data: Any) -> bool:
    return hasattr(data, "__iter__") or hasattr(data, "__getitem__")


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy of a batch or of outputs with each tensor changed. Lists, dictionaries and objects keep their class."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (str, bytes, int, float, type(None))):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(change, each) for each in value))
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(change, each) for each in value)
    if isinstance(value, (nn.Module, type)) or callable(value):
        return value
    if isinstance(value, Mapping):
        if type(value) is dict:
            return {key: mapped(change, each) for key, each in value.items()}
        changed: Any = copy.copy(value)
        for key, each in value.items():
            changed[key] = mapped(change, each)
        return changed
    try:
        changed = copy.deepcopy(value)
    except Exception:  # what can't be copied is passed on as it is
        return value
    for key, each in getattr(value, "__dict__", {}).items():
        object.__setattr__(changed, key, mapped(change, each))
    return changed


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in a batch or in outputs, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from tensors(each)
    elif not isinstance(value, (nn.Module, type)):
        for each in getattr(value, "__dict__", {}).values():
            yield from tensors(each)


def parted(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """The positional inputs, the named inputs and the targets of a batch, by convention.

    The last part of a tuple is the targets. In a dictionary or a dataclass they are called labels, label, y, targets or
    target, and the other parts are named inputs. Another object with such an attribute is itself the input.

    Raises:
        ValueError: the batch is none of these.
    """
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        return tuple(batch[:-1]), {}, batch[-1]
    plain = dataclasses.is_dataclass(batch) and not isinstance(batch, Mapping)
    named = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)} if plain else batch
    if isinstance(named, Mapping):
        label = next((name for name in LABELS if named.get(name) is not None), None)
        if label is not None:
            return (), {name: value for name, value in named.items() if name != label}, named[label]
        raise ValueError(
            f"data: a batch has {list(named)}, none of which is called {', '.join(LABELS)}: give `forward`"
        )
    label = next((name for name in LABELS if getattr(batch, name, None) is not None), None)
    if label is None or isinstance(batch, Tensor):
        raise ValueError(f"data: a batch is a {type(batch).__name__} without targets: give `forward(model, batch)`")
    return (batch,), {}, getattr(batch, label)


def outputs_of(
    model: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], tuple[Any, Any]] | None
) -> tuple[Any, Any]:
    """Outputs and targets of a batch, by `forward` or, without one, by the convention of `parted`.

    Raises:
        ValueError: `forward` gives no pair; as `parted`.
    """
    if forward is None:
        inputs, named, targets = parted(batch)
        return model(*inputs, **named), targets
    given = forward(model, batch)
    if not isinstance(given, tuple) or len(given) != 2:
        raise ValueError(f"forward gives {type(given).__name__}: must give a pair (outputs, targets)")
    return given


def size(value: Any) -> int | None:
    """How many examples there are in targets or outputs: the length of the first tensor or list."""
    if isinstance(value, Tensor):
        return len(value) if value.dim() else None
    if isinstance(value, list):
        return len(value)
    return next((n for n in map(size, _children(value)) if n is not None), None)


def part(value: Any, rows: slice, count: int) -> Any:
    """The `rows` of targets or outputs of `count` examples; what has another length is passed on whole."""
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and len(value) == count else value
    if isinstance(value, list) and len(value) == count:
        return value[rows]
    return _rebuilt(value, [part(each, rows, count) for each in _children(value)])


def joined(values: list[Any], counts: list[int]) -> Any:
    """Targets or outputs of batches of `counts` examples as those of one; a number of each batch as its mean."""
    first = values[0]
    if isinstance(first, Tensor):
        if first.dim():
            return torch.cat(values)
        weights = torch.tensor(counts, dtype=torch.float64, device=first.device)
        return torch.stack(values).double() @ weights / weights.sum()
    if isinstance(first, list):
        return [each for value in values for each in value]
    return _rebuilt(first, [joined(list(each), counts) for each in zip(*map(_children, values), strict=True)])


def _children(value: Any) -> list[Any]:
    """What a mapping, a tuple or another object holds, in order."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple):
        return list(value)
    return (
        [] if isinstance(value, (nn.Module, type)) or callable(value) else list(getattr(value, "__dict__", {}).values())
    )


def _rebuilt(value: Any, children: list[Any]) -> Any:
    """A value like this one that holds `children`."""
    if isinstance(value, tuple):
        return type(value)(*children) if hasattr(value, "_fields") else type(value)(children)
    if not children:
        return value
    changed: Any = copy.copy(value)
    if isinstance(value, Mapping):
        for key, each in zip(value, children, strict=True):
            changed[key] = each
        return changed
    for key, each in zip(vars(value), children, strict=True):
        object.__setattr__(changed, key, each)
    return changed


def mark(targets: Any, start: int = 0) -> int:
    """A checksum of targets, after those of the checksum `start`: it tells one order of the data from another."""
    for tensor in tensors(targets):
        start = checksum(tensor, start)
    return start


def checksum(tensor: Tensor, start: int) -> int:
    """A checksum of the numbers of a tensor, after those of the checksum `start`."""
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, start)
