"""Calibration: known answers, folding, undoing, what is refused. `case` is a network of each kind."""

import copy
import io
import re

import pytest
import torch
from torch import Tensor, nn

from bayesft.calibration import (
    Correction,
    Reference,
    calibrate,
    calibrated,
    calibration_layers,
    calibration_reference,
    corrections,
    uncalibrate,
)
from bayesft.models import build

from .conftest import NETWORKS, TwoInputs, drifted, make, rows_changed

KEPT = {  # what can't be folded, by network
    "norms without bias": ["2"],  # RMS normalisation adds no bias
    "tied weights": ["first", "second"],
    "weight norm": ["0"],
    "own forward": ["0"],
    "hooked": ["0"],
}


@torch.no_grad()
def error(model: nn.Module, clean: nn.Module, x: Tensor) -> float:
    """The largest difference of the outputs."""
    return float((model(x) - clean(x)).abs().max())


def test_one_layer_by_hand():
    clean, faulty = nn.Linear(1, 2), nn.Linear(1, 2)
    with torch.no_grad():
        clean.weight.copy_(torch.tensor([[2.0], [0.0]]))
        clean.bias.copy_(torch.tensor([1.0, 4.0]))
        faulty.weight.copy_(torch.tensor([[6.0], [3.0]]))
        faulty.bias.copy_(torch.tensor([0.0, 1.0]))
    x = torch.tensor([[1.0], [3.0]])
    # Clean: 3 and 7, mean 5, deviation 2; 4 and 4. Faulty: 6 and 18, mean 12, deviation 6; 4 and 10, mean 7.
    found = calibrate(faulty, calibration_reference(clean, x), x)
    scale, shift = corrections(found)[""]
    torch.testing.assert_close(scale, torch.tensor([1 / 3, 1.0]))
    torch.testing.assert_close(shift, torch.tensor([1.0, -3.0]))
    torch.testing.assert_close(found(x), torch.tensor([[3.0, 1.0], [7.0, 7.0]]))


# Not these: a fault of what has no bias or is shared, or that comes before a tanh, is not one of rows alone.
@pytest.mark.parametrize(
    "network", sorted(set(NETWORKS) - {"without bias", "norms without bias", "tied weights", "hooked"})
)
@pytest.mark.parametrize("fold", [True, False])
def test_scaled_and_shifted_channels_are_restored(network, fold):
    clean, x = make(network)
    faulty = rows_changed(clean)
    if network == "weight norm":  # its fault goes in by the magnitude, and no shift
        faulty = copy.deepcopy(clean)
        with torch.no_grad():
            faulty[0].parametrizations.weight.original0.mul_(torch.tensor([0.5, 2.0, 1.5, 3.0, 0.7]).view(5, 1))
    found = calibrate(faulty, calibration_reference(clean, x), x, fold=fold)
    assert error(faulty, clean, x) > 0.1
    if network == "encoder" and not fold:  # hooks inside PyTorch's fused path
        with calibrated(faulty, calibration_reference(clean, x), x, fold=False):
            assert error(faulty, clean, x) < 1e-4
        return
    assert error(found, clean, x) < 1e-4
    others = make(network)[1].flip(0)[:3]  # and on what was not measured
    assert error(found, clean, others) < 1e-4


def test_without_drift_nothing_changes(case):
    clean, x = case
    found = calibrate(clean, calibration_reference(clean, x), x)
    for pair in corrections(found).values():
        torch.testing.assert_close(pair.scale, torch.ones_like(pair.scale), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pair.shift, torch.zeros_like(pair.shift), rtol=0, atol=1e-5)
    assert error(found, clean, x) < 1e-5


