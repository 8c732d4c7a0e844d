"""Memory formats: none that ends the process, and none that a user's own code cannot read.

The unsafe one is a fault of PyTorch's (bayesft/memory_format.py): a backward pass that writes beyond its memory. It
shows in one thread, and ends the process, so what could meet it runs in a process of its own.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bayesft
from bayesft.drift import LogNormalDrift, monte_carlo
from bayesft.memory_format import memory_format
from bayesft.models import build

FAULT = LogNormalDrift()

TRAIN = """
import torch
from torch import nn
from bayesft.models import NETWORKS, build
from bayesft.tasks import CLASSIFICATION, TASKS

torch.set_num_threads(1)

def steps(model, x):
    for _ in range(2):
        model(x).square().sum().backward()

for task in CLASSIFICATION:
    width = 0.125 if task == "stn-gtsrb" else 0.0625
    specification = {**TASKS[task].specification, "width": width}
    x = torch.randn(4, *((1, 28, 28) if TASKS[task].data == "mnist" else (3, 32, 32)))
    for change in ({}, {"normalization": None}) if TASKS[task].normalized else ({},):
        steps(build({**specification, **change}, 0).train(), x)
        print(task, change, flush=True)

NETWORKS["crash"] = lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 1, 2))
for _ in range(5):
    steps(build({"network": "crash"}, 0), torch.randn(4, 3, 32, 32))
print("done")
"""


def test_every_network_trains_in_one_thread():
    root = Path(bayesft.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", TRAIN], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize(
    ("layer", "safe"),
    [
        (nn.Conv2d(4, 8, 1, 2), ()),
        (nn.Conv2d(7, 8, 1, (1, 2)), ()),
        (nn.Conv2d(8, 8, 1, 2), ("AVX2",)),
        (nn.Conv2d(15, 8, 1, 2), ("AVX2",)),
        (nn.Conv2d(16, 8, 1, 2), ("AVX2", "AVX512")),
        (nn.Conv2d(4, 8, 1), ("AVX2", "AVX512")),
        (nn.Conv2d(4, 8, 3, 2), ("AVX2", "AVX512")),
        (nn.Linear(4, 8), ("AVX2", "AVX512")),
    ],
    ids=str,
)
def test_channels_last_only_without_narrow_strided_convolutions_of_one_pixel(monkeypatch, capability, layer, safe):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    expected = torch.channels_last if capability in safe else torch.contiguous_format
    assert memory_format(layer) == memory_format(nn.Sequential(nn.ReLU(), nn.Sequential(layer))) == expected


class Recorded(nn.Conv2d):
    """A convolution of a user, which records the strides of its input's channels."""

    def forward(self, x: Tensor) -> Tensor:
        self.strides = {*getattr(self, "strides", set()), x.stride(1)}
        return super().forward(x)


def test_networks_of_unknown_code_meet_contiguous_images():
    layer = Recorded(3, 2, 3)
    assert memory_format(layer) == torch.contiguous_format
    images = torch.randn(4, 3, 8, 8)
    for sigma in (0.0, 0.5):
        monte_carlo(layer, images, torch.zeros(4), lambda out, _: out.sum((1, 2, 3)), FAULT, sigma, [0, 1], ())
    assert layer.strides == {64}


def test_a_view_of_a_users_network_works():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps, self.logits = nn.Conv2d(3, 6, 5), nn.Linear(6 * 16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.logits(self.maps(x).view(len(x), -1))

    images, labels = torch.randn(5, 3, 8, 8), torch.zeros(5)
    found = monte_carlo(Viewing(), images, labels, lambda out, _: out.sum(1), FAULT, 0.5, [0], ())
    assert found.isfinite().all()


def test_networks_of_the_study_are_channels_last():
    convolution = build({"network": "vgg", "width": 0.125}, 0)[4]
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert memory_format(build({"network": "preact_resnet", "width": 0.25})) == torch.channels_last
    assert memory_format(build({"network": "preact_resnet", "width": 0.0625})) == torch.contiguous_format
