"""GTSRB, the German Traffic Sign Recognition Benchmark (Stallkamp et al., 2012), and drawn signs in its place.

Every image is cropped to the sign, by the region of interest that the benchmark annotates, and then resized to
32 × 32 (bilinear, antialiased). Accuracies are of cropped signs, then, and not of whole images.
"""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bayesft.data import signs
from bayesft.data.fetch import Limits, Source, fetch, fetch_mirrored, listed_in_sums, tar_members, zip_members
from bayesft.data.images import Images, Split, as_split
from bayesft.files import checksum
from bayesft.seeds import derive_seed

CLASSES = 43
SIZE = 32
OFFICIAL = tuple(
    Source(name, md5, (f"https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/{name}",))
    for name, md5 in (
        ("GTSRB_Final_Training_Images.zip", "f33fd80ac59bff73c82d25ab499e03a3"),
        ("GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
        ("GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
    )
)
SUBSET = "gtsrb-subset.tar.xz"  # of a mirror, which lists its checksum
TRAINING_IMAGES, TEST_IMAGES = 39_209, 12_630
_ANNOTATION = re.compile(r"(GTSRB/(?:Training|Final_Training/Images)/(\d{5}))/GT-\2\.csv")
_TEST_ANNOTATION = re.compile(r"(?:GTSRB/)?GT-final_test\.csv")
_TEST_FOLDER = "GTSRB/Final_Test/Images"
_NAMES = re.compile(
    rf"{_ANNOTATION.pattern}|{_TEST_ANNOTATION.pattern}|GTSRB/(?:Training|Final_Training/Images)/\d{{5}}/\d{{5}}_\d{{5}}\.ppm"
    rf"|{_TEST_FOLDER}/(?:\d{{5}}\.ppm|GT-final_test\.test\.csv)"
    r"|(?:[\w-]+/)*[\w-]+\.(?:txt|html|pdf|db)"  # what comes along, and is not read
)
_LIMITS = Limits(_NAMES, members=100_000, largest=1 << 20, total=1 << 30)  # the largest image is 250 pixels a side


def official(folder: Path, mirror: str | None = None) -> Images:
    """GTSRB as 32 × 32 colour images of cropped signs, 43 classes, each part in a fixed random order.

    The official archives come from the mirror or else from their host. A mirror without them may hold `SUBSET`, listed
    in its SHA256SUMS: then the name in `about` says how many images it has. Validation is by track, the frames of one
    physical sign: about a tenth of each class's.

    Args:
        folder: Where the archives are kept.
        mirror: As for `fetch`.

    Returns:
        The images.

    Raises:
        FetchError: Neither can be had, or the mirror's copy is damaged.
        ValueError: An archive is damaged; an image is missing, not annotated or of another size than annotated; a class
            has no images.
    """
    paths = [fetch_mirrored(file.name, folder, mirror, "gtsrb", file.problem) for file in OFFICIAL]
    subset = None
    if mirror and None in paths:
        subset = fetch_mirrored(SUBSET, folder, mirror, "gtsrb", listed_in_sums(SUBSET, mirror, "gtsrb"))
    if subset:
        files = dict(tar_members(subset, _LIMITS))
        verified = {"sha256": {SUBSET: checksum(subset)}}
    else:
        archives = [fetch(file, folder, mirror, "gtsrb") for file in OFFICIAL]
        files = {name: content for path in archives for name, content in zip_members(path, _LIMITS)}
        verified = {"md5": {file.name: file.md5 for file in OFFICIAL}}
    train, labels, tracks, test, test_labels = decode(files)
    held_out = hold_out_tracks(labels, tracks)
    parts = {
        "train": _shuffled(train[~held_out], labels[~held_out], "train"),
        "validation": _shuffled(train[held_out], labels[held_out], "validation"),
        "test": _shuffled(test, test_labels, "test"),
    }
    counts = f"{len(train):,} of {TRAINING_IMAGES:,} training and {len(test):,} of {TEST_IMAGES:,} test images"
    return Images(
        parts,
        CLASSES,
        {
            "name": f"GTSRB, balanced subset ({counts})" if subset else "GTSRB",
            "of": len(train) + len(test),
            "images": f"cropped to the annotated sign, resized to {SIZE} × {SIZE}",
            **verified,
        },
    )


def decode(files: dict[str, bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The images of the archives, cropped and resized.

    Args:
        files: The contents of the files of all archives, by path.

    Returns:
        Training images (N, 3, 32, 32), uint8, their labels (N,) and tracks (N,); test images (M, 3, 32, 32), uint8, and
        their labels (M,).

    Raises:
        ValueError: An image is missing, not annotated or of another size than annotated, or a class has no images.
    """
    used: set[str] = set()
    train, labels, tracks = [], [], []
    test, test_labels = [], []
    for path in sorted(files):
        if match := _ANNOTATION.fullmatch(path):
            for row in _rows(path, files):
                if row["ClassId"] != int(match[2]):
                    raise ValueError(f"{path}: class {row['ClassId']} for {row['Filename']}")
                train.append(_sign(f"{match[1]}/{row['Filename']}", row, files, used))
                labels.append(row["ClassId"])
                tracks.append(int(row["Filename"].split("_")[0]))
        elif _TEST_ANNOTATION.fullmatch(path):
            for row in _rows(path, files):
                test.append(_sign(f"{_TEST_FOLDER}/{row['Filename']}", row, files, used))
                test_labels.append(row["ClassId"])
    if extra := sorted({path for path in files if path.endswith(".ppm")} - used):
        raise ValueError(f"GTSRB: {len(extra)} images are not annotated, among them {extra[0]}")
    for name, found in (("training", labels), ("test", test_labels)):
        if sorted(set(found)) != list(range(CLASSES)):
            raise ValueError(f"GTSRB: {name} images of {len(set(found))} classes, not of 0 … {CLASSES - 1}")
    return np.stack(train), np.array(labels), np.array(tracks), np.stack(test), np.array(test_labels)


def hold_out_tracks(labels: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """Which images are validation: a tenth of the tracks of each class, at least one, all their frames.

    Frames of one track show the same sign a moment later: a split by frame would validate on what was trained on.

    Args:
        labels: (N,).
        tracks: The number of each image's track within its class, (N,).

    Returns:
        Whether each image is validation, (N,), bool.

    Raises:
        ValueError: A class has one track only.
    """
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        numbers = np.unique(tracks[labels == label])
        if len(numbers) < 2:
            raise ValueError(f"GTSRB: class {label} has one track only, and training and validation need one each")
        order = np.random.default_rng(derive_seed("validation split", "gtsrb", label)).permutation(numbers)
        held_out |= (labels == label) & np.isin(tracks, order[: max(1, round(len(numbers) / 10))])
    return held_out


def _rows(path: str, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """The rows of an annotation file; all but the file name are numbers."""
    try:
        rows = csv.DictReader(io.StringIO(files[path].decode("ascii")), delimiter=";", strict=True)
        names = ("Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
        return [{"Filename": row["Filename"], **{name: int(row[name]) for name in names}} for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: no annotations of GTSRB: {type(error).__name__}: {error}") from None


def _sign(path: str, row: dict[str, Any], files: dict[str, bytes], used: set[str]) -> np.ndarray:
    """One image (3, 32, 32), cropped and resized."""
    if path not in files or path in used:
        raise ValueError(f"{path} is annotated {'twice' if path in used else 'but not there'}")
    used.add(path)
    size, box = (row["Width"], row["Height"]), tuple(row[f"Roi.{name}"] for name in ("X1", "Y1", "X2", "Y2"))
    try:
        with Image.open(io.BytesIO(files[path]), formats=("PPM",)) as image:
            if image.mode != "RGB" or image.size != size:
                raise ValueError(f"{image.mode} {image.size}, annotated as {size}")
            if not (0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]):
                raise ValueError(f"the region {box} is not within {size}")
            # The second corner is the first pixel outside, as the margin of the smallest images shows.
            resized = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return np.asarray(resized).transpose(2, 0, 1)


def _shuffled(images: np.ndarray, labels: np.ndarray, part: str) -> Split:
    # The archives are sorted by class; a part is limited by taking its first images.
    order = np.random.default_rng(derive_seed("order", "gtsrb", part)).permutation(len(images))
    return as_split(images[order], labels[order])


def embedded() -> Images:
    """Drawn traffic signs of 43 classes, 32 × 32: 2,580 train, 344 validation, 516 test images, in random order."""
    parts = {}
    for part, count in (("train", 60), ("validation", 8), ("test", 12)):
        images, labels = signs.draw(count, derive_seed("drawn signs", part))
        parts[part] = as_split(images, labels)
    of = sum(len(part.labels) for part in parts.values())
    return Images(parts, CLASSES, {"name": "drawn traffic signs, in place of GTSRB", "of": of})
