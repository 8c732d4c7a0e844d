"""GTSRB from its official archives and from a mirror's subset, good and damaged, and the drawn signs in its place."""

import hashlib
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesft.data import FetchError, Source, gtsrb, load_images, signs

CLASSES, TRACKS, FRAMES, TESTS = 3, 4, 3, 5
HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n"


def ppm(width: int, height: int, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> bytes:
    """A white image in which the region `box` has one colour."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = colour
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def tiny(training: str, test_labels: str) -> dict[str, bytes]:
    """Three classes of four tracks of three frames, and 15 test images; the colour is (class, track, frame)."""
    files = {}
    box = (5, 6, 25, 30)
    for label in range(CLASSES):
        rows = HEADER
        for track in range(TRACKS):
            for frame in range(FRAMES):
                name, width = f"{track:05}_{frame:05}.ppm", 30 + frame
                files[f"{training}/{label:05}/{name}"] = ppm(width, 36, box, (label, track, frame))
                rows += f"{name};{width};36;5;6;25;30;{label}\r\n"
        files[f"{training}/{label:05}/GT-{label:05}.csv"] = rows.encode()
    rows = HEADER
    for number in range(CLASSES * TESTS):
        files[f"GTSRB/Final_Test/Images/{number:05}.ppm"] = ppm(40, 36, box, (number % CLASSES, 200, number))
        rows += f"{number:05}.ppm;40;36;5;6;25;30;{number % CLASSES}\r\n"
    files[test_labels] = rows.encode()
    return files


SUBSET = tiny("GTSRB/Training", "GTSRB/GT-final_test.csv")
WHOLE = tiny("GTSRB/Final_Training/Images", "GT-final_test.csv")
TRAINING_CSV, TEST_CSV = "GTSRB/Training/00001/GT-00001.csv", "GTSRB/GT-final_test.csv"


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return lzma.compress(buffer.getvalue())


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("GTSRB")
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    monkeypatch.setattr(gtsrb, "CLASSES", CLASSES)


@pytest.fixture
def archives(monkeypatch) -> dict[str, bytes]:
    """The official archives by name, tiny, with their checksums published."""
    names = [file.name for file in gtsrb.OFFICIAL]
    members = [
        {"GTSRB/Readme-Images.txt": b"", **{n: c for n, c in WHOLE.items() if "Training" in n}},
        {n: c for n, c in WHOLE.items() if "Final_Test" in n} | {"GTSRB/Final_Test/Images/GT-final_test.test.csv": b""},
        {"GT-final_test.csv": WHOLE["GT-final_test.csv"]},
    ]
    archives = dict(zip(names, map(zipped, members), strict=True))
    sources = (Source(name, hashlib.md5(content).hexdigest(), ()) for name, content in archives.items())
    monkeypatch.setattr(gtsrb, "OFFICIAL", tuple(sources))
    return archives


def put_subset(mirror, content: bytes, sums: str | None = None):
    mirror.put("gtsrb/" + gtsrb.SUBSET, content)
    digest = hashlib.sha256(content).hexdigest()
    mirror.put("SHA256SUMS", (f"{digest}  gtsrb/{gtsrb.SUBSET}\n" if sums is None else sums).encode())


def colours_of(split) -> list[tuple[int, int, int]]:
    """The colours of the regions: a crop that is off by a pixel would have white in it."""
    assert split.images.shape[1:] == (3, 32, 32) and split.images.dtype == torch.uint8
    assert torch.equal(split.images.amax((2, 3)), split.images.amin((2, 3)))
    colours = [tuple(image[:, 0, 0].tolist()) for image in split.images]
    assert split.labels.tolist() == [label for label, _, _ in colours]
    return colours


def check(images):
    """Every image once; one whole track of each class is validation; all parts in random order."""
    train, validation, test = (colours_of(images.parts[name]) for name in ("train", "validation", "test"))
    everything = [(c, t, f) for c in range(CLASSES) for t in range(TRACKS) for f in range(FRAMES)]
    assert sorted(train + validation) == everything
    held_out = {(label, track) for label, track, _ in validation}
    assert len(held_out) == CLASSES and len(validation) == CLASSES * FRAMES
    assert not held_out & {(label, track) for label, track, _ in train}
    assert sorted(number for _, _, number in test) == list(range(CLASSES * TESTS))
    assert train != sorted(train) and validation != sorted(validation) and test != sorted(test, key=lambda c: c[2])
    assert images.about["of"] == 51 and "cropped" in images.about["images"] and images.about["source"] == "official"


def test_the_official_archives_come_before_the_subset(mirror, tmp_path, archives):
    for name, content in archives.items():
        mirror.put(f"gtsrb/{name}", content)
    put_subset(mirror, b"not looked at")
    images = load_images("gtsrb", "official", tmp_path / "raw", mirror.base)
    check(images)
    assert images.about["name"] == "GTSRB"
    assert images.about["md5"] == {file.name: file.md5 for file in gtsrb.OFFICIAL}
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == sorted(archives)


def test_the_official_archives_come_from_their_hosts(host, tmp_path, archives, monkeypatch):
    sources = (Source(f.name, f.md5, (host.put("/" + f.name, archives[f.name]),)) for f in gtsrb.OFFICIAL)
    monkeypatch.setattr(gtsrb, "OFFICIAL", tuple(sources))
    check(load_images("gtsrb", "official", tmp_path))


def test_the_subset_is_used_where_the_archives_are_not_all_there(mirror, tmp_path, archives):
    mirror.put(gtsrb.OFFICIAL[2].name, archives[gtsrb.OFFICIAL[2].name])
    content = tar(SUBSET)
    put_subset(mirror, content)
    whole_split = None
    for _ in range(2):
        images = load_images("gtsrb", "official", tmp_path / "raw", mirror.base)
        check(images)
        train = colours_of(images.parts["train"])
        assert whole_split in (None, train)
        whole_split = train
    name = "GTSRB, balanced subset (36 of 39,209 training and 15 of 12,630 test images)"
    assert images.about["name"] == name
    assert images.about["sha256"] == {gtsrb.SUBSET: hashlib.sha256(content).hexdigest()}


def test_without_a_mirror_the_subset_on_disk_is_not_used(mirror, tmp_path, archives):
    put_subset(mirror, tar(SUBSET))
    load_images("gtsrb", "official", tmp_path / "raw", mirror.base)
    with pytest.raises(FetchError, match=gtsrb.OFFICIAL[0].name):
        load_images("gtsrb", "official", tmp_path / "raw")


@pytest.mark.parametrize("sums", ["", f"{'0' * 64}  gtsrb/{gtsrb.SUBSET}\n"], ids=["not listed", "another sum"])
def test_a_subset_that_is_not_what_the_mirror_lists_stops_the_run(mirror, tmp_path, archives, sums):
    put_subset(mirror, tar(SUBSET), sums)
    with pytest.raises(FetchError, match="mirror's copy is damaged"):
        load_images("gtsrb", "official", tmp_path / "raw", mirror.base)
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_damaged_archive_in_the_mirror_stops_the_run(mirror, tmp_path, archives):
    mirror.put(gtsrb.OFFICIAL[0].name, archives[gtsrb.OFFICIAL[0].name][:-1])
    put_subset(mirror, tar(SUBSET))
    with pytest.raises(FetchError, match=gtsrb.OFFICIAL[0].name):
        load_images("gtsrb", "official", tmp_path / "raw", mirror.base)
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil.ppm", "/GTSRB/GT-final_test.csv", "GTSRB/Training/../x.txt", "run.py"])
def test_a_listed_subset_with_other_names_is_refused(mirror, tmp_path, archives, name):
    put_subset(mirror, tar({**SUBSET, name: b"x"}))
    with pytest.raises(ValueError, match="unexpected member"):
        load_images("gtsrb", "official", tmp_path / "raw", mirror.base)


def test_a_listed_subset_that_is_cut_short_is_refused(mirror, tmp_path, archives):
    put_subset(mirror, tar(SUBSET)[:-50])
    with pytest.raises(ValueError, match="not a whole tar"):
        load_images("gtsrb", "official", tmp_path / "raw", mirror.base)


def replaced(path: str, old: str, new: str) -> dict[str, bytes]:
    assert old.encode() in SUBSET[path]
    return {**SUBSET, path: SUBSET[path].replace(old.encode(), new.encode(), 1)}


def without(path: str) -> dict[str, bytes]:
    return {name: content for name, content in SUBSET.items() if name != path}


IMAGE = "GTSRB/Training/00001/00002_00001.ppm"
ROW = "00002_00001.ppm;31;36;5;6;25;30;1\r\n"
WRONG = {
    "a missing training image": (without(IMAGE), "annotated but not there"),
    "a missing test image": (without("GTSRB/Final_Test/Images/00003.ppm"), "annotated but not there"),
    "a missing row": (replaced(TRAINING_CSV, ROW, ""), "1 images are not annotated"),
    "a row twice": (replaced(TRAINING_CSV, ROW, 2 * ROW), "annotated twice"),
    "missing annotations": (without(TRAINING_CSV), "not annotated"),
    "missing test labels": (without(TEST_CSV), "not annotated"),
    "another width": (replaced(TRAINING_CSV, "00001.ppm;31", "00001.ppm;32"), "annotated as"),
    "another height": (replaced(TEST_CSV, "40;36", "40;35"), "annotated as"),
    "a region outside": (replaced(TRAINING_CSV, "5;6;25;30", "5;6;25;37"), "region"),
    "an empty region": (replaced(TRAINING_CSV, "5;6;25;30", "25;6;25;30"), "region"),
    "another class": (replaced(TRAINING_CSV, "30;1\r", "30;2\r"), "class 2"),
    "a class too many": (replaced(TEST_CSV, "30;1\r", "30;3\r"), "test images of 4 classes"),
    "no number": (replaced(TRAINING_CSV, "5;6;25;30", "5;six;25;30"), "no annotations"),
    "a row cut short": (replaced(TRAINING_CSV, ";6;25;30;1", ""), "no annotations"),
    "other columns": (replaced(TRAINING_CSV, "Roi.X1", "X1"), "no annotations"),
    "no text": ({**SUBSET, TRAINING_CSV: b"\xff\xfe"}, "no annotations"),
    "an image cut short": ({**SUBSET, IMAGE: SUBSET[IMAGE][:-9]}, "00002_00001.ppm"),
    "an empty image": ({**SUBSET, IMAGE: b""}, "00002_00001.ppm"),
    "another format": ({**SUBSET, IMAGE: b"GIF89a" + bytes(50)}, "00002_00001.ppm"),
    "a grey image": ({**SUBSET, IMAGE: b"P5\n31 36\n255\n" + bytes(31 * 36)}, "L \\(31, 36\\)"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_decode_refuses_what_is_not_as_annotated(fault):
    files, message = WRONG[fault]
    with pytest.raises(ValueError, match=message):
        gtsrb.decode(files)


@given(box=st.tuples(*[st.integers(0, 14)] * 2, *[st.integers(15, 30)] * 2))
@settings(max_examples=20, deadline=None)
def test_only_the_region_is_seen(box):
    name, rows = "GTSRB/Final_Test/Images/00000.ppm", SUBSET[TEST_CSV].decode()
    rows = rows.replace("00000.ppm;40;36;5;6;25;30", "00000.ppm;30;30;" + ";".join(map(str, box)))
    files = {**SUBSET, TEST_CSV: rows.encode(), name: ppm(30, 30, box, (0, 99, 7))}
    image = gtsrb.decode(files)[3][0]
    assert (image == np.array([0, 99, 7]).reshape(3, 1, 1)).all()


@given(counts=st.lists(st.integers(2, 75), min_size=1, max_size=5), frames=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_tenth_of_the_tracks_of_each_class_is_held_out(counts, frames):
    labels = np.repeat(np.arange(len(counts)), np.array(counts) * frames)
    tracks = np.concatenate([np.repeat(np.arange(count), frames) for count in counts])
    held_out = gtsrb.hold_out_tracks(labels, tracks)
    for label, count in enumerate(counts):
        sets = [set(tracks[(labels == label) & part]) for part in (held_out, ~held_out)]
        assert not sets[0] & sets[1] and len(sets[0]) == max(1, round(count / 10)) and sets[1]
    order = np.random.default_rng(0).permutation(len(labels))  # the order of the images has no part in it
    np.testing.assert_array_equal(gtsrb.hold_out_tracks(labels[order], tracks[order]), held_out[order])


def test_a_class_of_one_track_cannot_be_split():
    with pytest.raises(ValueError, match="class 1 has one track"):
        gtsrb.hold_out_tracks(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0]))


def test_published_checksums_and_hosts():
    assert [file.md5[:4] for file in gtsrb.OFFICIAL] == ["f33f", "c7e4", "fe31"]
    for file in gtsrb.OFFICIAL:
        assert len(file.md5) == 32 and file.urls[0].startswith("https://sid.erda.dk/") and file.name in file.urls[0]


@pytest.fixture(scope="module")
def drawn():
    return gtsrb.embedded()


def test_drawn_signs_have_the_form_of_gtsrb(drawn):
    assert {name: len(part) for name, part in drawn.parts.items()} == {"train": 2580, "validation": 344, "test": 516}
    assert "in place of GTSRB" in drawn.about["name"] and drawn.about["of"] == 3440
    for part in drawn.parts.values():
        assert part.images.shape[1:] == (3, 32, 32) and part.images.dtype == torch.uint8
        assert part.images.is_contiguous()  # or it could not be saved
        assert len(part.labels.bincount()) == 43 and len(part.labels.bincount().unique()) == 1
        assert len(set(part.labels[:200].tolist())) > 35  # the first ones are a sample of all
    pixels = torch.cat([part.images for part in drawn.parts.values()])
    assert len({image.numpy().tobytes() for image in pixels}) == 3440
    assert 30 < pixels.float().std() < 90


def test_drawn_signs_are_the_same_at_each_call(drawn):
    np.random.seed(5)
    torch.manual_seed(5)
    for name, part in gtsrb.embedded().parts.items():
        assert torch.equal(part.images, drawn.parts[name].images)
        assert torch.equal(part.labels, drawn.parts[name].labels)


def test_no_two_signs_are_alike():
    assert len(signs.SIGNS) == 43
    templates = np.stack([np.asarray(signs.template(label), np.float32).ravel() for label in range(43)])
    distances = abs(templates[:, None] - templates[None]).mean(-1) + 255 * np.eye(43)
    assert distances.min() > 2


@pytest.mark.slow
def test_drawn_signs_are_learnt_fast_but_not_by_their_colour_or_to_the_last(drawn, reference_accuracy, colour_accuracy):
    assert 0.04 < colour_accuracy(drawn) < 0.5
    assert 0.5 < reference_accuracy(drawn, epochs=4) < 0.97
