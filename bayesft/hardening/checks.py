"""Checks of arguments before any work. Each raises a ValueError that names the argument and what is allowed."""

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from bayesft.drift.faults import FaultModel, LogNormalDrift, check_fault_level, default_level, traits_of
from bayesft.drift.features import FeatureFault, check_places
from bayesft.hardening.batches import tensors


def check_model(model: Any) -> None:
    """`model` is a network, and its parameters are there."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model = {type(model).__name__}: must be a torch.nn.Module")
    if any(isinstance(theta, nn.parameter.UninitializedParameter) for theta in model.parameters()):
        raise ValueError("model has lazy parameters: run it once on an example first")


def check_gradients(model: nn.Module) -> None:
    """The parameters of `model` can have gradients."""
    if any(theta.is_inference() for theta in model.parameters()):
        raise ValueError("model was built in torch.inference_mode(), so it has no gradients: build it outside of that")


def check_memory(parameters: Mapping[str, Tensor]) -> None:
    """No two parameters overlap in memory: their faults, and gradients through them, would mix."""
    for name, theta in parameters.items():
        repeated = any(step == 0 and count > 1 for step, count in zip(theta.stride(), theta.shape, strict=True))
        if repeated and isinstance(theta, nn.Parameter):
            raise ValueError(f"parameter {name!r} is expanded: several of its numbers are one in memory; clone() it")
    spans = sorted((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), name) for name, t in parameters.items())
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start < end:
            raise ValueError(
                f"parameters {first!r} and {second!r} share memory: make them one, or leave one out by `where`"
            )


def check_fault(fault: Any) -> None:
    """`fault` is a fault of weights or of activations."""
    if isinstance(fault, type):
        raise ValueError(f"fault = {fault.__name__}: must be an instance, {fault.__name__}()")
    if not isinstance(fault, FeatureFault) and not callable(getattr(fault, "perturb", None)):
        raise ValueError(f"fault = {fault!r}: must have a method perturb(theta, level, generator)")


def check_where(fault: Any, where: Any) -> None:
    """`where` chooses parameters, so it goes with a fault of parameters alone."""
    if isinstance(fault, FeatureFault) and where != "all":
        raise ValueError(f"where = {where!r}: {fault} strikes activations, so there are no parameters to choose")


def check_hooks(fault: Any, model: nn.Module) -> None:
    """A fault of activations acts in `model`: there is a place for it, and no part is compiled, without hooks."""
    if not isinstance(fault, FeatureFault):
        return
    check_places(model)
    compiled = [name for name, module in model.named_modules() if is_compiled(module)]
    if compiled:
        raise ValueError(
            f"fault = {fault}: a fault of activations does not act in a compiled network"
            + (f" (module {compiled[0]!r})" if compiled[0] else "")
            + ": give the network that was compiled"
        )


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is the compiled form of another one, or was compiled in place."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def check_names(given: Iterable[str], functions: Iterable[Callable[..., Any]], but: Iterable[str], what: str) -> None:
    """All names are those of arguments of one of the functions, other than those in `but`."""
    known = {name for function in functions for name in inspect.signature(function).parameters} - set(but)
    for name in given:
        if name not in known:
            raise ValueError(f"{what} {name!r}: must be one of {', '.join(sorted(known))}")


def is_number(value: Any) -> bool:
    """Whether `value` is a real number, of Python or NumPy, and finite."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def checked_level(fault: FaultModel | FeatureFault, level: Any) -> float:
    """A level that the fault allows; without it, 1 for log-normal drift and a fault without traits, else its own."""
    if level is None:
        plain = isinstance(fault, LogNormalDrift) or not hasattr(fault, "traits")
        return 1.0 if plain else default_level(fault)
    if not is_number(level) or level < 0:
        raise ValueError(f"level = {level!r}: must be a finite number of at least 0")
    try:
        check_fault_level(fault, level)
    except ValueError as error:
        raise ValueError(f"level = {level!r}: {error}") from error
    return float(level)


def check_rereadable(name: str, data: Any) -> None:
    """Data can be read more than once."""
    if isinstance(data, Iterator):
        raise ValueError(f"{name}: an iterator can be read once, and it is read again; give a list or a DataLoader")


def whole_number(name: str, value: Any, least: int | None) -> int:
    """`value` as an int of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} = {value!r}: must be a whole number") from None
    if isinstance(value, bool) or (least is not None and number < least):
        raise ValueError(f"{name} = {value!r}: must be a whole number" + (f" of at least {least}" if least else ""))
    return number


def checked_levels(fault: FaultModel | FeatureFault, levels: Any) -> tuple[float, ...]:
    """The fault levels, rising, each once; without any, those of the fault."""
    levels = traits_of(fault).grid if levels is None else levels
    try:
        each: list[Any] = [levels] if isinstance(levels, Real) else list(levels)
    except TypeError:
        raise ValueError(f"levels = {levels!r}: must be numbers") from None
    if not each or not all(is_number(level) and level >= 0 for level in each):
        raise ValueError(f"levels = {levels!r}: must be finite numbers of at least 0, and at least one")
    found = sorted(set(map(float, each)))
    try:
        for level in found:
            check_fault_level(fault, level)
    except ValueError as error:
        raise ValueError(f"levels = {levels!r}: {error}") from error
    return tuple(found)


def checked_device(model: nn.Module, device: Any) -> torch.device:
    """The device to compute on: without one, that of the network."""
    if device is None:
        first = next(model.parameters(), None)
        return first.device if first is not None else torch.device("cpu")
    try:
        found = torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device = {device!r}: {str(error).splitlines()[0]}") from None
    if found.type == "meta":
        raise ValueError("device = 'meta': nothing can be computed there")
    return found


def check_no_nan(batch: Any) -> None:
    """No tensor of a batch holds NaN."""
    for tensor in tensors(batch):
        if (tensor.is_floating_point() or tensor.is_complex()) and bool(tensor.isnan().any()):
            raise ValueError(f"data: a batch holds NaN (a tensor of shape {tuple(tensor.shape)})")


@contextmanager
def first_pass(argument: str, example: str = "the first batch") -> Iterator[None]:
    """An error of the network, or of the loss, on the first batch names the argument that it is of."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise ValueError(f"{argument}: the network fails on {example}: {said}") from error
