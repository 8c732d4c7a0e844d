"""Training a detector: targets, flips, losses that fall, determinism and resumption."""

import math

import pytest
import torch

from bayesft.data.scenes import Scene, mask_boxes
from bayesft.data.streets import street
from bayesft.evaluation.detection import DetectionProblem
from bayesft.methods import load
from bayesft.models.detector import detector
from bayesft.settings import Recipe
from bayesft.training import Checkpoint, Diverged, fit
from bayesft.training.detection import columns, detection_gradient, flipped, flipping_gradient, target

SIZE = 64
RECIPE = Recipe(epochs=3, batch_size=2, lr=2e-3, clip_norm=5.0)
SCENES = [street(SIZE, "test", i) for i in range(4)]


def make_problem(**changes) -> DetectionProblem:
    given = {
        "task": "streets",
        "specification": {"network": "detector", "size": SIZE},
        "classes": 1,
        "train": columns(SCENES),
        "validation": columns(SCENES[:2]),
        "recipe": RECIPE,
        "seed": 0,
        "scenes": SCENES[:2],
    }
    return DetectionProblem(**{**given, **changes})


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
    data, model = columns(SCENES), detector(size=SIZE, seed=0)
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


def low_rates(problem):
    return {h.name: 0.1 * (i % 2) for i, h in enumerate(load("bayesft").hyperparameters(problem))}


@pytest.mark.parametrize("method", ["erm", "bayesft"])
def test_a_few_steps_reduce_the_loss(method):
    problem = make_problem(recipe=RECIPE.model_copy(update={"epochs": 8}))
    before = loss_of(problem.fresh(), problem.train)
    values = low_rates(problem) if method == "bayesft" else {}
    (network,) = load(method).train(problem, values, {})[method].networks()
    after = loss_of(network, problem.train)
    assert math.isfinite(after) and after < 0.7 * before


def test_the_seed_fixes_the_training():
    trained = [load("erm").train(make_problem(seed=s), {}, {})["erm"].networks()[0] for s in (1, 1, 2)]
    first, again, other = map(weights, trained)
    assert first == again != other


class Stopping:
    """The gradient of a detector's training, interrupted at a step."""

    def __init__(self, stop: int | None = None):
        self.steps, self.stop = 0, stop

    def __call__(self, *arguments):
        self.steps += 1
        if self.steps == self.stop:
            raise KeyboardInterrupt
        return flipping_gradient(*arguments)


@pytest.mark.parametrize("done", [1, 2])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, done):
    problem, method = make_problem(), load("bayesft")

    def run(gradient, checkpoint=None) -> bytes:
        model, options = problem.fresh(), {"seed": 0, "label": "a", "checkpoint": checkpoint}
        with method.training(model, problem, low_rates(problem)):
            return weights(fit(model, problem.train, RECIPE, gradient=gradient, **options))

    with Checkpoint(tmp_path / "run", save_after_s=0) as checkpoint:
        with pytest.raises(KeyboardInterrupt):
            run(Stopping(2 * done + 2), checkpoint)  # in the second step of the next epoch
        torch.manual_seed(99)
        resumed = Stopping()
        assert run(resumed, checkpoint) == run(Stopping())
    assert resumed.steps == 2 * (RECIPE.epochs - done)


@pytest.mark.parametrize("place", ["backbone.body.layer1.0.0.0.weight", "roi_heads.mask_predictor.conv5_mask.bias"])
def test_what_is_not_finite_stops_the_training(place):
    model = detector(size=SIZE, seed=0)
    with torch.no_grad():
        model.get_parameter(place)[0] = math.nan
    with pytest.raises(Diverged, match="my training: .* at step 0"):
        fit(model, columns(SCENES), RECIPE, seed=0, label="my training", gradient=flipping_gradient)


def test_scenes_of_differing_size_and_without_instances():
    wide = Scene(torch.zeros(3, 40, 90, dtype=torch.uint8), torch.zeros(0, 40, 90, dtype=torch.bool))
    model, data = detector(size=SIZE, seed=0), columns([SCENES[0], wide])
    fit(model, data, RECIPE, seed=0, label="a", gradient=flipping_gradient)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
