"""The same instructions on every processor: what is set, and that small trainings then have the same bytes."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages.common import prepare
from stages.kernels import AVX2, has_avx2, pin

ROOT = Path(__file__).parents[2]
# Weights after 20 steps, the same on an AMD processor with AVX2 alone and on one with AVX-512.
DIGESTS = {"perceptron": "020d4fe5d9a2", "lenet": "64bb3e54eb25", "normalised": "357c39d280be"}

needs_avx2 = pytest.mark.skipif(not has_avx2(), reason="needs a processor with AVX2")


def is_amd() -> bool:
    return has_avx2() and "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def trained_digests() -> dict[str, str]:
    """The fingerprints of three small networks, each trained for 20 steps of Adam."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    torch.randn(1000, generator=generator)
    rows, labels = torch.randn(256, 784, generator=generator), torch.randint(0, 10, (256,), generator=generator)
    digits = torch.randn(64, 1, 28, 28, generator=generator)
    photos = torch.randn(64, 3, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    perceptron = nn.Sequential(
        nn.Linear(784, 192), nn.ReLU(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10)
    )  # fmt: skip
    lenet = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    normalised = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    found = {}
    for name, (network, x) in {
        "perceptron": (perceptron, rows), "lenet": (lenet, digits), "normalised": (normalised, photos),
    }.items():  # fmt: skip
        torch.manual_seed(0)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), labels[: len(x)]).backward()
            optimizer.step()
        content = b"".join(theta.detach().contiguous().numpy().tobytes() for theta in network.parameters())
        found[name] = hashlib.sha256(content).hexdigest()[:12]
    return found


def in_a_stage(code: str) -> dict:
    """What `code` prints as JSON, in a process that starts as a stage does."""
    code = f"import stages, json, sys; sys.path.insert(0, 'tests/stages'); {code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(not is_amd(), reason="needs an AMD processor with AVX2")
def test_a_small_training_has_the_same_bytes_on_every_processor():
    assert in_a_stage("import test_kernels as t; print(json.dumps(t.trained_digests()))") == DIGESTS


@needs_avx2
def test_a_stage_uses_avx2_and_no_more():
    found = in_a_stage("import torch; print(json.dumps(torch.backends.cpu.get_cpu_capability()))")
    assert found == "AVX2"


@needs_avx2
def test_what_is_set_is_what_the_parameters_say(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    file = tmp_path / "params.yaml"
    for content, expected in (("kernels: avx2", AVX2), ("kernels: native", {}), ("{", {}), ("[]", {})):
        file.write_text(content, encoding="utf-8")
        environment: dict[str, str] = {}
        pin(environment, file)
        assert environment == expected
    environment = {}
    pin(environment, tmp_path / "absent.yaml")
    assert environment == {}


def test_a_process_with_pytorch_stays_as_it_is():
    environment: dict[str, str] = {}
    pin(environment, ROOT / "params.yaml")
    assert environment == {}


def test_other_instructions_than_those_planned_are_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(ValueError, match="ATEN_CPU_CAPABILITY='avx2'"):
        prepare({"device": "cpu", "kernels": "avx2", "threads": 1})
    prepare({"device": "cpu", "kernels": "native", "threads": 1})
