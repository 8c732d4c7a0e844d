"""The reference: moments against float64, batches, its file, what it refuses."""

import re
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bayesft.calibration import Reference, calibrate, calibration_layers, calibration_reference
from bayesft.calibration.moments import Moments

from .conftest import NETWORKS, Attention, TwoInputs, make


def assert_same(a: Reference, b: Reference, **tolerance) -> None:
    assert list(a.moments) == list(b.moments)
    for name in a.moments:
        for x, y in zip(a.moments[name], b.moments[name], strict=True):
            assert x.count == y.count
            torch.testing.assert_close(x.mean, y.mean, **tolerance)
            torch.testing.assert_close(x.variance, y.variance, **tolerance)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.floats(-1000, 1000),
    st.floats(0.1, 10),
    st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_moments_of_batches_are_those_of_all_values(sizes, mean, deviation, seed):
    values = torch.randn(sum(sizes), 3, 4, generator=torch.Generator().manual_seed(seed)) * deviation + mean
    total = None
    for part in values.split(sizes):
        moments = Moments.of(part, (1,))
        total = moments if total is None else total.merged(moments)
    exact = values.double()
    assert total.count == 4 * sum(sizes)
    torch.testing.assert_close(total.mean.double(), exact.mean((0, 2)), rtol=1e-5, atol=1e-4)
    expected = exact.var((0, 2), correction=0)
    torch.testing.assert_close(total.variance.double(), expected, rtol=1e-4, atol=1e-7 * mean**2)


def test_moments_along_several_dimensions():
    y = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    found = Moments.of(y, (-2, -1))
    assert found.count == 5
    torch.testing.assert_close(found.mean, y.mean(0))
    torch.testing.assert_close(found.variance, y.var(0, correction=0))


def test_layers_and_their_channels(case):
    model, x = case
    reference = calibration_reference(model, x)
    for name, calls in reference.moments.items():
        assert list(calls[0].mean.shape) == reference.structure[name]
    uncalled = set(reference.structure) - set(reference.moments)
    assert all("out_proj" in name for name in uncalled)  # attention uses its weights without a call
    assert reference.examples == 40


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("linear", {"0": (-1,), "2": (-1,)}),
        ("conv1d", {"0": (-2,), "2": (-2,)}),
        ("conv2d", {"0": (-3,), "1": (1,), "3": (-3,), "4": (1,), "6": (-1,), "7": (1,)}),
        ("transposed", {"0": (-3,), "1": (-3,), "2": (1,), "3": (-3,)}),
        ("conv3d", {"0": (-4,), "2": (-4,)}),
        ("layer norm of maps", {"0": (-3,), "1": (-3, -2, -1)}),
        ("norms without bias", {"0": (-1,), "1": (-1,), "2": (-1,), "3": (-1,)}),
        ("one layer", {"": (-1,)}),
    ],
)
def test_channel_dimensions(network, expected):
    assert calibration_layers(make(network)[0]) == expected


def test_choice_of_layers():
    model, x = make("conv2d")
    assert list(calibration_layers(model, "weights")) == ["0", "3", "6"]
    assert list(calibration_reference(model, x, layers=["3", "7"]).moments) == ["3", "7"]
    assert calibration_layers(model, {"2": 1, "6": (-1,)}) == {"2": (1,), "6": (-1,)}


def test_attention_is_measured_behind_its_output_projection():
    model, x = make("attention")
    assert isinstance(model, Attention)
    reference = calibration_reference(model, x)
    # No embedding, and no output projection of its own.
    projections = [f"attention.{part}" for part in ("q_proj", "k_proj", "v_proj")]
    assert list(reference.moments) == [*projections, "attention", "last"]
    seen = model.words(x)
    y = model.attention(seen, seen, seen)[0].detach()
    torch.testing.assert_close(reference.moments["attention"][0].mean, y.mean((0, 1)))


def test_a_layer_called_several_times_has_the_moments_of_its_calls_so_far():
    model, x = make("called three times")
    outputs = []
    model.again.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    found = calibration_reference(model, x).moments["again"]
    assert [m.count for m in found] == [40, 80, 120]
    for k, m in enumerate(found):
        torch.testing.assert_close(m.mean, torch.cat(outputs[: k + 1]).mean(0))
        torch.testing.assert_close(m.variance, torch.cat(outputs[: k + 1]).var(0, correction=0))


@pytest.mark.parametrize("network", ["sequences", "conv2d", "called three times", "encoder"])
@pytest.mark.parametrize("size", [1, 7, 39])
def test_the_reference_does_not_depend_on_the_batches(network, size):
    model, x = make(network)
    together = calibration_reference(model, x)
    found = calibration_reference(model, iter(x.split(size)))
    assert_same(found, together, rtol=1e-4, atol=1e-5)
    assert found.examples == 40 and found.shapes == together.shapes


def test_the_order_of_the_examples_does_not_matter():
    model, x = make("conv2d")
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert_same(calibration_reference(model, x[order]), calibration_reference(model, x), rtol=1e-4, atol=1e-6)


