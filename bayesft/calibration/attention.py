"""The input projections of `nn.MultiheadAttention`: three linear layers that have no module of their own."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

PARTS = ("q_proj", "k_proj", "v_proj")
_INPUTS = ("query", "key", "value")


class Projection(NamedTuple):
    """One input projection: number 0 of the queries, 1 of the keys, 2 of the values. It has `embed_dim` channels."""

    attention: nn.MultiheadAttention
    number: int


def named_layers(model: nn.Module) -> dict[str, nn.Module | Projection]:
    """All modules by name, and before each attention its projections: "attention.q_proj" and so on."""
    found: dict[str, nn.Module | Projection] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward:
            found |= {f"{name}.{part}".lstrip("."): Projection(module, i) for i, part in enumerate(PARTS)}
        found[name] = module
    return found


def corrected(attention: nn.MultiheadAttention, pairs: Mapping[int, Any]) -> dict[str, Tensor]:
    """The parameters of `attention` with which its projections are corrected: W ← W · scale, b ← b · scale + shift.

    Args:
        attention: the module.
        pairs: scale and shift by the number of the projection.
    """
    weights, bias = [_weight(attention, i) for i in range(3)], attention.in_proj_bias
    biases = list(weights[0].new_zeros(3 * attention.embed_dim).chunk(3) if bias is None else bias.chunk(3))
    for i, (scale, shift) in pairs.items():
        weights[i] = weights[i] * scale.to(weights[i]).unsqueeze(1)
        biases[i] = biases[i] * scale.to(biases[i]) + shift.to(biases[i])
    if attention.in_proj_weight is not None:
        return {"in_proj_weight": torch.cat(weights), "in_proj_bias": torch.cat(biases)}
    return {f"{part}_weight": w for part, w in zip(PARTS, weights, strict=True)} | {"in_proj_bias": torch.cat(biases)}


def _weight(attention: nn.MultiheadAttention, number: int) -> Tensor:
    if attention.in_proj_weight is not None:
        return attention.in_proj_weight.chunk(3)[number]
    return getattr(attention, f"{PARTS[number]}_weight")


def hook(
    attention: nn.MultiheadAttention, pairs_of: Callable[[Callable[[int], Tensor]], Mapping[int, Any]]
) -> list[RemovableHandle]:
    """Correct the projections at each call of `attention`; returns the handles of the hooks.

    `pairs_of` is called with a function from the number of a projection to its output, and gives the corrections by
    number. For the call, the corrected parameters stand in the place of the given ones.
    """

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, nn.MultiheadAttention)
        given = dict(zip(_INPUTS, args, strict=False)) | kwargs
        bias = module.in_proj_bias
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        _swap_in(module, pairs_of(lambda i: F.linear(given[_INPUTS[i]], _weight(module, i), biases[i])))

    return [
        attention.register_forward_pre_hook(before, with_kwargs=True),
        attention.register_forward_hook(_swap_out, always_call=True),
    ]


def keep(attention: nn.MultiheadAttention, pairs: Mapping[int, Any]) -> None:
    """Keep corrections in buffers beside the weights, and apply them at each call."""
    for number, pair in pairs.items():
        for name, values in zip(_buffers(number), pair, strict=True):
            attention.register_buffer(name, values)
    attention.register_forward_pre_hook(_from_buffers)
    attention.register_forward_hook(_swap_out, always_call=True)


def undo(attention: nn.MultiheadAttention) -> None:
    """Take away what `keep` added."""
    for number in range(3):
        for name in _buffers(number):
            attention._buffers.pop(name, None)
    for hooks, own in ((attention._forward_pre_hooks, _from_buffers), (attention._forward_hooks, _swap_out)):
        for number in [number for number, function in hooks.items() if function is own]:
            del hooks[number]
            attention._forward_hooks_always_called.pop(number, None)


def replace(module: nn.Module, values: Mapping[str, Any]) -> dict[str, Any]:
    """Put `values` in the place of the module's parameters of these names; returns what was there."""
    before = {name: module._parameters[name] for name in values}
    module._parameters.update(values)
    return before


def _buffers(number: int) -> tuple[str, str]:
    return f"calibration_{PARTS[number]}_scale", f"calibration_{PARTS[number]}_shift"


def _from_buffers(module: nn.Module, args: tuple[Any, ...]) -> None:
    assert isinstance(module, nn.MultiheadAttention)
    numbers = [i for i in range(3) if _buffers(i)[0] in module._buffers]
    _swap_in(module, {i: tuple(module._buffers[name] for name in _buffers(i)) for i in numbers})


def _swap_in(module: nn.MultiheadAttention, pairs: Mapping[int, Any]) -> None:
    """The corrected parameters stand in the place of the given ones, which `_swap_out` puts back after the call."""
    vars(module)["_given"] = replace(module, corrected(module, pairs)) if pairs else {}


def _swap_out(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    replace(module, vars(module).pop("_given", {}))
