"""Faulty copies of a network, written into its own parameters for the time of a pass.

The values are exchanged in place. So everything that shares a parameter's memory sees the fault: tied layers, lists,
closures, views. Nothing is copied but the values.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bayesft.drift.faults import FaultModel, drawn
from bayesft.drift.scope import Where, plain_name, scoped
from bayesft.seeds import derive_seed


def owners(model: nn.Module) -> dict[str, tuple[nn.Module, nn.Parameter]]:
    """Each parameter by its name in `scoped`, with its module; a tied parameter once, under its first name."""
    modules = dict(model.named_modules())
    return {plain_name(name): (modules[name.rpartition(".")[0]], theta) for name, theta in model.named_parameters()}


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
    model: nn.Module,
    fault: FaultModel,
    key: tuple[Any, ...],
    draw: int,
    where: Where = "all",
    clean: Mapping[str, Tensor] | None = None,
) -> Callable[[float], dict[str, Tensor]]:
    """Draw number `draw`: a function from a level to the faulty parameters, by name. The network is left alone.

    A draw is keyed by (key, draw, name of the parameter, shape). A compiled network has the draws of the network that
    was compiled.

    Args:
        model: The network.
        fault: What a device does to a parameter.
        key: Names the draws.
        draw: The number of the draw.
        where: The parameters that the fault meets, as in `scoped`.
        clean: Their values without the fault, by name, while the network holds others. None: those of the network.
    """
    module_of = owners(model)

    def of(name: str, theta: Tensor) -> Callable[[float], Tensor]:
        seed = derive_seed(*key, draw, name, tuple(theta.shape))
        return perturbed(fault, theta.detach(), seed, name, module_of[name][0])

    at = {name: of(name, theta) for name, theta in (clean or select(model, where)).items()}
    return lambda level: {name: copy(level) for name, copy in at.items()}


def drifted_parameters(
    model: nn.Module, fault: FaultModel, sigma: float, key: tuple[Any, ...], draw: int, parameters: Where = "all"
) -> dict[str, Tensor]:
    """Draw number `draw` of the parameters of `model` at level σ, by name: `faulty` at one level."""
    return faulty(model, fault, key, draw, parameters)(sigma)


@cache
def _asks_for(perturb: Callable[..., Any]) -> tuple[str, ...]:
    """Which of name and module a method `perturb` takes."""
    accepted = inspect.signature(perturb).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    return tuple(key for key in ("name", "module") if every or key in accepted)


def perturbed(fault: FaultModel, theta: Tensor, seed: int, name: str, module: nn.Module) -> Callable[[float], Tensor]:
    """The faulty copies of one parameter, by level. A complex one stores real and imaginary parts, which fail apart."""
    about = {"name": name, "module": module}
    more = {key: about[key] for key in _asks_for(getattr(type(fault), "perturb", fault.perturb))}
    real = torch.view_as_real(theta) if theta.is_complex() else theta
    make = drawn(fault, real, lambda device: torch.Generator(device).manual_seed(seed), **more)

    def at(level: float) -> Tensor:
        copy = make(level)
        if not isinstance(copy, Tensor) or copy.shape != real.shape:
            given = tuple(copy.shape) if isinstance(copy, Tensor) else type(copy).__name__
            raise ValueError(
                f"fault = {fault}: perturb gives {given} for parameter {name!r} of shape {tuple(real.shape)}"
            )
        return torch.view_as_complex(copy) if theta.is_complex() else copy

    return at


def write(thetas: Mapping[str, nn.Parameter], copies: Mapping[str, Tensor]) -> None:
    """Write `copies` into the parameters `thetas` of those names. Autograd does not notice."""
    torch.clear_autocast_cache()  # it keeps low-precision copies of parameters
    for name, copy in copies.items():
        thetas[name].data.copy_(copy.detach())


@contextmanager
def restored(thetas: Mapping[str, nn.Parameter]) -> Iterator[dict[str, Tensor]]:
    """The values of `thetas`. On leaving, also by an error, the parameters have them again, bit for bit."""
    clean = {name: theta.detach().clone() for name, theta in thetas.items()}
    try:
        yield clean
    finally:
        write(thetas, clean)


@contextmanager
def swapped(model: nn.Module, copies: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The network with `copies` as its parameters. On leaving, each has its bits back."""
    thetas = {name: model.get_parameter(name) for name in copies}
    with restored(thetas):
        write(thetas, copies)
        yield model


@contextmanager
def learning_through(
    thetas: Mapping[str, nn.Parameter], perturb: Callable[[str, Tensor], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Faulty copies in the place of `thetas`, for a forward and backward pass.

    A gradient that arrives in a parameter goes on through the fault, by the chain rule: it is that of the parameter
    without the fault. What is computed again in the backward pass (gradient checkpointing) meets the copy, too.

    Args:
        thetas: the parameters by name.
        perturb: from name and values to the faulty copy, with a gradient.

    Yields:
        The values without the fault, which come back on leaving.
    """
    with restored(thetas) as clean:
        copies, handles = {}, []
        for name, theta in thetas.items():
            leaf = clean[name].requires_grad_(theta.requires_grad)
            with torch.inference_mode(False), torch.enable_grad():
                copies[name] = perturb(name, leaf)
            if theta.requires_grad:
                handles.append(theta.register_hook(_through(copies[name], leaf)))
        try:
            write(thetas, copies)
            yield clean
        finally:
            for handle in handles:
                handle.remove()


def _through(copy: Tensor, clean: Tensor) -> Callable[[Tensor], Tensor]:
    """A hook that takes the gradient of a faulty copy to that of the parameter: the chain rule."""

    def hook(gradient: Tensor) -> Tensor:
        given = gradient.to_dense() if gradient.is_sparse else gradient
        found = torch.autograd.grad(
            copy, clean, given.to(copy.dtype), retain_graph=True, create_graph=given.requires_grad
        )[0].to(gradient.dtype)
        return found.sparse_mask(gradient.coalesce()) if gradient.is_sparse else found

    return hook
