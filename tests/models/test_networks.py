"""What holds for every network: sizes, initialisation, width, dropping the normalisation, names and files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import bayesft
from bayesft.drift import LogNormalDrift, drifted_parameters
from bayesft.models import NETWORKS, build
from bayesft.tasks import ABLATIONS, CLASSIFICATION, FACTORS, TASKS

SMALL = {name: {**TASKS[name].specification, "width": 1 / 16} for name in CLASSIFICATION}
NORMALIZED = [name for name, task in TASKS.items() if task.normalized]
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def images(data: str, count: int = 2) -> torch.Tensor:
    shape = (1, 28, 28) if data == "mnist" else (3, 32, 32)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def count(model: nn.Module) -> int:
    return sum(theta.numel() for theta in model.parameters())


def randomized(model: nn.Module) -> nn.Module:
    """Every parameter and statistic away from its start, zeros included, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for theta in model.parameters():
            theta.add_(torch.randn(theta.shape, generator=generator), alpha=0.1)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand(buffer.shape, generator=generator), alpha=0.2)
    return model


@pytest.mark.parametrize(
    ("network", "parameters"), [("mlp", 157_226), ("lenet5", 44_426), ("alexnet", 23_272_266), ("vgg", 9_231_114)]
)
def test_parameter_counts(network, parameters):
    with torch.device("meta"):
        assert count(build({"network": network})) == parameters


def test_every_network_is_of_a_task_or_of_the_chapter_on_fault_tolerant_training():
    compared = {"resnet20", "mobilenet_v2", "cell_network"}
    used = {TASKS[name].specification["network"] for name in CLASSIFICATION}
    own = {name for name, network in NETWORKS.items() if network.__module__.startswith("bayesft.models")}
    assert own - {"detector"} == used | compared


@pytest.mark.parametrize(
    ("task", "changes"),
    [*((task, {}) for task in CLASSIFICATION), *((task, {"normalization": None}) for task in NORMALIZED)],
    ids=str,
)
def test_an_images_logits_do_not_depend_on_its_batch(task, changes):
    model, x = randomized(build({**SMALL[task], **changes}, 0)).eval(), images(TASKS[task].data, 3)
    with torch.no_grad():
        outputs = model(x)
        assert outputs.shape == (3, 43 if task == "stn-gtsrb" else 10)
        scale = outputs.abs().max().item()
        torch.testing.assert_close(model(x[1:2]), outputs[1:2], atol=1e-4 * scale, rtol=0)
        channels_last = x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(channels_last), outputs, atol=1e-4 * scale, rtol=0)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("data", ABLATIONS)
def test_every_variant_of_an_ablation_can_be_trained(data):
    for name, specification in ABLATIONS[data].networks(FACTORS).items():
        model = build({**specification, "width": 1 / 16}, 0).train()
        outputs = model(images(data))
        assert outputs.shape == (2, 10), name
        outputs.square().sum().backward()
        assert all(theta.grad is not None for theta in model.parameters()), name


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_every_task_can_be_trained_with_any_number_of_outputs(task):
    model = build({**SMALL[task], "outputs": 15}, 0).train()
    outputs = model(images(TASKS[task].data, 4))
    assert outputs.shape == (4, 15)
    outputs.square().sum().backward()
    assert all(theta.grad is not None and theta.grad.isfinite().all() for theta in model.parameters())


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_a_width_scales_the_network(task):
    with torch.device("meta"):
        specification = TASKS[task].specification
        full, half = build(specification), build({**specification, "width": 0.5})
        assert str(build({**specification, "width": 1.0})) == str(full)
    assert [name for name, _ in half.named_parameters()] == [name for name, _ in full.named_parameters()]
    assert 0.2 < count(half) / count(full) < 0.55  # a quarter of the weights between hidden layers, half of the others


