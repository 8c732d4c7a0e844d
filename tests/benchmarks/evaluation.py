"""Time of one drifted copy: this library, and other ways to evaluate it, side by side in one run on one thread.

    PYTHONPATH=. python tests/benchmarks/evaluation.py            (make bench)

- forward: the network without drift, its images ready in the memory format that suits it. The limit.
- bayesft, a level; bayesft, 8 levels: `monte_carlo` and `monte_carlo_grid`.
- plain: a loop in memory. Copy the network, perturb each parameter, evaluate in batches of 512.
- authors: the loop of the code published with BayesFT, restated: reload the weights from disk, perturb each parameter,
  evaluate through a `DataLoader` with torchvision's per-image transform in batches of 8,192, with the fastest of 0, 2
  and 8 workers. On MNIST alone.
- aihwkit: analog inference tiles with a perfect forward pass and this drift as the noise model (PyPI aihwkit 1.1.0,
  an optional extra; left out where it is not installed).

Times are the least of several rounds, in which the ways take turns, so that a busy machine hits all of them; ratios
are to be trusted more than seconds. The images of MNIST are its test images where BAYESFT_MIRROR names a folder that
has them, else scikit-learn's digits, repeated. Those of the ResNet are random.
"""

import copy
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bayesft.data import Images, load_images
from bayesft.drift import LogNormalDrift, monte_carlo, monte_carlo_grid
from bayesft.memory_format import memory_format
from bayesft.models import build
from bayesft.tasks import TASKS

SIGMA = 0.9
GRID = [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]


@dataclass(frozen=True)
class Case:
    """A network of the study, at a width, with so many images and drifted copies a level, in so many rounds."""

    title: str
    task: str
    images: int
    draws: int
    width: float = 1.0
    rounds: int = 3


CASES = (
    Case("MLP", "mlp-mnist", 10_000, 5),
    Case("MLP in a search", "mlp-mnist", 300, 10, rounds=10),
    Case("LeNet-5", "lenet-mnist", 3_000, 7),
    Case("ResNet-18, width 1/8", "resnet18-cifar10", 300, 2, 1 / 8),
)


class PerImage(Dataset):
    """Images that are transformed one by one when they are asked for, as torchvision's data sets do."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        from torchvision.transforms import Compose, Normalize, ToTensor

        self.images, self.labels = images, labels
        self.transform = Compose([ToTensor(), Normalize((0.1307,), (0.3081,))])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def batches(*tensors: Tensor) -> zip:
    return zip(*(tensor.split(512) for tensor in tensors), strict=True)


@torch.inference_mode()
def forward(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    sum(int((model(x).argmax(1) == y).sum()) for x, y in batches(images, labels))


@torch.inference_mode()
def perturb(model: nn.Module) -> None:
    for p in model.parameters():
        p.mul_(torch.exp(SIGMA * torch.randn_like(p)))


@torch.inference_mode()
def authors(model: nn.Module, file: Path, loader: DataLoader) -> None:
    model.load_state_dict(load_file(file))
    perturb(model)
    sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)


@torch.inference_mode()
def plain(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    drifted = copy.deepcopy(model)
    perturb(drifted)
    forward(drifted, images, labels)


def analog(model: nn.Module) -> nn.Module | None:
    """The network on aihwkit's tiles, or None without aihwkit."""
    try:
        from aihwkit.inference.noise.base import BaseNoiseModel
        from aihwkit.nn.conversion import convert_to_analog
        from aihwkit.simulator.configs import TorchInferenceRPUConfig
    except ImportError:
        return None

    class Drift(BaseNoiseModel):
        def apply_programming_noise(self, weights):
            return weights * torch.exp(SIGMA * torch.randn_like(weights)), []

        def apply_drift_noise(self, weights, drift_noise_parameters, t_inference):
            return weights

    config = TorchInferenceRPUConfig(noise_model=Drift(), drift_compensation=None)
    config.forward.is_perfect = True
    return convert_to_analog(copy.deepcopy(model), config).eval()


@torch.inference_mode()
def aihwkit(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    model.program_analog_weights()
    forward(model, images, labels)


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def right(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(1) == labels).float()


def ways_of(case: Case, data: Images, file: Path) -> dict[str, tuple[Callable[[], None], int]]:
    """Each way to evaluate drifted copies of a network: what to call, and how many copies a call evaluates."""
    model = build({**TASKS[case.task].specification, "width": case.width}, 0).eval()
    ordinary = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    repeat = torch.arange(case.images) % len(data.parts["test"].labels)
    images, labels = (tensor[repeat] for tensor in data.standardised()["test"])
    mnist = TASKS[case.task].data == "mnist"
    if not mnist:
        images = torch.randn(case.images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ready = images.contiguous(memory_format=memory_format(model))
    arguments = (model, images, labels, right, LogNormalDrift())
    settings = (range(case.draws), ("benchmark",))
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "forward": (partial(forward, model, ready, labels), 1),
        "bayesft, a level": (partial(monte_carlo, *arguments, SIGMA, *settings), case.draws),
        "bayesft, 8 levels": (partial(monte_carlo_grid, *arguments, GRID, *settings), len(GRID) * case.draws),
        "plain": (partial(plain, ordinary, images, labels), 1),
    }
    if mnist:
        save_file(ordinary.state_dict(), file)
        raw = data.parts["test"].images[repeat, 0].numpy()
        for workers in (0, 2, 8):
            loader = DataLoader(PerImage(raw, labels.numpy()), 8192, num_workers=workers)
            ways[f"authors, {workers} workers"] = (partial(authors, ordinary, file, loader), 1)
    on_tiles = analog(ordinary)
    if on_tiles is not None:
        ways["aihwkit"] = (partial(aihwkit, on_tiles, images, labels), 1)
    return ways


def main() -> None:
    """Print a table for each network."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # 8 workers on fewer cores: as published
    torch.set_num_threads(1)
    mirror = os.environ.get("BAYESFT_MIRROR")
    data = load_images("mnist", "official" if mirror else "embedded", Path("data/raw/mnist"), mirror)
    print(f"{data.about['name']}; one thread, torch {torch.__version__}")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            ways = ways_of(case, data, Path(folder) / "weights.safetensors")
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(case.rounds):
                for name, (work, copies) in ways.items():
                    times[name].append(seconds(work) / copies)
        least = {name: min(values) for name, values in times.items()}
        fastest = min((name for name in least if name.startswith("authors")), key=least.get, default=None)
        print(f"\n{case.title}, {case.images:,} images\n  {'':20s} ms a copy   of forward   of a level")
        for name in (n for n in least if not n.startswith("authors") or n == fastest):
            of_forward, of_level = (least[name] / least[base] for base in ("forward", "bayesft, a level"))
            print(f"  {name:20s} {1000 * least[name]:9.2f} {of_forward:12.2f} {of_level:12.2f}")


if __name__ == "__main__":
    main()
