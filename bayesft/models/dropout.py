"""Dropout after the layers of any network, without an edit of its code (section III-B of BayesFT).

A site is a place where dropout can go: `bayesft.models.sites` finds them. Dropout is attached by forward hooks:
parameter names, `state_dict` and training mode of the network stay what they were, and in eval mode it does nothing.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesft.models.sites import find_places
from bayesft.modes import eval_mode

GRANULARITIES = ("layer", "stage")


@dataclass(frozen=True)
class Site:
    """Places that share one dropout rate: a name to show, and the modules after which dropout acts."""

    name: str
    modules: tuple[str, ...]


@torch.no_grad()
def find_sites(model: nn.Module, example: Tensor, granularity: str = "layer") -> list[Site]:
    """The dropout sites of a network, in the order in which a forward pass meets them.

    With "layer", each is a site of its own; a module that is called several times counts once. With "stage", neighbours
    whose outputs have the same feature-map size share a rate, which in a residual network is a stage. What is squeezed
    to 1 × 1 between larger maps (squeeze-and-excitation) belongs to the stage around it.

    Args:
        model: The network. It passes the example in eval mode and comes back as it was.
        example: A batch, (B, ...).
        granularity: "layer" or "stage".

    Returns:
        The sites.

    Raises:
        ValueError: The granularity is unknown, or there is no site: the network has fewer than two layers with weights.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity = {granularity!r}: must be one of {', '.join(GRANULARITIES)}")
    with eval_mode(model):
        places = find_places(model, lambda: model(example))
    whole = [place for place in places if len(place.calls) == place.of and place.alone]  # what a hook can drop
    sizes = {place.name: place.shape[2:] for place in whole}
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


class _Dropout:
    """A forward hook: whole channels of feature maps (B, C, H, W), single features of anything else."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, module: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not module.training or self.rate == 0:
            return None
        return F.dropout2d(output, self.rate) if output.dim() == 4 else F.dropout(output, self.rate)


@contextmanager
def dropout(model: nn.Module, sites: Sequence[Site], rates: Sequence[float]) -> Iterator[nn.Module]:
    """Train a network with dropout. On leaving, it is as it was.

    Args:
        model: The network.
        sites: Where dropout acts.
        rates: The rate of each site, in [0, 1).

    Yields:
        The network.

    Raises:
        ValueError: A rate is not in [0, 1), or there is another number of rates than of sites.
    """
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