@pytest.mark.parametrize("task", NORMALIZED)
def test_without_normalisation_none_is_left(task):
    assert any(isinstance(module, NORMS) for module in build(SMALL[task]).modules())
    model = build({**SMALL[task], "normalization": None})
    assert not any(isinstance(module, NORMS) for module in model.modules())
    assert not list(model.buffers())


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_the_seed_fixes_the_weights(task):
    first, again, other = (build(SMALL[task], seed) for seed in (3, 3, 4))
    for (name, theta), same, different in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(same, theta), name
        assert not torch.equal(different, theta) or len(theta.unique()) <= 2, name  # a fixed start: ones, zeros


def test_the_initialisation_of_an_mlp_is_the_default_one():
    torch.manual_seed(3)
    expected = nn.Linear(784, 192)
    assert torch.equal(build({"network": "mlp"}, 3)[1].weight, expected.weight)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("task", CLASSIFICATION)
def test_building_leaves_the_global_generator_alone(task, seed):
    torch.manual_seed(8)
    state = torch.random.get_rng_state()
    build(SMALL[task], seed)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("seed", [0, 3, 2**63 - 1])
def test_the_weights_do_not_depend_on_the_global_generator(seed):
    torch.manual_seed(1)
    first = build({"network": "mlp"}, seed)[1].weight
    torch.manual_seed(2)
    assert torch.equal(build({"network": "mlp"}, seed)[1].weight, first)


@pytest.mark.parametrize("task", NORMALIZED)
def test_running_statistics_do_not_drift_and_scale_and_shift_do(task):
    model = randomized(build(SMALL[task], 0))
    drifted = drifted_parameters(model, LogNormalDrift(), 0.5, ("test",), 0)
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, NORMS)]
    for name, norm in norms:
        for kind in ("weight", "bias"):
            factor = drifted[f"{name}.{kind}"] / getattr(norm, kind)
            assert (factor > 0).all() and not torch.isclose(factor, torch.ones(())).all(), name
    assert norms and not set(drifted) & {name for name, _ in model.named_buffers()}
    assert set(drifted) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    "given",
    [
        {"network": "mlp", "hidden": (16, 8), "dropout": ("dropout", 0.2)},
        {"network": "vgg", "stages": ((8,), (8, 16)), "hidden": (12,), "dropout": ("alpha", 0.2)},
        *SMALL.values(),
    ],
    ids=str,
)
def test_a_specification_from_a_json_file_builds_the_same_network(given):
    first, second = build(given, 1), build(json.loads(json.dumps(given)), 1)
    assert str(first) == str(second)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_inner_lists_become_tuples(monkeypatch):
    seen = {}
    monkeypatch.setitem(NETWORKS, "probe", lambda **arguments: seen.update(arguments) or nn.Identity())
    build({"network": "probe", "stages": [[1], [2, 3]], "dropout": ["alpha", 0.2], "width": 0.5})
    assert seen == {"stages": ((1,), (2, 3)), "dropout": ("alpha", 0.2), "width": 0.5}


@pytest.mark.parametrize(
    "specification",
    [
        {"network": "mpl"},
        {},
        {"network": "mlp", "activation": "rleu"},
        {"network": "vgg", "activation": "rleu"},
        {"network": "vgg", "dropout": ("droput", 0.2)},
        *({**SMALL[task], "normalization": "bacth"} for task in NORMALIZED),
    ],
    ids=str,
)
def test_unknown_names_are_refused(specification):
    with pytest.raises(KeyError):
        build(specification)


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_unknown_arguments_are_refused(task):
    with pytest.raises(TypeError, match="hiden"):
        build({**SMALL[task], "hiden": (16,)})


def test_only_the_network_of_torchvision_imports_it():
    program = (
        "import sys; from bayesft.models import NETWORKS, build\n"
        "for name in NETWORKS:\n"
        "    if name in ('resnet18', 'resnet20', 'cell_network'): continue\n"
        "    build({'network': name, 'width': 1 / 16})\n"
        "assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(bayesft.__file__).parents[1])
