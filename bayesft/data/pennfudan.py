"""PennFudanPed (Wang, Shi, Song and Shen, ACCV 2007): 170 photographs with a mask for each pedestrian.

The authors publish no checksum. Each image is therefore held against the table beside this module, and the archive
is used only when every image in it is the one that the table knows.
"""

import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from bayesft.data.fetch import Damaged, fetch_verified
from bayesft.data.images import PARTS
from bayesft.data.scenes import Scene, Scenes, as_scene
from bayesft.seeds import derive_seed

NAME = "PennFudanPed.zip"
SET_NAME = "pennfudan"
URL = f"https://www.cis.upenn.edu/~jshi/ped_html/{NAME}"
TABLE = Path(__file__).with_name("pennfudan.sha256")  # "<sha256>  <member>" a line, all images and masks
LARGEST = 8 << 20  # bytes of an image
SHARES = {"validation": 20 / 170, "test": 40 / 170}  # of the images of each of the two places


def official(folder: Path, mirror: str | None = None, size: int | None = None) -> Scenes:
    """PennFudanPed: 110 train, 20 validation, 40 test images, from both universities in each part.

    Args:
        folder: Where the archive is kept.
        mirror: As for `fetch`.
        size: Larger images are shrunk to so many pixels on their longer side; None: they stay.

    Returns:
        The scenes.

    Raises:
        FetchError: No place has the archive, or what it has is damaged.
    """
    members = _members(Path(folder), mirror)
    names = sorted(Path(name).stem for name in members if "/PNGImages/" in name)
    parts = {part: [_scene(members, name, size) for name in chosen] for part, chosen in split(names).items()}
    about = {"name": "PennFudanPed", "source": "official", "of": len(names)}
    if size is not None:
        about["longer_side_at_most"] = size
    return Scenes(parts, {**about, "images_used": {part: len(scenes) for part, scenes in parts.items()}})


def split(names: list[str]) -> dict[str, list[str]]:
    """The names of each part, in a random order; each of the two places gives its share to each."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for place in ("FudanPed", "PennPed"):
        local = sorted(name for name in names if name.startswith(place))
        order = [local[i] for i in np.random.default_rng(derive_seed(SET_NAME, place)).permutation(len(local))]
        for part, share in SHARES.items():
            count = round(share * len(local))
            parts[part] += order[:count]
            order = order[count:]
        parts["train"] += order
    for part, local in parts.items():
        parts[part] = [local[i] for i in np.random.default_rng(derive_seed(SET_NAME, part)).permutation(len(local))]
    return parts


def _scene(members: dict[str, bytes], name: str, size: int | None) -> Scene:
    from PIL import Image

    photograph = Image.open(io.BytesIO(members[f"PennFudanPed/PNGImages/{name}.png"])).convert("RGB")
    instances: Image.Image = Image.open(io.BytesIO(members[f"PennFudanPed/PedMasks/{name}_mask.png"]))
    if size is not None and max(photograph.size) > size:
        width, height = (max(1, round(side * size / max(photograph.size))) for side in photograph.size)
        photograph = photograph.resize((width, height), Image.Resampling.BILINEAR)
        instances = instances.resize((width, height), Image.Resampling.NEAREST)
    return as_scene(np.asarray(photograph), np.asarray(instances))


def _members(folder: Path, mirror: str | None) -> dict[str, bytes]:
    """The images of the archive, by name, each as the table knows it; fetches the archive where it must."""
    members: dict[str, bytes] = {}

    def problem(path: Path) -> str | None:
        try:
            members.update(read_verified(path))
        except Damaged as damage:
            return str(damage).removeprefix(f"{path}: ")
        return None

    fetch_verified(NAME, (URL,), folder, mirror, SET_NAME, problem)
    return members


def read_verified(path: Path) -> dict[str, bytes]:
    """The images in an archive, by name. Other files in it (annotations, a readme) are ignored.

    Raises:
        Damaged: The images are not exactly those of the table. The message names a member.
    """
    expected = {name: digest for digest, name in (line.split() for line in TABLE.read_text("utf-8").splitlines())}
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".png")]
            for problem, wrong in (
                ("lacks", sorted(expected.keys() - set(names))),
                ("has the unknown member", sorted(set(names) - expected.keys())),
                ("has twice", sorted({name for name in names if names.count(name) > 1})),
            ):
                if wrong:
                    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
                    raise Damaged(f"{path}: the archive {problem} {wrong[0]}{more}")
            for name, digest in expected.items():
                if archive.getinfo(name).file_size > LARGEST:
                    raise Damaged(
                        f"{path}: {name} has {archive.getinfo(name).file_size} bytes, at most {LARGEST} are allowed"
                    )
                try:
                    members[name] = archive.read(name)
                except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                    raise Damaged(f"{path}: {name} is damaged: {error}") from None
                found = hashlib.sha256(members[name]).hexdigest()
                if found != digest:
                    raise Damaged(f"{path}: {name} has sha256 {found}, expected {digest}")
    except zipfile.BadZipFile as error:
        raise Damaged(f"{path}: not a whole zip archive: {error}") from None
    return members
