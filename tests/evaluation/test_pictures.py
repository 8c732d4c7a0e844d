"""Pictures of detections: which images, which drift, and files of the same bytes."""

from dataclasses import replace

import pytest
import torch

from bayesft.data.scenes import Scene, mask_boxes
from bayesft.data.streets import street
from bayesft.drift import LogNormalDrift, drifted_parameters
from bayesft.evaluation import detection
from bayesft.evaluation.detection import detect
from bayesft.evaluation.pictures import Pictures, detection_pictures
from bayesft.models.detector import detector

FAULT, KEY = LogNormalDrift(), ("pictures of a test", 0)


def scene(number: int, instances: int, height: int = 12, width: int = 15) -> Scene:
    masks = torch.zeros(instances, height, width, dtype=torch.bool)
    for i in range(instances):
        masks[i, i : i + 3, number % 5 : number % 5 + 4] = True
    return Scene(torch.full((3, height, width), number, dtype=torch.uint8), masks)


def found(truth: Scene, *scores: float) -> dict[str, torch.Tensor]:
    masks = truth.masks[: len(scores)]
    return {"boxes": mask_boxes(masks), "scores": torch.tensor(scores), "masks": masks}


@pytest.fixture
def pictures() -> Pictures:
    truths = [scene(3, 2), scene(1, 3, 9, 7)]
    detections = {
        "erm": [[found(truths[0], 0.9, 0.6), found(truths[1])], [found(truths[0]), found(truths[1], 0.5)]],
        "bayesft": [[found(truth, 0.8) for truth in truths]] * 2,  # the same tensors twice
    }
    return Pictures([truth.image for truth in truths], truths, [0.0, 0.2], detections)


def flat(pictures: Pictures) -> list[torch.Tensor]:
    tensors = [*pictures.images, *(tensor for truth in pictures.truths for tensor in truth)]
    for levels in pictures.detections.values():
        tensors += [one[name] for images in levels for one in images for name in ("boxes", "scores", "masks")]
    return tensors


def test_files_have_everything_and_the_same_bytes(tmp_path, pictures):
    pictures.save(tmp_path / "a" / "pictures.safetensors")
    loaded = Pictures.load(tmp_path / "a" / "pictures.safetensors")
    assert loaded.sigmas == [0.0, 0.2] and list(loaded.detections) == ["erm", "bayesft"]
    assert [[len(one["scores"]) for one in level] for level in loaded.detections["erm"]] == [[2, 0], [0, 1]]
    for a, b in zip(flat(loaded), flat(pictures), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "a" / "pictures.safetensors").read_bytes()
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "pictures.safetensors", "again"}


