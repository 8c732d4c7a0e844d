"""Detectors: their parts, their sites. Nothing is downloaded."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from bayesft.models import dropout
from bayesft.models.detector import detection_sites, detector

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


def test_a_backbone_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="backbone = 'vgg': must be one of slim, resnet18, resnet50"):
        detector("vgg")


def test_nothing_is_loaded_through_the_hub(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refused)
    for backbone in ("slim", "resnet50"):
        detector(backbone, size=64)
