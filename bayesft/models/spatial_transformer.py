"""A spatial transformer network for traffic signs (Jaderberg et al., 2015), with the authors' layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesft.models.parts import normalize, scaled


class Transformer(nn.Module):
    """Warps each image (B, 3, 32, 32) by an affine map that a small network reads off it; at first, the identity."""

    def __init__(self, width: float):
        super().__init__()
        first, second, features = (scaled(base, width) for base in (50, 100, 100))
        self.localization = nn.Sequential(
            nn.Conv2d(3, first, 7),
            nn.MaxPool2d(2),
            nn.ELU(),
            nn.Conv2d(first, second, 5),
            nn.MaxPool2d(2),
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(second * 4 * 4, features),
            nn.ELU(),
            nn.Linear(features, 6),
        )
        last = self.localization[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.eye(2, 3).flatten())

    def forward(self, x: Tensor) -> Tensor:
        theta = self.localization(x).view(-1, 2, 3).float()  # half precision is a tenth of a pixel
        with torch.autocast(x.device.type, enabled=False):
            grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x.float(), grid, align_corners=False)


def spatial_transformer(outputs: int = 43, width: float = 1.0, normalization: str | None = "batch") -> nn.Sequential:
    """The transformer; convolutions 100@5, 150@3, 250@1, each with pool, ELU and normalisation; 350 features.

    ELU follows the pool, as in LeNet-5: both are monotone, so the order changes nothing but the work.

    Args:
        outputs: The number of classes.
        width: The channels and features, relative to the published ones.
        normalization: "batch", "layer" or "group"; None: none.

    Returns:
        The network, from images (B, 3, 32, 32) to logits (B, outputs).
    """
    layers: list[nn.Module] = [Transformer(width)]
    inputs = 3
    for base, size in ((100, 5), (150, 3), (250, 1)):
        channels = scaled(base, width)
        layers += [nn.Conv2d(inputs, channels, size), nn.MaxPool2d(2), nn.ELU()]
        layers += normalize(normalization, channels)
        inputs = channels
    features = scaled(350, width)
    layers += [nn.Flatten(), nn.Linear(inputs * 3 * 3, features), nn.ELU()]
    layers += normalize(normalization, features, maps=False)
    return nn.Sequential(*layers, nn.Linear(features, outputs))
