"""Drawn streets: as many as promised, always the same, with instances that hide one another."""

import numpy as np
import pytest
import torch

from bayesft.data import streets
from bayesft.data.scenes import Scenes


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return streets.embedded()


def test_parts_and_shapes(scenes):
    assert {name: len(part) for name, part in scenes.parts.items()} == {"train": 240, "validation": 40, "test": 60}
    assert scenes.about["images_used"] == streets.COUNTS and scenes.about["source"] == "embedded"
    for scene in (scene for part in scenes.parts.values() for scene in part):
        assert scene.image.shape == (3, 128, 128) and scene.image.dtype == torch.uint8
        assert scene.masks.shape[1:] == (128, 128) and scene.masks.dtype == torch.bool
        assert len(scene.masks) <= 5 and bool(scene.masks.flatten(1).any(1).all())
        assert int(scene.masks.sum(0).max()) <= 1  # a pixel shows one instance


def test_all_counts_and_sizes_occur(scenes):
    assert {len(scene.masks) for scene in scenes.parts["train"]} >= {1, 2, 3, 4, 5}
    heights = torch.cat([scene.boxes[:, 3] - scene.boxes[:, 1] for scene in scenes.parts["train"]])
    assert heights.min() < 30 and heights.max() > 100


def test_the_same_scenes_every_time(scenes):
    for part, number in (("train", 0), ("train", 239), ("test", 3)):
        again, known = streets.street(128, part, number), scenes.parts[part][number]
        assert torch.equal(again.image, known.image) and torch.equal(again.masks, known.masks)


def test_no_scene_comes_twice(scenes):
    images = [scene.image.numpy().tobytes() for part in scenes.parts.values() for scene in part]
    assert len(set(images)) == len(images)


def test_instances_are_hidden_and_cut(monkeypatch):
    """With the rule off there are more instances, of which the rule drops those that show too little."""
    kept = [streets.street(64, "train", i) for i in range(40)]
    monkeypatch.setattr(streets, "VISIBLE", 0.0)
    all_of_them = [streets.street(64, "train", i) for i in range(40)]
    more = sum(len(scene.masks) for scene in all_of_them) - sum(len(scene.masks) for scene in kept)
    assert more > 0
    for few, many in zip(kept, all_of_them, strict=True):
        assert torch.equal(few.image, many.image)
        assert {mask.numpy().tobytes() for mask in few.masks} <= {mask.numpy().tobytes() for mask in many.masks}


def test_what_is_drawn_later_hides_what_is_behind():
    canvas = streets._Canvas(64, np.random.default_rng(0))
    whole = streets._person(canvas, 1, 0.5, 0.9, 0.8)
    alone = np.asarray(canvas.instances).copy()
    assert whole == (alone == 1).sum() > 100
    streets._person(canvas, 2, 0.6, 0.95, 0.8)
    canvas.box(0.0, 0.7, 1.0, 1.0, (0, 0, 0))
    image, instances = canvas.finished()
    first, second = instances == 1, instances == 2
    assert 0 < first.sum() < whole and second.sum() > 0
    assert not (first & second).any() and not instances[46:].any()
    assert (first <= (alone == 1)).all()
    assert image.shape == (64, 64, 3)


def test_any_size():
    scene = streets.street(48, "a", 1)
    assert scene.image.shape == (3, 48, 48)
