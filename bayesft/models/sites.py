"""Where dropout can go in any network: on what flows from one layer with weights into another.

A layer is a module that holds matrices or kernels and computes with them: of whatever class, attention and recurrent
ones too. Which layer's output reaches which layer is read from the graph that autograd keeps of one pass. On the way
between two layers, dropout acts after the first activation, and where there is none (it is called as a function, or
it is a projection) after the layer itself, or after the batch normalisation that directly follows it. What only feeds
the output has no site, nor have queries, keys and values of an attention, nor coordinates at which maps are sampled.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesft.drift.scope import is_weight

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus,
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A place where dropout acts: on the output of a module.

    Args:
        name: The module, as in `named_modules`.
        kind: Its class, to show.
        after: The layers whose output it is.
        shape: That of the output for the example.
        axis: The axis of channels that are dropped whole, of feature maps; None for single features.
        calls: In which of its calls in a pass.
        of: The number of its calls in a pass.
        outputs: Which tensors of its output, in order.
        alone: Whether its output is one tensor, not a tuple or a dictionary of them.
    """

    name: str
    kind: str
    after: tuple[str, ...]
    shape: tuple[int, ...]
    axis: int | None = None
    calls: tuple[int, ...] = (0,)
    of: int = 1
    outputs: tuple[int, ...] = (0,)
    alone: bool = True


@dataclass(frozen=True)
class Sites(Sequence[Place]):
    """The places where dropout can go, in the order of a pass, and the layers that have none, with the reason."""

    places: tuple[Place, ...]
    without: dict[str, str]

    @overload
    def __getitem__(self, index: int) -> Place: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Place, ...]: ...

    def __getitem__(self, index: int | slice) -> Place | tuple[Place, ...]:
        return self.places[index]

    def __len__(self) -> int:
        return len(self.places)

    def __str__(self) -> str:
        rows = [("site", "class", "after", "output", "drops")]
        for place in self.places:
            drops = "features" if place.axis is None else f"channels (axis {place.axis})"
            after = ", ".join(layer for layer in place.after if layer != place.name) or "itself"
            rows.append((place.name, place.kind, after, "×".join(map(str, place.shape)), drops))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if self.without:
            width = max(map(len, self.without))
            lines += ["", "layers without a site"]
            lines += [f"{name.ljust(width)}  {reason}" for name, reason in self.without.items()]
        return "\n".join(lines)


@dataclass(eq=False)
class _Call:
    """One call of a module in a pass: nodes of the graph that come in and go out."""

    name: str
    module: nn.Module
    inputs: list[Any]
    given: Tensor | None
    outputs: list[Any] = field(default_factory=list)
    tensor: Tensor | None = None
    alone: bool = True
    index: int = 0
    layer: bool = False
    activation: bool = False
    stands_for: "_Call | None" = None  # the layer before a batch normalisation


def find_places(model: nn.Module, run: Callable[[], Any], ignore: Iterable[str | type] = ()) -> Sites:
    """The places where dropout can go.

    Args:
        model: Any network, in eval mode. Its state may change as by any pass.
        run: One pass of an example through it.
        ignore: Modules that get no site: names, patterns of names ("encoder.*"), or classes. What is inside of them
            gets none either.

    Returns:
        The places, and the layers without one.

    Raises:
        ValueError: An entry of `ignore` fits no module, or is of another kind.
    """
    calls = _trace(model, run)
    sources = _Sources(calls)
    ignored = _Ignore(model, ignore)
    layers = [call for call in calls if call.layer]
    found: dict[_Call, set[int]] = {}
    reasons: dict[_Call, str] = {}
    for call in layers:
        for source, position, steers in sources.of(call):
            if source is not call and sources.layers_of(source) and not steers:
                found.setdefault(source, set()).add(position)
            reasons.update(dict.fromkeys(sources.layers_of(source), steers or "ignored"))
    places: list[Place] = []
    names: dict[str, list[_Call]] = {}
    for call in calls:
        if call in found and not ignored(call.name):
            names.setdefault(call.name, []).append(call)
    for name, of_name in names.items():
        after = list(dict.fromkeys(layer.name for call in of_name for layer in sources.layers_of(call)))
        if all(ignored(layer) for layer in after) and after:
            continue
        positions = set().union(*(found[call] for call in of_name))
        total = sum(call.name == name for call in calls)
        places.append(_place(of_name, tuple(after), total, tuple(sorted(positions)), sources))
    covered = {layer for place in places for layer in place.after}
    without = {
        call.name: "ignored" if ignored(call.name) else reasons.get(call, "feeds no other layer")
        for call in layers
        if call.name and call.name not in covered
    }
    return Sites(tuple(places), without)


