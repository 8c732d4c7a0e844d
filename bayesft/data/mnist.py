"""MNIST (LeCun et al., 1998) from its four idx files, and scikit-learn's handwritten digits in its place."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from bayesft.data.fetch import Source, fetch
from bayesft.data.images import Images, as_split, split_off_validation
from bayesft.seeds import derive_seed

LARGEST = 64 << 20  # bytes of an unpacked file; the training images have 47 million
_HOSTS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
OFFICIAL = tuple(
    Source(name, md5, tuple(host + name for host in _HOSTS))
    for name, md5 in (
        ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    )
)


def official(folder: Path, mirror: str | None = None) -> Images:
    """MNIST from its files, fetched into `folder`: 55,000 train, 5,000 validation, 10,000 test images of 28 × 28.

    Args:
        folder: Where the files are kept.
        mirror: As for `fetch`.

    Returns:
        The images.

    Raises:
        FetchError: A file can't be had.
        ValueError: A file is no idx file.
    """
    train, train_labels, test, test_labels = (read_idx(fetch(file, folder, mirror, "mnist")) for file in OFFICIAL)
    training, validation = split_off_validation(train, train_labels, 5_000, "mnist")
    parts = {"train": training, "validation": validation, "test": as_split(test, test_labels)}
    md5s = {file.name: file.md5 for file in OFFICIAL}
    return Images(parts, 10, {"name": "MNIST", "of": len(train) + len(test), "md5": md5s})


def embedded() -> Images:
    """scikit-learn's 1,797 handwritten digits (UCI, 8 × 8 pixels), enlarged to 28 × 28: no download.

    997 train, 300 validation, 500 test images, in a fixed random order.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1)  # (1797, 1, 8, 8), values 0..16
    large = torch.nn.functional.interpolate(small, size=28, mode="bilinear", align_corners=False)
    images = (large * (255 / 16)).round().clamp(0, 255).to(torch.uint8).numpy()
    order = np.random.default_rng(derive_seed("test split", "digits")).permutation(len(images))
    test, pool = order[:500], order[500:]
    training, validation = split_off_validation(images[pool], digits.target[pool], 300, "digits")
    parts = {"train": training, "validation": validation, "test": as_split(images[test], digits.target[test])}
    return Images(parts, 10, {"name": "handwritten digits (scikit-learn), in place of MNIST", "of": len(images)})


def read_idx(path: Path) -> np.ndarray:
    """The array of a gzip-compressed idx file of bytes.

    Raises:
        ValueError: It is no such file, is cut short, or is too large.
    """
    try:
        with gzip.open(path) as file:
            content = file.read(LARGEST + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file: {error}") from None
    if len(content) > LARGEST:
        raise ValueError(f"{path}: more than the {LARGEST} bytes that are allowed")
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path}: not an idx file of unsigned bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(int)
    data = np.frombuffer(content, np.uint8, -1, 4 + 4 * dimensions)
    if data.size != shape.prod():
        raise ValueError(f"{path}: {data.size} values for the shape {tuple(shape)}")
    return data.reshape(shape)