def test_several_inputs_and_inputs_by_name():
    torch.manual_seed(0)
    model, left, right = TwoInputs().eval(), torch.randn(20, 6), torch.randn(20, 5)
    by_place = calibration_reference(model, (left, right))
    by_name = calibration_reference(model, {"right": right, "left": left, "scale": torch.tensor(1.0)})
    loaded = calibration_reference(model, DataLoader(TensorDataset(left, right), batch_size=8))
    assert_same(by_place, by_name)
    assert_same(loaded, by_place, rtol=1e-4, atol=1e-5)
    assert by_place.shapes == by_name.shapes == loaded.shapes == [[[6], [5]]]
    assert by_place.examples == by_name.examples == loaded.examples == 20


@pytest.mark.parametrize("network", NETWORKS)
def test_the_file_holds_the_reference_bit_for_bit(network, tmp_path):
    model, x = make(network)
    reference = calibration_reference(model, x)
    for name in ("a", "b"):
        reference.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = Reference.load(tmp_path / "a")
    assert_same(found, reference, rtol=0, atol=0)
    assert (found.dims, found.structure, found.shapes) == (reference.dims, reference.structure, reference.shapes)
    assert str(found) == str(reference)


def test_another_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"abc")
    for name in ("other", "damaged", "missing"):
        with pytest.raises(ValueError, match=f"{name}.safetensors: no calibration reference"):
            Reference.load(tmp_path / f"{name}.safetensors")


def test_the_network_comes_back_as_it_was():
    model, x = make("conv2d")
    model.train()
    model[1].eval()
    before, state, inputs = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state(), x.clone()
    calibration_reference(model, x)
    assert [m.training for m in model] == [i != 1 for i in range(8)]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, inputs)
    assert torch.backends.mha.get_fastpath_enabled()


class Merging(nn.Linear):
    """It counts its passes, and merges a part into its weights in eval mode, as adapters do."""

    def __init__(self):
        super().__init__(6, 3)
        self.merged, self.passes, self.kinds = False, 0, Counter(merge=0)

    def train(self, mode: bool = True) -> nn.Module:
        if not mode and not self.merged:
            self.weight.data += 1
            self.merged = True
            self.kinds["merge"] += 1
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


def test_what_eval_mode_and_passes_change_comes_back_too():
    model, x = Merging(), torch.randn(20, 6)
    before = model.weight.detach().clone()
    calibrate(model, calibration_reference(model, x), x)
    assert torch.equal(model.weight, before) and (model.merged, model.passes) == (False, 0) and model.training
    assert model.kinds == {"merge": 0}


def test_the_network_is_measured_in_eval_mode():
    model, x = make("conv2d")
    expected = calibration_reference(model, x)
    assert_same(calibration_reference(model.train(), x), expected)


def test_a_network_that_writes_into_its_input():
    class Halved(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.div_(2))

    x = torch.randn(10, 6)
    before = x.clone()
    calibration_reference(Halved(6, 3), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("norms", """layers = 'norms': must be "all", "weights", or names of modules"""),
        (["9"], "'9' is no module of the network"),
        (["2"], "'2' is a ReLU: give the dimension of its channels, {'2': -1}"),
        ({"unused": -1}, "'unused' is not called"),
    ],
)
def test_layers_that_are_refused(layers, message):
    model, x = make("conv2d")
    model.register_module("unused", nn.Identity())
    model.forward = lambda x: nn.Sequential(*list(model)[:8])(x)
    with pytest.raises(ValueError, match=re.escape(message)):
        calibration_reference(model, x, layers=layers)


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="no layer that can be calibrated"):
        calibration_reference(nn.Sequential(nn.ReLU(), nn.Embedding(3, 2)), torch.zeros(2))


@pytest.mark.parametrize("batches", [[], ()])
def test_no_examples_are_refused(batches):
    with pytest.raises(ValueError, match="at least two|need a tensor"):
        calibration_reference(nn.Linear(6, 3), batches)


def test_fewer_than_two_values_a_channel_are_refused():
    with pytest.raises(ValueError, match="layer '' has one value a channel"):
        calibration_reference(nn.Linear(6, 3), torch.zeros(1, 6))
    calibration_reference(nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 5, 5))  # nine positions are nine values


def test_outputs_that_are_not_finite_are_refused():
    model, x = make("linear")
    x[3, 0] = torch.inf
    with pytest.raises(ValueError, match="layer '0' of the clean network has outputs that are not finite"):
        calibration_reference(model, x)


def test_what_is_no_batch_is_refused():
    for data in ("images", [3.0], [[]]):
        with pytest.raises(ValueError, match="need a tensor, a tuple of tensors, or a dict of them"):
            calibration_reference(nn.Linear(6, 3), data)


def test_labels_are_no_inputs():
    labelled = DataLoader(TensorDataset(torch.zeros(8, 6), torch.zeros(8)), batch_size=4)
    with pytest.raises(ValueError, match="the inputs without labels"):
        calibration_reference(nn.Linear(6, 3), labelled)


def test_calls_that_differ_between_batches_are_refused():
    class Loop(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(x.shape[1]):
                y = self.inner(x[:, :1])
            return y

    model = Loop(1, 1)
    model.inner = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="layer 'inner' is called 2 times for one batch, 3 for another"):
        calibration_reference(model, [torch.zeros(4, 2), torch.zeros(4, 3)])
