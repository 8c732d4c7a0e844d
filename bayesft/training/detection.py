"""A step of a detector's training: scenes as the loop takes them, the losses of Mask R-CNN, random flips."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from bayesft.data.images import Split
from bayesft.data.scenes import Scene
from bayesft.training.loop import Loss


class _Column:
    """One column of the scenes, indexed by a batch's numbers as a tensor is: a list of images, or of targets."""

    def __init__(self, rows: list[Any], device: torch.device):
        self.rows, self.device = rows, device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: Tensor) -> list[Any]:
        return [self.rows[i] for i in batch.tolist()]


def columns(scenes: Sequence[Scene], device: str | torch.device = "cpu") -> Split:
    """Scenes as `fit` takes its data: lists of images (3, H, W) in [0, 1] and of torchvision's targets."""
    device = torch.device(device)
    images = [scene.image.to(device).float() / 255 for scene in scenes]
    targets = [target(scene, device) for scene in scenes]
    # `fit` asks a column for its length, its device and its batches alone.
    return Split(cast(Tensor, _Column(images, device)), cast(Tensor, _Column(targets, device)))


def target(scene: Scene, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """What torchvision trains a detector on: boxes (n, 4), labels (n,), all 1, and masks (n, H, W)."""
    labels = torch.ones(len(scene.masks), dtype=torch.int64)
    found = {"boxes": scene.boxes, "labels": labels, "masks": scene.masks.to(torch.uint8)}
    return {name: tensor.to(device) for name, tensor in found.items()}


def flipped(image: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """An image (3, H, W) and its target, left and right exchanged."""
    x1, y1, x2, y2 = truth["boxes"].unbind(1)
    width = image.shape[-1]
    boxes = torch.stack([width - x2, y1, width - x1, y2], 1)
    return image.flip(-1), {**truth, "boxes": boxes, "masks": truth["masks"].flip(-1)}


def detection_gradient(
    model: nn.Module, loss: Loss, x: list[Tensor], y: list[dict[str, Tensor]], progress: float = 0.0
) -> Tensor:
    """The gradient of the sum of Mask R-CNN's losses. `fit` raises Diverged where the result is not finite.

    Args:
        model: The detector, in train mode.
        loss: Not used.
        x: The images, (3, H, W) in [0, 1] each.
        y: The `target` of each.
        progress: Not used.

    Returns:
        The sum, a scalar. Its gradient is left in `.grad` of the parameters.
    """
    with torch.autocast(x[0].device.type, enabled=False):  # boxes need all their digits
        value = torch.stack(list(model(x, y).values())).sum()
    value.backward()
    return value.detach()


def flipping_gradient(
    model: nn.Module, loss: Loss, x: list[Tensor], y: list[dict[str, Tensor]], progress: float = 0.0
) -> Tensor:
    """`detection_gradient` with each image flipped or not, by chance. It is drawn from the global generator.

    Args:
        model, loss, x, y, progress: As for `detection_gradient`.

    Returns:
        The sum of the losses, a scalar.
    """
    pairs = [
        flipped(image, truth) if flip else (image, truth)
        for image, truth, flip in zip(x, y, (torch.rand(len(x)) < 0.5).tolist(), strict=True)
    ]
    return detection_gradient(model, loss, [image for image, _ in pairs], [truth for _, truth in pairs])
