"""A faulty copy corrected channel by channel to what its clean network gave."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from bayesft.calibration import attention
from bayesft.calibration.attention import Projection, named_layers
from bayesft.calibration.layers import Dims, Layers, folds, holder_of_weight, holders, scaled_weight
from bayesft.calibration.moments import (
    Batch,
    Correction,
    NotFinite,
    Terms,
    check,
    correcting,
    correction,
    every_module_called,
    forward,
)
from bayesft.calibration.reference import Reference, calibration_reference
from bayesft.modes import eval_mode, unchanged

_RECORD = "_calibration"  # the attribute of a calibrated layer that knows its correction and how to undo it
_PROJECTIONS = "_calibration_projections"  # the same of an attention's input projections


def calibrate(
    model: nn.Module, reference: Reference, data: Batch, *, fold: bool = True, terms: Terms = "both"
) -> nn.Module:
    """A calibrated copy of a faulty network: y_c ← (y_c − m_c) · s_c / d_c + μ_c in every channel c of every layer.

    μ and s are the reference's mean and standard deviation; m and d are measured here, in one pass of `data`, layer by
    layer in the order of calls, each on inputs that are corrected already. A channel that is constant, here or in the
    reference, gets the shift alone. See docs/calibration.md for when this may be done, and for prior work.

    Args:
        model: the faulty copy. It is copied, never modified, and it runs in eval mode.
        reference: `calibration_reference` of the clean network.
        data: one batch, in the form that the network takes: a tensor (n, ...), a tuple of tensors (several inputs), or
            a dict (inputs by name). Best are the examples of the reference themselves. It is one batch since a layer's
            statistics over all examples are needed before the next layer can be measured.
        fold: put corrections into weights and biases where that is exact; else keep them beside the layers.
        terms: "both"; or "scale" alone, y · s / d; or "shift" alone, y − m + μ.

    Returns:
        The calibrated copy. `uncalibrate` undoes it, `corrections` tells its numbers. A folded layer that had no bias
        has one. A layer that can't be folded (a kind of one's own, hooks, shared weights, RMS normalisation) has two
        buffers, `calibration_scale` and `calibration_shift`, and a hook that applies them.

    Raises:
        ValueError: for a reference of another network, examples of another shape, several batches, fewer than two
            values a channel, outputs that are not finite, or a network that is calibrated already.
    """
    with unchanged(model):
        found = _measure(model, reference, data, terms)
    copy = deepcopy(model)
    _install(copy, found, reference.dims, fold)
    return copy


@contextmanager
def calibrated(
    model: nn.Module, reference: Reference, data: Batch, *, fold: bool = True, terms: Terms = "both"
) -> Iterator[nn.Module]:
    """`model` itself, calibrated as `calibrate` does it; on leaving its parameters are as they were, bit for bit.

    What a pass changes in the network (a count of passes) stays changed.

    With `fold=False` the weights are not touched: they may drift further within, under corrections that stay.
    """
    _install(model, _measure(model, reference, data, terms), reference.dims, fold)
    try:
        with nullcontext() if fold else every_module_called():
            yield model
    finally:
        uncalibrate(model)


def calibrator(
    model: nn.Module, data: Batch, *, layers: Layers = "all"
) -> Callable[[nn.Module], AbstractContextManager[nn.Module]]:
    """How each faulty copy of a network is calibrated for the time of a measurement, as `evaluate` takes it.

    The reference is made here, with the same examples.

    Args:
        model: the clean network.
        data: one batch of unlabelled examples, as `calibrate` takes it.
        layers: which layers, as `calibration_layers` takes them.

    Returns:
        A function from a faulty copy to a context in which that copy is calibrated. A copy whose outputs are not
        finite is used as it is: there is nothing to measure on it.

    Raises:
        ValueError: as `calibration_reference`.
    """
    reference = calibration_reference(model, data, layers=layers)

    @contextmanager
    def of(copy: nn.Module) -> Iterator[nn.Module]:
        with ExitStack() as stack:
            with suppress(NotFinite):
                stack.enter_context(calibrated(copy, reference, data))
            yield copy

    return of


def uncalibrate(model: nn.Module) -> nn.Module:
    """Take the corrections out of a calibrated network, in place: its parameters are again those from before.

    Raises:
        ValueError: if the network is not calibrated.
    """
    records = {module: vars(module)[_RECORD] for module in model.modules() if _RECORD in vars(module)}
    projections = {
        module: vars(module)[_PROJECTIONS]
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention) and _PROJECTIONS in vars(module)
    }
    if not records and not projections:
        raise ValueError("the network is not calibrated")
    for of_attention, kept in projections.items():
        delattr(of_attention, _PROJECTIONS)
        if kept.before is not None:
            of_attention._parameters.update(kept.before)
            continue
        attention.undo(of_attention)
    for module, record in records.items():
        delattr(module, _RECORD)
        if record.before is not None:
            holder_of_weight(module)._parameters.update(record.before)
            continue
        del module.calibration_scale, module.calibration_shift
        for number in [number for number, hook in module._forward_hooks.items() if hook is _correct_output]:
            del module._forward_hooks[number]
    return model


def corrections(model: nn.Module) -> dict[str, Correction]:
    """The scale and the shift of each channel of a calibrated network, by layer: what a device's digital part needs."""
    found = {}
    for name, layer in named_layers(model).items():
        if isinstance(layer, Projection):
            record = vars(layer.attention).get(_PROJECTIONS)
            if record is not None and layer.number in record.corrections:
                found[name] = record.corrections[layer.number]
        elif _RECORD in vars(layer):
            found[name] = vars(layer)[_RECORD].correction
    return found


