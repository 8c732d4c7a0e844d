"""The networks that FTT-NAS compares with: ResNet-20 and MobileNet-V2, both for images of 32 × 32 pixels."""

from collections import OrderedDict

from torch import Tensor, nn

from bayesft.models.parts import he_normal, scaled

# MobileNet-V2 (Sandler et al., 2018) for small images: expansion, channels, blocks, stride of the first block.
MOBILE = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _unit(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias, and its batch norm."""
    return [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]


class Residual(nn.Module):
    """A branch and a shortcut, which are added; with `activation`, a ReLU follows."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, activation: bool):
        super().__init__()
        self.branch, self.shortcut, self.activation = branch, shortcut, nn.ReLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.branch(x) + self.shortcut(x))


def _basic(inputs: int, outputs: int, stride: int) -> Residual:
    branch = nn.Sequential(*_unit(inputs, outputs, 3, stride), nn.ReLU(), *_unit(outputs, outputs, 3))
    same = stride == 1 and inputs == outputs
    return Residual(branch, nn.Identity() if same else nn.Sequential(*_unit(inputs, outputs, 1, stride)), True)


def _inverted(inputs: int, outputs: int, stride: int, expansion: int) -> nn.Module:
    hidden = inputs * expansion
    branch = [*_unit(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
    branch += [*_unit(hidden, hidden, 3, stride, hidden), nn.ReLU6(), *_unit(hidden, outputs, 1)]
    network = nn.Sequential(*branch)
    return Residual(network, nn.Identity(), False) if stride == 1 and inputs == outputs else network


def resnet20(outputs: int = 10, channels: int = 16, stem_stride: int = 1) -> nn.Sequential:
    """ResNet-20 (He et al., 2015, section 4.2), with a projection where a block changes the size.

    Args:
        outputs: The number of classes.
        channels: Those of the first stage; the others have two and four times as many.
        stem_stride: The stride of the first convolution.

    Returns:
        The network, from images (B, 3, H, W) to logits (B, outputs).

    Raises:
        ValueError: `channels` is less than 1.
    """
    if channels < 1:
        raise ValueError(f"channels = {channels}: must be at least 1")
    modules: list[tuple[str, nn.Module]] = [("stem", nn.Sequential(*_unit(3, channels, 3, stem_stride), nn.ReLU()))]
    inputs = channels
    for stage, stride in enumerate((1, 2, 2)):
        outer = channels * 2**stage
        blocks = [_basic(inputs if block == 0 else outer, outer, stride if block == 0 else 1) for block in range(3)]
        modules.append((f"stage{stage + 1}", nn.Sequential(*blocks)))
        inputs = outer
    return _headed(modules, inputs, outputs)


def mobilenet_v2(outputs: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Sequential:
    """MobileNet-V2 for small images: the stem and the first two stages keep the size at `stem_stride` 1.

    Args:
        outputs: The number of classes.
        width: The channels, relative to the published ones.
        stem_stride: The stride of the first convolution.

    Returns:
        The network, from images (B, 3, H, W) to logits (B, outputs).

    Raises:
        ValueError: `width` is not greater than 0.
    """
    if width <= 0:
        raise ValueError(f"width = {width}: must be greater than 0")
    inputs = scaled(32, width)
    modules: list[tuple[str, nn.Module]] = [("stem", nn.Sequential(*_unit(3, inputs, 3, stem_stride), nn.ReLU6()))]
    for stage, (expansion, base, count, stride) in enumerate(MOBILE, 1):
        blocks = []
        for block in range(count):
            channels = scaled(base, width)
            blocks.append(_inverted(inputs, channels, stride if block == 0 else 1, expansion))
            inputs = channels
        modules.append((f"stage{stage}", nn.Sequential(*blocks)))
    last = scaled(1280, width)
    modules.append(("last", nn.Sequential(*_unit(inputs, last, 1), nn.ReLU6())))
    return _headed(modules, last, outputs)


def _headed(modules: list[tuple[str, nn.Module]], inputs: int, outputs: int) -> nn.Sequential:
    head = [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(inputs, outputs))]
    return he_normal(nn.Sequential(OrderedDict(modules + head)))
