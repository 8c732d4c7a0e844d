"""A network looked at in eval mode, and what a pass through it may change: kept, and given back as it was."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """`model` in eval mode. On leaving, each of its modules is in the mode that it was in, whichever that was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


class Snapshot:
    """The state of a network: the memory of its tensors, and the attributes of its modules.

    Attributes of any kind are given back by reference; tensors, arrays, lists, dictionaries, sets and queues with what
    was in them. What other objects hold inside is out of reach.
    """

    def __init__(self, model: nn.Module):
        self._memory: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._known: dict[int, Callable[[], Any]] = {}
        self._kept = [self._keep(vars(module)) for module in model.modules()]
        # A scripted or traced module has its parameters elsewhere.
        self._kept += [self._keep(tensor) for tensor in (*model.parameters(), *model.buffers())]

    def restore(self) -> None:
        """Give the network back as it was, bit for bit."""
        for back in self._kept:
            back()
        for storage, kept in self._memory.values():
            storage.copy_(kept)
        torch.clear_autocast_cache()

    def _keep(self, value: Any) -> Callable[[], Any]:
        """A function that gives `value` back with what it holds now."""
        if id(value) in self._known:
            return self._known[id(value)]
        self._known[id(value)] = lambda: value  # for what holds itself
        self._known[id(value)] = self._restorer(value)
        return self._known[id(value)]

    def _restorer(self, value: Any) -> Callable[[], Any]:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            items = [(key, self._keep(each)) for key, each in value.items()]
            return lambda: _refill(value, partial(_set, value), ((key, each()) for key, each in items), items)
        if isinstance(value, (list, deque)):
            parts = [self._keep(each) for each in value]
            return lambda: _refill(value, value.extend, (part() for part in parts), parts)
        if isinstance(value, set):
            items = list(value)
            return lambda: _refill(value, value.update, items, items)
        if isinstance(value, tuple):
            parts = [self._keep(each) for each in value]
            return lambda: [part() for part in parts] and value
        if isinstance(value, np.ndarray):
            return partial(_overwritten, value, value.copy())
        return lambda: value

    def _tensor(self, tensor: Tensor) -> Callable[[], Tensor]:
        if tensor.layout != torch.strided or tensor.is_meta:
            return lambda: tensor
        data, learns = tensor.data, tensor.requires_grad
        storage = tensor.untyped_storage()
        self._memory.setdefault(storage.data_ptr(), (storage, storage.clone()))
        gradient = tensor.grad if tensor.is_leaf else None

        def back() -> Tensor:
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape or tensor.dtype != data.dtype:
                tensor.data = data
            if tensor.is_leaf:
                tensor.requires_grad_(learns)
                tensor.grad = gradient
            return tensor

        return back


def _refill(container: Any, add: Callable[..., Any], content: Any, items: list[Any]) -> Any:
    """The same container, with `content` alone."""
    content = list(content)
    if container or items:
        container.clear()
        add(content)
    return container


def _set(mapping: dict[Any, Any], items: list[tuple[Any, Any]]) -> None:
    """Set items one by one: `update` counts in a Counter."""
    for key, each in items:
        mapping[key] = each


def _overwritten(array: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The same array, with `content`."""
    np.copyto(array, content)
    return array


@contextmanager
def unchanged(model: nn.Module) -> Iterator[Snapshot]:
    """Whatever is done to the network is undone on leaving, also after an error."""
    snapshot = Snapshot(model)
    try:
        yield snapshot
    finally:
        snapshot.restore()
