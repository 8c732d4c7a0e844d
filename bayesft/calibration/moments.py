"""Mean and variance of each channel, and the affine map that gives one pair to outputs that have another."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bayesft.calibration import attention
from bayesft.calibration.attention import Projection, named_layers
from bayesft.calibration.layers import Dims

Batch = Any  # one tensor, a tuple of tensors (several inputs), or a dict of them (inputs by name)
Terms = Literal["both", "scale", "shift"]


class Correction(NamedTuple):
    """y ← y · scale + shift: two numbers for each channel, in the shape of the channels."""

    scale: Tensor
    shift: Tensor

    def __call__(self, output: Tensor, dims: Dims) -> Tensor:
        """The corrected output, whose channels lie along `dims`."""
        scale, shift = (_along(t.to(output), output, dims) for t in self)
        return (output * scale).add_(shift)


class Moments(NamedTuple):
    """How many values a channel has, their mean and their variance (the mean squared deviation)."""

    count: int  # type: ignore[assignment]  # stands in the place of the method `tuple.count`
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, output: Tensor, dims: Dims) -> "Moments":
        """The moments over all dimensions of `output` but `dims`; the deviations are taken from the mean itself."""
        y = output.to(torch.promote_types(output.dtype, torch.float32))
        channels = {d % y.dim() for d in dims}
        others = [d for d in range(y.dim()) if d not in channels]
        if not others:
            return cls(1, y, torch.zeros_like(y))
        mean = y.mean(others)
        apart = y - _along(mean, y, dims)
        squares = apart.square() if apart.requires_grad else apart.square_()  # in place: memory costs more than sums
        return cls(y.numel() // mean.numel(), mean, squares.mean(others))

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of values together (Chan, Golub and LeVeque, The American Statistician, 1983)."""
        count = self.count + other.count
        share = other.count / count
        apart = other.mean - self.mean
        variance = self.variance + share * (other.variance - self.variance) + share * (1 - share) * apart.square()
        return Moments(count, self.mean + share * apart, variance)

    def to(self, other: Tensor) -> "Moments":
        """The same moments on the device of `other`."""
        return Moments(self.count, self.mean.to(other.device), self.variance.to(other.device))

    def detached(self) -> "Moments":
        """The same numbers as constants, which collect a gradient."""
        return Moments(self.count, *(tensor.detach().requires_grad_() for tensor in self[1:]))

    def is_constant(self) -> Tensor:
        """For each channel, whether its values differ by no more than rounding."""
        return self.variance <= (16 * torch.finfo(self.mean.dtype).eps * self.mean).square()


def correction(faulty: Moments, clean: Moments, terms: Terms = "both") -> Correction:
    """The change y ← (y − m) · s / d + μ, which gives outputs of mean m and deviation d the mean μ and the deviation s.

    A channel that is constant in either gets the shift alone. `terms` leaves out the scale or the shift.
    """
    dead = faulty.is_constant() | clean.is_constant()
    # The inner `where`s keep the gradient of dead channels finite.
    scale = (torch.where(dead, 1, clean.variance) / torch.where(dead, 1, faulty.variance)).sqrt()
    if terms == "scale":
        return Correction(scale, torch.zeros_like(scale))
    if terms == "shift":
        scale = torch.ones_like(scale)
    return Correction(scale, clean.mean - faulty.mean * scale)


def measure(model: nn.Module, layers: Mapping[str, Dims], batches: Iterable[Batch]) -> dict[str, list[Moments]]:
    """The moments of each layer's output over all batches, in the order of calls.

    A layer that is called several times has as many entries: number k is over its first k + 1 calls.
    """
    found: dict[str, list[Moments]] = defaultdict(list)
    for batch in batches:
        for name, moments in moments_of(model, layers, partial(forward, model, batch)).items():
            if name in found and len(found[name]) != len(moments):
                raise ValueError(
                    f"layer {name!r} is called {len(found[name])} times for one batch, {len(moments)} for another: "
                    "give all examples as one batch"
                )
            sums = found.get(name)
            found[name] = [a.merged(b) for a, b in zip(sums, moments, strict=True)] if sums else moments
    return over_calls(found)


def over_calls(found: Mapping[str, list[Moments]]) -> dict[str, list[Moments]]:
    """Of the moments of each call, those over all calls so far."""
    return {name: list(accumulate(moments, Moments.merged)) for name, moments in found.items()}


