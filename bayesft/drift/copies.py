"""Faulty copies of a network, written into its own parameters for the time of a pass.

The values are exchanged in place. So everything that shares a parameter's memory sees the fault: tied layers, lists,
closures, views. Nothing is copied but the values.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from bayesft.drift.faults import FaultModel
from bayesft.seeds import derive_seed

Where = str | Callable[[str, nn.Module, nn.Parameter], bool]

_NO_PRODUCT = (
    nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase,
)  # fmt: skip


def owners(model: nn.Module) -> dict[str, tuple[nn.Module, nn.Parameter]]:
    """Each parameter by its name, with the module that holds it; a tied parameter once, under its first name."""
    modules = dict(model.named_modules())
    return {name: (modules[name.rpartition(".")[0]], theta) for name, theta in model.named_parameters()}


def select(model: nn.Module, where: Where = "all") -> dict[str, nn.Parameter]:
    """The parameters in which faults occur, by name.

    Args:
        model: any network.
        where: "all" is every parameter of floats (the paper). "weights" is what a crossbar stores: matrices and
            kernels of layers, attention and recurrent ones too, but no embedding, normalisation or bias. A function
            of (name, module, parameter) says it for each.

    Returns:
        The parameters by name. Integers never drift.

    Raises:
        ValueError: `where` is something else, or chooses no parameter.
    """
    if where != "all" and where != "weights" and not callable(where):
        raise ValueError(f"where = {where!r}: must be 'all', 'weights' or a function of (name, module, parameter)")
    found = {
        name: (module, theta)
        for name, (module, theta) in owners(model).items()
        if theta.is_floating_point() or theta.is_complex()
    }
    if where == "weights":
        weights = {
            id(theta)
            for prefix, module in model.named_modules()
            for name, theta in module._parameters.items()
            if is_weight(prefix, name, module, theta)
        }
        chosen = {name: theta for name, (_, theta) in found.items() if id(theta) in weights}
    elif where == "all":
        chosen = {name: theta for name, (_, theta) in found.items()}
    else:
        chosen = {name: theta for name, (module, theta) in found.items() if where(name, module, theta)}
    if not chosen:
        raise ValueError(f"where = {where!r}: the network has no such parameter; it has {', '.join(found) or 'none'}")
    return chosen


def is_weight(prefix: str, name: str, module: nn.Module, theta: nn.Parameter | None) -> bool:
    """Whether `module`, called `prefix`, holds under `name` a matrix or kernel of a product, of whatever class it is.

    Embeddings are looked up and normalisations are no products. A parametrised weight is held by a module of its name.
    """
    called_so = "weight" in f"{prefix.rpartition('.')[2]}.{name}"
    return theta is not None and theta.dim() > 1 and called_so and not isinstance(module, _NO_PRODUCT)


def faulty(
    model: nn.Module, fault: FaultModel, level: float, key: tuple, draw: int, where: Where = "all"
) -> dict[str, Tensor]:
    """Draw number `draw` of the faulty parameters at `level`, by name; the network is left alone.

    The draws are those of `drifted_parameters`: keyed by (key, draw, name, shape). A compiled network has the draws of
    the network that was compiled.
    """
    module_of = owners(model)
    copies = {}
    for name, theta in select(model, where).items():
        seed = derive_seed(*key, draw, name.replace("_orig_mod.", ""), tuple(theta.shape))
        generator = torch.Generator(theta.device).manual_seed(seed)
        copies[name] = perturbed(fault, theta.detach(), level, generator, name, module_of[name][0])
    return copies


@cache
def _asks_for(perturb: Callable) -> tuple[str, ...]:
    """Which of name and module a method `perturb` takes."""
    accepted = inspect.signature(perturb).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    return tuple(key for key in ("name", "module") if every or key in accepted)


def perturbed(
    fault: FaultModel, theta: Tensor, level: float, generator: torch.Generator, name: str, module: nn.Module
) -> Tensor:
    """The faulty copy of one parameter. Of a complex one, real and imaginary parts are stored, and fail, apart."""
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
