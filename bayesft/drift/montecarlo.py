"""Monte-Carlo estimates over drifted copies of a network (eq. 4), fast on a CPU and bounded in memory.

Draw number t of a parameter is keyed by (key, t, parameter name, shape), where `key` names the task and the
training seed. Methods and levels σ therefore share their draws (common random numbers): curves are smooth in σ,
methods can be compared pair by pair, and no number depends on which other σ are evaluated.

A copy is written into the network's own parameters for the time of its passes. Whatever uses a parameter meets the
copy: a second module that shares it, a list, a view, a closure. The original values come back bit for bit, also
after an error.

All copies see the same images, so the first convolution of T copies is *one* convolution with T times as many outputs.
Where that layer holds a good part of the work, as in LeNet-5, it is computed so, with the pooling after it.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bayesft.drift.copies import faulty, owners, restored, select, write
from bayesft.drift.faults import FaultModel, traits_of
from bayesft.drift.features import FeatureFault, struck
from bayesft.drift.scope import Where
from bayesft.memory_format import is_known, memory_format
from bayesft.modes import eval_mode

# The largest feature map of a batch on a CPU stays in the cache. (Of batches of 16 to 512 images, the one that this
# gives was within 7 % of the fastest for eight networks of the study on an AMD EPYC.) On a GPU launches are few.
CPU_MAP_MIB, CPU_IMAGES, GPU_MAP_MIB = 4, 512, 256
# What is held at once for several draws. (The default is the fastest measured: the C library gives blocks above 32 MiB
# back to the system after each use.)
GROUP_MIB = 28
STRUCK_IMAGES = 128  # in a batch under a feature fault, whose draws are keyed by the number of the batch
Copy = dict[str, Tensor]  # the values of parameters, by name
Thetas = dict[str, nn.Parameter]
Score = Callable[[Tensor, Tensor], Tensor]


def monte_carlo(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    score: Score,
    fault: FaultModel,
    sigma: float,
    draws: Sequence[int],
    key: tuple[Any, ...],
    parameters: Where = "all",
    memory_mib: int = GROUP_MIB,
) -> Tensor:
    """`monte_carlo_grid` at the one level σ: shape (T,), float64."""
    return monte_carlo_grid(model, images, labels, score, fault, [sigma], draws, key, parameters, memory_mib)[0]


@torch.inference_mode()
def monte_carlo_grid(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    score: Score,
    fault: FaultModel | FeatureFault,
    sigmas: Sequence[float],
    draws: Sequence[int],
    key: tuple[Any, ...],
    parameters: Where = "all",
    memory_mib: int = GROUP_MIB,
) -> Tensor:
    """The mean score of T drifted copies of `model` at each of S levels.

    A draw is made once and serves every level. No number depends on the other levels.

    Args:
        model: The network. It is evaluated in eval mode and comes back as it was.
        images: (N, ...), on the model's device. They are left alone, also by a network that writes into its input.
        labels: (N, ...), on the same device.
        score: Maps outputs (B, ...) and labels (B, ...) to one number an image, (B,). It decides what outputs that
            are not finite are worth: a mean over scores that are not finite is not finite.
        fault: What a device does to a parameter, or to an activation (`struck`). At level 0 one copy counts for all
            draws, where that is the fault's trait (`identity_at_zero`).
        sigmas: The S levels, each finite and at least 0.
        draws: The T numbers of the draws.
        key: Names the draws.
        parameters: Which parameters drift, as in `scoped`.
        memory_mib: Bounds what is held at once for several draws, in MiB.

    Returns:
        (S, T), float64, on the CPU. The mean is over images, however they are batched.

    Raises:
        ValueError: No images, another number of labels, a level or a kind of parameters that is not allowed, or
            scores that are not one number an image.
    """
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"{len(images)} images and {len(labels)} labels: need as many of each, and at least one")
    for sigma in sigmas:
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma = {sigma}: must be finite and at least 0")
    draws = list(draws)
    means = torch.zeros(len(sigmas), len(draws), dtype=torch.float64, device=images.device)
    if isinstance(fault, FeatureFault):
        return _struck_grid(model, images, labels, score, fault, sigmas, draws, key)
    thetas = select(model, parameters)
    with eval_mode(model), restored(thetas) as clean:
        copies = SharedStart.of(model, thetas, images, memory_mib) or _Whole(model, thetas, images)

        def evaluated(some: list[Copy]) -> Tensor:
            sums = torch.zeros(len(some), dtype=torch.float64, device=images.device)
            for i, outputs, y in copies.outputs(images, labels, some):
                sums[i] += _checked(score(outputs, y), len(y)).sum(dtype=torch.float64)
            return sums / len(images)

        drifted = []
        for row, sigma in enumerate(sigmas if draws else ()):
            if sigma == 0 and traits_of(fault).identity_at_zero:  # every copy is the network itself
                means[row] = evaluated([clean])
            else:
                drifted.append((row, sigma))
        for start in range(0, len(draws) if drifted else 0, copies.group):
            some = slice(start, start + copies.group)
            copies_at = [faulty(model, fault, key, draw, clean=clean) for draw in draws[some]]
            for row, sigma in drifted:
                means[row, some] = evaluated([at(sigma) for at in copies_at])
    return means.cpu()  # here alone the host waits for a GPU


def _struck_grid(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    score: Score,
    fault: FeatureFault,
    levels: Sequence[float],
    draws: list[int],
    key: tuple[Any, ...],
) -> Tensor:
    """`monte_carlo_grid` of a fault of activations: one draw at a time, in batches of a fixed size."""
    means = torch.zeros(len(levels), len(draws), dtype=torch.float64, device=images.device)
    batches = list(zip(images.split(STRUCK_IMAGES), labels.split(STRUCK_IMAGES), strict=True))
    with eval_mode(model):
        for row, level in enumerate(levels):
            alike = level == 0 and fault.traits.identity_at_zero
            for column, draw in enumerate(draws[:1] if alike else draws):
                with struck(model, fault, level, key, draw):
                    sums = [
                        _checked(score(model(x.clone(memory_format=format_of(model, images))), y), len(y)).sum(
                            dtype=torch.float64
                        )
                        for x, y in batches
                    ]
                means[row, slice(None) if alike else column] = torch.stack(sums).sum() / len(images)
    return means.cpu()


def _checked(scores: Tensor, count: int) -> Tensor:
    if scores.shape != (count,):
        raise ValueError(f"score gives the shape {tuple(scores.shape)} for {count} images: must be ({count},)")
    return scores


class _Whole:
    """Copies of any network, evaluated one after the other."""

    group = 1

    def __init__(self, model: nn.Module, thetas: Thetas, images: Tensor):
        self.model, self.thetas = model, thetas
        self.format, self.batch = format_of(model, images), batch_size(model, images)

    def outputs(self, images: Tensor, labels: Tensor, copies: list[Copy]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(number of the copy, outputs, labels) for each copy and batch. A network may write into its batch."""
        for i, copy in enumerate(copies):
            write(self.thetas, copy)
            for x, y in zip(images.split(self.batch), labels.split(self.batch), strict=True):
                yield i, self.model(x.clone(memory_format=self.format)), y


