"""What a clean network's channels look like: the reference to which its faulty copies are calibrated."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesft.calibration.attention import named_layers
from bayesft.calibration.layers import Dims, Layers, calibration_layers, structure
from bayesft.calibration.moments import Batch, Moments, check, measure
from bayesft.modes import eval_mode, unchanged
from bayesft.tensors import load_tensors, save_tensors


@dataclass(frozen=True, eq=False)
class Reference:
    """Mean and variance of each channel of a clean network, over `examples` examples and all positions.

    `moments` has for each layer, in the order of first calls, an entry for each of its calls in one pass: entry k is
    over the first k + 1 calls. `dims` are the dimensions of its channels. `structure` has the channels of all layers
    of the network, `shapes` those of its inputs, an example each, of all batches.
    """

    moments: dict[str, list[Moments]]
    dims: dict[str, Dims]
    structure: dict[str, list[int]]
    shapes: list[list[list[int]]]
    examples: int

    def __str__(self) -> str:
        channels = sum(calls[-1].mean.numel() for calls in self.moments.values())
        return f"{len(self.moments)} layers, {channels} channels, from {self.examples} examples"

    def save(self, path: str | Path) -> None:
        """Write the reference to one safetensors file, atomically: the same reference gives the same bytes."""
        tensors = {}
        for name, calls in self.moments.items():
            tensors[f"mean.{name}"] = torch.stack([m.mean for m in calls])
            tensors[f"variance.{name}"] = torch.stack([m.variance for m in calls])
        header = {
            "counts": {name: [m.count for m in calls] for name, calls in self.moments.items()},
            "dims": self.dims,
            "structure": self.structure,
            "shapes": self.shapes,
            "examples": self.examples,
        }
        save_tensors(Path(path), tensors, {"reference": header})

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """Read what `save` wrote, onto the CPU.

        Raises:
            ValueError: the file is missing, damaged, or no reference.
        """
        try:
            tensors, about = load_tensors(Path(path))
            header = about["reference"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: no calibration reference, or damaged; write one with Reference.save") from None
        moments = {
            name: list(map(Moments, counts, tensors[f"mean.{name}"], tensors[f"variance.{name}"]))
            for name, counts in header.pop("counts").items()
        }
        dims = {name: tuple(dims) for name, dims in header.pop("dims").items()}
        return cls(moments, dims, **header)

    def check(self, model: nn.Module, batch: Batch) -> None:
        """Raise ValueError where `model` has another structure, or the examples another shape, than the reference's."""
        modules, found = named_layers(model), structure(model)
        for name in [*self.structure, *found]:
            if self.structure.get(name) != found.get(name):
                raise ValueError(
                    f"the reference is of another network: layer {name!r} has channels {self.structure.get(name)} "
                    f"there and {found.get(name)} here"
                )
        for name in self.moments:
            if name not in modules:
                raise ValueError(f"the reference is of another network: there is no module {name!r} here")
        shapes = example_shapes(batch)
        if shapes not in self.shapes:
            raise ValueError(f"examples of shapes {shapes}: the reference was made with {self.shapes}")


@torch.no_grad()
def calibration_reference(model: nn.Module, data: Batch | Iterable[Batch], *, layers: Layers = "all") -> Reference:
    """Measure the clean network once, before deployment: mean and variance of each channel of each layer's output.

    Args:
        model: the clean network. It runs in eval mode and comes back as it was.
        data: n examples without labels. A tensor (n, ...) is one batch; a tuple of tensors is one batch of a network of
            several inputs; a dict is one batch of inputs by name. Anything else is an iterable of such batches; the
            result does not depend, beyond rounding, on how examples are put into batches.
        layers: which layers, as `calibration_layers` takes them.

    Returns:
        The reference, on the network's device. Layers that the pass does not call are left out.

    Raises:
        ValueError: if there are no examples, if a layer that was named is not called, if a channel has fewer than two
            values, or if an output is not finite.
    """
    dims = calibration_layers(model, layers)
    shapes: list[list[list[int]]] = []
    examples = 0

    def counted() -> Iterator[Batch]:
        nonlocal examples
        for batch in batches_of(data):
            shapes.append(example_shapes(batch))
            examples += len(example_tensors(batch)[0])
            yield batch

    with unchanged(model), eval_mode(model):
        try:
            moments = measure(model, dims, counted())
        except TypeError as error:
            raise ValueError(
                f"data: a batch must be the inputs without labels, but the network fails on it: {error}"
            ) from error
    if not isinstance(layers, str):
        for name in dims:
            if name not in moments:
                raise ValueError(f"layers: module {name!r} is not called by the network's forward")
    if not moments:
        raise ValueError(f"{examples} examples, and no layer with channels was called: need at least two examples")
    check(moments, "the clean network")
    unique = [shape for i, shape in enumerate(shapes) if shape not in shapes[:i]]
    return Reference(moments, {name: dims[name] for name in moments}, structure(model), unique, examples)


def batches_of(data: Batch | Iterable[Batch]) -> Iterable[Batch]:
    """The batches of `data`: itself, where it is one. A list in place of a tuple is what data loaders make."""
    if isinstance(data, (Tensor, tuple, Mapping)):
        return (data,)
    return (tuple(batch) if isinstance(batch, list) else batch for batch in data)


def example_shapes(batch: Batch) -> list[list[int]]:
    """The shape of one example, for each input."""
    return [list(tensor.shape[1:]) for tensor in example_tensors(batch)]


def example_tensors(batch: Batch) -> list[Tensor]:
    """The tensors of a batch that have examples, in the order of places or names."""
    values = [batch[name] for name in sorted(batch)] if isinstance(batch, Mapping) else batch
    values = values if isinstance(values, (tuple, list)) else (values,)
    tensors = [value for value in values if isinstance(value, Tensor) and value.dim() > 0]
    if not tensors:
        raise ValueError(f"a batch is a {type(batch).__name__}: need a tensor, a tuple of tensors, or a dict of them")
    return tensors
