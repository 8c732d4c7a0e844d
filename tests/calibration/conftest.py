"""Networks of every kind of layer, and faults whose calibration has a known answer."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from bayesft.drift import LogNormalDrift, drifted_parameters


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.attention, self.last = nn.Embedding(9, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        return self.last(self.attention(x, x, x)[0])


class Encoder(nn.Module):
    """Layers that PyTorch runs by one fused function in eval mode, with a padding mask."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 8, padding_idx=0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.last = nn.Linear(8, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.last(self.encoder(self.words(words), src_key_padding_mask=words == 0)[:, 0])


class Twice(nn.Module):
    """A layer that is called three times."""

    def __init__(self):
        super().__init__()
        self.again, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.again(x).tanh() + x
        return self.last(x)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.both, self.last = nn.Bilinear(6, 5, 4), nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        return self.last(self.both(left, right * scale).relu())


class OwnForward(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.tanh())


def own_forward() -> nn.Module:
    return nn.Sequential(OwnForward(6, 5), nn.ReLU(), nn.Linear(5, 3))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].register_forward_hook(lambda module, args, output: output.tanh())
    return model


def sequence(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*copy.deepcopy(layers))


MAPS = (2, 7, 7)
# Name: how the network is made, the shape of one example (or its words).
NETWORKS = {
    "linear": (sequence(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (6,)),
    "without bias": (sequence(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)), (6,)),
    "sequences": (sequence(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)), (5, 6)),
    "layer norm of maps": (sequence(nn.Conv2d(2, 3, 3), nn.LayerNorm((3, 5, 5)), nn.ReLU()), MAPS),
    "norms without bias": (
        sequence(nn.Linear(6, 8), nn.LayerNorm(8, bias=False), nn.RMSNorm(8), nn.Linear(8, 3)),
        (6,),
    ),
    "conv1d": (sequence(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 3, 2, stride=2)), (2, 9)),
    "conv2d": (
        sequence(
            nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular", bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, groups=2, stride=2),
            nn.GroupNorm(2, 6),
            nn.Flatten(),
            nn.Linear(54, 3),
            nn.BatchNorm1d(3),
        ),
        MAPS,
    ),
    "transposed": (
        sequence(
            nn.ConvTranspose2d(2, 6, 3, stride=2, groups=2), nn.InstanceNorm2d(6, affine=True), nn.Conv2d(6, 2, 1)
        ),
        MAPS,
    ),
    "conv3d": (sequence(nn.Conv3d(2, 4, 2), nn.ReLU(), nn.ConvTranspose3d(4, 2, 2)), (2, 4, 4, 4)),
    "attention": (Attention, "words"),
    "encoder": (Encoder, "words"),
    "called three times": (Twice, (6,)),
    "tied weights": (Tied, (6,)),
    "weight norm": (lambda: nn.Sequential(weight_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 3)), (6,)),
    "own forward": (own_forward, (6,)),
    "hooked": (hooked, (6,)),
    "one layer": (lambda: nn.Linear(6, 3), (6,)),
}


@pytest.fixture(params=NETWORKS)
def case(request) -> tuple[nn.Module, Tensor]:
    """A clean network in eval mode, and 40 examples."""
    return make(request.param)


def make(name: str, count: int = 40) -> tuple[nn.Module, Tensor]:
    build, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        for module in model.modules():  # statistics, scales and shifts other than the initial ones
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
            if "Norm" in type(module).__name__:
                for theta in module.parameters(recurse=False):
                    nn.init.uniform_(theta, 0.5, 1.5)
        if shape == "words":
            x = torch.randint(1, 9, (count, 5))
            x[count // 2 :, 4] = 0
        else:
            x = torch.randn(count, *shape)
    return model.eval(), x


@torch.no_grad()
def drifted(model: nn.Module, sigma: float = 0.5, draw: int = 0) -> nn.Module:
    """A faulty copy."""
    faulty = copy.deepcopy(model)
    for name, theta in drifted_parameters(model, LogNormalDrift(), sigma, ("calibration",), draw).items():
        faulty.get_parameter(name).copy_(theta)
    return faulty


@torch.no_grad()
def rows_changed(model: nn.Module, shift: bool = True) -> nn.Module:
    """A copy each of whose channels is scaled by 0.5 to 2 and shifted: a fault that calibration undoes exactly."""
    faulty = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    for module in faulty.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, nn.Embedding) or weight is None or not isinstance(bias, Tensor):
            continue
        factors = torch.rand(bias.shape, generator=generator) * 1.5 + 0.5
        bias.mul_(factors)
        if shift:
            bias.add_(torch.randn(bias.shape, generator=generator))
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            each = module.out_channels // module.groups
            inputs = module.in_channels // module.groups
            for channel, factor in enumerate(factors.tolist()):
                group = channel // each
                weight[group * inputs : (group + 1) * inputs, channel % each] *= factor
        elif weight.dim() == bias.dim():  # a normalisation
            weight.mul_(factors)
        else:
            for channel, factor in enumerate(factors.tolist()):
                weight[channel] *= factor
    return faulty
