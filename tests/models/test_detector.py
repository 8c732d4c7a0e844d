"""Detectors: their parts, their sites, and what a pretrained one keeps. Nothing is downloaded."""

import subprocess
import sys
from urllib.error import URLError

import pytest
import torch
from torch import nn

import bayesft.models.detector
from bayesft.models import dropout
from bayesft.models.detector import detection_sites, detector, keep_person

EXAMPLE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def slim() -> nn.Module:
    return detector(size=64, seed=3)


def test_the_data_and_model_packages_do_without_torchvision():
    code = "import sys, bayesft.data, bayesft.models, bayesft.data.scenes, bayesft.data.streets, bayesft.data.pennfudan"
    code += "; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_seed_fixes_the_weights_and_the_global_generator_stays(slim):
    before = torch.get_rng_state()
    again, other = detector(size=64, seed=3), detector(size=64, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    states = [model.state_dict() for model in (slim, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_forward_pass_of_images_of_differing_size(slim):
    images = [EXAMPLE, torch.rand(3, 40, 90), torch.rand(3, 30, 20)]
    with torch.no_grad():
        outputs = slim.eval()(images)
    for image, output in zip(images, outputs, strict=True):
        count = len(output["scores"])
        assert 0 < count <= 20 and output["boxes"].shape == (count, 4) and set(output["labels"].tolist()) <= {1}
        assert output["masks"].shape == (count, 1, *image.shape[1:])
        assert output["boxes"].min() >= 0 and output["boxes"][:, 2].max() <= image.shape[2]


def test_sites_of_the_slim_detector(slim):
    slim.train()
    slim.roi_heads.box_head.eval()
    sites = detection_sites(slim, EXAMPLE)
    assert [site.name for site in sites] == [
        *(f"backbone stage {i}" for i in range(1, 5)), "feature pyramid", "box head", "mask head",
    ]  # fmt: skip
    assert [len(site.modules) for site in sites] == [1, 1, 1, 1, 4, 2, 2]
    assert slim.training and not slim.roi_heads.box_head.training  # as before
    slim.train()
    assert not any(module._forward_hooks for module in slim.modules())
    predictors = [name for site in sites for name in site.modules if "predictor" in name or "rpn" in name]
    assert not predictors


def test_dropout_acts_at_each_site_in_training_alone(slim):
    sites = detection_sites(slim, EXAMPLE)
    target = {"boxes": torch.tensor([[8.0, 4, 40, 60]]), "labels": torch.ones(1, dtype=torch.int64)}
    target["masks"] = torch.ones(1, 64, 64, dtype=torch.uint8)

    def losses() -> dict[str, float]:
        torch.manual_seed(0)
        with torch.no_grad():
            return {name: float(value) for name, value in slim.train()([EXAMPLE], [target]).items()}

    plain = losses()
    for i, site in enumerate(sites):
        with dropout(slim, sites, [0.5 * (i == j) for j in range(len(sites))]):
            assert losses() != plain, site.name
            with torch.no_grad():
                under = slim.eval()([EXAMPLE])[0]["scores"]
        with torch.no_grad():
            assert torch.equal(under, slim.eval()([EXAMPLE])[0]["scores"])
    assert losses() == plain


def test_resnet18_has_the_same_sites():
    model = detector("resnet18", size=64, seed=0)
    assert [site.name for site in detection_sites(model, EXAMPLE)][:4] == [f"backbone stage {i}" for i in range(1, 5)]
    assert len(detection_sites(model, EXAMPLE)) == 7
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("backbone", "weights"), [("resnet18", "imagenet"), ("resnet50", "coco")])
def test_weights_that_cannot_be_had(monkeypatch, backbone, weights):
    def offline(**_):
        raise URLError("no route")

    monkeypatch.setattr(bayesft.models.detector, "resnet_fpn_backbone", offline)
    monkeypatch.setattr(bayesft.models.detector, "maskrcnn_resnet50_fpn", offline)
    with pytest.raises(OSError, match=f"{weights} weights of {backbone} could not be downloaded.*no route.*network"):
        detector(backbone, weights=weights)


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [("resnet18", "coco"), ("slim", "coco"), ("slim", "imagenet"), ("vgg", "none"), ("resnet50", "best")],
)
def test_combinations_that_do_not_exist(backbone, weights):
    with pytest.raises(ValueError, match="weights"):
        detector(backbone, weights=weights)


def test_keep_person_keeps_the_first_two_classes():
    model = detector(size=64, seed=0)
    heads = model.roi_heads
    heads.box_predictor.cls_score, heads.box_predictor.bbox_pred = nn.Linear(128, 91), nn.Linear(128, 364)
    heads.mask_predictor.mask_fcn_logits = nn.Conv2d(32, 91, 1)
    features, maps = torch.randn(5, 128), torch.randn(2, 32, 7, 7)
    with torch.no_grad():
        scores, boxes = heads.box_predictor(features)
        masks = heads.mask_predictor(maps)
        keep_person(model)
        for few, many in zip(
            (*heads.box_predictor(features), heads.mask_predictor(maps)),
            (scores[:, :2], boxes[:, :8], masks[:, :2]),
            strict=True,
        ):
            torch.testing.assert_close(few, many)
        model.eval()([EXAMPLE])
