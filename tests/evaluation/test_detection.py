"""Average precision against hand-worked numbers and pycocotools, and detectors that drift out of all bounds."""

import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import bayesft.evaluation.detection as evaluation
from bayesft.data.scenes import Scene, mask_boxes
from bayesft.data.streets import street
from bayesft.drift import LogNormalDrift, drifted_parameters, fault_model
from bayesft.evaluation.detection import METRICS, detect, drifted_map, map_grid, mean_average_precision
from bayesft.models.detector import detector
from bayesft.training import Checkpoint

FAULT = LogNormalDrift()
KEY = ("detection", 0)


def rectangle(x1: int, y1: int, x2: int, y2: int, shape: tuple[int, int] = (20, 30)) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def scene(*masks: torch.Tensor) -> Scene:
    stacked = torch.stack(masks)
    return Scene(torch.zeros(3, *stacked.shape[1:], dtype=torch.uint8), stacked)


def detections(*found: tuple[float, torch.Tensor], shape: tuple[int, int] = (20, 30)) -> dict[str, torch.Tensor]:
    masks = torch.stack([mask for _, mask in found]) if found else torch.zeros(0, *shape, dtype=torch.bool)
    scores = torch.tensor([score for score, _ in found])
    labels = torch.ones(len(found), dtype=torch.int64)
    return {"boxes": mask_boxes(masks), "scores": scores, "labels": labels, "masks": masks}


A, B = rectangle(0, 0, 10, 10), rectangle(15, 5, 25, 15)


def test_perfect_detections():
    values = mean_average_precision([detections((0.9, A), (0.8, B))], [scene(A, B)])
    assert values == pytest.approx(dict.fromkeys(METRICS, 1.0)) and tuple(values) == METRICS


def test_one_of_two_found():
    # The recall levels 0, 0.01, ..., 0.50 are reached with precision 1: 51 of 101.
    values = mean_average_precision([detections((0.9, A))], [scene(A, B)])
    assert values == pytest.approx(dict.fromkeys(METRICS, 51 / 101))


def test_a_false_alarm_above_the_true_one():
    # One instance, two detections: precision is 1/2 where the instance is found, at every recall level.
    values = mean_average_precision([detections((0.9, B), (0.8, A))], [scene(A)])
    assert values == pytest.approx(dict.fromkeys(METRICS, 0.5))


def test_an_overlap_counts_up_to_its_threshold():
    # 10 × 7 of 10 × 10 pixels: IoU 0.7 passes the thresholds 0.50 to 0.65, and 0.70 itself: 5 of 10.
    values = mean_average_precision([detections((0.9, rectangle(0, 0, 10, 7)))], [scene(A)])
    assert values == pytest.approx({"box_map": 0.5, "box_map_50": 1, "mask_map": 0.5, "mask_map_50": 1})


def test_a_right_box_with_a_wrong_mask():
    corners = rectangle(0, 0, 1, 1) | rectangle(9, 9, 10, 10)
    values = mean_average_precision([detections((0.9, corners))], [scene(A)])
    assert values == pytest.approx({"box_map": 1, "box_map_50": 1, "mask_map": 0, "mask_map_50": 0})


def test_occluded_instances_share_no_pixels_but_their_boxes_overlap():
    behind = A & ~rectangle(4, 0, 6, 10)  # cut in two by a pole
    values = mean_average_precision(
        [detections((0.9, behind), (0.8, rectangle(4, 0, 6, 10)))], [scene(behind, rectangle(4, 0, 6, 10))]
    )
    assert values == pytest.approx(dict.fromkeys(METRICS, 1.0))


def test_nothing_found_scores_nothing():
    assert mean_average_precision([detections()], [scene(A)]) == dict.fromkeys(METRICS, 0.0)
    two = mean_average_precision([detections(), detections((0.9, A))], [scene(A), scene(A)])
    assert two == pytest.approx(dict.fromkeys(METRICS, 51 / 101))


