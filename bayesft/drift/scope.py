"""Which parameters of a network a fault meets."""

from collections.abc import Callable
from typing import get_args

from torch import nn
from torch.nn import Parameter

from bayesft.drift.faults.interface import Scope

Where = Scope | Callable[[str, nn.Module, Parameter], bool]

# Their weights are looked up or scale activations; they are no matrix that a crossbar multiplies with.
_NO_MATRIX = (
    nn.Embedding, nn.EmbeddingBag, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
)  # fmt: skip


def scoped(model: nn.Module, where: Where = "all") -> dict[str, Parameter]:
    """The parameters of `model` that a fault meets, by name, in the order of `named_parameters`.

    A parameter that stands in several places is there once, under its first name, if one of its places counts. Those of
    a compiled network have the names of the network that was compiled.

    Args:
        model: the network.
        where: "all", every parameter, as in the paper; "weights", what a crossbar stores: each weight with two
            dimensions or more that is no embedding and no normalisation, also those of attention, recurrent layers
            and transposed convolutions; "convolutions", the weights of convolutions; or a function of (name of the
            parameter, module that holds it, parameter) that returns whether a fault meets it.

    Raises:
        ValueError: `where` is unknown, or no parameter of `model` counts.
    """
    if where == "all":
        return {plain_name(name): theta for name, theta in model.named_parameters()}
    rules = {"weights": is_weight, "convolutions": _is_convolution}
    counts = where if callable(where) else rules.get(where)
    if counts is None:
        raise ValueError(f"where = {where!r}: must be one of {', '.join(get_args(Scope))}, or a function")
    met = {
        id(theta)
        for prefix, module in model.named_modules()
        for kind, theta in module.named_parameters(prefix, recurse=False)
        if counts(plain_name(kind), module, theta)
    }
    chosen = {plain_name(name): theta for name, theta in model.named_parameters() if id(theta) in met}
    if not chosen:
        raise ValueError(f"where = {where!r}: no parameter of {type(model).__name__} counts; choose another `where`")
    return chosen


def plain_name(name: str) -> str:
    """The name of a parameter without the marks that `torch.compile` puts into it."""
    return name.replace("_orig_mod.", "")


def is_weight(name: str, module: nn.Module, theta: Parameter) -> bool:
    """Whether `theta` is a matrix or a kernel: `weight`, `weight_hh_l0` of a recurrent layer, `in_proj_weight`.

    What stands for a parametrised weight is held by a module that is called like the weight.
    """
    called = ".".join(name.split(".")[-2:]) if "parametrizations." in name else name.rpartition(".")[2]
    return theta.dim() >= 2 and "weight" in called and not isinstance(module, _NO_MATRIX)


def _is_convolution(name: str, module: nn.Module, theta: Parameter) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and is_weight(name, module, theta)
