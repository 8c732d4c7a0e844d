"""Fault-tolerant architecture search (FTT-NAS, Ning et al., arXiv 2003.10375).

    shared weights train: each step draws an architecture, and takes the gradient of
        (1 − α_l) · ℓ(without faults) + α_l · ℓ(under the fault)
    candidates are proposed by a strategy, and each is worth
        R = (1 − α_r) · accuracy + α_r · accuracy under the fault, on validation images with the shared weights
    the best candidates are measured again with fresh draws, and the best of them is found

α_r = 0 and α_l = 0 is a plain search (NAS), α_l = 0 has faults in the reward alone (FT-NAS), and with both it is
FTT-NAS. The strategies ask and tell, and know nothing of networks: `search_architectures` takes any reward.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import joblib
import torch
from pydantic import Field, PositiveInt, StrictInt
from torch import Tensor, nn

from bayesft.data import Split
from bayesft.drift import FaultModel, FeatureFault, monte_carlo_grid
from bayesft.drift.scope import Where
from bayesft.methods.ftt import ftt_gradient, quantised_weights
from bayesft.models.cells import Architecture, SharedNetwork, Space, shared_network
from bayesft.search.controller import Reinforce
from bayesft.search.evolution import Evolution, RandomSearch, Strategy
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe, Settings
from bayesft.training import Checkpoint, Loss, accuracy, fit
from bayesft.training.trained import accuracy_score

STRATEGIES: dict[str, Callable[[Space, int], Strategy]] = {
    "random": RandomSearch, "evolution": Evolution, "reinforce": Reinforce,
}  # fmt: skip

Reward = Callable[[Architecture, str], tuple[float, float]]  # architecture, name of the draws → clean, faulty


class ArchitectureSearch(Settings):
    """How architectures are searched.

    Args:
        strategy: What proposes candidates.
        candidates: The number of candidates.
        batch: How many are proposed at once, to be measured side by side.
        alpha: α_r, the share of the accuracy under the fault in the reward.
        top: How many of the best are measured again with fresh draws.
    """

    strategy: Literal["random", "evolution", "reinforce"] = "evolution"
    candidates: Annotated[StrictInt, Field(gt=0, le=1_000_000)] = 48
    batch: Annotated[StrictInt, Field(gt=0)] = 1
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.2
    top: PositiveInt = 3


@dataclass(frozen=True)
class Candidate:
    """An architecture that was tried.

    Args:
        architecture: As text.
        clean: Its accuracy without faults.
        faulty: Its accuracy under the fault.
        again: For the best ones, both with fresh draws.
    """

    architecture: str
    clean: float
    faulty: float
    again: tuple[float, float] | None = None


@dataclass(frozen=True)
class Found:
    """All candidates in order, and the best one."""

    candidates: list[Candidate]
    best: Candidate

    @property
    def architecture(self) -> Architecture:
        """The best architecture."""
        return Architecture.parse(self.best.architecture)


def reward_of(accuracies: tuple[float, float], alpha: float) -> float:
    """(1 − α_r) · accuracy + α_r · accuracy under the fault."""
    clean, faulty = accuracies
    return (1 - alpha) * clean + alpha * faulty


def search_architectures(
    space: Space,
    reward: Reward,
    settings: ArchitectureSearch,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    n_jobs: int | None = None,
    strategy: Strategy | None = None,
) -> Found:
    """Search a space of architectures.

    Args:
        space: The space.
        reward: Gives the accuracy of an architecture without and with faults, in [0, 1]. Its second argument names
            the draws of the fault: "search" for all candidates, "again" for the fresh ones.
        settings: The strategy and the budget.
        seed: The seed of the strategy.
        checkpoint: Where a killed search finds the candidates that it had.
        n_jobs: The number of processes for the candidates of a batch. It changes no number. None: as
            `joblib.parallel_config` says, which also chooses another backend (a cluster).
        strategy: What proposes candidates, in place of a fresh one by its name.

    Returns:
        The candidates, and the best one.
    """

    def worth(pair: tuple[float, float]) -> float:
        return reward_of(pair, settings.alpha)

    strategy = strategy or STRATEGIES[settings.strategy](space, seed)
    kept = checkpoint.load("candidates") if checkpoint else None
    done = [Candidate(**entry) for entry in kept[1]] if kept else []
    candidates: list[Candidate] = []
    while len(candidates) < settings.candidates:
        count = min(settings.batch, settings.candidates - len(candidates))
        asked = strategy.ask(count)
        known = {c.architecture: (c.clean, c.faulty) for c in candidates + done}
        new = list(dict.fromkeys(a for a in asked if str(a) not in known))
        values = _measured(reward, [(a, "search") for a in new], n_jobs if settings.batch > 1 else 1)
        known |= {str(a): value for a, value in zip(new, values, strict=True)}
        for architecture in asked:
            candidates.append(Candidate(str(architecture), *known[str(architecture)]))
        strategy.tell(asked, [worth(known[str(a)]) for a in asked])
        if checkpoint and new:
            checkpoint.save("candidates", {}, [asdict(c) for c in candidates])
    order = sorted(range(len(candidates)), key=lambda i: -worth((candidates[i].clean, candidates[i].faulty)))
    top = list({candidates[i].architecture: i for i in reversed(order)}.values())[-settings.top :]
    fresh = _measured(reward, [(Architecture.parse(candidates[i].architecture), "again") for i in top], n_jobs)
    again = dict(zip(top, fresh, strict=True))
    for i, pair in again.items():
        candidates[i] = replace(candidates[i], again=pair)
    return Found(candidates, candidates[max(top, key=lambda i: worth(again[i]))])


def _measured(
    reward: Reward, asked: Sequence[tuple[Architecture, str]], n_jobs: int | None
) -> list[tuple[float, float]]:
    if len(asked) < 2 or n_jobs == 1:
        return [reward(*each) for each in asked]
    return joblib.Parallel(n_jobs)(joblib.delayed(_call)(reward, torch.get_num_threads(), *each) for each in asked)


def _call(reward: Reward, threads: int, architecture: Architecture, draws: str) -> tuple[float, float]:
    torch.set_num_threads(threads)  # another number of threads would round otherwise
    return reward(architecture, draws)


@dataclass(frozen=True)
class FaultSetting:
    """Under which fault networks train and are measured.

    Args:
        fault: The fault, of weights or of activations.
        level: Its level.
        parameters: Which parameters a fault of weights meets.
        bits: Of the weights; 0: they are not quantised.
    """

    fault: FaultModel | FeatureFault
    level: float
    parameters: Where = "convolutions"
    bits: int = 8


def train_shared(
    space: Space,
    data: Split,
    recipe: Recipe,
    setting: FaultSetting,
    *,
    alpha: float,
    seed: int,
    validation: Split | None = None,
    controller: Reinforce | None = None,
    alpha_reward: float = 0.0,
    checkpoint: Checkpoint | None = None,
    **network: int,
) -> SharedNetwork:
    """Train the weights that all architectures of a space share.

    Args:
        space: The space.
        data: The training images.
        recipe: How long and with what steps.
        setting: The fault.
        alpha: α_l, the share of the loss under the fault.
        seed: The seed of the weights and of all draws.
        validation: With a controller, the images of the rewards.
        controller: Proposes the architecture of each step, and learns after each epoch, from one architecture for each
            validation batch (alternate epochs, as the authors do). Without one, architectures are uniform draws.
        alpha_reward: α_r of the controller's rewards.
        checkpoint: Where a killed training finds its state, and that of the controller.
        network: Arguments of `shared_network`.

    Returns:
        The network with the trained weights.

    Raises:
        Diverged: The loss or its gradient is no longer finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "shared", "initialisation"))
        shared = shared_network(space, **network).to(data.labels.device)
    step = ftt_gradient(setting.fault, setting.level, alpha, setting.parameters, setting.bits)

    def gradient(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, progress: float = 0.0) -> Tensor:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        architecture = controller.sample(generator) if controller else space.sample(generator)
        return step(shared.child(architecture), loss, x, y, progress)

    def learn(epoch: int) -> bool:
        if controller is not None:
            assert validation is not None  # it comes with a controller
            for number in range(0, len(validation), recipe.batch_size):
                part = Split(*(tensor[number : number + recipe.batch_size] for tensor in validation))
                reward = SharedReward(shared, part, setting, 1, ("controller", seed, epoch, number))
                (asked,) = controller.ask(1)
                controller.tell([asked], [reward_of(reward(asked, "search"), alpha_reward)])
        return False

    if checkpoint is not None and controller is not None:
        checkpoint = _WithController(checkpoint, controller)
    fit(
        shared, data, recipe, seed=derive_seed(seed, "shared"), label="shared network", gradient=gradient,
        after_epoch=learn, checkpoint=checkpoint,
    )  # fmt: skip
    return shared


