"""Dropout after the layers of any network, without an edit of its code (section III-B of BayesFT).

A site is a place where dropout can go: after each activation that follows a layer with weights, or, where a network
calls its activations as functions, after the layer itself (dropout and ReLU commute). The last layer, which gives
the logits, has no site. Dropout is attached by forward hooks: parameter names, `state_dict` and the training mode
of the network stay what they were, and in eval mode it does nothing.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesft.modes import eval_mode

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus,
)  # fmt: skip
GRANULARITIES = ("layer", "stage")


@dataclass(frozen=True)
class Site:
    """Places that share one dropout rate: a name to show, and the modules after which dropout acts."""

    name: str
    modules: tuple[str, ...]


@torch.no_grad()
def find_sites(model: nn.Module, example: Tensor, granularity: str = "layer") -> list[Site]:
    """The dropout sites of `model`, in the order in which a forward pass of `example` (B, ...) meets them.

    With "layer", each is a site of its own; a module that is called several times counts once. With "stage",
    neighbours whose outputs have the same feature-map size share a rate, which in a residual network is a stage. What
    is squeezed to 1 × 1 between larger maps (squeeze-and-excitation) belongs to the stage around it.

    Raises ValueError when there is none: the network has fewer than two layers with weights.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity = {granularity!r}: must be one of {', '.join(GRANULARITIES)}")
    calls = _calls(model, example)
    last = max((i for i, (_, module, _) in enumerate(calls) if isinstance(module, LAYERS)), default=-1)
    sizes: dict[str, tuple[int, ...]] = {}
    layer_seen = False
    for name, module, size in calls[: max(last, 0)]:
        if isinstance(module, LAYERS):
            layer_seen = True
        elif isinstance(module, ACTIVATIONS) and layer_seen:
            sizes.setdefault(name, size)
            layer_seen = False
    if not sizes:
        layers = [(name, size) for name, module, size in calls[: max(last, 0)] if isinstance(module, LAYERS)]
        sizes = {name: size for name, size in layers if name != calls[last][0]}
    if not sizes:
        raise ValueError("no dropout site: the network needs at least two layers with weights (Linear or Conv)")
    if granularity == "layer":
        return [Site(name, (name,)) for name in sizes]
    stages: list[tuple[tuple[int, ...], list[str]]] = []
    largest_after = [max(map(math.prod, list(sizes.values())[i:])) for i in range(len(sizes))]
    for (name, size), after in zip(sizes.items(), largest_after, strict=True):
        if stages and size and math.prod(size) == 1 < after:
            size = stages[-1][0]
        if not stages or stages[-1][0] != size:
            stages.append((size, []))
        stages[-1][1].append(name)
    labels = ["×".join(map(str, size)) + " maps" if size else "features" for size, _ in stages]
    again = [f" ({labels[: i + 1].count(label)})" if labels.count(label) > 1 else "" for i, label in enumerate(labels)]
    return [Site(label + more, tuple(names)) for label, more, (_, names) in zip(labels, again, stages, strict=True)]


def _calls(model: nn.Module, example: Tensor) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Each call of a layer or an activation in a forward pass: name, module, size of its feature maps."""
    calls = []

    def record(name: str):
        return lambda module, _, output: calls.append((name, module, tuple(output.shape[2:])))

    hooks = [
        module.register_forward_hook(record(name))
        for name, module in model.named_modules()
        if isinstance(module, LAYERS + ACTIVATIONS)
    ]
    try:
        with eval_mode(model):
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


class _Dropout:
    """A forward hook: whole channels of feature maps (B, C, H, W), single features of anything else."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, module: nn.Module, _: tuple, output: Tensor) -> Tensor | None:
        if not module.training or self.rate == 0:
            return None
        return F.dropout2d(output, self.rate) if output.dim() == 4 else F.dropout(output, self.rate)


@contextmanager
def dropout(model: nn.Module, sites: Sequence[Site], rates: Sequence[float]) -> Iterator[nn.Module]:
    """Train `model` with dropout at `sites`: one rate a site, in [0, 1). On leaving, the network is as it was."""
    if len(sites) != len(rates) or not all(0 <= rate < 1 for rate in rates):
        raise ValueError(f"{len(sites)} sites and rates {list(rates)}: need one rate in [0, 1) for each site")
    places = [
        (model.get_submodule(name), rate) for site, rate in zip(sites, rates, strict=True) for name in site.modules
    ]
    hooks = [module.register_forward_hook(_Dropout(float(rate))) for module, rate in places]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()
