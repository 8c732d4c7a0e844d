"""The names of the front, what loading them costs, and the command."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

import bayesft
from bayesft.command import main
from bayesft.drift import FAULT_MODELS, FEATURE_FAULTS
from bayesft.hardening.measure import evaluate
from tests.hardening.conftest import by_hand, data, seeded

HEAVY = ("pandas", "matplotlib", "scipy", "sklearn", "skopt", "seaborn", "torchvision", "torchmetrics", "pycocotools")


def loaded(code: str) -> set[str]:
    """The packages that `code` loads, in a process of its own."""
    code += "; import sys; print('loaded', *{name.partition('.')[0] for name in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(out.split("loaded ")[1].split())


def test_every_name_is_there():
    assert all(hasattr(bayesft, name) for name in bayesft.__all__) and set(bayesft.__all__) <= set(dir(bayesft))
    assert bayesft.evaluate is evaluate and callable(bayesft.Hardening) and isinstance(bayesft.__version__, str)
    assert callable(bayesft.harden) and set(FAULT_MODELS.values()) <= {getattr(bayesft, n) for n in bayesft.__all__}
    with pytest.raises(AttributeError, match="'harden_all'"):
        bayesft.harden_all  # noqa: B018


def test_names_are_loaded_when_used():
    assert "torch" not in loaded("import bayesft")
    beyond = loaded(f"from bayesft import {', '.join(bayesft.__all__)}") - loaded("import torch")
    assert not beyond & set(HEAVY)


NETS = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

def images():
    return [(torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)]

def convolution():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3))

def wide(width):
    return nn.Linear(8, width)

def loader():
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    return [(x, x[:, :3].argmax(1))]

def first(outputs, targets):
    return outputs[:, 0]

def broken(outputs, targets):
    return {}["accuracy"]

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.last = nn.Linear(8, 8, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.first(x).relu())

def elsewhere():
    import os
    os.chdir("/")
    return loader()

class Shift:
    def perturb(self, theta, level, generator):
        return theta + level

shift = Shift()
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets_of_a_test.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    model = seeded(lambda: torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    save_file({"0.weight": model[0].weight.detach()}, tmp_path / "part.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"abc")
    yield model
    sys.modules.pop("nets_of_a_test", None)


def test_the_command_measures_prints_and_draws(nets, tmp_path, capsys):
    command = ["evaluate", "nets_of_a_test:build", "w.safetensors", "nets_of_a_test:loader", "--levels", "0", "0.8"]
    assert main([*command, "--draws", "2", "--save", "r.safetensors", "--quiet"]) == 0
    printed = capsys.readouterr().out
    found = bayesft.Robustness.load(tmp_path / "r.safetensors")
    assert found.scores[1, 1] == pytest.approx(by_hand(nets, *data(), 0.8, 1)) and str(found) in printed
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    command[2] = "w.safetensors"
    more = ["--score", "nets_of_a_test:first", "--fault", "nets_of_a_test:shift", "--draws", "1", "--quiet"]
    assert main([*command, *more, "--save", "s.safetensors", "--picture", "p.svg"]) == 0
    again = bayesft.Robustness.load(tmp_path / "s.safetensors")
    assert np.isclose(again.mean[0], nets(data()[0])[:, 0].mean().item()) and (tmp_path / "p.svg").exists()


@pytest.mark.parametrize("fault", FEATURE_FAULTS)
def test_the_command_knows_the_faults_of_activations(nets, fault, capsys):
    command = ["evaluate", "nets_of_a_test:convolution", "-", "nets_of_a_test:images", "--fault", fault]
    assert main([*command, "--draws", "1", "--quiet"]) == 0
    assert "0.0003" in capsys.readouterr().out or fault != "mibb"  # the default levels are the fault's


@pytest.mark.parametrize(
    "change, message",
    [
        ({0: "nets_of_a_test"}, "module:name"),
        ({0: "nets_of_a_test:nothing"}, "nothing"),
        ({0: "nets_of_a_test:wide"}, "a call without arguments fails"),
        ({0: "no_such_module:build"}, "no_such_module"),
        ({0: "nets_of_a_test:shift"}, "must give a torch.nn.Module"),
        ({1: "missing.safetensors"}, "missing"),
        ({1: "part.safetensors"}, "part.safetensors: no weights of nets_of_a_test:build"),
        ({1: "broken.safetensors"}, "broken.safetensors: damaged"),
        ({1: "w.pt"}, "need weights in a .safetensors file"),
        ({3: ["--draws", "0"]}, "draws"),
        ({3: ["--fault", "rust"]}, "lognormal"),
        ({3: ["--levels", "-1"]}, "levels"),
        ({3: ["--score", "nets_of_a_test:broken"]}, "KeyError: 'accuracy' ("),
    ],
)
def test_the_command_says_what_is_wrong(nets, capsys, change, message):
    command = ["nets_of_a_test:build", "w.safetensors", "nets_of_a_test:loader", []]
    for place, value in change.items():
        command[place] = value
    assert main(["evaluate", *command[:3], *command[3], "--quiet"]) == 2
    assert message in capsys.readouterr().err


def test_weights_that_modules_share_and_data_that_change_the_folder(nets, tmp_path):
    path = list(sys.path)
    sys.path.insert(0, str(tmp_path))
    tied = importlib.import_module("nets_of_a_test").Tied()
    sys.path.remove(str(tmp_path))
    save_model(tied, tmp_path / "tied.safetensors")
    save_file({name: value.clone() for name, value in tied.state_dict().items()}, tmp_path / "twice.safetensors")
    end = ["--levels", "0", "--draws", "1", "--quiet", "--picture", str(tmp_path / "p.png"), "--save"]
    found = []
    for weights, given in (("tied", "loader"), ("twice", "loader"), ("tied", "elsewhere")):
        file = tmp_path / f"{weights}-{given}.safetensors"
        command = ["nets_of_a_test:Tied", f"{weights}.safetensors", f"nets_of_a_test:{given}"]
        assert main(["evaluate", *command, *end, str(file)]) == 0
        found.append(bayesft.Robustness.load(file).mean[0])
    assert found == [by_hand(tied, *data(), 0, 0)] * 3 and sys.path == path


def test_help(capsys):
    for arguments in (["--help"], ["evaluate", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
    assert "--levels" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