def format_of(model: nn.Module, images: Tensor) -> torch.memory_format:
    """The order in memory in which `model` takes `images` fastest."""
    return memory_format(model) if images.dim() == 4 else torch.preserve_format


def batch_size(model: nn.Module, images: Tensor) -> int:
    """How many images pass through `model` at once."""
    if images.device.type == "cpu":
        return min(CPU_IMAGES, images_within(CPU_MAP_MIB, model, images))
    return images_within(GPU_MAP_MIB, model, images)


def images_within(memory_mib: int, model: nn.Module, images: Tensor) -> int:
    """For how many images the largest output of a module takes at most so much memory, at least one."""
    largest = 1

    def note(module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    examples = images[:2]  # one alone is no batch for a network that squeezes its outputs
    _pass(model, examples, note)
    return max(1, memory_mib * 2**20 * len(examples) // largest)


def _pass(model: nn.Module, examples: Tensor, note: Callable[[nn.Module, tuple[Any, ...], Any], None]) -> None:
    """Evaluate `model` on a clone of `examples` with the hook `note` on each of its modules."""
    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model(examples.clone())
    finally:
        for handle in handles:
            handle.remove()


# Modules that treat every channel alike and alone, so that T copies can pass through them side by side.
_CHANNELWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity),
    *(nn.MaxPool2d, nn.AvgPool2d),
)


