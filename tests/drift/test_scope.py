"""Which parameters of a network faults meet."""

import pytest
import torch
from torch import nn

from bayesft.drift import LogNormalDrift, faulty_outputs, scoped
from bayesft.models import build


class Conv1D(nn.Module):
    """A linear layer with a transposed weight, as GPT-2 of Hugging Face has it."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))


LAYERS = {
    "linear": (nn.Linear(2, 3), {"weight"}),
    "bilinear": (nn.Bilinear(2, 3, 4), {"weight"}),
    "Conv1D": (Conv1D(2, 3), {"weight"}),
    "convolution": (nn.Conv2d(2, 3, 3), {"weight"}),
    "transposed": (nn.ConvTranspose1d(2, 3, 3), {"weight"}),
    "attention": (nn.MultiheadAttention(4, 2, add_bias_kv=True), {"in_proj_weight", "out_proj.weight"}),
    "attention of three sizes": (
        nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"},
    ),
    "LSTM": (
        nn.LSTM(2, 4, bidirectional=True, proj_size=3),
        {f"weight_{kind}_l0{way}" for kind in ("ih", "hh", "hr") for way in ("", "_reverse")},
    ),
    "GRU cell": (nn.GRUCell(2, 3), {"weight_ih", "weight_hh"}),
    "embedding": (nn.Embedding(4, 3), set()),
    "layer norm of two dimensions": (nn.LayerNorm((3, 4)), set()),
    "RMS norm of two dimensions": (nn.RMSNorm((3, 4)), set()),
    "batch norm": (nn.BatchNorm2d(3), set()),
    "PReLU": (nn.PReLU(3), set()),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_are_what_a_crossbar_multiplies_with(kind):
    layer, expected = LAYERS[kind]
    model = nn.Sequential(layer, nn.Linear(1, 1))
    assert set(scoped(model, "weights")) == {f"0.{name}" for name in expected} | {"1.weight"}
    assert set(scoped(model)) == {name for name, _ in model.named_parameters()}


def test_convolutions_are_those_of_every_number_of_dimensions():
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1), nn.Linear(1, 1), nn.BatchNorm1d(1))
    assert list(scoped(model, "convolutions")) == ["0.weight", "1.weight"]
    assert list(scoped(nn.Conv3d(1, 1, 1), "convolutions")) == ["weight"]


def test_a_function_chooses_by_name_module_and_parameter():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))
    seen = []

    def chosen(name, module, parameter):
        seen.append((name, type(module).__name__, tuple(parameter.shape)))
        return name.startswith("1.") and isinstance(module, nn.Linear)

    assert list(scoped(model, chosen)) == ["1.0.weight", "1.0.bias"]
    assert seen[0] == ("0.weight", "Linear", (2, 2)) and len(seen) == 6


def test_a_shared_tensor_is_there_once_by_its_first_name_if_one_place_counts():
    model = nn.ModuleDict({"table": nn.Embedding(5, 3), "head": nn.Linear(3, 5), "again": nn.Linear(3, 5)})
    model["head"].weight = model["again"].weight = model["table"].weight
    assert list(scoped(model, "weights")) == ["table.weight"]
    assert scoped(model, "weights")["table.weight"] is model["head"].weight
    assert list(scoped(model)) == ["table.weight", "head.bias", "again.bias"]


@pytest.mark.parametrize(
    "network", [{"network": "lenet5"}, {"network": "resnet18"}, {"network": "spatial_transformer", "outputs": 43}]
)
def test_the_weights_of_the_papers_networks_are_those_of_linear_layers_and_convolutions(network):
    with torch.device("meta"):
        model = build(network, 0)
    expected = [
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    assert list(scoped(model, "weights")) == expected and len(expected) >= 5
    assert list(scoped(model, "convolutions")) == [
        name for name in expected if isinstance(model.get_submodule(name.removesuffix(".weight")), nn.Conv2d)
    ]


@pytest.mark.parametrize("where", ["biases", "", None])
def test_unknown_scopes_are_refused(where):
    with pytest.raises(ValueError, match=f"where = {where!r}: must be one of all, weights, convolutions"):
        scoped(nn.Linear(1, 1), where)


def test_a_scope_without_a_parameter_is_refused():
    for where in ("convolutions", lambda name, module, parameter: False):
        with pytest.raises(ValueError, match="no parameter of Linear counts"):
            scoped(nn.Linear(1, 1), where)


def test_the_parameters_of_a_compiled_network_have_their_own_names():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    compiled = nn.Sequential(torch.compile(model, backend="eager"))

    def first(name, module, parameter):
        return name.startswith("0.0.")

    assert list(scoped(compiled)) == ["0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"]
    assert list(scoped(compiled, "weights")) == ["0.0.weight", "0.1.weight"]
    assert list(scoped(compiled, first)) == ["0.0.weight", "0.0.bias"]
    x = torch.ones(2, 3)
    torch.manual_seed(0)
    found = faulty_outputs(torch.compile(model, backend="eager"), x, LogNormalDrift(), 1.0)
    torch.manual_seed(0)
    assert torch.equal(found, faulty_outputs(model, x, LogNormalDrift(), 1.0)) and not torch.equal(found, model(x))
