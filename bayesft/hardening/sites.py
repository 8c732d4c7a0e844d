"""The sites of anyone's network, for an example of its input."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from bayesft.hardening.batches import mapped
from bayesft.hardening.checks import first_pass
from bayesft.hardening.state import own_random
from bayesft.models.sites import Place, Sites, find_places
from bayesft.modes import eval_mode, unchanged


def find_sites(model: nn.Module, example: Any, ignore: Iterable[str | type] = ()) -> Sites:
    """Find where dropout can go in a network: between any two layers with weights (`bayesft.models.sites`).

    Args:
        model: any network. It comes back as it was.
        example: what it is called with: a tensor, a tuple of arguments, or a dictionary of named ones. One or two
            examples are enough.
        ignore: modules that get no site, with all that is inside of them: names, patterns of names, or classes.

    Returns:
        The sites, and the layers without one; printed, it is a table.

    Raises:
        ValueError: `ignore` matches nothing, the network can't be called with the example, is scripted, or has no site.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model = {type(model).__name__}: must be a torch.nn.Module")
    with first_pass("example", "it"):
        return sites_of(model, call_with(example), lambda inner, run: find_places(inner, run, ignore))


def sites_of(
    model: nn.Module,
    call: Callable[[nn.Module], Any],
    find: Callable[[nn.Module, Callable[[], Any]], Sites],
    evaluating: bool = True,
) -> Sites:
    """The sites that `find` finds when a pass is `call(network)`, in eval mode or in the modes that there are.

    Of a compiled network, they are found in what was compiled.
    """
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, torch.jit.ScriptModule):
        raise ValueError("model is scripted or traced, and takes no dropout: pass the network that it was made of")
    mode = eval_mode(inner) if evaluating else nullcontext()
    with torch.inference_mode(False), own_random(0), unchanged(inner), mode:
        found = find(inner, lambda: call(inner))
    if not found:
        raise ValueError(
            "no site: the network has no two layers with weights one of which feeds the other"
            + (f" ({'; '.join(f'{name} {why}' for name, why in found.without.items())})" if found.without else "")
        )
    if inner is not model:
        places = tuple(Place(**{**vars(place), "name": f"_orig_mod.{place.name}"}) for place in found)
        found = Sites(places, found.without)
    return found


def call_with(example: Any) -> Callable[[nn.Module], Any]:
    """A call of a network with a copy of the example."""

    def call(model: nn.Module) -> Any:
        given = mapped(lambda tensor: tensor.detach().clone(), example)
        if isinstance(given, Mapping):
            return model(**given)
        return model(*given) if isinstance(given, tuple) else model(given)

    return call