def places_of(model: nn.Module, run: Callable[[], Any], names: Iterable[str]) -> Sites:
    """Places after the modules of some names, at each of their calls.

    Args:
        model, run: As for `find_places`.
        names: The modules, as in `named_modules`.

    Returns:
        The places.

    Raises:
        ValueError: A name is no module that a pass calls, or its output has no tensor of floats.
    """
    calls = _trace(model, run)
    sources, places = _Sources(calls), []
    for name in dict.fromkeys(names):
        of_name = [call for call in calls if call.name == name]
        if not of_name:
            called = ", ".join(dict.fromkeys(call.name for call in calls if call.name))
            raise ValueError(f"sites: {name!r} is no module that a pass through the network calls; it calls {called}")
        if of_name[0].tensor is None:
            raise ValueError(f"sites: {name!r} does not give a tensor of floats")
        after = tuple(dict.fromkeys(layer.name for call in of_name for layer in sources.layers_of(call)))
        places.append(_place(of_name, after, len(of_name), (0,), sources))
    return Sites(tuple(places), {})


def _place(calls: list[_Call], after: tuple[str, ...], of: int, outputs: tuple[int, ...], sources: "_Sources") -> Place:
    first = calls[0]
    assert first.tensor is not None  # what has a site gives a tensor
    numbers = tuple(call.index for call in calls)
    shape, kind = tuple(first.tensor.shape), type(first.module).__name__
    axis = _axis(first, len(shape), sources)
    return Place(first.name, kind, after, shape, axis, numbers, of, outputs, first.alone)


@contextmanager
def dropping(
    model: nn.Module, places: Sequence[Place], rates: Sequence[float], generator: torch.Generator | None = None
) -> Iterator[Callable[[], bool]]:
    """Dropout at some places, in train and in eval mode.

    Args:
        model: The network.
        places: Where dropout acts.
        rates: The rate of each place, in [0, 1).
        generator: What masks are drawn from. None: the global random stream, so that a checkpointed block sees the same
            mask again.

    Yields:
        A function: has any of these modules been called yet?
    """
    droppers = [_Dropper(place, rate, generator) for place, rate in zip(places, rates, strict=True)]
    handles = [model.get_submodule(d.place.name).register_forward_hook(d) for d in droppers]

    def restart(*_: Any) -> None:
        for dropper in droppers:
            dropper.count = 0

    handles.append(model.register_forward_pre_hook(restart))
    try:
        yield lambda: any(dropper.called for dropper in droppers)
    finally:
        for handle in handles:
            handle.remove()


