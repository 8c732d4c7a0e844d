"""Faulty copies of a network, written into its own parameters for the time of a pass.

The values are exchanged in place. So everything that shares a parameter's memory sees the fault: tied layers, lists,
closures, views. Nothing is copied but the values.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bayesft.drift.faults import FaultModel
from bayesft.drift.scope import Where, scoped
from bayesft.seeds import derive_seed


def owners(model: nn.Module) -> dict[str, tuple[nn.Module, nn.Parameter]]:
    """Each parameter by its name, with the module that holds it; a tied parameter once, under its first name."""
    modules = dict(model.named_modules())
    return {name: (modules[name.rpartition(".")[0]], theta) for name, theta in model.named_parameters()}


def select(model: nn.Module, where: Where = "all") -> dict[str, nn.Parameter]:
    """The parameters in which faults occur, by name: those that `scoped` chooses, of floating-point or complex numbers.

    Raises:
        ValueError: `where` is unknown, or chooses none of these.
    """
    chosen = {name: t for name, t in scoped(model, where).items() if t.is_floating_point() or t.is_complex()}
    if not chosen:
        raise ValueError(f"where = {where!r}: the network has no such parameter of floating-point numbers")
    return chosen


def faulty(
    model: nn.Module, fault: FaultModel, level: float, key: tuple[Any, ...], draw: int, where: Where = "all"
) -> dict[str, Tensor]:
    """Draw number `draw` of the faulty parameters at `level`, by name; the network is left alone.

    The draws are those of `drifted_parameters`: keyed by (key, draw, name, shape). A compiled network has the draws of
    the network that was compiled.
    """
    module_of = owners(model)
    copies = {}
    for name, theta in select(model, where).items():
        seed = derive_seed(*key, draw, name.replace("_orig_mod.", ""), tuple(theta.shape))
        copies[name] = perturbed(fault, theta.detach(), level, seed, name, module_of[name][0])
    return copies


@cache
def _asks_for(perturb: Callable[..., Any]) -> tuple[str, ...]:
    """Which of name and module a method `perturb` takes."""
    accepted = inspect.signature(perturb).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    return tuple(key for key in ("name", "module") if every or key in accepted)


def perturbed(fault: FaultModel, theta: Tensor, level: float, seed: int, name: str, module: nn.Module) -> Tensor:
    """The faulty copy of one parameter. Of a complex one, real and imaginary parts are stored, and fail, apart.

    A fault that can draw once for all levels (`sample`) draws on the CPU, any other on the parameter's device.
    """
    generator = torch.Generator("cpu" if hasattr(fault, "sample") else theta.device).manual_seed(seed)
    about = {"name": name, "module": module}
    more = {key: about[key] for key in _asks_for(getattr(type(fault), "perturb", fault.perturb))}
    real = torch.view_as_real(theta) if theta.is_complex() else theta
    copy = fault.perturb(real, level, generator, **more)
    if not isinstance(copy, Tensor) or copy.shape != real.shape:
        given = tuple(copy.shape) if isinstance(copy, Tensor) else type(copy).__name__
        raise ValueError(f"fault = {fault}: perturb gives {given} for parameter {name!r} of shape {tuple(real.shape)}")
    return torch.view_as_complex(copy) if theta.is_complex() else copy


def write(model: nn.Module, copies: dict[str, Tensor]) -> None:
    """Write `copies` into the parameters of those names. Autograd does not notice."""
    torch.clear_autocast_cache()  # it keeps low-precision copies of parameters
    for name, copy in copies.items():
        model.get_parameter(name).data.copy_(copy.detach())


@contextmanager
def swapped(model: nn.Module, copies: dict[str, Tensor]) -> Iterator[nn.Module]:
    """The network with `copies` as its parameters. On leaving, also by an error, each has its bits back."""
    kept = {name: model.get_parameter(name).detach().clone() for name in copies}
    try:
        write(model, copies)
        yield model
    finally:
        write(model, kept)
