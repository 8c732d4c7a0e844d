"""MNIST from idx files, the embedded digits in its place, and the way to either by name."""

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from bayesft.data import FetchError, Source, load_images, mnist

TRAIN_COUNT, TEST_COUNT = 5_010, 20
NAMES = [file.name for file in mnist.OFFICIAL]


def idx(array: np.ndarray) -> bytes:
    header = b"\x00\x00\x08" + bytes([array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content, mtime=0))
    return path


def tiny(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of 3 × 4 that carry their own number, and labels that follow from it."""
    numbers = np.arange(count)
    images = np.zeros((count, 3, 4), np.uint8)
    images[:, 0, 0], images[:, 2, 3] = numbers % 256, numbers // 256
    return images, numbers % 10


def numbers_of(split) -> list[int]:
    numbers = (split.images[:, 0, 0, 0].long() + 256 * split.images[:, 0, 2, 3].long()).tolist()
    assert split.labels.tolist() == [number % 10 for number in numbers]
    return numbers


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("idx")
    for name, array in zip(NAMES, (*tiny(TRAIN_COUNT), *tiny(TEST_COUNT)), strict=True):
        write(folder / name, idx(array))
    return folder


@pytest.fixture(scope="module")
def digits():
    return mnist.embedded()


@pytest.mark.parametrize("shape", [(7,), (5, 3, 2), (300, 2), (0, 4)])
def test_read_idx_reads_the_array(tmp_path, shape):
    array = (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)
    read = mnist.read_idx(write(tmp_path / "a.gz", idx(array)))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


GOOD = idx(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x08",
        b"\x00\x00\x0d" + GOOD[3:],
        b"\x01" + GOOD[1:],
        GOOD[:6],
        GOOD[:16],
        GOOD[:-1],
        GOOD + b"\x00",
    ],
    ids=["empty", "three bytes", "floats", "wrong magic", "half a header", "header", "one too few", "one too many"],
)
def test_read_idx_refuses_what_is_no_whole_idx_file(tmp_path, content):
    with pytest.raises(ValueError):
        mnist.read_idx(write(tmp_path / "a.gz", content))


def test_read_idx_names_the_file(tmp_path):
    for content in (GOOD[:-1], GOOD + b"\x00", b"text"):
        with pytest.raises(ValueError, match="broken.gz"):
            mnist.read_idx(write(tmp_path / "broken.gz", content))


@pytest.mark.parametrize("content", [gzip.compress(GOOD)[:-10], GOOD], ids=["cut short", "not compressed"])
def test_read_idx_refuses_what_is_no_whole_gzip_file(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError):
        mnist.read_idx(tmp_path / "a.gz")


@pytest.fixture
def verified(folder, monkeypatch) -> dict[str, str]:
    """The tiny files are the official ones; their checksums."""
    md5s = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setattr(mnist, "OFFICIAL", tuple(Source(name, md5, ()) for name, md5 in md5s.items()))
    return md5s


def test_official_splits_the_training_file_and_keeps_the_test_file(folder, verified):
    images = mnist.official(folder, None)
    assert {name: len(split) for name, split in images.parts.items()} == {"train": 10, "validation": 5000, "test": 20}
    assert images.parts["test"].images.shape == (20, 1, 3, 4)
    assert sorted(numbers_of(images.parts["train"]) + numbers_of(images.parts["validation"])) == list(range(5010))
    assert numbers_of(images.parts["test"]) == list(range(20))
    assert (images.classes, images.about["of"]) == (10, 5030)
    again = mnist.official(folder, None)
    assert numbers_of(again.parts["train"]) == numbers_of(images.parts["train"])


def test_official_refuses_images_without_labels(folder, tmp_path, monkeypatch):
    for name in NAMES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    write(tmp_path / NAMES[3], idx(tiny(TEST_COUNT - 1)[1]))
    md5s = [hashlib.md5((tmp_path / name).read_bytes()).hexdigest() for name in NAMES]
    monkeypatch.setattr(mnist, "OFFICIAL", tuple(map(Source, NAMES, md5s, [()] * 4)))
    with pytest.raises(ValueError, match="19 labels"):
        mnist.official(tmp_path, None)


def test_official_files_have_two_hosts_each():
    assert len(set(NAMES)) == 4
    for file in mnist.OFFICIAL:
        assert len(file.md5) == 32 and len(file.urls) == 2
        assert all(url.startswith("https://") and url.endswith("/" + file.name) for url in file.urls)


def test_embedded_digits_have_the_shape_of_mnist(digits):
    assert {name: len(split) for name, split in digits.parts.items()} == {"train": 997, "validation": 300, "test": 500}
    assert digits.classes == 10
    for split in digits.parts.values():
        assert split.images.shape[1:] == (1, 28, 28) and split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.labels.unique().tolist() == list(range(10))
        assert split.images.min() == 0 and split.images.max() == 255


def test_embedded_parts_are_all_the_digits_once_with_their_labels(digits):
    # Bilinear enlargement is linear in the pixels, large = A · small · Aᵀ, so it can be undone.
    place = ((np.arange(28) + 0.5) * 8 / 28 - 0.5).clip(0, 7)
    weights = np.maximum(0, 1 - abs(place[:, None] - np.arange(8)))  # A, (28, 8)
    undo = np.linalg.pinv(weights)
    large = torch.cat([split.images for split in digits.parts.values()])[:, 0].numpy() * (16 / 255)
    small = (undo @ large @ undo.T).round().astype(int)
    labels = torch.cat([split.labels for split in digits.parts.values()]).tolist()
    found = sorted((image.tobytes(), label) for image, label in zip(small, labels, strict=True))
    raw = load_digits()
    expected = [(image.astype(int).tobytes(), label) for image, label in zip(raw.images, raw.target, strict=True)]
    assert len(set(expected)) == 1797  # no digit is there twice, so the parts have none in common
    assert found == sorted(expected)


def test_embedded_digits_are_the_same_at_each_call(digits):
    np.random.seed(5)
    torch.manual_seed(5)
    for name, split in mnist.embedded().parts.items():
        assert torch.equal(split.images, digits.parts[name].images)
        assert torch.equal(split.labels, digits.parts[name].labels)


def test_embedded_images_need_no_file(digits, tmp_path):
    images = load_images("mnist", "embedded", tmp_path / "none", mirror=str(tmp_path / "none either"))
    assert images.about == {**digits.about, "source": "embedded"}
    assert torch.equal(images.parts["train"].images, digits.parts["train"].images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", ["", "mnist"])
def test_official_images_come_from_verified_files(folder, tmp_path, verified, inside):
    mirror, target = tmp_path / "mirror", tmp_path / "folder"
    shutil.copytree(folder, mirror / inside)
    images = load_images("mnist", "official", target, mirror=str(mirror))
    assert images.about == {"name": "MNIST", "of": 5030, "source": "official", "md5": verified}
    assert numbers_of(images.parts["test"]) == list(range(20))
    assert sorted(path.name for path in target.iterdir()) == sorted(NAMES)


def test_official_images_are_not_read_from_files_with_other_content(folder, tmp_path):
    with pytest.raises(FetchError, match=NAMES[0]):
        load_images("mnist", "official", tmp_path, mirror=str(folder))  # tiny files, but the true checksums
    assert list(tmp_path.iterdir()) == []