def moments_of(model: nn.Module, layers: Mapping[str, Dims], run: Callable[[], Any]) -> dict[str, list[Moments]]:
    """The moments of each layer's output in each of its calls while `run` runs."""
    calls: dict[str, list[Moments]] = defaultdict(list)

    def note(name: str, output: Tensor) -> None:
        calls[name].append(Moments.of(output, layers[name]))

    with outputs_of(model, layers, note):
        run()
    return calls


@contextmanager
def correcting(
    model: nn.Module, layers: Mapping[str, Dims], clean: Mapping[str, list[Moments]], terms: Terms = "both"
) -> Iterator[dict[str, list[Moments]]]:
    """For one pass: each layer's output is measured and corrected to the moments `clean` before the next one sees it.

    Yields what is measured, as `measure` returns it. Each call of a layer is corrected by the moments of its calls so
    far, against those of as many calls of the clean network.
    """
    found: dict[str, list[Moments]] = defaultdict(list)

    def correct(name: str, output: Tensor) -> Correction:
        moments, calls = Moments.of(output, layers[name]), found[name]
        calls.append(calls[-1].merged(moments) if calls else moments)
        if len(calls) > len(clean[name]):
            raise ValueError(f"layer {name!r} is called more often than for the reference, {len(clean[name])} times")
        target = clean[name][len(calls) - 1].to(output)
        if moments.mean.shape != target.mean.shape:
            shapes = f"{tuple(moments.mean.shape)}, those of the reference {tuple(target.mean.shape)}"
            raise ValueError(f"layer {name!r}: channels of shape {shapes}")
        return correction(calls[-1], target, terms)

    with outputs_of(model, layers, correct):
        yield found
    for name, calls in clean.items():
        if len(found[name]) < len(calls):
            raise ValueError(f"layer {name!r} is called {len(found[name])} times, for the reference {len(calls)} times")


class NotFinite(ValueError):
    """A layer's outputs are not finite, so there is nothing to measure on them."""


def check(moments: Mapping[str, list[Moments]], whose: str) -> None:
    """Raise ValueError for channels of fewer than two values, or values that are not finite (NotFinite)."""
    for name, calls in moments.items():
        if calls[-1].count < 2:
            raise ValueError(f"layer {name!r} has one value a channel: need at least two, so give more examples")
        if not (calls[-1].mean.isfinite().all() and calls[-1].variance.isfinite().all()):
            raise NotFinite(f"layer {name!r} of {whose} has outputs that are not finite: it can't be calibrated")


@contextmanager
def outputs_of(
    model: nn.Module, layers: Mapping[str, Dims], act: Callable[[str, Tensor], Correction | None]
) -> Iterator[nn.Module]:
    """Within it, `act` gets the name and the output of each layer that is called, and may give a correction of it.

    Of a module that returns a tuple, the output is the first (attention).
    """

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            pair = act(name, first)
            if pair is None:
                return None
            first = pair(first, layers[name])
            return (first, *output[1:]) if isinstance(output, tuple) else first

        return on_output

    def projected(names: Mapping[int, str]) -> Callable[[Callable[[int], Tensor]], dict[int, Correction]]:
        def pairs_of(output: Callable[[int], Tensor]) -> dict[int, Correction]:
            pairs = {number: act(name, output(number)) for number, name in names.items()}
            return {number: pair for number, pair in pairs.items() if pair is not None}

        return pairs_of

    hooks: list[RemovableHandle] = []
    known = named_layers(model)
    projections: dict[nn.MultiheadAttention, dict[int, str]] = defaultdict(dict)
    for name in layers:
        layer = known[name]
        if isinstance(layer, Projection):
            projections[layer.attention][layer.number] = name
        else:
            hooks.append(layer.register_forward_hook(hook(name)))
    for module, names in projections.items():
        hooks += attention.hook(module, projected(names))
    try:
        with every_module_called():
            yield model
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def every_module_called() -> Iterator[None]:
    """PyTorch's fused path of transformer layers, which calls none of the modules inside, is off within it."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def arguments(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a network is called with for one batch. Tensors are copied, since some networks write into their inputs."""
    if isinstance(batch, Mapping):
        return (), {name: _copy(value) for name, value in batch.items()}
    return tuple(map(_copy, batch if isinstance(batch, tuple) else (batch,))), {}


def forward(model: nn.Module, batch: Batch) -> Any:
    """The network's outputs for one batch."""
    args, kwargs = arguments(batch)
    return model(*args, **kwargs)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _along(values: Tensor, output: Tensor, dims: Dims) -> Tensor:
    """`values`, one a channel, in a shape that broadcasts over `output`."""
    shape = [1] * output.dim()
    for d in dims:
        shape[d] = output.shape[d]
    return values.view(shape)
