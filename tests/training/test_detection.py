"""Training a detector: targets, flips, losses that fall, determinism and resumption."""

import math

import pytest
import torch

import bayesft.training.detection as detection
from bayesft.data.scenes import Scene, Scenes, mask_boxes
from bayesft.data.streets import street
from bayesft.models.detector import detection_sites, detector
from bayesft.settings import Recipe
from bayesft.training import Checkpoint, Diverged
from bayesft.training.detection import columns, detection_gradient, flipped, target, train

SIZE = 64
RECIPE = Recipe(epochs=3, batch_size=2, lr=2e-3, clip_norm=5.0)


def scenes(count: int = 4) -> Scenes:
    return Scenes({"train": [street(SIZE, "test", i) for i in range(count)], "validation": [], "test": []})


def weights(model) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


def loss_of(model, data) -> float:
    torch.manual_seed(0)
    with torch.no_grad():
        return float(sum(model.train()(data.images[torch.arange(4)], data.labels[torch.arange(4)]).values()))


def test_targets():
    scene = street(SIZE, "test", 0)
    truth = target(scene)
    assert truth["labels"].tolist() == [1] * len(scene.masks) and truth["masks"].dtype == torch.uint8
    assert torch.equal(truth["boxes"], scene.boxes)
    data = columns([scene, street(SIZE, "test", 1)])
    assert len(data.labels) == 2
    image = data.images[torch.tensor([1, 0])][1]
    assert torch.equal(image * 255, scene.image.float()) and image.max() <= 1


def test_a_flip_keeps_boxes_on_their_masks():
    scene = street(SIZE, "test", 2)
    image, truth = flipped(scene.image, target(scene))
    assert torch.equal(image, scene.image.flip(-1))
    assert torch.equal(mask_boxes(truth["masks"].bool()), truth["boxes"])
    back, same = flipped(image, truth)
    assert torch.equal(back, scene.image) and all(torch.equal(same[k], v) for k, v in target(scene).items())


def test_the_gradient_is_that_of_the_sum_of_the_losses():
    data, model = columns(scenes().parts["train"]), detector(size=SIZE, seed=0)
    batch = torch.arange(2)
    torch.manual_seed(5)
    value = detection_gradient(model, None, data.images[batch], data.labels[batch])
    torch.manual_seed(5)
    losses = model(data.images[batch], data.labels[batch])
    total = sum(losses.values())
    assert len(losses) == 5 and not value.requires_grad
    torch.testing.assert_close(value, total.detach())
    expected = torch.autograd.grad(total, list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("rate", [None, 0.1])
def test_a_few_steps_reduce_the_loss(rate):
    data = scenes()
    model = detector(size=SIZE, seed=0)
    before = loss_of(model, columns(data.parts["train"]))
    sites = detection_sites(model, data.parts["train"][0].image / 255) if rate else []
    train(
        model, data, RECIPE.model_copy(update={"epochs": 8}), seed=0, label="a", sites=sites, rates=[0.1] * len(sites)
    )
    after = loss_of(model, columns(data.parts["train"]))
    assert math.isfinite(after) and after < 0.7 * before
    assert not any(module._forward_hooks for module in model.modules())


def test_the_seed_fixes_the_training():
    trained = [weights(train(detector(size=SIZE, seed=0), scenes(), RECIPE, seed=s, label="a")) for s in (1, 1, 2)]
    assert trained[0] == trained[1] != trained[2]


@pytest.mark.parametrize("done", [1, 2])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, monkeypatch, done):
    data = scenes()

    def run(checkpoint=None) -> bytes:
        model = detector(size=SIZE, seed=0)
        sites = detection_sites(model, data.parts["train"][0].image / 255)
        rates = [0.1 * (i % 2) for i in range(len(sites))]
        train(model, data, RECIPE, seed=0, label="a", sites=sites, rates=rates, checkpoint=checkpoint)
        return weights(model)

    whole, steps = run(), []
    gradient = detection.flipping_gradient

    def killed(*arguments):
        steps.append(len(steps))
        if len(steps) == 2 * done + 2:  # in the second step of the next epoch
            raise KeyboardInterrupt
        return gradient(*arguments)

    with Checkpoint(tmp_path / "run") as checkpoint:
        monkeypatch.setattr(detection, "flipping_gradient", killed)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint)
        torch.manual_seed(99)
        monkeypatch.setattr(detection, "flipping_gradient", gradient)
        assert run(checkpoint) == whole


@pytest.mark.parametrize("place", ["backbone.body.layer1.0.0.0.weight", "roi_heads.mask_predictor.conv5_mask.bias"])
def test_what_is_not_finite_stops_the_training(place):
    model = detector(size=SIZE, seed=0)
    with torch.no_grad():
        model.get_parameter(place)[0] = math.nan
    with pytest.raises(Diverged, match="my training: .* at step 0"):
        train(model, scenes(), RECIPE, seed=0, label="my training")


def test_scenes_of_differing_size_and_without_instances():
    wide = Scene(torch.zeros(3, 40, 90, dtype=torch.uint8), torch.zeros(0, 40, 90, dtype=torch.bool))
    data = Scenes({"train": [street(SIZE, "test", 0), wide]})
    model = train(detector(size=SIZE, seed=0), data, RECIPE, seed=0, label="a")
    assert all(parameter.isfinite().all() for parameter in model.parameters())
