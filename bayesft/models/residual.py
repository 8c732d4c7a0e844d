"""Residual networks for 32 × 32 images: the first convolution is 3 × 3 at stride 1, and no max-pool follows it.

Every residual branch starts at zero (Goyal et al., 2017), so a deep network starts as a shallow one. Without
normalisation each convolution has a bias; with it none has, since the normalisation brings one.
"""

from collections import OrderedDict

from torch import Tensor, nn

from bayesft.models.parts import MAP_NORMALIZATIONS, convolution, he_normal, normalize, scaled

STAGES = (64, 128, 256, 512)


def resnet18(outputs: int = 10, width: float = 1.0, normalization: str | None = "batch") -> nn.Sequential:
    """ResNet-18 (He et al., 2015) of torchvision's blocks; the parameters have the names torchvision gives them.

    Args:
        outputs: The number of classes.
        width: The channels, relative to the published ones.
        normalization: One of MAP_NORMALIZATIONS; None: none.

    Returns:
        The network, from images (B, 3, H, W) to logits (B, outputs).
    """
    from torchvision.models.resnet import BasicBlock  # takes seconds to import, which no other network should pay

    norm = nn.Identity if normalization is None else MAP_NORMALIZATIONS[normalization]
    inputs = scaled(64, width)
    modules: list[tuple[str, nn.Module]] = [
        ("conv1", convolution(3, inputs, 3, normalization)),
        ("bn1", norm(inputs)),
        ("relu", nn.ReLU(inplace=True)),
    ]
    for number, base in enumerate(STAGES, 1):
        channels, blocks = scaled(base, width), []
        for stride in (1 if number == 1 else 2, 1):
            shortcut = None
            if stride != 1 or inputs != channels:
                shortcut = nn.Sequential(convolution(inputs, channels, 1, normalization, stride), norm(channels))
            blocks.append(BasicBlock(inputs, channels, stride, shortcut, norm_layer=norm))
            inputs = channels
        modules.append((f"layer{number}", nn.Sequential(*blocks)))
    modules += [("avgpool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(inputs, outputs))]
    model = nn.Sequential(OrderedDict(modules))
    if normalization is None:  # torchvision's block leaves no choice
        for conv in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
            conv.register_parameter("bias", nn.Parameter(conv.weight.new_zeros(conv.out_channels)))
    he_normal(model)
    for block in [module for module in model.modules() if isinstance(module, BasicBlock)]:
        nn.init.zeros_((block.conv2 if normalization is None else block.bn2).weight)
    return model


class PreActivationBlock(nn.Module):
    """A residual block with full pre-activation (He et al., 2016): each convolution follows normalisation and ReLU.

    A shortcut that has to change the channels or the size is a 1 × 1 convolution of the pre-activated input.

    Args:
        inputs: The channels of the input.
        layers: The channels of the output, the side of the kernel and the stride of each convolution.
        normalization: One of MAP_NORMALIZATIONS; None: none.
    """

    def __init__(self, inputs: int, layers: list[tuple[int, int, int]], normalization: str | None):
        super().__init__()
        outputs, stride = layers[-1][0], max(stride for *_, stride in layers)
        changes = stride != 1 or inputs != outputs
        self.shortcut = convolution(inputs, outputs, 1, normalization, stride) if changes else None
        self.activation = nn.Sequential(*normalize(normalization, inputs), nn.ReLU())
        branch: list[nn.Module] = []
        for channels, size, stride in layers:
            if branch:
                branch += [*normalize(normalization, inputs), nn.ReLU(inplace=True)]
            branch.append(convolution(inputs, channels, size, normalization, stride))
            inputs = channels
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(x)
        return self.branch(active) + (x if self.shortcut is None else self.shortcut(active))


DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}


def preact_resnet(
    outputs: int = 10, depth: int = 18, width: float = 1.0, normalization: str | None = "batch"
) -> nn.Sequential:
    """PreAct-ResNet (He et al., 2016): 18 layers of basic blocks, 50 and 152 of bottlenecks.

    Normalisation and ReLU follow the last block, as in the paper.

    Args:
        depth: The number of layers: 18, 50 or 152.
        outputs, width, normalization: As for `resnet18`.

    Returns:
        The network, from images (B, 3, H, W) to logits (B, outputs).

    Raises:
        ValueError: The depth is another one.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth = {depth}: must be one of {', '.join(map(str, DEPTHS))}")
    inputs = scaled(64, width)
    modules: list[tuple[str, nn.Module]] = [("conv1", convolution(3, inputs, 3, normalization))]
    for number, (base, blocks) in enumerate(zip(STAGES, DEPTHS[depth], strict=True), 1):
        channels, stage = scaled(base, width), []
        for block in range(blocks):
            stride = 2 if number > 1 and block == 0 else 1
            if depth == 18:
                layers = [(channels, 3, stride), (channels, 3, 1)]
            else:
                layers = [(channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1)]
            stage.append(PreActivationBlock(inputs, layers, normalization))
            inputs = layers[-1][0]
        modules.append((f"layer{number}", nn.Sequential(*stage)))
    modules += [
        *(("norm", norm) for norm in normalize(normalization, inputs)),
        ("relu", nn.ReLU()),
        ("avgpool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(inputs, outputs)),
    ]
    model = he_normal(nn.Sequential(OrderedDict(modules)))
    for module in model.modules():
        if isinstance(module, PreActivationBlock):
            last = module.branch[-1]
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)
    return model
