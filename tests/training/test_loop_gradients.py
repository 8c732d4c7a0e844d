"""A gradient that is not finite stops a training even where the loss still is."""

import pytest
import torch

from bayesft.data import Split
from bayesft.settings import Recipe
from bayesft.training import Checkpoint, Diverged, fit


def test_a_gradient_that_is_not_finite_stops_before_the_step():
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()

    def poisoned(model, loss, x, y, progress):
        for p in model.parameters():
            p.grad = torch.full_like(p, float("nan"))
        return torch.tensor(0.5)

    data = Split(torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(Diverged, match=r"a task: the loss is 0.5 and its gradient's norm nan at step 0"):
        fit(model, data, Recipe(epochs=1, batch_size=8), seed=0, label="a task", gradient=poisoned)
    assert torch.equal(model.weight, before)


def test_tied_weights_can_be_checkpointed(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
    model[2].weight = model[0].weight
    data = Split(torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))
    with Checkpoint(tmp_path / "tied") as checkpoint:
        fit(model, data, Recipe(epochs=1, batch_size=8), seed=0, label="tied", checkpoint=checkpoint)
        tensors, _ = checkpoint.load("tied")
    assert torch.equal(tensors["model.0.weight"], model[0].weight)