class _WithController(Checkpoint):
    """A checkpoint of a training that keeps the state of a controller with it: both are of the same epoch."""

    def __init__(self, held: Checkpoint, controller: Reinforce):
        super().__init__(held.folder, held.save_after_s)
        self.controller = controller

    def save(self, name: str, tensors: dict[str, Tensor], value: object = None) -> None:
        super().save(name, tensors | self.controller.state_dict(), value)

    def load(self, name: str) -> tuple[dict[str, Tensor], Any] | None:
        found = super().load(name)
        if found is not None:
            self.controller.load_state_dict(found[0])
        return found


@dataclass(frozen=True)
class SharedReward:
    """The accuracy of an architecture with shared weights, without and with faults; all meet the same draws.

    Args:
        shared: The trained shared network.
        data: The validation images.
        setting: The fault.
        draws: D, the number of faulty copies.
        key: Names the draws.
    """

    shared: SharedNetwork
    data: Split
    setting: FaultSetting
    draws: int
    key: tuple[Any, ...]

    def __call__(self, architecture: Architecture, draws: str) -> tuple[float, float]:
        s, child = self.setting, self.shared.child(architecture)
        with torch.no_grad():
            stored = quantised_weights(child, s.bits) if s.bits else {}
            kept = {name: child.get_parameter(name).detach().clone() for name in stored}
            try:
                for name, value in stored.items():
                    child.get_parameter(name).copy_(value)
                clean = accuracy(child, self.data)
                faulty = monte_carlo_grid(
                    child, *self.data, accuracy_score, s.fault, [s.level], range(self.draws), (*self.key, draws),
                    s.parameters,
                )  # fmt: skip
            finally:
                for name, value in kept.items():
                    child.get_parameter(name).copy_(value)
        return clean, float(faulty.mean())


@dataclass(frozen=True)
class MeanReward:
    """The mean of several rewards."""

    rewards: tuple[Reward, ...]

    def __call__(self, architecture: Architecture, draws: str) -> tuple[float, float]:
        pairs = [reward(architecture, draws) for reward in self.rewards]
        return tuple(sum(column) / len(pairs) for column in zip(*pairs, strict=True))


def halving(
    architectures: Sequence[Architecture],
    train: Callable[[Architecture, int], float],
    rounds: Sequence[tuple[int, int]],
) -> tuple[Architecture, dict[str, list[float]]]:
    """Successive halving with networks that are trained alone: the best few of a round train longer in the next.

    Args:
        architectures: Those of the first round.
        train: Trains one for so many epochs, and gives its reward.
        rounds: (how many architectures, for how many epochs) of each round.

    Returns:
        The best architecture of the last round, and the rewards of each architecture, round by round.
    """
    left = list(architectures)
    seen: dict[str, list[float]] = {}
    for count, epochs in rounds:
        left = left[:count]
        for architecture in left:
            seen.setdefault(str(architecture), []).append(train(architecture, epochs))
        left.sort(key=lambda architecture: -seen[str(architecture)][-1])
    return left[0], seen