class SharedStart:
    """Copies of a sequential network that share its start, up to the last module that they can share.

    The start is modules without parameters; the first convolution, T copies of which are one with T times the
    channels; and the activation and pooling after it. The rest runs once a copy.
    """

    def __init__(self, model: nn.Sequential, first: int, thetas: Thetas, images: Tensor, memory_mib: int):
        modules = _places(model)
        end = first + 1
        while end < len(modules) and type(modules[end][1]) in _CHANNELWISE:
            end += 1
        self.before = nn.Sequential(*(module for _, module in modules[:first]))
        self.name, layer = modules[first]
        assert isinstance(layer, nn.Conv2d)  # as `of` says
        self.layer = layer
        self.after = nn.Sequential(*(module for _, module in modules[first + 1 : end])).eval()
        self.rest = nn.Sequential(OrderedDict(modules[end:])).eval()
        self.rest_thetas = {name: thetas[name] for name, _ in self.rest.named_parameters() if name in thetas}
        self.given_format, self.format = format_of(model, images), memory_format(model)
        self.batch = batch_size(model, images)
        outputs = self.batch * self.layer(self.before(images[:1].clone())).numel()
        copy = sum(theta.numel() for theta in thetas.values())
        self.group = max(1, memory_mib * 2**20 // (4 * max(outputs, copy)))

    @classmethod
    def of(cls, model: nn.Module, thetas: Thetas, images: Tensor, memory_mib: int) -> "SharedStart | None":
        """The shared start of `model` where it has one that pays, else None. It was measured on CPUs alone."""
        if type(model) is not nn.Sequential or not is_known(model) or images.device.type != "cpu":
            return None
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        memory = [theta.data_ptr() for _, theta in model.named_parameters(remove_duplicate=False)]
        if hooked or len(set(memory)) < len(memory):
            return None
        modules = _places(model)
        first = next((i for i, (_, m) in enumerate(modules) if next(m.parameters(), None) is not None), None)
        if first is None:
            return None
        layer = modules[first][1]
        if type(layer) is not nn.Conv2d or layer.groups > 1 or layer.padding_mode != "zeros":
            return None
        if _share_of_work(layer, model, images[:1]) < 0.25:  # LeNet-5 has 0.31 and gains, VGG-11 has less and loses
            return None
        return cls(model, first, thetas, images, memory_mib)

    def outputs(self, images: Tensor, labels: Tensor, copies: list[Copy]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(number of the copy, outputs, labels) for each batch and copy."""
        layer, bias = self.layer, None
        # With a single input channel, strides alone tell the formats apart.
        weight = torch.cat([copy.get(f"{self.name}.weight", layer.weight) for copy in copies])
        weight = weight.to(memory_format=self.format)
        if layer.bias is not None:
            bias = torch.cat([copy.get(f"{self.name}.bias", layer.bias) for copy in copies])
        for x, y in zip(images.split(self.batch), labels.split(self.batch), strict=True):
            given = self.before(x.clone(memory_format=self.given_format))
            stacked = nn.functional.conv2d(given, weight, bias, layer.stride, layer.padding, layer.dilation)
            shares = self.after(stacked).chunk(len(copies), dim=1)  # of (B, T · channels, H, W)
            for i, (copy, share) in enumerate(zip(copies, shares, strict=True)):
                write(self.rest_thetas, {name: copy[name] for name in self.rest_thetas})
                yield i, self.rest(share.contiguous(memory_format=self.format)), y


def _places(model: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """The modules of `model` in order; `named_children` leaves out a module's second place."""
    return list(model._modules.items())


def _share_of_work(layer: nn.Module, model: nn.Module, example: Tensor) -> float:
    """The share of `layer` in the multiply-accumulates of the linear layers and convolutions of `model`."""
    work: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            work[module] = work.get(module, 0) + output.numel() * module.weight[0].numel()

    _pass(model, example, note)
    return work[layer] / sum(work.values())


def in_every_place(model: nn.Module, copy: Copy) -> Copy:
    """The drifted parameters once for each module that holds them, for a call without PyTorch's own tying of weights.

    That tying goes by name: it exchanges the parameter of a module with two names twice, and leaves the copy in it.
    """
    drifted = {id(theta): copy[name] for name, (_, theta) in owners(model).items() if name in copy}
    return {
        f"{name}.{kind}".removeprefix("."): drifted[id(theta)]
        for name, module in model.named_modules()
        for kind, theta in module._parameters.items()
        if id(theta) in drifted
    }
