"""Time of one drifted copy on 10,000 images of 28 × 28: this library, three other ways, side by side in one run.

    PYTHONPATH=. python tests/benchmarks/evaluation.py            (make bench)

- authors: the loop of the code published with BayesFT, restated: reload the weights from disk, perturb each parameter,
  evaluate through a `DataLoader` with torchvision's per-image transform in batches of 8,192, with the fastest of 0, 2
  and 8 workers.
- plain: the same with the images as one tensor in memory, in batches of 512.
- aihwkit: analog inference tiles with a perfect forward pass and this drift as the noise model (PyPI aihwkit 1.1.0,
  an optional extra; left out where it is not installed).

Times are the least of several rounds, in which the ways take turns, so that a busy machine hits all of them; ratios
are to be trusted more than seconds. The images are MNIST's test images where BAYESFT_MIRROR names a folder that has
them, else scikit-learn's digits, repeated.
"""

import copy
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bayesft.data import Images, load_images
from bayesft.drift import LogNormalDrift, monte_carlo
from bayesft.models import build
from bayesft.tasks import TASKS

IMAGES, SIGMA, ROUNDS, DRAWS = 10_000, 0.9, 5, 20


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
def plain(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    drifted = copy.deepcopy(model)
    perturb(drifted)
    pairs = zip(images.split(512), labels.split(512), strict=True)
    sum(int((drifted(x).argmax(1) == y).sum()) for x, y in pairs)


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
def aihwkit(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    model.program_analog_weights()
    pairs = zip(images.split(512), labels.split(512), strict=True)
    sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs)


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ways_of(task: str, data: Images, file: Path) -> dict[str, tuple[Callable[[], None], int]]:
    """Each way to evaluate drifted copies of a task's network: what to call, and how many copies a call evaluates."""
    repeat = torch.arange(IMAGES) % len(data.parts["test"].labels)
    images, labels = (tensor[repeat] for tensor in data.standardised()["test"])
    raw = data.parts["test"].images[repeat, 0].numpy()
    model = build(TASKS[task].specification, 0).eval()
    ordinary = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    save_file(ordinary.state_dict(), file)
    ways: dict[str, tuple[Callable[[], None], int]] = {}
    for workers in (0, 2, 8):
        loader = DataLoader(PerImage(raw, labels.numpy()), 8192, num_workers=workers)
        ways[f"authors, {workers} workers"] = (partial(authors, ordinary, file, loader), 1)
    ways["plain"] = (partial(plain, ordinary, images, labels), 1)
    on_tiles = analog(ordinary)
    if on_tiles is not None:
        ways["aihwkit"] = (partial(aihwkit, on_tiles, images, labels), 1)
    arguments = (model, images, labels, right, LogNormalDrift(), SIGMA, range(DRAWS), ("benchmark",))
    ways["bayesft"] = (partial(monte_carlo, *arguments), DRAWS)
    return ways


def right(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == labels).float()


def main() -> None:
    """Print a line for each network and way."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # 8 workers on fewer cores: as published
    mirror = os.environ.get("BAYESFT_MIRROR")
    data = load_images("mnist", "official" if mirror else "embedded", Path("data/raw/mnist"), mirror)
    print(f"{data.about['name']}: seconds for one drifted copy on {IMAGES:,} images")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for task in ("mlp-mnist", "lenet-mnist"):
        with tempfile.TemporaryDirectory() as folder:
            ways = ways_of(task, data, Path(folder) / "weights.safetensors")
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, (work, copies) in ways.items():
                    times[name].append(seconds(work) / copies)
        least = {name: min(values) for name, values in times.items()}
        fastest = min((name for name in least if name.startswith("authors")), key=least.get)
        print(f"\n{task}")
        for name in (fastest, *(n for n in least if not n.startswith("authors"))):
            print(f"  {name:20s} {least[name]:8.4f} s   {least[name] / least['bayesft']:6.1f} × bayesft's time")


if __name__ == "__main__":
    main()