def test_there_must_be_something_to_find():
    empty = Scene(torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(0, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="an instance"):
        mean_average_precision([detections()], [empty])
    with pytest.raises(ValueError, match="2 predictions for 1 scenes"):
        mean_average_precision([detections(), detections()], [scene(A)])


def by_pycocotools(predictions, truths) -> dict[str, float]:
    def rle(mask):
        code = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        return {**code, "counts": code["counts"].decode()}

    def box(x1, y1, x2, y2):
        return [x1, y1, x2 - x1, y2 - y1]

    annotations, results = [], []
    for image, (found, truth) in enumerate(zip(predictions, truths, strict=True)):
        for mask, corners in zip(truth.masks, truth.boxes.tolist(), strict=True):
            entry = {"image_id": image, "category_id": 1, "iscrowd": 0, "area": float(mask.sum())}
            annotations.append({**entry, "id": len(annotations) + 1, "bbox": box(*corners), "segmentation": rle(mask)})
        for mask, corners, score in zip(found["masks"], found["boxes"].tolist(), found["scores"].tolist(), strict=True):
            entry = {"image_id": image, "category_id": 1, "score": score}
            results.append({**entry, "bbox": box(*corners), "segmentation": rle(mask)})
    values = {}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": i, "height": t.image.shape[1], "width": t.image.shape[2]} for i, t in enumerate(truths)]
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}], "info": {}}
        coco.createIndex()
        for name, kind in (("box", "bbox"), ("mask", "segm")):
            run = COCOeval(coco, coco.loadRes([dict(result) for result in results]), kind)
            run.evaluate()
            run.accumulate()
            run.summarize()
            values[f"{name}_map"], values[f"{name}_map_50"] = run.stats[:2]
    return values


def test_the_numbers_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    truths = [street(64, "metric", i) for i in range(8)]
    predictions = []
    for truth in truths:
        found = []
        for mask in truth.masks:
            for _ in range(int(rng.integers(0, 3))):
                shifted = torch.roll(mask, tuple(int(s) for s in rng.integers(-4, 5, 2)), (0, 1))
                found.append((float(rng.random()), shifted))
        found.append((float(rng.random()), rectangle(5, 5, 20, 50, (64, 64))))
        predictions.append(detections(*found))
    values = mean_average_precision(predictions, truths)
    assert values == pytest.approx(by_pycocotools(predictions, truths), abs=1e-6)
    assert 0.02 < values["mask_map"] < values["mask_map_50"] < 0.98


@pytest.fixture(scope="module")
def model():
    return detector(size=64, seed=0)


@pytest.fixture(scope="module")
def scenes():
    return [street(64, "grid", i) for i in range(3)]


def test_detections_of_images_of_differing_size(model):
    images = [street(64, 0).image, torch.zeros(3, 30, 70, dtype=torch.uint8)]
    model.train()
    model.roi_heads.eval()
    together = detect(model, images)
    assert model.training and not model.roi_heads.training
    alone = [detect(model, [image], batch=1)[0] for image in images]
    model.train()
    for image, found in zip(images, together, strict=True):
        assert found["masks"].dtype == torch.bool and found["masks"].shape == (len(found["boxes"]), *image.shape[1:])
    assert torch.equal(together[0]["scores"], detect(model, images)[0]["scores"])
    assert len(alone[0]["scores"]) and detect(model, []) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize(
    "place",
    [
        "backbone.body.layer1.0.0.0.weight",
        "rpn.head.bbox_pred.bias",
        "rpn.head.cls_logits.bias",
        "roi_heads.box_predictor.bbox_pred.bias",
        "roi_heads.box_predictor.cls_score.bias",
        "roi_heads.mask_predictor.mask_fcn_logits.bias",
        "all",
    ],
)
def test_a_detector_that_is_not_finite_scores_nothing_and_does_not_fail(scenes, place, value):
    broken = detector(size=64, seed=0)
    with torch.no_grad():
        for name, parameter in broken.named_parameters():
            if place in (name, "all"):
                parameter.fill_(value)
    values = mean_average_precision(detect(broken, [s.image for s in scenes]), scenes)
    assert all(0 <= v < 0.3 for v in values.values())
    if np.isnan(value) and "mask" not in place:
        assert set(values.values()) == {0.0}


@pytest.mark.parametrize("sigma", [0.5, 2.0, 6.0, 30.0])
def test_any_drift_gives_a_number(model, scenes, sigma):
    values = drifted_map(model, scenes, FAULT, sigma, 0, KEY)
    assert all(0 <= value <= 1 for value in values.values())


