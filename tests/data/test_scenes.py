"""Scenes: boxes from masks, files and samples."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from bayesft.data.scenes import Scene, Scenes, as_scene, mask_boxes


def random_scene(height: int, width: int, count: int, seed: int = 0) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    masks = torch.rand(count, height, width, generator=generator) < 0.02
    masks[:, height // 2, width // 3] = True
    return Scene(image, masks)


def same(first: Scene, second: Scene) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def scenes() -> Scenes:
    shapes = {"train": [(7, 9, 2), (16, 5, 0), (8, 8, 1)], "validation": [(3, 30, 4)], "test": [(1, 1, 1), (11, 13, 3)]}
    parts = {name: [random_scene(*shape, seed=i) for i, shape in enumerate(part)] for name, part in shapes.items()}
    return Scenes(parts, {"name": "some", "source": "a test"})


def test_boxes_of_known_masks():
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 2, 3] = True  # one pixel
    masks[1, 1:4, 2:7] = True
    masks[2, 0, 0] = masks[2, 5, 7] = True  # two parts, as behind a pole
    expected = [[3, 2, 4, 3], [2, 1, 7, 4], [0, 0, 8, 6]]
    boxes = mask_boxes(masks)
    assert boxes.dtype == torch.float32 and boxes.tolist() == expected
    assert Scene(torch.zeros(3, 6, 8, dtype=torch.uint8), masks).boxes.tolist() == expected


def test_boxes_are_those_of_coco():
    scene = random_scene(40, 31, 20)
    for mask, (x1, y1, x2, y2) in zip(scene.masks.numpy(), scene.boxes.tolist(), strict=True):
        x, y, width, height = coco.toBbox(coco.encode(np.asfortranarray(mask.astype(np.uint8))))
        assert (x, y, x + width, y + height) == (x1, y1, x2, y2)


def test_no_masks_no_boxes():
    assert mask_boxes(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4)


@pytest.mark.parametrize("masks", [torch.zeros(1, 4, 5, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool)])
def test_an_empty_mask_has_no_box(masks):
    with pytest.raises(ValueError, match="a pixel in each"):
        mask_boxes(masks)


def test_a_file_gives_back_what_was_saved(tmp_path, scenes):
    scenes.save(tmp_path / "deep" / "scenes.safetensors")
    loaded = Scenes.load(tmp_path / "deep" / "scenes.safetensors")
    assert loaded.about == scenes.about and list(loaded.parts) == list(scenes.parts)
    for name, part in scenes.parts.items():
        assert len(part) == len(loaded.parts[name])
        assert all(same(a, b) for a, b in zip(part, loaded.parts[name], strict=True))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["scenes.safetensors"]


def test_the_same_scenes_give_the_same_bytes(tmp_path, scenes):
    scenes.save(tmp_path / "a")
    Scenes({name: list(part) for name, part in scenes.parts.items()}, dict(reversed(scenes.about.items()))).save(
        tmp_path / "b"
    )
    Scenes.load(tmp_path / "a").save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_more_than_ten_scenes_keep_their_order(tmp_path):
    part = [random_scene(2, 3, 1, seed) for seed in range(12)]
    Scenes({"train": part, "validation": [], "test": []}).save(tmp_path / "file")
    assert all(same(a, b) for a, b in zip(part, Scenes.load(tmp_path / "file").parts["train"], strict=True))


def test_limited_takes_the_first(scenes):
    fewer = scenes.limited({"train": 2, "validation": None, "test": 5})
    assert fewer.about == {**scenes.about, "images_used": {"train": 2, "validation": 1, "test": 2}}
    assert all(same(a, b) for a, b in zip(fewer.parts["train"], scenes.parts["train"], strict=False))
    assert "images_used" not in scenes.about and len(scenes.parts["train"]) == 3


def test_instances_become_masks():
    instances = np.array([[0, 2, 2], [5, 5, 0]])
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    scene = as_scene(image, instances)
    assert scene.image[:, 1, 2].tolist() == image[1, 2].tolist()
    assert scene.masks.tolist() == [(instances == 2).tolist(), (instances == 5).tolist()]
    assert as_scene(image, instances, [5, 7]).masks.tolist() == [(instances == 5).tolist()]
    assert as_scene(image, instances, []).masks.shape == (0, 2, 3)
    with pytest.raises(ValueError, match="with instances"):
        as_scene(image, instances[:1])
