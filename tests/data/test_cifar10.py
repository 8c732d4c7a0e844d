"""CIFAR-10 from whole and partial archives, good and damaged, and the drawn shapes in its place."""

import hashlib
import io
import lzma
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesft.data import FetchError, Source, cifar10, load_images

COUNT = 20
PUBLISHED, PUBLISHED_BATCHES = cifar10.ARCHIVE, dict(cifar10.BATCHES)
TRAINING = [name for name in cifar10.BATCHES if name != cifar10.TEST]


def batch(number: int) -> bytes:
    """Records that carry their batch and their number in it, in red; green and blue are 1 and 2."""
    records = np.zeros((COUNT, 3073), np.uint8)
    records[:, 0], records[:, 1], records[:, 2] = np.arange(COUNT) % 10, number, np.arange(COUNT)
    records[:, 1025], records[:, 2049] = 1, 2
    return records.tobytes()


BATCHES = {name: batch(number) for number, name in enumerate(cifar10.BATCHES)}
EXTRAS = {"batches.meta.txt": b"airplane", "readme.html": b"<html>"}


def pack(*names: str, folder: str = "cifar-10-batches-bin/", **changed: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            content = changed.get(name.split(".")[0], {**BATCHES, **EXTRAS}.get(name, b"text"))
            info = tarfile.TarInfo(folder + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return lzma.compress(buffer.getvalue())


WHOLE = pack(*BATCHES, *EXTRAS)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Batches of 20 images, by their own checksums, and no official host."""
    monkeypatch.setattr(cifar10, "BATCHES", {n: hashlib.md5(c).hexdigest() for n, c in BATCHES.items()})
    monkeypatch.setattr(cifar10, "ARCHIVE", Source(cifar10.ARCHIVE.name, hashlib.md5(WHOLE).hexdigest(), ()))


def numbers_of(split) -> list[tuple[int, int]]:
    numbers = [tuple(image[0, 0, :2].tolist()) for image in split.images]
    assert split.labels.tolist() == [number % 10 for _, number in numbers]
    assert split.images[:, 1, 0, 0].unique().tolist() == [1] and split.images[:, 2, 0, 0].unique().tolist() == [2]
    return numbers


def check(images, training: list[str], name: str):
    """All of the batches are there, a tenth of the training images held out, and `about` says so."""
    held_out = len(training) * COUNT // 10
    expected = [(list(BATCHES).index(batch), number) for batch in training for number in range(COUNT)]
    found = [numbers_of(images.parts[part]) for part in ("train", "validation", "test")]
    assert sorted(found[0] + found[1]) == sorted(expected) and len(found[1]) == held_out
    assert found[0] != sorted(found[0])
    assert found[2] == [(5, number) for number in range(COUNT)]
    assert images.parts["train"].images.shape[1:] == (3, 32, 32) and images.classes == 10
    md5s = {file: cifar10.BATCHES[file] for file in [*training, cifar10.TEST]}
    assert images.about == {"name": name, "of": len(expected) + COUNT, "md5": md5s, "source": "official"}


def test_the_published_checksum_and_host():
    assert PUBLISHED.md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    assert PUBLISHED.urls == ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
    assert len(set(PUBLISHED_BATCHES.values())) == 6


def test_the_whole_archive_comes_before_parts_and_hosts(mirror, tmp_path):
    mirror.put("cifar10/cifar-10-binary.tar.gz", WHOLE)
    mirror.put("cifar10/" + cifar10.PARTS[0], b"not looked at")
    for _ in range(2):
        check(load_images("cifar10", "official", tmp_path / "raw", mirror.base), TRAINING, "CIFAR-10")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["cifar-10-binary.tar.gz"]


def test_the_whole_archive_comes_from_its_host(host, tmp_path, monkeypatch):
    url = host.put("/official.tar.gz", WHOLE)
    monkeypatch.setattr(cifar10, "ARCHIVE", Source(cifar10.ARCHIVE.name, cifar10.ARCHIVE.md5, (url,)))
    (tmp_path / "empty").mkdir()
    for mirror in (None, str(tmp_path / "empty")):
        check(load_images("cifar10", "official", tmp_path / str(mirror)[-5:], mirror), TRAINING, "CIFAR-10")


@pytest.mark.parametrize("inside", ["", "cifar10/"])
def test_a_part_gives_the_batches_that_it_has(mirror, tmp_path, inside):
    mirror.put(inside + cifar10.PARTS[0], pack(*TRAINING[:2], cifar10.TEST, *EXTRAS))
    for _ in range(2):
        images = load_images("cifar10", "official", tmp_path / "raw", mirror.base)
        check(images, TRAINING[:2], "CIFAR-10, 40 of 50,000 training images")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [cifar10.PARTS[0]]


def test_two_parts_give_the_whole(mirror, tmp_path):
    mirror.put(cifar10.PARTS[0], pack(*TRAINING[:2], cifar10.TEST))
    mirror.put(cifar10.PARTS[1], pack(*TRAINING[2:]))
    check(load_images("cifar10", "official", tmp_path / "raw", mirror.base), TRAINING, "CIFAR-10")


def test_a_part_on_disk_is_not_used_without_the_mirror(mirror, tmp_path):
    mirror.put(cifar10.PARTS[0], pack(*TRAINING[:2], cifar10.TEST))
    load_images("cifar10", "official", tmp_path / "raw", mirror.base)
    with pytest.raises(FetchError, match="BAYESFT_MIRROR"):
        load_images("cifar10", "official", tmp_path / "raw")


@pytest.mark.parametrize("batches", [(cifar10.TEST,), TRAINING[:2]], ids=["no training batch", "no test batch"])
def test_parts_must_have_a_training_and_the_test_batch(mirror, tmp_path, batches):
    mirror.put(cifar10.PARTS[0], pack(*batches))
    with pytest.raises(FetchError, match="are needed"):
        load_images("cifar10", "official", tmp_path / "raw", mirror.base)


GOOD = pack(TRAINING[0], cifar10.TEST)
DAMAGED = {
    "cut short": (GOOD[:-40], "not a whole tar"),
    "another file": (b"<html>", "not a whole tar"),
    "one wrong bit": (pack(TRAINING[0], cifar10.TEST, test_batch=BATCHES[cifar10.TEST][:-1] + b"\1"), "expected md5"),
    "a short batch": (pack(TRAINING[0], cifar10.TEST, data_batch_1=b""), "expected md5"),
    "a path outside": (pack(TRAINING[0], cifar10.TEST, folder="../"), "unexpected member"),
    "a pickle": (pack(TRAINING[0], cifar10.TEST, "data_batch_1.pickle"), "unexpected member"),
    "no batch": (pack(*EXTRAS), "no batch"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_part_stops_the_run_and_is_not_left(mirror, tmp_path, fault):
    content, message = DAMAGED[fault]
    mirror.put(cifar10.PARTS[0], GOOD)
    mirror.put(cifar10.PARTS[1], content)
    with pytest.raises(FetchError, match=message) as error:
        load_images("cifar10", "official", tmp_path / "raw", mirror.base)
    assert cifar10.PARTS[1] in str(error.value)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [cifar10.PARTS[0]]


def test_a_part_damaged_on_disk_is_fetched_again(mirror, tmp_path):
    mirror.put(cifar10.PARTS[0], GOOD)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / cifar10.PARTS[0]).write_bytes(GOOD[:-40])
    images = load_images("cifar10", "official", tmp_path / "raw", mirror.base)
    check(images, TRAINING[:1], "CIFAR-10, 20 of 50,000 training images")
    assert (tmp_path / "raw" / cifar10.PARTS[0]).read_bytes() == GOOD


def test_a_damaged_whole_archive_in_the_mirror_stops_the_run(mirror, tmp_path):
    mirror.put("cifar10/cifar-10-binary.tar.gz", WHOLE[:-1])
    mirror.put(cifar10.PARTS[0], GOOD)
    with pytest.raises(FetchError, match="damaged"):
        load_images("cifar10", "official", tmp_path / "raw", mirror.base)
    assert list((tmp_path / "raw").iterdir()) == []


def test_an_archive_without_a_batch_is_refused(mirror, tmp_path, monkeypatch):
    content = pack(*list(BATCHES)[1:])
    monkeypatch.setattr(cifar10, "ARCHIVE", Source(cifar10.ARCHIVE.name, hashlib.md5(content).hexdigest(), ()))
    mirror.put("cifar-10-binary.tar.gz", content)
    with pytest.raises(ValueError, match="data_batch_1.bin"):
        load_images("cifar10", "official", tmp_path / "raw", mirror.base)


@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_decode_gives_back_what_was_encoded(labels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 3, 32, 32), np.uint8)
    content = b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True))
    found, found_labels = cifar10.decode(content, "a batch")
    np.testing.assert_array_equal(found, images)
    assert found_labels.tolist() == labels


@pytest.mark.parametrize("content", [b"", b"\0" * 3072, b"\0" * 3074, b"\x0a" + b"\0" * 3072])
def test_decode_refuses_other_bytes(content):
    with pytest.raises(ValueError, match="a batch"):
        cifar10.decode(content, "a batch")


@pytest.fixture(scope="module")
def shapes():
    return cifar10.embedded()


def test_shapes_have_the_form_of_cifar10(shapes):
    assert {name: len(part) for name, part in shapes.parts.items()} == {"train": 2000, "validation": 400, "test": 600}
    assert shapes.classes == 10 and "in place of CIFAR-10" in shapes.about["name"] and shapes.about["of"] == 3000
    for part in shapes.parts.values():
        assert part.images.shape[1:] == (3, 32, 32) and part.images.dtype == torch.uint8
        assert part.images.is_contiguous()  # or it could not be saved
        assert len(part.labels.bincount().unique()) == 1
        assert len(set(part.labels[:100].tolist())) == 10  # the first ones are a sample of all
    pixels = torch.cat([part.images for part in shapes.parts.values()])
    assert len({image.numpy().tobytes() for image in pixels}) == 3000
    assert 30 < pixels.float().std() < 90 and pixels.min() < 20 and pixels.max() > 235


def test_shapes_are_the_same_at_each_call(shapes):
    np.random.seed(5)
    torch.manual_seed(5)
    for name, part in cifar10.embedded().parts.items():
        assert torch.equal(part.images, shapes.parts[name].images)
        assert torch.equal(part.labels, shapes.parts[name].labels)


@pytest.mark.slow
def test_shapes_are_learnt_fast_but_not_by_their_colour_or_to_the_last(shapes, reference_accuracy, colour_accuracy):
    assert 0.15 < colour_accuracy(shapes) < 0.5
    assert 0.75 < reference_accuracy(shapes, epochs=4) < 0.98