def test_every_channel_has_the_moments_of_the_reference(case):
    clean, x = case
    reference = calibration_reference(clean, x)
    found = calibration_reference(calibrate(drifted(clean), reference, x), x)
    if max(map(len, reference.moments.values())) > 1:
        return  # of several calls each is corrected by what was known at the time
    for name, calls in reference.moments.items():
        torch.testing.assert_close(found.moments[name][0].mean, calls[0].mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.moments[name][0].variance, calls[0].variance, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_folded_and_kept_corrections_agree(network):
    clean, x = make(network)
    reference, faulty = calibration_reference(clean, x), drifted(clean)
    with calibrated(faulty, reference, x), torch.no_grad():
        folded = faulty(x)
        kept = [name for name, m in faulty.named_modules() if "calibration_scale" in m._buffers]
        assert kept == KEPT.get(network, [])
    with calibrated(faulty, reference, x, fold=False), torch.no_grad():
        torch.testing.assert_close(faulty(x), folded, rtol=1e-5, atol=1e-5)
        kept = [name for m in faulty.modules() for name in m._buffers if name.startswith("calibration_")]
        assert len(kept) == 2 * len(reference.moments)


def test_permuted_examples_give_the_same_corrections(case):
    clean, x = case
    reference, faulty = calibration_reference(clean, x), drifted(clean)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    if x.dim() == 2 and not x.is_floating_point():
        return  # sequences of words have the batch second in attention: another order is another input
    for a, b in zip(
        corrections(calibrate(faulty, reference, x)).values(),
        corrections(calibrate(faulty, reference, x[order])).values(),
        strict=True,
    ):
        torch.testing.assert_close(a.scale, b.scale, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.shift, b.shift, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fold", [True, False])
def test_undone_bit_for_bit(case, fold):
    clean, x = case
    reference, faulty = calibration_reference(clean, x), drifted(clean)
    before = {name: value.clone() for name, value in faulty.state_dict().items()}
    parameters = dict(faulty.named_parameters(remove_duplicate=False))
    hooks = [len(m._forward_hooks) for m in faulty.modules()]
    with pytest.raises(RuntimeError, match="inside"), calibrated(faulty, reference, x, fold=fold):
        raise RuntimeError("inside")
    copied = uncalibrate(calibrate(faulty, reference, x, fold=fold))
    for model in (faulty, copied):
        assert list(model.state_dict()) == list(before)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert [len(m._forward_hooks) for m in model.modules()] == hooks
        assert all(theta.requires_grad and theta.grad is None for theta in model.parameters())
        assert corrections(model) == {}
    found = dict(faulty.named_parameters(remove_duplicate=False))
    assert all(found[name] is theta for name, theta in parameters.items())


def test_the_faulty_copy_is_copied_and_left_alone():
    clean, x = make("conv2d")
    faulty = drifted(clean).train()
    before = {name: value.clone() for name, value in faulty.state_dict().items()}
    state, inputs = torch.get_rng_state(), x.clone()
    found = calibrate(faulty, calibration_reference(clean, x), x)
    assert all(torch.equal(value, before[name]) for name, value in faulty.state_dict().items())
    assert faulty.training and found.training and corrections(faulty) == {}
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, inputs)


def test_the_result_can_be_copied_and_undone_in_the_copy():
    for network in ("linear", "hooked"):
        clean, x = make(network)
        found = calibrate(drifted(clean), calibration_reference(clean, x), x)
        twin = copy.deepcopy(found)
        assert error(twin, found, x) == 0
        assert error(uncalibrate(twin), drifted(clean), x) == 0
        assert corrections(found) and not corrections(twin)


def test_the_state_dict_loads_into_the_plain_network():
    clean, x = make("linear")
    found = calibrate(drifted(clean), calibration_reference(clean, x), x)
    buffer = io.BytesIO()
    torch.save(found.state_dict(), buffer)
    buffer.seek(0)
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    plain.load_state_dict(torch.load(buffer, weights_only=True))
    assert error(plain, found, x) == 0


def test_a_layer_without_bias_gets_one():
    clean, x = make("without bias")
    found = calibrate(drifted(clean), calibration_reference(clean, x), x)
    with_biases = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with_biases.load_state_dict(found.state_dict())
    assert error(with_biases, found, x) == 0
    assert list(uncalibrate(found).state_dict()) == ["0.weight", "2.weight"]


def test_kept_corrections_in_the_state_dict_are_plain_tensors():
    clean, x = make("hooked")
    found = calibrate(drifted(clean), calibration_reference(clean, x), x)
    state = found.state_dict()
    plain, _ = make("hooked")
    scale, shift = state.pop("0.calibration_scale"), state.pop("0.calibration_shift")
    plain.load_state_dict(state)
    plain[0].register_forward_hook(lambda module, args, output: output * scale + shift)
    assert error(plain, found, x) < 1e-6


def test_a_scale_or_a_shift_alone():
    clean, x = make("one layer")
    faulty, reference = rows_changed(clean), calibration_reference(clean, x)
    both, scale, shift = (
        corrections(calibrate(faulty, reference, x, terms=terms))[""] for terms in ("both", "scale", "shift")
    )
    y, z = faulty(x).detach(), clean(x).detach()
    torch.testing.assert_close(scale, Correction(both.scale, torch.zeros(3)))
    torch.testing.assert_close(shift, Correction(torch.ones(3), z.mean(0) - y.mean(0)))
    torch.testing.assert_close(both.scale, z.std(0) / y.std(0))


def test_dead_channels_get_the_shift_alone():
    clean, x = make("one layer")
    faulty = drifted(clean)
    with torch.no_grad():
        clean.weight[0], faulty.weight[1] = 0, 0  # constant: one in the clean network, one in the copy
    found = calibrate(faulty, calibration_reference(clean, x), x)
    scale, shift = corrections(found)[""]
    assert scale[:2].tolist() == [1, 1] and scale[2] != 1
    with torch.no_grad():
        torch.testing.assert_close(found(x).mean(0), clean(x).mean(0))
        torch.testing.assert_close(shift[:2], (clean(x) - faulty(x)).mean(0)[:2])


@pytest.mark.parametrize("seed", range(3))
def test_a_channel_that_is_constant_up_to_rounding_is_dead(seed):
    torch.manual_seed(seed)
    clean, x = nn.Linear(6, 3), torch.randn(500, 6) * 1e-9 + torch.randn(6)
    found = corrections(calibrate(drifted(clean), calibration_reference(clean, x), x))[""]
    assert found.scale.tolist() == [1, 1, 1]


def test_drift_further_under_corrections_that_stay():
    clean, x = make("linear")
    reference, faulty = calibration_reference(clean, x), drifted(clean, 0.3)
    with calibrated(faulty, reference, x, fold=False):
        pairs = corrections(faulty)
        with torch.no_grad():
            for theta in faulty.parameters():
                theta.mul_(2)
            y = (pairs["0"](faulty[0].weight @ x.T + faulty[0].bias[:, None], (0,))).relu()
            expected = pairs["2"](faulty[2].weight @ y + faulty[2].bias[:, None], (0,)).T
            torch.testing.assert_close(faulty(x), expected)
    assert all(
        torch.equal(p, 2 * q) for p, q in zip(faulty.parameters(), drifted(clean, 0.3).parameters(), strict=True)
    )


def test_several_inputs_and_inputs_by_name():
    torch.manual_seed(0)
    clean, left, right = TwoInputs().eval(), torch.randn(20, 6), torch.randn(20, 5)
    faulty = rows_changed(clean)
    a = calibrate(faulty, calibration_reference(clean, (left, right)), (left, right))
    reference = calibration_reference(clean, {"left": left, "right": right})
    b = calibrate(faulty, reference, {"right": right, "left": left})
    with torch.no_grad():
        torch.testing.assert_close(a(left, right), clean(left, right), rtol=1e-4, atol=1e-4)
        assert torch.equal(a(left, right), b(left, right))


def test_a_module_of_ones_own_kind_by_its_channel_dimension():
    class Transposed(nn.Module):
        """x · w with w (inputs, outputs), as some language models have it."""

        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight + self.bias

    torch.manual_seed(0)
    clean, x = nn.Sequential(Transposed(), nn.ReLU(), nn.Linear(5, 2)), torch.randn(30, 6)
    faulty = copy.deepcopy(clean)
    with torch.no_grad():
        faulty[0].weight.mul_(torch.tensor([0.5, 2, 3, 0.2, 1]))
    layers = {**calibration_layers(clean), "0": -1}
    reference = calibration_reference(clean, x, layers=layers)
    assert list(reference.moments) == ["0", "2"]
    assert error(calibrate(faulty, reference, x), clean, x) < 1e-5


def test_layers_that_are_not_in_the_reference_stay():
    clean, x = make("conv2d")
    faulty = drifted(clean)
    found = calibrate(faulty, calibration_reference(clean, x, layers=["3"]), x)
    assert list(corrections(found)) == ["3"]
    changed = [name for name, theta in found.named_parameters() if not torch.equal(theta, faulty.get_parameter(name))]
    assert changed == ["3.weight", "3.bias"]


def test_in_inference_mode_as_evaluation_runs():
    clean, x = make("conv2d")
    reference, faulty = calibration_reference(clean, x), rows_changed(clean)
    with torch.inference_mode(), calibrated(faulty, reference, x):
        assert error(faulty, clean, x) < 1e-4
    faulty(x).sum().backward()  # nothing of that mode is left behind
    assert all(theta.grad is not None for theta in faulty.parameters())


def test_a_loaded_reference_calibrates_alike(tmp_path):
    clean, x = make("conv2d")
    reference = calibration_reference(clean, x)
    reference.save(tmp_path / "reference.safetensors")
    a, b = (calibrate(drifted(clean), r, x) for r in (reference, Reference.load(tmp_path / "reference.safetensors")))
    assert error(a, b, x) == 0


@pytest.mark.parametrize("network", ["lenet5", "resnet18", "spatial_transformer"])
def test_the_networks_of_the_study_come_nearer_to_the_clean_ones(network):
    width = {} if network == "lenet5" else {"width": 0.0625}
    clean = build({"network": network, **width}, 0).eval()
    generator = torch.Generator().manual_seed(0)
    shape = (1, 28, 28) if network == "lenet5" else (3, 32, 32)
    x, others = (torch.randn(32, *shape, generator=generator) for _ in range(2))
    faulty = drifted(clean)
    found = calibrate(faulty, calibration_reference(clean, x), x)
    with torch.no_grad():
        y, plain, corrected = clean(others), faulty(others), found(others)
    assert (corrected - y).norm() < 0.5 * (plain - y).norm()
    assert not any("calibration_scale" in m._buffers for m in found.modules())


# What is refused.


def refused(message: str, model: nn.Module, reference: Reference, data, **options) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrate(model, reference, data, **options)
    with pytest.raises(ValueError, match=re.escape(message)), calibrated(model, reference, data, **options):
        raise AssertionError("not reached")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_reference_of_another_network():
    clean, x = make("linear")
    reference = calibration_reference(clean, x)
    wider = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    refused("of another network: layer '0' has channels [8] there and [9] here", wider, reference, x)
    deeper = nn.Sequential(*clean, nn.Linear(3, 3))
    refused("layer '3' has channels None there and [3] here", deeper, reference, x)
    own = calibration_reference(clean, x, layers={"1": -1})
    other = nn.Sequential(copy.deepcopy(clean[0]))
    other.register_module("2", copy.deepcopy(clean[2]))
    refused("there is no module '1' here", other, own, x)


def test_channels_of_ones_own_kind_in_another_number():
    clean, x = nn.Sequential(nn.Flatten()), torch.randn(5, 6)
    reference = calibration_reference(clean, x, layers={"0": -1})
    longer = nn.Sequential(nn.Sequential(nn.Flatten(), nn.ZeroPad1d(1)))
    refused("layer '0': channels of shape (8,), those of the reference (6,)", longer, reference, x)


def test_examples_of_another_shape():
    clean, x = make("conv2d")
    reference = calibration_reference(clean, x)
    refused(
        "examples of shapes [[2, 9, 9]]: the reference was made with [[[2, 7, 7]]]",
        clean,
        reference,
        x.new_ones(9, 2, 9, 9),
    )


def test_what_is_no_reference():
    clean, x = make("linear")
    refused("reference is a str: make one with calibration_reference", clean, "reference.safetensors", x)


def test_several_batches():
    clean, x = make("linear")
    refused("data is a list: need one batch", clean, calibration_reference(clean, x), list(x.split(10)))


def test_one_value_a_channel():
    clean, x = make("linear")
    refused("layer '0' has one value a channel", clean, calibration_reference(clean, x), x[:1])


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_outputs_that_are_not_finite(value):
    clean, x = make("linear")
    faulty = drifted(clean)
    with torch.no_grad():
        faulty[2].bias[1] = value
    reference = calibration_reference(clean, x)
    with pytest.raises(ValueError, match="layer '2' of the faulty copy has outputs that are not finite"):
        calibrate(faulty, reference, x)


def test_terms_that_do_not_exist():
    clean, x = make("linear")
    refused("terms = 'all': must be one of both, scale, shift", clean, calibration_reference(clean, x), x, terms="all")


def test_twice():
    clean, x = make("linear")
    reference = calibration_reference(clean, x)
    found = calibrate(drifted(clean), reference, x)
    with pytest.raises(ValueError, match="calibrated already: call uncalibrate first"):
        calibrate(found, reference, x)


def test_undoing_what_was_not_done():
    with pytest.raises(ValueError, match="not calibrated"):
        uncalibrate(nn.Linear(2, 2))


@pytest.mark.parametrize(("calls", "message"), [(2, "is called 2 times, for the reference 3 times"), (4, "more often")])
def test_another_number_of_calls(calls, message):
    clean, x = make("called three times")
    reference, other = calibration_reference(clean, x), copy.deepcopy(clean)
    other.forward = lambda x: other.last([x := other.again(x) for _ in range(calls)][-1])
    with pytest.raises(ValueError, match=message):
        calibrate(other, reference, x)