@torch.no_grad()
def _measure(model: nn.Module, reference: Reference, data: Batch, terms: Terms) -> dict[str, Correction]:
    if terms not in get_args(Terms):
        raise ValueError(f"terms = {terms!r}: must be one of {', '.join(get_args(Terms))}")
    if corrections(model):
        raise ValueError("the network is calibrated already: call uncalibrate first")
    if not isinstance(reference, Reference):
        raise ValueError(
            f"reference is a {type(reference).__name__}: make one with calibration_reference of the clean network, or "
            "read one with Reference.load"
        )
    if not isinstance(data, (Tensor, tuple, Mapping)):
        raise ValueError(
            f"data is a {type(data).__name__}: need one batch (a tensor, a tuple of tensors, or a dict of them), since "
            "each layer is measured on all examples before the next one"
        )
    reference.check(model, data)
    with eval_mode(model), correcting(model, reference.dims, reference.moments, terms) as moments:
        forward(model, data)
    check(moments, "the faulty copy")
    return {
        name: correction(calls[-1], reference.moments[name][-1].to(calls[-1].mean), terms)
        for name, calls in moments.items()
    }


@dataclass(frozen=True)
class _Record:
    """How a layer is calibrated. `before`: the parameters of its weight's holder, if they were replaced."""

    correction: Correction
    dims: Dims
    before: dict[str, nn.Parameter | None] | None


@dataclass(frozen=True)
class _Projections:
    """How an attention's projections are calibrated. `before`: its parameters, if they were replaced."""

    corrections: dict[int, Correction]
    before: dict[str, nn.Parameter | None] | None


@torch.no_grad()
def _install(model: nn.Module, found: dict[str, Correction], dims: dict[str, Dims], fold: bool) -> None:
    shares, layers = holders(model), named_layers(model)
    projections: dict[nn.MultiheadAttention, dict[int, Correction]] = defaultdict(dict)
    for name, pair in found.items():
        module = layers[name]
        if isinstance(module, Projection):
            projections[module.attention][module.number] = pair
            continue
        before = _fold(holder_of_weight(module), pair) if fold and folds(module, shares) else None
        setattr(module, _RECORD, _Record(pair, dims[name], before))
        if before is None:
            module.register_buffer("calibration_scale", pair.scale)
            module.register_buffer("calibration_shift", pair.shift)
            module.register_forward_hook(_correct_output)
    for module, pairs in projections.items():
        alone = all(shares[id(theta)] == 1 for theta in module._parameters.values() if theta is not None)
        setattr(module, _PROJECTIONS, _correct_projections(module, pairs, fold and alone))


def _correct_projections(module: nn.MultiheadAttention, pairs: dict[int, Correction], fold: bool) -> _Projections:
    if fold:
        learns = next(theta for theta in module._parameters.values() if theta is not None).requires_grad
        values = attention.corrected(module, pairs)
        before = attention.replace(module, {k: nn.Parameter(v, requires_grad=learns) for k, v in values.items()})
        return _Projections(pairs, before)
    attention.keep(module, pairs)
    return _Projections(pairs, None)


def _fold(holder: nn.Module, pair: Correction) -> dict[str, nn.Parameter | None]:
    """Put the correction into the weight and the bias of `holder`, and return the parameters that were there."""
    weight, bias = holder._parameters["weight"], holder._parameters["bias"]
    assert weight is not None  # as `folds` says
    shift = pair.shift if bias is None else pair(bias, tuple(range(bias.dim())))
    folded = {"weight": scaled_weight(holder, pair.scale), "bias": shift}
    for kind, value in folded.items():
        holder._parameters[kind] = nn.Parameter(value.to(weight.dtype), requires_grad=weight.requires_grad)
    return {"weight": weight, "bias": bias}


def _correct_output(module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
    pair = Correction(module.get_buffer("calibration_scale"), module.get_buffer("calibration_shift"))
    dims = vars(module)[_RECORD].dims
    return (pair(output[0], dims), *output[1:]) if isinstance(output, tuple) else pair(output, dims)
