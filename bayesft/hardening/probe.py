"""One look at a network before any work: do faults and dropout act in it, and has the fault a gradient?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bayesft.drift.copies import owners, perturbed, write
from bayesft.drift.faults import FaultModel
from bayesft.hardening.batches import mapped, tensors
from bayesft.models.sites import Place, dropping, each_tensor
from bayesft.modes import Snapshot

CHANGES = (1.0, 10.0, 100.0)  # of a parameter, in its mean size: what only selects may not show in a single small one
LEAST_SHARE = 0.5  # of a fault's gradient that must not be zero: one without a gradient (a bare rounding) has 0


def check_reach(
    model: nn.Module,
    run: Callable[[], Any],
    parameters: dict[str, nn.Parameter],
    snapshot: Snapshot,
    when: str,
) -> None:
    """Raise ValueError where a change of one of `parameters` does not change the outputs.

    Args:
        model: the network, in the state of `snapshot`, to which it comes back.
        run: a pass; the same outputs at each call, unless the network has changed.
        parameters: those in which faults occur.
        when: what is looked at, for the message.
    """
    if not parameters:
        return
    reached = gradients_of(model, run, list(parameters.values()), snapshot)
    unsure = [name for name, gradient in zip(parameters, reached, strict=True) if gradient is None]
    if not unsure:
        return
    outputs = run()
    snapshot.restore()

    def without_effect(names: list[str]) -> list[str]:
        for size in CHANGES:
            write(parameters, {name: _changed(parameters[name], size) for name in names})
            changed = run()
            snapshot.restore()
            if not same(outputs, changed):
                half = len(names) // 2
                return without_effect(names[:half]) + without_effect(names[half:]) if half else []
        return names

    inert = without_effect(unsure)
    if inert:
        raise ValueError(
            f"a fault in {_listed(inert)} does not change the network's output {when}, on the first batch: the "
            "parameter is not used, or the network computes with a copy of it (a cache, a merged, fused or compiled "
            "part). Give a network without that copy, or leave the parameter out: "
            f"where=lambda name, module, parameter: name not in {inert[:5] if len(inert) < 6 else '(...)'}"
        )


def check_sites(model: nn.Module, run: Callable[[], Any], places: Sequence[Place], snapshot: Snapshot) -> None:
    """Raise ValueError where dropout at one of `places` does not change the outputs. Arguments as `check_reach`."""
    scales = [torch.ones(()) for _ in places]
    with _scaled(model, places, scales):
        reached = gradients_of(model, run, scales, snapshot)
    outputs = None
    for place, gradient in zip(places, reached, strict=True):
        if gradient is None:
            outputs = run() if outputs is None else outputs
            snapshot.restore()
            with dropping(model, [place], [0.5], torch.Generator().manual_seed(0)):
                changed = run()
            snapshot.restore()
            if same(outputs, changed):
                raise ValueError(
                    f"dropout at site {place.name!r} does not change the network's output: its module is not called, "
                    "or what it gives is not used. Leave it out of `sites`, or ignore it in find_sites"
                )


@contextmanager
def _scaled(model: nn.Module, places: Sequence[Place], scales: Sequence[Tensor]) -> Iterator[None]:
    """The output of each place multiplied by a number (of 1), for the gradient of that number."""

    def hook(place: Place, scale: Tensor) -> Callable[..., Any]:
        return lambda module, given, output: each_tensor(
            output, lambda i, tensor: tensor * scale if i in place.outputs else tensor
        )

    handles = [
        model.get_submodule(place.name).register_forward_hook(hook(place, scale))
        for place, scale in zip(places, scales, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gradients_of(
    model: nn.Module, run: Callable[[], Any], leaves: list[Tensor], snapshot: Snapshot
) -> list[Tensor | None]:
    """The gradient of a random projection of the outputs for each leaf, None where the outputs do not depend on it."""
    with torch.enable_grad():
        for leaf in leaves:
            leaf.requires_grad_(True)
        _detach_caches(model)
        try:
            value = _projection(run())
            found: Sequence[Tensor | None] = torch.autograd.grad(value, leaves, allow_unused=True)
        except RuntimeError:  # no graph, or one that can't be gone back: it is left to a try of each parameter
            found = [None] * len(leaves)
        finally:
            snapshot.restore()
    return list(found)


def check_gradient(fault: FaultModel, level: float, model: nn.Module, parameters: Iterable[str]) -> None:
    """Raise ValueError where the faulty copy of a parameter has no gradient for the parameter."""
    count, alive = 0, 0
    module_of = owners(model)
    for name in parameters:
        module, theta = module_of[name]
        with torch.enable_grad():
            leaf = theta.detach().clone().requires_grad_(True)
            copy = perturbed(fault, leaf, 0, name, module)(level)
            slope = torch.autograd.grad(copy.abs().sum(), leaf, allow_unused=True)[0] if copy.requires_grad else None
        count += theta.numel()
        alive += 0 if slope is None else int((slope.isfinite() & (slope != 0)).sum())
    if alive < LEAST_SHARE * count:
        raise ValueError(
            f"fault = {fault}: at level {level:g}, {1 - alive / max(count, 1):.2%} of its gradients are zero, not "
            "finite or not there, so that a network can't be trained under it. Pass the gradient straight through: "
            "return theta + (faulty - theta).detach()"
        )


def same(first: Any, second: Any) -> bool:
    """Whether two outputs are equal, NaN to NaN."""
    ones, others = list(tensors(first)), list(tensors(second))
    pairs = zip(ones, others, strict=False)
    return len(ones) == len(others) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs
    )


def _projection(outputs: Any) -> Tensor:
    generator, total = torch.Generator().manual_seed(0), torch.zeros(())
    for tensor in tensors(outputs):
        if tensor.requires_grad:
            tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            total = total.to(tensor.device) + (tensor * torch.randn(tensor.shape, generator=generator).to(tensor)).sum()
    return total


def _changed(theta: Tensor, size: float) -> Tensor:
    noise = torch.randn(theta.shape, generator=torch.Generator().manual_seed(int(size)), dtype=torch.float64).to(theta)
    return theta.detach() * 1.5 + size * (theta.detach().abs().mean() + 0.1) * noise


def _detach_caches(model: nn.Module) -> None:
    """Cut tensors that modules keep from the pass that made them, so that no gradient takes the way through it."""
    for module in model.modules():
        for holder in (vars(module), module._buffers):
            for name, value in list(holder.items()):
                if any(tensor.grad_fn is not None for tensor in _kept(value)):
                    holder[name] = mapped(lambda tensor: tensor.detach(), value)


def _kept(value: Any) -> Iterable[Tensor]:
    plain = isinstance(value, Tensor) or type(value) in (dict, list, tuple)
    return tensors(value) if plain else ()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"parameter{'s' if len(names) > 1 else ''} {', '.join(map(repr, names[:5]))}{more}"
