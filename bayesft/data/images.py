"""Labelled images as tensors, in three fixed parts: train, validation, test."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesft.seeds import derive_seed
from bayesft.tensors import load_tensors, save_tensors

PARTS = ("train", "validation", "test")


class Split(NamedTuple):
    """One part of a data set: images (N, C, H, W) and labels (N,), int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    """A data set: images in three parts, and what is known of them.

    Args:
        parts: uint8 images (N, C, H, W) and int64 labels (N,) of each part.
        classes: The number of classes.
        about: Where the images come from and how many there are. It travels with the file.
    """

    parts: dict[str, Split]
    classes: int
    about: dict[str, Any] = field(default_factory=dict)

    def limited(self, counts: dict[str, int | None]) -> "Images":
        """The first so many images of each part (None: all). Parts are in random order, so this is a fair sample."""
        parts = {name: Split(*(t[: counts.get(name)].clone() for t in part)) for name, part in self.parts.items()}
        used = {name: len(part.labels) for name, part in parts.items()}
        return Images(parts, self.classes, {**self.about, "images_used": used})

    def scaled(self, pixels: int | None) -> "Images":
        """Images of `pixels` × `pixels`, averages of equal blocks (None: as they are).

        Raises:
            ValueError: The images' side is no multiple of `pixels`.
        """
        side = self.parts["train"].images.shape[-1]
        if pixels is None or pixels == side:
            return self
        if side % pixels:
            raise ValueError(f"pixels = {pixels}: must divide the images' side of {side}")

        def smaller(part: Split) -> Split:
            means = torch.nn.functional.avg_pool2d(part.images.float(), side // pixels)
            return Split(means.round().to(torch.uint8), part.labels)

        about = {**self.about, "name": f"{self.about['name']}, at {pixels} × {pixels} pixels"}
        return Images({name: smaller(part) for name, part in self.parts.items()}, self.classes, about)

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, atomically: the same data gives the same bytes."""
        tensors = {}
        for name, part in self.parts.items():
            tensors[f"{name}.images"], tensors[f"{name}.labels"] = part.images, part.labels
        save_tensors(path, tensors, {**self.about, "classes": self.classes})

    @classmethod
    def load(cls, path: Path) -> "Images":
        """Read what `save` wrote."""
        tensors, about = load_tensors(path)
        parts = {name: Split(tensors[f"{name}.images"], tensors[f"{name}.labels"]) for name in PARTS}
        return cls(parts, about.pop("classes"), about)

    def standardised(self, device: str | torch.device = "cpu") -> dict[str, Split]:
        """Each part as float32 images of mean 0 and deviation 1 a channel, over the training images, on `device`."""
        pixels = self.parts["train"].images.transpose(0, 1).flatten(1).double()
        mean = pixels.mean(1).float().view(1, -1, 1, 1)
        deviation = pixels.std(1).clamp_min(1.0).float().view(1, -1, 1, 1)
        return {
            name: Split(((part.images.float() - mean) / deviation).to(device), part.labels.to(device))
            for name, part in self.parts.items()
        }


def split_off_validation(images: np.ndarray, labels: np.ndarray, count: int, name: str) -> tuple[Split, Split]:
    """Training and validation parts of a pool of images.

    The training seed has no part in it: every seed, method and scale holds out the same images.

    Args:
        images: (N, H, W) or (N, C, H, W), uint8.
        labels: (N,).
        count: How many images are held out.
        name: What the permutation depends on.

    Returns:
        Training part and validation part.

    Raises:
        ValueError: As for `as_split`.
    """
    order = np.random.default_rng(derive_seed("validation split", name)).permutation(len(images))
    return as_split(images[order[count:]], labels[order[count:]]), as_split(
        images[order[:count]], labels[order[:count]]
    )


def as_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Images and labels as a part.

    Args:
        images: (N, H, W) or (N, C, H, W), uint8. They are copied.
        labels: (N,).

    Returns:
        The part; images (N, H, W) get one channel.

    Raises:
        ValueError: The images are not uint8, or there is another number of labels.
    """
    tensor = torch.from_numpy(np.array(images, order="C"))  # a copy: what was read from a file is not writable
    if tensor.dtype != torch.uint8 or len(images) != len(labels):
        raise ValueError(f"{tensor.dtype} images {tuple(tensor.shape)} with {len(labels)} labels")
    tensor = tensor.unsqueeze(1) if tensor.dim() == 3 else tensor
    return Split(tensor, torch.from_numpy(np.asarray(labels, dtype=np.int64)))
