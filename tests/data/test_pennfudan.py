"""PennFudanPed from archives of made-up images: good ones, damaged ones, and those of another set."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bayesft.data import pennfudan
from bayesft.data.fetch import FetchError
from bayesft.data.scenes import Scenes

NAMES = [f"FudanPed{i:05d}" for i in range(1, 75)] + [f"PennPed{i:05d}" for i in range(1, 97)]


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def member(name: str, masks: bool = False) -> str:
    return f"PennFudanPed/PedMasks/{name}_mask.png" if masks else f"PennFudanPed/PNGImages/{name}.png"


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Images whose top left pixel is their number, of differing size, with one to three instances."""
    contents = {"PennFudanPed/readme.txt": b"no image"}
    for number, name in enumerate(NAMES):
        height, width = 12 + number % 5, 16 + number % 3
        image = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image[0, 0] = number, 0, 0
        masks = np.zeros((height, width), np.uint8)
        for i in range(1 + number % 3):
            masks[2:9, 1 + 5 * i : 4 + 5 * i] = i + 1
        contents[member(name)], contents[member(name, True)] = png(image), png(masks)
    return contents


def archive(path: Path, contents: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


@pytest.fixture
def table(tmp_path, monkeypatch, contents) -> None:
    path = tmp_path / "table"
    digests = {name: hashlib.sha256(c).hexdigest() for name, c in contents.items() if name.endswith(".png")}
    path.write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    monkeypatch.setattr(pennfudan, "TABLE", path)
    monkeypatch.setattr(pennfudan, "URL", (tmp_path / "no such host.zip").as_uri())


@pytest.fixture
def mirror(tmp_path, table, contents) -> Path:
    return archive(tmp_path / "mirror" / "pennfudan" / pennfudan.NAME, contents).parents[1]


def numbers(part) -> list[int]:
    return [int(scene.image[0, 0, 0]) for scene in part]


def test_the_table_of_the_real_set():
    lines = [line.split("  ") for line in pennfudan.TABLE.read_text().splitlines()]
    assert all(len(digest) == 64 and int(digest, 16) for digest, _ in lines)
    assert sorted(name for _, name in lines) == sorted(member(n, masks) for n in NAMES for masks in (False, True))


def test_the_split(tmp_path, mirror):
    scenes = pennfudan.official(tmp_path / "raw", str(mirror))
    assert scenes.about["images_used"] == {"train": 110, "validation": 20, "test": 40} and scenes.about["of"] == 170
    found = {name: numbers(part) for name, part in scenes.parts.items()}
    assert sorted(sum(found.values(), [])) == list(range(170))
    assert {name: sum(n < 74 for n in part) for name, part in found.items()} == {
        "train": 48,
        "validation": 9,
        "test": 17,
    }
    assert all(part != sorted(part) and min(part[:10]) < 74 <= max(part[:10]) for part in found.values())
    again = pennfudan.official(tmp_path / "raw")
    assert {name: numbers(part) for name, part in again.parts.items()} == found


def test_images_and_masks_are_those_of_the_files(tmp_path, mirror, contents):
    scenes = pennfudan.official(tmp_path / "raw", str(mirror))
    for scene in scenes.parts["validation"]:
        number = int(scene.image[0, 0, 0])
        image = np.asarray(Image.open(io.BytesIO(contents[member(NAMES[number])])))
        assert np.array_equal(scene.image.permute(1, 2, 0).numpy(), image)
        expected = [[1 + 5 * i, 2, 4 + 5 * i, 9] for i in range(1 + number % 3)]
        assert scene.boxes.tolist() == expected and bool((scene.masks.flatten(1).sum(1) == 21).all())


def test_shrunk_images_keep_their_aspect_and_their_instances(tmp_path, mirror):
    full, small = (pennfudan.official(tmp_path / "raw", str(mirror), size) for size in (None, 8))
    for before, after in zip(full.parts["test"], small.parts["test"], strict=True):
        height, width = before.image.shape[1:]
        assert after.image.shape[1:] == (round(height * 8 / max(height, width)), round(width * 8 / max(height, width)))
        assert after.masks.dtype == torch.bool and len(after.masks) == len(before.masks)
        assert after.image.shape[1:] == after.masks.shape[1:]
    kept = pennfudan.official(tmp_path / "raw", None, 18)
    assert all(torch.equal(a.image, b.image) for a, b in zip(kept.parts["test"], full.parts["test"], strict=True))


def test_scenes_of_differing_size_are_saved(tmp_path, mirror):
    scenes = pennfudan.official(tmp_path / "raw", str(mirror))
    scenes.save(tmp_path / "file")
    loaded = Scenes.load(tmp_path / "file")
    assert all(torch.equal(a.masks, b.masks) for a, b in zip(scenes.parts["test"], loaded.parts["test"], strict=True))


@pytest.mark.parametrize("place", ["pennfudan/PennFudanPed.zip", "PennFudanPed.zip"])
@pytest.mark.parametrize("as_url", [False, True])
def test_mirrors(tmp_path, table, contents, place, as_url):
    mirror = tmp_path / "m"
    archive(mirror / place, contents)
    pennfudan.official(tmp_path / "raw", mirror.as_uri() + "/" if as_url else str(mirror))
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [pennfudan.NAME]


def test_a_good_file_is_used_again(tmp_path, table, contents):
    archive(tmp_path / "raw" / pennfudan.NAME, contents)
    pennfudan.official(tmp_path / "raw", str(tmp_path / "nowhere"))


def test_no_place_has_it(tmp_path, table):
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(FetchError, match="(?s)could not be had.*nowhere.*no%20such%20host.*data.source=embedded"):
        pennfudan.official(tmp_path / "raw", str(tmp_path / "nowhere"))
    assert not list((tmp_path / "raw").iterdir())


def changed(contents: dict[str, bytes], how: str) -> dict[str, bytes]:
    victim = member(NAMES[5])
    if how == "missing":
        return {name: content for name, content in contents.items() if name != victim}
    if how == "extra":
        return {**contents, member("FudanPed00099"): contents[victim]}
    return {**contents, victim: contents[member(NAMES[6])]}


DAMAGE = {
    "missing": "lacks PennFudanPed/PNGImages/FudanPed00006.png",
    "extra": "unknown member PennFudanPed/PNGImages/FudanPed00099.png",
    "changed": "FudanPed00006.png has sha256",
    "flipped byte": "FudanPed00006.png is damaged",
    "cut short": "not a whole zip archive",
    "a page": "not a whole zip archive",
}


def damaged(path: Path, contents: dict[str, bytes], how: str) -> Path:
    archive(path, changed(contents, how) if how in ("missing", "extra", "changed") else contents)
    content = bytearray(path.read_bytes())
    if how == "flipped byte":
        content[content.index(contents[member(NAMES[5])]) + 60] ^= 1
    elif how == "cut short":
        del content[len(content) // 2 :]
    elif how == "a page":
        content = bytearray(b"<html>moved</html>")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_mirror_stops_the_run(tmp_path, table, contents, how):
    path = damaged(tmp_path / "mirror" / pennfudan.NAME, contents, how)
    with pytest.raises(FetchError, match=rf"{DAMAGE[how]}.*replace it, or unset the mirror") as error:
        pennfudan.official(tmp_path / "raw", str(tmp_path / "mirror"))
    assert str(path) in str(error.value) and ".part" not in str(error.value)
    assert not list((tmp_path / "raw").iterdir()) and path.exists()


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_download_is_not_kept(tmp_path, table, contents, how, monkeypatch):
    path = damaged(tmp_path / "host.zip", contents, how)
    monkeypatch.setattr(pennfudan, "URL", path.as_uri())
    with pytest.raises(FetchError, match=rf"(?s){DAMAGE[how]}.*Set data.mirror"):
        pennfudan.official(tmp_path / "raw")
    assert not list((tmp_path / "raw").iterdir())


@pytest.mark.parametrize("how", ["changed", "cut short"])
def test_a_damaged_file_is_replaced(tmp_path, mirror, contents, how):
    path = damaged(tmp_path / "raw" / pennfudan.NAME, contents, how)
    assert len(pennfudan.official(tmp_path / "raw", str(mirror)).parts["train"]) == 110
    assert len(pennfudan.read_verified(path)) == 340


def test_a_damaged_file_without_another_is_removed(tmp_path, table, contents):
    path = damaged(tmp_path / "raw" / pennfudan.NAME, contents, "changed")
    with pytest.raises(FetchError, match="now removed"):
        pennfudan.official(tmp_path / "raw")
    assert not path.exists()


def test_a_member_twice(tmp_path, table, contents):
    path = archive(tmp_path / "mirror" / pennfudan.NAME, contents)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(member(NAMES[5]), contents[member(NAMES[5])])
    with pytest.raises(FetchError, match="has twice .*FudanPed00006.png"):
        pennfudan.official(tmp_path / "raw", str(tmp_path / "mirror"))


def test_a_member_that_is_too_large_is_not_unpacked(tmp_path, table, contents):
    archive(tmp_path / "mirror" / pennfudan.NAME, {**contents, member(NAMES[5]): bytes(pennfudan.LARGEST + 1)})
    with pytest.raises(FetchError, match="FudanPed00006.png has 8388609 bytes, at most 8388608"):
        pennfudan.official(tmp_path / "raw", str(tmp_path / "mirror"))
