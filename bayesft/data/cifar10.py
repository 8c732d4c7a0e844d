"""CIFAR-10 (Krizhevsky, 2009) from its binary batches, and drawn shapes in its place."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bayesft.data.fetch import FetchError, Limits, Source, fetch, fetch_mirrored, tar_members
from bayesft.data.images import Images, as_split, split_off_validation
from bayesft.seeds import derive_seed

ARCHIVE = Source(
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)
# A mirror may hold some of the batches, packed anew. Each batch has a checksum of its own.
PARTS = ("cifar-10-binary-part1.tar.xz", "cifar-10-binary-part2.tar.xz")
TEST = "test_batch.bin"
BATCHES = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    TEST: "803d5f7f4d78ea53de84dbe85f74fb6d",
}
_RECORD = 1 + 3 * 32 * 32  # a label, then red, green and blue
_BATCH_BYTES = 10_000 * _RECORD
_NAMES = re.compile(r"cifar-10-batches-bin/(data_batch_[1-5]\.bin|test_batch\.bin|batches\.meta\.txt|readme\.html)")
_LIMITS = Limits(_NAMES, members=10, largest=_BATCH_BYTES, total=10 * _BATCH_BYTES)


def official(folder: Path, mirror: str | None = None) -> Images:
    """CIFAR-10 as 32 × 32 colour images: 45,000 train, 5,000 validation, 10,000 test, or what a mirror has of them.

    The archive comes from the mirror or else from its host. A mirror without it may hold parts of it (`PARTS`): then a
    tenth of the training images that are there is validation, and the name in `about` says how many there are.

    Args:
        folder: Where the archive is kept.
        mirror: As for `fetch`.

    Returns:
        The images.

    Raises:
        FetchError: Neither can be had, or the mirror's copy is damaged.
        ValueError: A batch is damaged or missing.
    """
    batches: dict[str, bytes] = {}

    def problem(path: Path) -> str | None:
        try:
            batches.update(read_batches(path))
        except ValueError as error:
            return str(error)
        return None

    archive = fetch_mirrored(ARCHIVE.name, folder, mirror, "cifar10", ARCHIVE.problem)
    if archive is None and mirror:
        found = [name for name in PARTS if fetch_mirrored(name, folder, mirror, "cifar10", problem)]
        if found and (TEST not in batches or len(batches) < 2):
            raise FetchError(f"{mirror}: {found} have {sorted(batches)}, but {TEST} and a training batch are needed")
    if not batches:
        batches = read_batches(archive or fetch(ARCHIVE, folder, mirror, "cifar10"))
        if missing := sorted(BATCHES.keys() - batches.keys()):
            raise ValueError(f"{ARCHIVE.name}: no {missing}")
    names = sorted(batches)
    decoded = {name: decode(batches.pop(name), name) for name in names}
    test, test_labels = decoded.pop(TEST)
    images, labels = (np.concatenate(arrays) for arrays in zip(*decoded.values(), strict=True))
    training, validation = split_off_validation(images, labels, len(images) // 10, "cifar10")
    whole = len(names) == len(BATCHES)
    name = "CIFAR-10" if whole else f"CIFAR-10, {len(images):,} of 50,000 training images"
    about = {"name": name, "of": len(images) + len(test), "md5": {name: BATCHES[name] for name in names}}
    return Images({"train": training, "validation": validation, "test": as_split(test, test_labels)}, 10, about)


def read_batches(path: Path) -> dict[str, bytes]:
    """The batches in a tar archive, by name, each verified by its published md5.

    Raises:
        ValueError: The archive or a batch is damaged, or something else is in it, or no batch.
    """
    batches = {}
    for member, content in tar_members(path, _LIMITS):
        name = member.rsplit("/", 1)[-1]
        if name in BATCHES:
            found = hashlib.md5(content).hexdigest()
            if found != BATCHES[name]:
                raise ValueError(f"{name}: {len(content)} bytes with md5 {found}, expected md5 {BATCHES[name]}")
            batches[name] = content
    if not batches:
        raise ValueError(f"{path}: no batch of CIFAR-10")
    return batches


def decode(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a batch.

    Args:
        content: The bytes of the batch.
        name: Its name, for errors.

    Returns:
        Images (N, 3, 32, 32) and labels (N,), uint8.

    Raises:
        ValueError: It is no batch of CIFAR-10.
    """
    if not content or len(content) % _RECORD:
        raise ValueError(f"{name}: {len(content)} bytes are no whole records of {_RECORD}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise ValueError(f"{name}: label {labels.max()} is not one of 0 … 9")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


Uniform = Callable[..., np.ndarray]  # numbers between two bounds, some for each image
SHAPES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "hourglass", "bars", "flower")
TEXTURES = 5
# The shares of the images in which a shape has the hue, and the texture, that is typical of it.
TYPICAL_HUE, TYPICAL_TEXTURE = 0.55, 0.75


def embedded() -> Images:
    """Textured coloured shapes on cluttered grounds, drawn here: 10 classes, 32 × 32 colour images.

    2,000 train, 400 validation, 600 test images, as many of each class, in a fixed random order. Pose, size, colours,
    texture, clutter, light and noise are random. A shape has its typical hue and texture more often than not, so
    that colour helps a network and does not suffice.
    """
    parts = {}
    for part, count in (("train", 200), ("validation", 40), ("test", 60)):
        rng = np.random.default_rng(derive_seed("drawn shapes", part))
        images = np.concatenate([_draw(label, count, rng) for label in range(10)])
        order = rng.permutation(len(images))
        parts[part] = as_split(images[order], np.repeat(np.arange(10), count)[order])
    return Images(parts, 10, {"name": "textured coloured shapes drawn by the code, in place of CIFAR-10", "of": 3_000})


