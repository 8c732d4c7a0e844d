"""What a found architecture is compared with: networks of its size, and two shared networks that should agree."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bayesft.data import Split
from bayesft.drift import monte_carlo_grid
from bayesft.fault_tolerance import cells
from bayesft.methods.ftt import quantise_
from bayesft.models.cells import Architecture, Space
from bayesft.models.networks import build
from bayesft.models.sizes import matched, size
from bayesft.search.architecture import FaultSetting, Reward, reward_of
from bayesft.seeds import derive_seed
from bayesft.training import accuracy
from bayesft.training.trained import accuracy_score

BAND = 0.2  # of the multiply-accumulates, on either side, counts as equal size


def of_its_size(
    found: Architecture,
    space: Space,
    settings: Mapping[str, Any],
    preprocess: int,
    image: tuple[int, ...],
    seed: int,
    samples: int = 200,
) -> dict[str, dict[str, Any]]:
    """Networks by name, as `build` takes them: the found one, three random ones and the largest one within `BAND`.

    `samples` random architectures are looked at. The largest has the most parameters of those within the
    band. Where fewer than three lie in it, those nearest to it count. ResNet-20 and MobileNet-V2
    have the width at which they come nearest.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "architectures of a size"))
    target = size(build(cells(str(found), settings, preprocess)), image)[1]
    sampled = []
    for _ in range(samples):
        architecture = space.sample(generator)
        parameters, macs = size(build(cells(str(architecture), settings, preprocess)), image)
        sampled.append((max(0.0, abs(macs / target - 1) - BAND), -parameters, str(architecture)))
    inside = [entry for entry in sampled if entry[0] == 0]
    near = inside if len(inside) >= 3 else sorted(sampled)[:3]
    stem = settings["stem_stride"]

    def resnet(channels: int) -> dict[str, Any]:
        return {"network": "resnet20", "channels": channels, "stem_stride": stem}

    def mobilenet(sixteenths: int) -> dict[str, Any]:
        return {"network": "mobilenet_v2", "width": sixteenths / 16, "stem_stride": stem}

    return {
        "found": cells(str(found), settings, preprocess),
        **{f"random-{i + 1}": cells(near[i][2], settings, preprocess) for i in range(3)},
        "largest": cells(min(near, key=lambda entry: entry[1])[2], settings, preprocess),
        "matched": resnet(matched(lambda width: build(resnet(width)), target, image)),
        "mobilenet-matched": mobilenet(matched(lambda width: build(mobilenet(width)), target, image)),
    }


def alone_reward(network: nn.Module, data: Split, setting: FaultSetting, draws: int, alpha: float) -> float:
    """The reward, by `reward_of`, of a network that was trained by itself."""
    quantised = quantise_(network, setting.bits) if setting.bits else network
    clean = accuracy(quantised, data)
    faulty = monte_carlo_grid(
        quantised, *data, accuracy_score, setting.fault, [setting.level], range(draws), ("alone",), setting.parameters
    )
    return reward_of((clean, float(faulty.mean())), alpha)


def agreement(
    rewards: Sequence[Reward], space: Space, count: int, seed: int, worth: Callable[[tuple[float, float]], float]
) -> dict[str, Any]:
    """Whether two shared networks rank random architectures alike: Spearman's ρ of their rewards, and its p.

    With p > 0.05 the shared networks do not tell architectures apart, whatever a search with them finds.
    """
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(derive_seed(seed, "agreement"))
    architectures = [space.sample(generator) for _ in range(count)]
    values = [[worth(reward(a, "search")) for a in architectures] for reward in rewards]
    differ = all(min(each) < max(each) for each in values[:2])  # equal rewards rank nothing
    rho, p = spearmanr(*values[:2]) if differ else (0.0, 1.0)
    return {"architectures": [str(a) for a in architectures], "rewards": values, "rho": float(rho), "p": float(p)}
