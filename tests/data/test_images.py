"""Images in three parts: files, samples, standardisation, and the split that every run shares."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesft.data import Images, Split
from bayesft.data.images import as_split, split_off_validation


def part(count: int, seed: int = 0, shape: tuple[int, ...] = (2, 3, 3)) -> Split:
    random = np.random.default_rng(seed)
    return as_split(random.integers(0, 256, (count, *shape), np.uint8), random.integers(0, 4, count))


def some(train: int = 9, validation: int = 4, test: int = 5, seed: int = 0) -> Images:
    parts = {"train": part(train, seed), "validation": part(validation, seed + 1), "test": part(test, seed + 2)}
    return Images(parts, 4, {"name": "noise", "of": train + validation + test, "md5": {"a": "b"}})


def assert_equal(first: Images, second: Images):
    assert (first.classes, first.about) == (second.classes, second.about)
    assert list(first.parts) == list(second.parts)
    for name, split in first.parts.items():
        for one, other in zip(split, second.parts[name], strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)


def pool(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that carry their own number, and labels that follow from it."""
    numbers = np.arange(count)
    images = np.zeros((count, 2, 2), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = numbers % 256, numbers // 256
    return images, numbers % 7


def numbers_of(split: Split) -> list[int]:
    """The numbers that the images of a pool carry; their labels must have come with them."""
    numbers = (split.images[:, 0, 0, 0].long() + 256 * split.images[:, 0, 0, 1].long()).tolist()
    assert split.labels.tolist() == [number % 7 for number in numbers]
    return numbers


def test_load_reads_what_save_wrote(tmp_path):
    images = some()
    images.save(tmp_path / "new" / "images.safetensors")
    assert_equal(Images.load(tmp_path / "new" / "images.safetensors"), images)


def test_the_same_data_gives_the_same_bytes(tmp_path):
    some().save(tmp_path / "first")
    # The order in which parts and facts are named is no difference in the data.
    again = some()
    Images(dict(reversed(again.parts.items())), 4, dict(reversed(again.about.items()))).save(tmp_path / "second")
    some(seed=1).save(tmp_path / "third")
    first, second, third = ((tmp_path / name).read_bytes() for name in ("first", "second", "third"))
    assert first == second != third
    Images.load(tmp_path / "first").save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == first


def test_saving_leaves_nothing_else_and_replaces_what_was_there(tmp_path):
    (tmp_path / "images").write_text("old")
    some().save(tmp_path / "images")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert_equal(Images.load(tmp_path / "images"), some())


def test_limited_takes_the_first_of_each_part(tmp_path):
    images = some()
    limited = images.limited({"train": 3, "validation": None, "test": 100})
    assert [len(split) for split in limited.parts.values()] == [3, 4, 5]
    assert limited.about == {**images.about, "images_used": {"train": 3, "validation": 4, "test": 5}}
    assert limited.classes == 4
    for name, count in (("train", 3), ("validation", 4), ("test", 5)):
        assert torch.equal(limited.parts[name].images, images.parts[name].images[:count])
        assert torch.equal(limited.parts[name].labels, images.parts[name].labels[:count])
    limited.parts["train"].images.fill_(0)
    assert_equal(images, some())
    limited.save(tmp_path / "limited")  # a view of the whole would not go into a file
    assert_equal(Images.load(tmp_path / "limited"), limited)


def test_standardised_by_hand():
    def split(pixels: list[int]) -> Split:
        return as_split(np.array(pixels, np.uint8).reshape(-1, 1, 1), np.zeros(len(pixels)))

    images = Images({"train": split([0, 100]), "validation": split([50]), "test": split([255, 0])}, 1)
    standardised = images.standardised()
    deviation = 5000**0.5  # of 0 and 100, with n − 1
    for name, expected in (("train", [-50, 50]), ("validation", [0]), ("test", [205, -50])):
        torch.testing.assert_close(standardised[name].images.flatten(), torch.tensor(expected) / deviation)
        assert torch.equal(standardised[name].labels, images.parts[name].labels)


@given(channels=st.integers(1, 4), counts=st.tuples(st.integers(2, 6), st.integers(1, 6)), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_standardised_training_images_have_mean_0_and_deviation_1_a_channel(channels, counts, seed):
    scale = np.arange(1, channels + 1).reshape(-1, 1, 1) / channels  # another mean and deviation for each channel
    random = np.random.default_rng(seed)
    parts = {
        name: as_split((random.integers(0, 256, (count, channels, 6, 6)) * scale).astype(np.uint8), np.zeros(count))
        for name, count in zip(("train", "test"), counts, strict=True)
    }
    standardised = Images(parts, 1).standardised()
    train = standardised["train"].images
    assert train.dtype == torch.float32 and train.shape == (counts[0], channels, 6, 6)
    flat = train.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(channels), rtol=0, atol=1e-5)
    torch.testing.assert_close(flat.std(1), torch.ones(channels), rtol=1e-5, atol=0)
    raw = parts["train"].images.transpose(0, 1).flatten(1).double().numpy()
    mean, deviation = raw.mean(1).reshape(-1, 1, 1), raw.std(1, ddof=1).reshape(-1, 1, 1)
    expected = (parts["test"].images.numpy() - mean) / deviation
    np.testing.assert_allclose(standardised["test"].images.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_channel_without_contrast_gives_finite_numbers():
    constant = as_split(np.full((3, 2, 2), 7, np.uint8), np.zeros(3))
    standardised = Images({"train": constant, "test": constant}, 1).standardised()
    assert torch.equal(standardised["test"].images, torch.zeros(3, 1, 2, 2))


@given(count=st.integers(2, 600), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_split_holds_out_so_many_and_loses_none(count, data):
    held_out = data.draw(st.integers(1, count - 1))
    train, validation = split_off_validation(*pool(count), held_out, "a set")
    assert (len(train), len(validation)) == (count - held_out, held_out)
    assert sorted(numbers_of(train) + numbers_of(validation)) == list(range(count))


def test_the_split_is_random_fixed_and_named_by_the_data_set():
    def held_out(name: str) -> list[int]:
        return numbers_of(split_off_validation(*pool(500), 100, name)[1])

    first = held_out("a set")
    np.random.seed(1)
    torch.manual_seed(1)
    assert held_out("a set") == first
    assert held_out("another set") != first
    assert first != sorted(first) and max(first) > 400 and min(first) < 100


@pytest.mark.parametrize(("shape", "expected"), [((5, 4, 3), (5, 1, 4, 3)), ((5, 2, 4, 3), (5, 2, 4, 3))])
def test_as_split_gives_channels_and_int64_labels(shape, expected):
    split = as_split(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape), [0, 1, 2, 3, 4])
    assert split.images.shape == expected and split.images.dtype == torch.uint8
    assert split.images.flatten().tolist() == list(range(np.prod(shape)))
    assert split.labels.tolist() == [0, 1, 2, 3, 4] and split.labels.dtype == torch.int64
    assert len(split) == 5


def test_as_split_refuses_other_types_and_missing_labels():
    with pytest.raises(ValueError, match="float32 images"):
        as_split(np.zeros((3, 2, 2), np.float32), np.zeros(3))
    with pytest.raises(ValueError, match="2 labels"):
        as_split(np.zeros((3, 2, 2), np.uint8), np.zeros(2))
