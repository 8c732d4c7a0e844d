"""Measure a hardened network under aihwkit's noise of PCM and ReRAM: the table of docs/library/aihwkit.md.

    PYTHONPATH=. python docs/make_aihwkit.py       (needs aihwkit; two minutes on one core)

A multi-layer perceptron on scikit-learn's digits, 1,000 to train and 597 to test, trained plainly ("given") and
fine-tuned by `harden`; three seeds; 20 programmed copies a seed.
"""

import warnings

import torch
from scipy.special import stdtrit
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bayesft import harden
from bayesft.settings import Recipe

SEEDS, DRAWS = (0, 1, 2), 20


def noises() -> dict[str, tuple]:
    """Noise models of aihwkit, several times as strong as the chips that they were fitted to, and seconds of drift."""
    from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
    from aihwkit.inference.noise.reram import ReRamWan2022NoiseModel

    pcm = PCMLikeNoiseModel(prog_noise_scale=3.0, read_noise_scale=3.0, drift_scale=3.0)
    reram = ReRamWan2022NoiseModel(noise_scale=4.0)
    return {"PCM × 3, after a year": (pcm, 3e7), "ReRAM × 4, after a day": (reram, 86400.0)}


def on_tiles(model: nn.Module, noise) -> nn.Module:
    """The network on aihwkit's analog tiles, perfect but for the noise of their weights."""
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.simulator.configs import TorchInferenceRPUConfig

    config = TorchInferenceRPUConfig(noise_model=noise)  # with aihwkit's global compensation of drift
    config.forward.is_perfect = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_to_analog(model, config).eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, noise, seconds: float, draws: int = DRAWS, seed: int = 0) -> float:
    """The mean accuracy of programmed copies, so many seconds later."""
    torch.manual_seed(seed)
    found = []
    for _ in range(draws):
        tiles = on_tiles(model, noise)
        tiles.program_analog_weights()
        tiles.drift_analog_weights(seconds)
        found.append((tiles(x).argmax(1) == y).float().mean().item())
    return sum(found) / draws


def networks(seed: int, epochs: int = 20) -> tuple[dict[str, nn.Module], tuple[Tensor, Tensor]]:
    """The network as given and hardened, and the test data."""
    digits = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(digits.data).float()[order] / 16, torch.tensor(digits.target)[order]
    train, test = (x[:1000], y[:1000]), (x[1200:], y[1200:])

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    same = {"levels": (0, 1), "draws": 2, "progress": False, "seed": seed}
    plain = Recipe(epochs=epochs, batch_size=64)
    given = harden(build, train, test, rate=0.0, level=0.0, sites=(), recipe=plain, **same).model
    found = harden(given, train, test, **same)
    return {"given": given, "hardened": found.model}, test


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in SEEDS:
        both, (x, y) = networks(seed)
        for name, (noise, seconds) in noises().items():
            scores = tuple(accuracy(network, x, y, noise, seconds, seed=seed) for network in both.values())
            rows.setdefault(name, []).append(scores)
    print("| noise | given | hardened | gain |\n|---|---|---|---|")
    for name, scores in rows.items():
        gains = torch.tensor([after - before for before, after in scores], dtype=torch.float64)
        half = float(stdtrit(len(gains) - 1, 0.975) * gains.std() / len(gains) ** 0.5)
        means = [sum(column) / len(column) for column in zip(*scores, strict=True)]
        print(f"| {name} | {means[0]:.3f} | {means[1]:.3f} | {gains.mean():+.3f} ± {half:.3f} |")


if __name__ == "__main__":
    main()