def test_a_drifted_copy_is_that_draw_and_the_model_stays(model, scenes):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = [s.image for s in scenes]
    copy = drifted_parameters(model, FAULT, 0.3, KEY, 2)
    found = detect(model, images, copy)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    loaded = detector(size=64, seed=1)
    loaded.load_state_dict({**before, **copy})
    for a, b in zip(found, detect(loaded, images), strict=True):
        torch.testing.assert_close(a["scores"], b["scores"])
    assert not torch.equal(found[0]["scores"], detect(model, images)[0]["scores"])
    assert drifted_map(model, scenes, FAULT, 0.3, 2, KEY) == mean_average_precision(found, scenes)
    with pytest.raises(ValueError, match="sigma"):
        drifted_map(model, scenes, FAULT, -1.0, 0, KEY)


def test_frozen_normalisation_does_not_drift():
    from torchvision.ops import FrozenBatchNorm2d

    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4))
    assert set(drifted_parameters(layers, FAULT, 1.0, KEY, 0)) == {"0.weight", "0.bias"}


class Killed(Exception):
    """What ends a run in these tests."""


@pytest.fixture
def fake(monkeypatch):
    """Precision that follows from σ and the draw; every call is kept, and one too many ends the run."""

    class Calls(list):
        stop = None

    calls = Calls()

    def drifted(model, scenes, fault, sigma, draw, key, parameters):
        if calls.stop is not None and len(calls) >= calls.stop:
            raise Killed
        calls.append((sigma, draw))
        return {metric: sigma + draw / 100 + i for i, metric in enumerate(METRICS)}

    monkeypatch.setattr(evaluation, "drifted_map", drifted)
    return calls


def test_the_grid_of_all_draws(fake):
    result = map_grid(None, [], FAULT, [0.0, 0.2, 0.4], 3, KEY)
    assert fake == [(0.0, 0), *((sigma, draw) for sigma in (0.2, 0.4) for draw in range(3))]
    assert tuple(result) == METRICS
    for i, metric in enumerate(METRICS):
        expected = [[i] * 3, *([sigma + draw / 100 + i for draw in range(3)] for sigma in (0.2, 0.4))]
        assert result[metric].dtype == np.float64 and result[metric].tolist() == expected


def test_a_fault_that_acts_at_level_0_is_measured_there_at_each_draw(fake):
    result = map_grid(None, [], fault_model("pcm"), [0.0, 60.0], 2, KEY)
    assert fake == [(sigma, draw) for sigma in (0.0, 60.0) for draw in range(2)]
    assert result["box_map"][0].tolist() == [0.0, 0.01]


@pytest.mark.parametrize("levels_done", [0, 1, 2, 3])
def test_a_killed_grid_goes_on_where_it_was(tmp_path, fake, levels_done):
    sigmas = [0.1, 0.2, 0.3]
    whole = map_grid(None, [], FAULT, sigmas, 2, KEY)
    fake.clear()
    with Checkpoint(tmp_path / "run") as checkpoint:
        if levels_done < 3:
            fake.stop = 2 * levels_done + 1
            with pytest.raises(Killed):
                map_grid(None, [], FAULT, sigmas, 2, KEY, checkpoint=checkpoint)
        else:
            map_grid(None, [], FAULT, sigmas, 2, KEY, checkpoint=checkpoint)
        fake.clear()
        fake.stop = None
        again = map_grid(None, [], FAULT, sigmas, 2, KEY, checkpoint=checkpoint)
        assert fake == [(sigma, draw) for sigma in sigmas[levels_done:] for draw in range(2)]
    assert all(np.array_equal(again[metric], whole[metric]) for metric in METRICS)


def test_the_grid_of_a_network(model, scenes):
    result = map_grid(model, scenes, FAULT, [0.0, 0.3], 2, KEY)
    alone = [drifted_map(model, scenes, FAULT, 0.3, draw, KEY) for draw in range(2)]
    assert {m: v[1].tolist() for m, v in result.items()} == {m: [v[m] for v in alone] for m in METRICS}
    assert all(values[0, 0] == values[0, 1] for values in result.values())