def _draw(label: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` images (count, 3, 32, 32), uint8, of the shape `label`; drawn at twice the size, then averaged."""

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (count, *(shape or (1, 1)))).astype(np.float32)

    axis = ((np.arange(64) + 0.5) / 32 - 1).astype(np.float32)
    x, y = axis[None, None, :], axis[None, :, None]
    image = _ground(x, y, uniform)
    # Into the frame of the shape: shift, rotation, size, and a stretch to one side.
    angle, size, stretch = uniform(-0.4, 0.4), uniform(0.68, 1.02), uniform(0.88, 1.14)
    dx, dy = x - uniform(-0.14, 0.14), y - uniform(-0.14, 0.14)
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / (size * stretch)
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / (size / stretch)
    inside = _inside(SHAPES[label], u, v)
    hue = np.where(uniform(0, 1) < TYPICAL_HUE, label / 10 + uniform(-0.04, 0.04), uniform(0, 1))
    kind = np.where(uniform(0, 1) < TYPICAL_TEXTURE, label % TEXTURES, np.floor(uniform(0, TEXTURES)))
    pattern = _texture(kind, u, v, uniform)[..., None]
    saturation, value = uniform(0.5, 1), uniform(0.65, 1)
    first = _colour(hue, saturation, value)
    second = _colour(hue + uniform(-0.08, 0.08), saturation * uniform(0.3, 1), value * uniform(0.4, 0.75))
    image = np.where(inside[..., None], first + (second - first) * pattern, image)
    # Light: a gradient over the image, then gain; sensor noise last, at the final size.
    light = uniform(0.7, 1.15) * (1 + uniform(-0.25, 0.25) * x + uniform(-0.25, 0.25) * y)
    image = (image * light[..., None]).reshape(count, 32, 2, 32, 2, 3).mean((2, 4))
    image += (0.04 * rng.standard_normal(image.shape, np.float32)).astype(np.float32)
    return (image * 255).round().clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2)


def _ground(x: np.ndarray, y: np.ndarray, uniform: Uniform) -> np.ndarray:
    """Backgrounds (N, 64, 64, 3): a smooth mix of four colours, waves, and a few small discs and boxes."""
    corners = [_colour(uniform(0, 1), uniform(0.05, 0.5), uniform(0.2, 0.7)) for _ in range(4)]
    across, down = ((x + 1) / 2)[..., None], ((y + 1) / 2)[..., None]
    top, bottom = (a + (b - a) * across for a, b in (corners[:2], corners[2:]))
    image = top + (bottom - top) * down
    waves = np.sin(uniform(-9, 9) * x + uniform(-9, 9) * y + uniform(0, 6))
    image = image + (uniform(0, 0.15) * waves)[..., None]
    for number in range(4):
        dx, dy, size = abs(x - uniform(-1, 1)), abs(y - uniform(-1, 1)), uniform(0.08, 0.3)
        blob = np.maximum(dx, dy) < size if number % 2 else dx**2 + dy**2 < size**2
        image = np.where(blob[..., None], _colour(uniform(0, 1), uniform(0.2, 0.8), uniform(0.2, 0.9)), image)
    return image


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points (u, v) are in a shape of radius about 1."""
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)  # the angle is 0 at the top
    a, b = abs(u), abs(v)
    if shape == "disc":
        return radius < 0.95
    if shape == "square":
        return np.maximum(a, b) < 0.82
    if shape == "triangle":
        return (v < 0.7) & (v > 1.9 * a - 1)
    if shape == "star":
        sector = abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)  # 0 at a tip, π/5 between two
        return radius * (np.cos(sector) + 1.25 * np.sin(sector)) < 1.05
    if shape == "ring":
        return abs(radius - 0.75) < 0.24
    if shape == "cross":
        return (np.minimum(a, b) < 0.27) & (np.maximum(a, b) < 0.98)
    if shape == "crescent":
        return (radius < 1) & (np.hypot(u - 0.5, v) > 0.75)
    if shape == "hourglass":
        return (a < 0.12 + 0.8 * b) & (b < 0.9)
    if shape == "bars":
        return (abs(a - 0.6) < 0.27) & (b < 0.95)
    return radius < 0.72 + 0.27 * np.cos(4 * (angle + np.pi / 4))  # a flower of four petals


def _texture(kind: np.ndarray, u: np.ndarray, v: np.ndarray, uniform: Uniform) -> np.ndarray:
    """How much of the second colour there is at each point, 0 … 1: one of five patterns for each image."""
    f, phase = uniform(7, 11), uniform(0, 6)
    across, down = np.sin(f * u + phase), np.sin(f * v + phase)
    patterns = (
        np.broadcast_to(np.float32(0.05), u.shape),
        across > 0.1,  # stripes
        across * down > 0,  # checks
        across + down > 0.8,  # dots
        down > 0.1,
    )
    return np.select([kind == number for number in range(TEXTURES)], patterns).astype(np.float32)


def _colour(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Red, green and blue along a new last axis; hue in turns."""
    k = (np.array([5, 3, 1], np.float32) + 6 * hue[..., None]) % 6
    return value[..., None] * (1 - saturation[..., None] * np.minimum(k, 4 - k).clip(0, 1))
