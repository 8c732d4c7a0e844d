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
    """The networks that a found architecture is compared with: random cells, and published networks of its size.

    `samples` architectures are drawn. Where fewer than three lie within the band, the nearest three are taken. The size
    is the number of multiply-accumulates; the band is `BAND` on either side of the found architecture's.

    Args:
        found: The found architecture.
        space: The space that architectures are drawn from.
        settings: The channels, cells and stem_stride of the networks of cells.
        preprocess: The size of the convolutions that make a cell's inputs alike: 1 or 3.
        image: The shape of an image, (C, H, W).
        seed: The seed of the draws.
        samples: The number of draws, at least 3.

    Returns:
        What `build` takes, by name: "found"; "random-1" to "random-3", the first three of those taken; "largest", the
        one of them with the most parameters; "matched", a ResNet-20 of the width that comes nearest;
        "mobilenet-matched", such a MobileNet-V2.
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
    """The reward, by `reward_of`, of a network that was trained by itself.

    Args:
        network: The network. Its weights are quantised in place where `setting` has bits.
        data: The validation images.
        setting: The fault, its level and the bits of the weights.
        draws: D, the number of faulty copies.
        alpha: α_r, the share of the accuracy under the fault.

    Returns:
        R, in [0, 1].
    """
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

    Args:
        rewards: The reward of each shared network. ρ is that of the first two.
        space: The space that architectures are drawn from.
        count: The number of architectures.
        seed: The seed of the draws.
        worth: Makes one number of (accuracy, accuracy under the fault).

    Returns:
        "architectures", as text, (count,); "rewards", (networks, count); "rho"; "p". ρ is 0 and p is 1 where all
        rewards of a network are equal.
    """
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(derive_seed(seed, "agreement"))
    architectures = [space.sample(generator) for _ in range(count)]
    values = [[worth(reward(a, "search")) for a in architectures] for reward in rewards]
    differ = all(min(each) < max(each) for each in values[:2])  # equal rewards rank nothing
    rho, p = spearmanr(*values[:2]) if differ else (0.0, 1.0)
    return {"architectures": [str(a) for a in architectures], "rewards": values, "rho": float(rho), "p": float(p)}