def test_masks_are_an_eighth_of_their_pixels(tmp_path):
    truth = Scene(torch.zeros(3, 400, 400, dtype=torch.uint8), torch.ones(8, 400, 400, dtype=torch.bool))
    Pictures([truth.image], [truth], [0.0], {"erm": [[found(truth, *[0.9] * 8)]]}).save(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size < (3 + 2) * 400 * 400 + 5_000


def test_pictures_that_do_not_belong_together_are_refused(pictures):
    good = found(pictures.truths[0], 0.9)
    cases = [
        ({"images": [], "truths": []}, "at least one"),
        ({"truths": pictures.truths[::-1]}, "of the same size"),
        ({"truths": pictures.truths[:1]}, "of the same size"),
        ({"sigmas": [0.0]}, "erm: need detections for 1 levels of σ in 2 images"),
        ({"detections": {"x": [[good], [good]]}}, "x: need detections for 2 levels"),
        ({"detections": {"x": [[good, good]] * 2}}, "x: 1 scores .* in an image of"),  # a mask of the other image
        ({"detections": {"x": [[{**good, "boxes": torch.zeros(0, 4)}, good]] * 2}}, "x: 1 scores with boxes"),
    ]
    for change, said in cases:
        with pytest.raises(ValueError, match=said):
            replace(pictures, **change)


@pytest.fixture
def fake(monkeypatch):
    """A detector that finds each image's brightness as a score, and half of it; the copies that it was given."""
    given = []

    def detect(model, images, parameters=None, batch=10):
        given.append((model, parameters))
        output = []
        for image in images:
            score = float(image.max()) / 20
            masks = torch.ones(2, *image.shape[1:], dtype=torch.bool)
            scores = torch.tensor([score, score / 2])
            output.append({"boxes": mask_boxes(masks), "scores": scores, "labels": torch.ones(2), "masks": masks})
        return output

    monkeypatch.setattr(detection, "detect", detect)
    return given


def test_a_seed_picks_among_crowded_scenes(fake):
    model = torch.nn.Linear(2, 2)
    scenes = [scene(i, 1 + i % 3) for i in range(20)]  # 0, 3, 6, ... have one instance

    def picked(key=KEY, count=2, scenes=scenes):
        return [
            int(image.max()) for image in detection_pictures({"erm": model}, scenes, FAULT, [0.0], key, count).images
        ]

    picks = {seed: picked(("p", seed)) for seed in range(30)}
    assert all(a < b and a % 3 and b % 3 for a, b in picks.values())
    assert len({tuple(pick) for pick in picks.values()}) > 10
    assert picked(("p", 0)) == picks[0]
    assert picked(count=13) == [i for i in range(20) if i % 3]
    assert len(picked(count=14)) == 14 and any(i % 3 == 0 for i in picked(count=14))  # too few crowded ones
    assert picked(scenes=[scene(7, 1)]) == [7] and picked(scenes=[scene(0, 1), scene(1, 4)]) == [0, 1]


def test_sure_detections_of_draw_0_at_each_level_are_kept(fake):
    networks = {"erm": torch.nn.Linear(2, 2), "bayesft": torch.nn.Linear(2, 2)}
    scenes = [scene(i, 2) for i in (9, 10, 20)]
    pictures = detection_pictures(networks, scenes, FAULT, (0, 0.2, 0.5), KEY, 3)
    assert pictures.sigmas == [0.0, 0.2, 0.5] and list(pictures.detections) == ["erm", "bayesft"]
    for levels in pictures.detections.values():
        for level in levels:
            assert [one["scores"].tolist() for one in level] == [[], [0.5], [1.0, 0.5]]
            assert all(set(one) == {"boxes", "scores", "masks"} for one in level)
    for (model, copy), (row, sigma) in zip(fake, [(r, s) for r in networks for s in (0, 0.2, 0.5)], strict=True):
        assert model is networks[row]
        expected = drifted_parameters(model, FAULT, sigma, KEY, 0)
        assert copy.keys() == expected.keys() and all(torch.equal(copy[name], expected[name]) for name in copy)
    fake.clear()
    detection_pictures({"erm": networks["erm"]}, scenes, FAULT, [0.2], KEY, parameters="weights")
    assert list(fake[0][1]) == ["weight"]


def test_nothing_to_show_is_an_error(fake):
    networks, scenes = {"erm": torch.nn.Linear(2, 2)}, [scene(1, 2)]
    for case in (({}, scenes, [0.0]), (networks, scenes, []), (networks, scenes, [0.0, float("nan")])):
        with pytest.raises(ValueError, match="at least one each, no negative σ"):
            detection_pictures(case[0], case[1], FAULT, case[2], KEY)
    with pytest.raises(ValueError, match="no negative"):
        detection_pictures(networks, scenes, FAULT, [-0.1], KEY)
    for given, count in (([], 2), (scenes, 0)):
        with pytest.raises(ValueError, match="scenes: need at least one"):
            detection_pictures(networks, given, FAULT, [0.0], KEY, count)


def test_pictures_of_a_detector(tmp_path):
    model, scenes = detector(size=64, seed=0), [street(64, "pictures", i) for i in range(4)]
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([0.0, 1.0]))  # sure of everything
    pictures = detection_pictures({"erm": model}, scenes, FAULT, [0.0, 0.3], KEY)
    images = [truth.image for truth in pictures.truths]
    assert all(torch.equal(a, b) for a, b in zip(images, pictures.images, strict=True))
    for sigma, level in zip(pictures.sigmas, pictures.detections["erm"], strict=True):
        direct = detect(model, images, drifted_parameters(model, FAULT, sigma, KEY, 0) if sigma else {})
        for one, whole in zip(level, direct, strict=True):
            kept = whole["scores"] >= 0.5
            assert torch.equal(one["scores"], whole["scores"][kept])
            assert torch.equal(one["masks"], whole["masks"][kept]) and torch.equal(one["boxes"], whole["boxes"][kept])
    assert len(pictures.detections["erm"][0][0]["scores"]) > 0
    pictures.save(tmp_path / "a")
    detection_pictures({"erm": model}, scenes, FAULT, [0.0, 0.3], KEY).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
