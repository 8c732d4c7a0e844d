"""Statistics estimated again: against PyTorch's own, and by hand."""

import copy

import pytest
import torch
from torch import nn

from bayesft.calibration import reestimate_batch_norm

from .conftest import drifted, make


@pytest.mark.parametrize("size", [40, 20])
def test_as_pytorch_does_it(size):
    clean, x = make("conv2d")
    faulty = drifted(clean)
    expected = copy.deepcopy(faulty).train()
    for module in (expected[1], expected[7]):
        module.reset_running_stats()
        module.momentum = None
    with torch.no_grad():
        for batch in x.split(size):
            expected(batch)
    found = reestimate_batch_norm(faulty, list(x.split(size)))
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value)
    assert [m.momentum for m in found if "BatchNorm" in type(m).__name__] == [0.1, 0.1]
    assert not any(module.training for module in found.modules())


def test_one_layer_by_hand():
    model, x = nn.BatchNorm1d(1), torch.tensor([[1.0], [2.0], [6.0]])
    found = reestimate_batch_norm(model, x)
    assert found.running_mean.item() == 3 and found.running_var.item() == 7  # unbiased, as PyTorch keeps it
    assert model.running_mean.item() == 0 and model.training and found.training


def test_dropout_is_off():
    torch.manual_seed(0)
    x = torch.randn(30, 4)
    plain, dropping = nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    found = reestimate_batch_norm(dropping, x)
    torch.testing.assert_close(found[1].running_mean, reestimate_batch_norm(plain, x).running_mean)
    assert found[0].training


def test_a_network_without_is_refused():
    for model in (nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)):
        with pytest.raises(ValueError, match="no batch normalisation with running statistics"):
            reestimate_batch_norm(model, torch.zeros(4, 2))


def test_without_a_batch_there_are_no_statistics():
    for batches in ([], iter([])):
        with pytest.raises(ValueError, match="no batch"):
            reestimate_batch_norm(nn.BatchNorm1d(2), batches)