class _Dropper:
    """A forward hook that drops channels or features of the output, in those calls of a module that are meant."""

    def __init__(self, place: Place, rate: float, generator: torch.Generator | None):
        self.place, self.rate, self.generator, self.count, self.called = place, rate, generator, 0, False

    def __call__(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        index, self.count, self.called = self.count % self.place.of, self.count + 1, True
        if index not in self.place.calls or self.rate == 0:
            return None
        return each_tensor(output, lambda i, tensor: self._dropped(tensor) if i in self.place.outputs else tensor)

    def _dropped(self, tensor: Tensor) -> Tensor:
        shape = list(tensor.shape)
        if self.place.axis is not None:
            kept = {0, self.place.axis % tensor.dim()}
            shape = [n if i in kept else 1 for i, n in enumerate(shape)]
        if self.generator is None:
            if self.place.axis is None:
                return F.dropout(tensor, self.rate)
            return tensor * F.dropout(torch.ones(shape, dtype=tensor.dtype, device=tensor.device), self.rate)
        mask = torch.rand(shape, generator=self.generator).to(tensor.device) >= self.rate
        return tensor * mask / (1 - self.rate)


def each_tensor(value: Any, change: Callable[[int, Tensor], Tensor]) -> Any:
    """The output of a module with `change(number, tensor)` of each of its tensors of floats."""
    number = iter(range(10**6))

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(next(number), value) if value.is_floating_point() or value.is_complex() else value
        if isinstance(value, Mapping):
            changed = cast(dict[str, Any], value).copy()  # as every mapping that a network returns can
            for key, each in value.items():
                changed[key] = walk(each)
            return changed
        if isinstance(value, (tuple, list)):
            values = [walk(each) for each in value]
            return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
        return value

    return walk(value)


def _floats(value: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(_: int, tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    each_tensor(value, note)
    return found


def _trace(model: nn.Module, run: Callable[[], Any]) -> list[_Call]:
    """Every call of a module in a pass, in the order in which they end, with the nodes of the graph around it."""
    calls: list[_Call] = []
    started: list[_Call] = []
    listening = [True]

    def before(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if listening[0]:
                given = _floats((args, *kwargs.values()))
                simple = len(given) == 1 and not any(True for _ in module.parameters())
                kept = given[0].detach().clone() if simple else None
                started.append(_Call(name, module, [t.grad_fn for t in given if t.grad_fn is not None], kept))

        return hook

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if listening[0]:
            call = started.pop()
            tensors = _floats(output)
            call.outputs = [tensor.grad_fn for tensor in tensors]
            call.tensor = tensors[0].detach() if tensors else None
            call.alone = isinstance(output, Tensor)
            call.index = sum(other.name == call.name for other in calls)
            calls.append(call)

    handles, learns = [], [(theta, theta.requires_grad) for theta in model.parameters()]
    for name, module in model.named_modules():
        if "parametrizations" not in name.split("."):
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        with torch.enable_grad():
            for theta, _ in learns:
                theta.requires_grad_(theta.is_floating_point() or theta.is_complex())
            run()
            listening[0] = False
            _tell_kinds(model, calls)
    finally:
        for handle in handles:
            handle.remove()
        for theta, learnt in learns:
            theta.requires_grad_(learnt)
    return calls


def _tell_kinds(model: nn.Module, calls: list[_Call]) -> None:
    """Which calls are layers, which activations, and which batch normalisations follow a layer directly."""
    called = {call.name for call in calls}
    owners = set()
    for prefix, module in model.named_modules():
        held = module.named_parameters(prefix, recurse=False)
        if any(is_weight(name, module, theta) for name, theta in held):
            owner = prefix.split(".parametrizations.")[0]
            while owner and owner not in called:  # a part whose parameters another module computes with
                owner = owner.rpartition(".")[0]
            owners.add(owner)
    ends = {}
    for call in calls:
        call.layer = call.name in owners and call.tensor is not None
        if call.layer:
            ends.update({node: call for node in call.outputs if node is not None})
            continue
        call.activation = isinstance(call.module, ACTIVATIONS) or _elementwise(call)
        normalises = isinstance(call.module, nn.modules.batchnorm._BatchNorm)
        if normalises and call.inputs and call.inputs[0] in ends:
            call.stands_for = ends[call.inputs[0]]


def _elementwise(call: _Call) -> bool:
    """Whether a module without parameters changes each number alone: a permuted input gives the permuted output."""
    x, y = call.given, call.tensor
    if x is None or y is None or len(call.outputs) != 1 or x.shape != y.shape or x.is_meta or torch.equal(x, y):
        return False
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0)).to(x.device)
    try:
        with torch.no_grad():
            permuted = call.module.forward(x.flatten()[order].reshape(x.shape))
        return torch.allclose(permuted.flatten(), y.flatten()[order], rtol=1e-4, atol=1e-6)
    except Exception:  # it takes no such input
        return False


class _Sources:
    """From which calls what goes into a call comes: found by walking the graph back, else by the order of calls."""

    def __init__(self, calls: list[_Call]):
        self._calls = calls
        self._number = {call: number for number, call in enumerate(calls)}
        self._marks: dict[Any, tuple[_Call, int]] = {}
        for call in calls:
            if call.layer or call.activation or call.stands_for:
                for position, node in enumerate(call.outputs):
                    if node is not None:
                        self._marks.setdefault(node, (call, position))
        self._known: dict[_Call, list[tuple[_Call, int, str]]] = {}
        self._graph = any(self._walked(call) for call in calls if call.layer)

    def of(self, call: _Call) -> list[tuple[_Call, int, str]]:
        """(call, which of its outputs, what it only steers if anything) of what goes into `call`.

        They stand in the order of calls. Of several activations in a row, it is the first.
        """
        if call not in self._known:
            self._known[call] = []
            found = set()
            for source, position, steers in self._walked(call) if self._graph else self._before(call):
                earlier = {(s, p, steers or of_it) for s, p, of_it in self.of(source)}
                in_a_row = source.activation and earlier and all(s.activation for s, _, _ in earlier)
                found |= earlier if in_a_row else {(source, position, steers)}
            self._known[call] = sorted(found, key=lambda each: (self._number[each[0]], *each[1:]))
        return self._known[call]

    def layers_of(self, call: _Call) -> list[_Call]:
        """The layers whose output `call` gives: itself, or those that it is the activation or normalisation of."""
        if call.layer:
            return [call]
        if call.stands_for:
            return [call.stands_for]
        found = {layer for source, _, _ in self.of(call) if source is not call for layer in self.layers_of(source)}
        return sorted(found, key=self._number.__getitem__)

    def _walked(self, call: _Call) -> set[tuple[_Call, int, str]]:
        found, seen, todo = set(), set(), [(node, "") for node in call.inputs]
        while todo:
            node, steers = todo.pop()
            if node is None or (node, steers) in seen:
                continue
            seen.add((node, steers))
            if node in self._marks:
                found.add((*self._marks[node], steers))
                continue
            before = [following for following, _ in node.next_functions]
            if "GridSampler" in type(node).__name__:
                todo.extend(zip(before, (steers, "coordinates of a sampling"), strict=False))
            else:
                steers = steers or ("queries, keys or values of an attention" if _attends(node) else "")
                todo.extend((following, steers) for following in before)
        return found

    def _before(self, call: _Call) -> set[tuple[_Call, int, str]]:
        """Without a graph: the call before, of a layer or an activation."""
        earlier = [c for c in self._calls[: self._calls.index(call)] if c.layer or c.activation or c.stands_for]
        return {(earlier[-1], 0, "")} if earlier else set()


def _attends(node: Any, depth: int = 8) -> bool:
    """Whether a node of the graph is an attention: in one piece, or a product of batches with what a softmax gives."""
    name = type(node).__name__
    if any(word in name for word in ("ScaledDotProduct", "Attention")):
        return True
    if not any(word in name for word in ("Bmm", "Matmul")):
        return False
    plain = ("View", "Reshape", "Expand", "Dropout", "ToCopy", "Clone", "Transpose", "Permute", "Mul", "Div")
    todo = [(following, depth) for following, _ in node.next_functions]
    while todo:
        node, left = todo.pop()
        name = type(node).__name__
        if "Softmax" in name:
            return True
        if left and any(word in name for word in plain):
            todo.extend((following, left - 1) for following, _ in node.next_functions[:1])
    return False


def _axis(call: _Call, dimensions: int, sources: _Sources) -> int | None:
    """The axis of the channels of feature maps: the second behind kernels, the last behind matrices."""
    layers = sources.layers_of(call)
    of_kernels = any(
        theta.dim() > 2 for layer in layers for theta in layer.module.parameters(recurse=False) if theta is not None
    ) or any(isinstance(layer.module, nn.modules.conv._ConvNd) for layer in layers)
    if dimensions > 2 and (of_kernels or (not layers and dimensions == 4)):
        return 1
    return -1 if dimensions > 3 else None


class _Ignore:
    """Which modules are to have no site, by name, pattern or class."""

    def __init__(self, model: nn.Module, ignore: Iterable[str | type]):
        ignore = [ignore] if isinstance(ignore, (str, type)) else list(ignore)
        modules = dict(model.named_modules())
        self._names = set()
        for wanted in ignore:
            if isinstance(wanted, type):
                names = {name for name, module in modules.items() if isinstance(module, wanted)}
            elif isinstance(wanted, str):
                names = {name for name in modules if name and fnmatchcase(name, wanted)}
            else:
                raise ValueError(f"ignore = {wanted!r}: must be names of modules, patterns of names, or classes")
            if not names:
                raise ValueError(f"ignore = {wanted!r}: there is no such module")
            self._names |= names

    def __call__(self, name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:i]) in self._names for i in range(1, len(parts) + 1))
