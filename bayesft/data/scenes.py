"""Scenes with instances to detect, in three fixed parts: images of any size, and a mask for each instance."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesft.data.images import PARTS
from bayesft.tensors import load_tensors, save_tensors


class Scene(NamedTuple):
    """One image, uint8 (3, H, W), and the visible pixels of each of its n instances, bool (n, H, W)."""

    image: Tensor
    masks: Tensor

    @property
    def boxes(self) -> Tensor:
        """The box around each mask, (n, 4), float32: x₁, y₁, x₂, y₂, the ends exclusive, so one pixel has width 1."""
        return mask_boxes(self.masks)


def mask_boxes(masks: Tensor) -> Tensor:
    """The boxes (n, 4) around masks (n, H, W): x₁, y₁, x₂, y₂ in pixels.

    Raises:
        ValueError: A mask has no pixel, or the masks have another number of dimensions.
    """
    if masks.dim() != 3 or not bool(masks.flatten(1).any(1).all()):
        raise ValueError(f"masks {tuple(masks.shape)}: need (n, H, W), and a pixel in each")
    ends = []
    for filled in (masks.any(1), masks.any(2)):  # (n, W), then (n, H)
        length = filled.shape[1]
        ends.append((filled.int().argmax(1), length - filled.flip(1).int().argmax(1)))
    (x1, x2), (y1, y2) = ends
    return torch.stack([x1, y1, x2, y2], 1).float()


def packed(masks: Tensor) -> Tensor:
    """Masks (n, H, W), bool, as bits for a file: an eighth of the size."""
    return torch.from_numpy(np.packbits(masks.flatten(1).cpu().numpy(), axis=1))


def unpacked(bits: Tensor, image: Tensor) -> Tensor:
    """The masks (n, H, W) that `packed` made `bits` of, in an image (3, H, W)."""
    _, height, width = image.shape
    flat = np.unpackbits(bits.numpy(), axis=1, count=height * width).astype(bool)
    return torch.from_numpy(flat.reshape(len(bits), height, width))


@dataclass(frozen=True)
class Scenes:
    """A data set for detection.

    Args:
        parts: The scenes of each part.
        about: Where the images come from and how many there are. It travels with the file.
    """

    parts: dict[str, list[Scene]]
    about: dict[str, Any] = field(default_factory=dict)

    def limited(self, counts: dict[str, int | None]) -> "Scenes":
        """The first so many scenes of each part (None: all). Parts are in random order, so this is a fair sample."""
        parts = {name: part[: counts.get(name)] for name, part in self.parts.items()}
        return Scenes(parts, {**self.about, "images_used": {name: len(part) for name, part in parts.items()}})

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, atomically: the same scenes give the same bytes."""
        tensors = {}
        for name, part in self.parts.items():
            for i, (image, masks) in enumerate(part):
                tensors[f"{name}.{i:05d}.image"] = image.contiguous()
                tensors[f"{name}.{i:05d}.masks"] = packed(masks)
        save_tensors(path, tensors, self.about)

    @classmethod
    def load(cls, path: Path) -> "Scenes":
        """Read what `save` wrote."""
        parts: dict[str, list[Scene]] = {name: [] for name in PARTS}
        tensors, about = load_tensors(path)
        for key in sorted(key for key in tensors if key.endswith(".image")):
            image, bits = tensors[key], tensors[key.removesuffix("image") + "masks"]
            parts[key.split(".")[0]].append(Scene(image, unpacked(bits, image)))
        return cls(parts, about)


def as_scene(image: np.ndarray, instances: np.ndarray, numbers: list[int] | None = None) -> Scene:
    """A scene from an image and the numbers of the instances in it.

    Args:
        image: RGB, (H, W, 3), uint8.
        instances: The number of the instance at each pixel, (H, W), 0 where there is none.
        numbers: The instances to keep, where there are any of their pixels; None: all that occur.

    Returns:
        The scene.

    Raises:
        ValueError: The image is not uint8, or of another size than the instances.
    """
    if image.dtype != np.uint8 or image.shape != (*instances.shape, 3):
        raise ValueError(f"{image.dtype} image {image.shape} with instances {instances.shape}")
    found = [int(i) for i in np.unique(instances) if i and (numbers is None or i in numbers)]
    masks = np.zeros((len(found), *instances.shape), bool)
    for row, number in enumerate(found):
        masks[row] = instances == number
    return Scene(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(masks))
