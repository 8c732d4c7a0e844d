"""Monte-Carlo estimates over drifted copies of a network (eq. 4), fast on a CPU and bounded in memory.

Draw number t of a parameter is keyed by (key, t, parameter name, shape), where `key` names the task and the
training seed. Methods and levels σ therefore share their draws (common random numbers): curves are smooth in σ,
methods can be compared pair by pair, and no number depends on which other σ are evaluated.

All draws see the same images, so in a sequential network the first layer of T drifted copies is *one* product, or
convolution, with T times as many outputs. That layer holds most of a multi-layer perceptron's work, and with the
pooling after it most of LeNet's.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesft.drift.faults import FaultModel
from bayesft.memory_format import memory_format
from bayesft.modes import eval_mode
from bayesft.seeds import derive_seed

PARAMETERS = ("all", "weights")


def drifting(model: nn.Module, parameters: str = "all") -> dict[str, Tensor]:
    """The parameters of `model` that drift, by name.

    "all" is every parameter (the paper); "weights" is the weights of convolutions and linear layers alone, what a
    crossbar stores. Running statistics of a normalisation are buffers and never drift.
    """
    if parameters == "all":
        return dict(model.named_parameters())
    if parameters == "weights":
        kinds = (nn.Linear, nn.modules.conv._ConvNd)
        weights = {id(m.weight) for m in model.modules() if isinstance(m, kinds)}
        return {name: theta for name, theta in model.named_parameters() if id(theta) in weights}
    raise ValueError(f"parameters = {parameters!r}: must be one of {', '.join(PARAMETERS)}")


def drifted_parameters(
    model: nn.Module, fault: FaultModel, sigma: float, key: tuple, draw: int, parameters: str = "all"
) -> dict[str, Tensor]:
    """Draw number `draw` of the drifting parameters of `model` at level σ, by name; the model is left alone.

    Draws are made on the parameters' own device: those of a CPU and of a GPU differ.
    """
    copies = {}
    for name, theta in drifting(model, parameters).items():
        seed = derive_seed(*key, draw, name, tuple(theta.shape))
        copies[name] = fault.perturb(theta.detach(), sigma, torch.Generator(theta.device).manual_seed(seed))
    return copies


@torch.inference_mode()
def monte_carlo(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    score: Callable[[Tensor, Tensor], Tensor],
    fault: FaultModel,
    sigma: float,
    draws: Sequence[int],
    key: tuple,
    parameters: str = "all",
    memory_mib: int = 28,
) -> Tensor:
    """The mean score of T drifted copies of `model`, one number a copy: shape (T,), float64.

    images: (N, ...), labels: (N, ...), both on the model's device. `score` maps outputs (B, ...) and labels
    (B, ...) to one number an image, (B,). `draws` are the T numbers of the draws. The mean is over images, however
    they are batched. `memory_mib` bounds what is held at once for several draws: the outputs of a
    first layer that they share, else the copies of the parameters. (The default is the fastest measured: the C library
    gives blocks above 32 MiB back to the system after each use.)

    The model is evaluated in eval mode and comes back as it was.
    """
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"{len(images)} images and {len(labels)} labels: need as many of each, and at least one")
    if not sigma >= 0:
        raise ValueError(f"sigma = {sigma}: must be at least 0")
    with eval_mode(model):
        if sigma == 0:  # no drift: every copy is the network itself
            draws, copies_of_first = [draws[0]] if draws else [], len(draws)
        else:
            copies_of_first = 1
        layout = memory_format(model)
        first = _SharedStart.of(model)
        batch = first.batch if first else 128  # measured: the feature maps of a deep network stay in the cache
        group = first.draws_within(memory_mib, images[:1]) if first else _copies_within(memory_mib, model)
        totals = []
        for start in range(0, len(draws), group):
            drifted = [
                drifted_parameters(model, fault, sigma, key, t, parameters) for t in draws[start : start + group]
            ]
            sums = torch.zeros(len(drifted), dtype=torch.float64)
            for x, y in zip(images.split(batch), labels.split(batch), strict=True):
                if x.dim() == 4 and layout == torch.channels_last:
                    x = x.contiguous(memory_format=layout)
                outputs = first.outputs(x, drifted) if first else _one_by_one(model, x, drifted)
                for i, output in enumerate(outputs):
                    sums[i] += score(output, y).sum(dtype=torch.float64).cpu()
            totals.append(sums / len(images))
        return torch.cat(totals).repeat(copies_of_first) if totals else torch.zeros(0, dtype=torch.float64)


def _copies_within(memory_mib: int, model: nn.Module) -> int:
    """How many copies of the parameters fit into the memory, at least one."""
    return max(1, memory_mib * 2**20 // max(1, sum(p.numel() * p.element_size() for p in model.parameters())))


def _one_by_one(model: nn.Module, x: Tensor, drifted: list[dict[str, Tensor]]) -> Iterator[Tensor]:
    for copy in drifted:
        yield functional_call(model, in_every_place(model, copy), (x,), tie_weights=False)


def in_every_place(model: nn.Module, copy: dict[str, Tensor]) -> dict[str, Tensor]:
    """The drifted parameters once for each module that holds them, for a call without PyTorch's own tying of weights.

    That tying goes by name: it exchanges the parameter of a module with two names twice, and leaves the copy in it.
    """
    drifted = {id(theta): copy[name] for name, theta in model.named_parameters() if name in copy}
    return {
        f"{name}.{kind}".removeprefix("."): drifted[id(theta)]
        for name, module in model.named_modules()
        for kind, theta in module._parameters.items()
        if id(theta) in drifted
    }


# Modules that treat every channel alike and alone, so that T copies can pass through them side by side.
_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity)
_POOLING = (nn.MaxPool2d, nn.AvgPool2d)


class _SharedStart:
    """The start of a sequential network, up to the last module that all T drifted copies can share.

    It is modules without parameters; the first layer, T copies of which are one matrix product or one convolution
    with T times the channels; and the activation and pooling after it. The rest runs once a draw.
    """

    def __init__(self, modules: list[tuple[str, nn.Module]], first: int, end: int, layout: torch.memory_format):
        self.before = nn.Sequential(*(module for _, module in modules[:first]))
        self.name, self.layer = modules[first]
        self.after = nn.Sequential(*(module for _, module in modules[first + 1 : end])).eval()
        self.rest = nn.Sequential(OrderedDict(modules[end:])).eval()
        self.layout = layout
        # Measured on two cores: a convolution's feature maps leave the cache sooner than a linear layer's outputs.
        self.batch = 2048 if isinstance(self.layer, nn.Linear) else 256

    @classmethod
    def of(cls, model: nn.Module) -> "_SharedStart | None":
        """The shared start of `model`, or None where it has none."""
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        tied = len(names) > len(list(model.parameters()))
        if type(model) is not nn.Sequential or hooked or tied:
            return None
        modules = list(model._modules.items())  # not named_children, which leaves out a module's second place
        first = next((i for i, (_, m) in enumerate(modules) if next(m.parameters(), None) is not None), None)
        if first is None:
            return None
        layer = modules[first][1]
        if type(layer) is nn.Linear:
            passing: tuple[type, ...] = _ELEMENTWISE
        elif type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
            passing = _ELEMENTWISE + _POOLING
        else:
            return None
        end = first + 1
        while end < len(modules) and type(modules[end][1]) in passing:
            end += 1
        return cls(modules, first, end, memory_format(model))

    def draws_within(self, memory_mib: int, example: Tensor) -> int:
        """For how many draws the first layer's outputs of a batch fit into the memory, at least one."""
        return max(1, memory_mib * 2**20 // (4 * self.batch * self.layer(self.before(example)).numel()))

    def outputs(self, x: Tensor, drifted: list[dict[str, Tensor]]) -> Iterator[Tensor]:
        """The network's outputs (B, ...) for each drifted copy, in order."""
        weight = torch.cat([copy.get(f"{self.name}.weight", self.layer.weight) for copy in drifted])
        if weight.dim() == 4:  # with a single input channel, strides alone tell the formats apart
            weight = weight.to(memory_format=self.layout)
        bias = None
        if self.layer.bias is not None:
            bias = torch.cat([copy.get(f"{self.name}.bias", self.layer.bias) for copy in drifted])
        given = self.before(x)
        if isinstance(self.layer, nn.Linear):
            stacked, features = nn.functional.linear(given, weight, bias), -1  # (B, ..., T · features)
        else:
            layer = self.layer
            stacked = nn.functional.conv2d(given, weight, bias, layer.stride, layer.padding, layer.dilation)
            features = 1  # (B, T · channels, H, W)
        shares = self.after(stacked).chunk(len(drifted), dim=features)
        for copy, share in zip(drifted, shares, strict=True):
            if share.dim() == 4:
                share = share.contiguous(memory_format=self.layout)
            yield functional_call(self.rest, in_every_place(self.rest, copy), (share,), tie_weights=False)
