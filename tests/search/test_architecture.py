"""The search of architectures: strategies against chance, resumed and parallel searches, shared weights, controls."""

import pytest
import torch
from torch.nn import functional as F

from bayesft.data import Split
from bayesft.drift.faults import StuckCells
from bayesft.drift.features import MiBB
from bayesft.models import build
from bayesft.models.cells import W_FTT_NET, Architecture, Space
from bayesft.models.sizes import size
from bayesft.search.architecture import (
    STRATEGIES,
    ArchitectureSearch,
    FaultSetting,
    MeanReward,
    SharedReward,
    halving,
    search_architectures,
    train_shared,
)
from bayesft.search.controller import Reinforce
from bayesft.search.controls import agreement, of_its_size
from bayesft.search.evolution import Evolution
from bayesft.settings import Recipe
from bayesft.training import Checkpoint

SPACE = Space(1, ("none", "skip", "conv1", "max3"))
SETTING = FaultSetting(StuckCells(), 0.08)


def skips(architecture: Architecture, draws: str = "search") -> tuple[float, float]:
    """A stub: the share of edges that are `skip`."""
    share = sum(op == "skip" for plan in architecture for node in plan for _, op in node)
    return (share / sum(2 * len(plan) for plan in architecture),) * 2


def data(count: int = 32, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) % 4)


def late(strategy: str, seed: int, candidates: int = 48) -> float:
    """The mean reward of the last third of the candidates."""
    settings = ArchitectureSearch(strategy=strategy, candidates=candidates, top=1)
    found = search_architectures(Space(2, SPACE.operations), skips, settings, seed=seed).candidates
    return sum(c.clean for c in found[-candidates // 3 :]) / (candidates // 3)


def test_evolution_beats_chance():
    assert sum(late("evolution", seed) for seed in range(5)) > sum(late("random", seed) for seed in range(5)) + 0.5


def test_reinforce_beats_chance():
    space, gains = SPACE, []
    for seed in range(5):
        strategy, rewards = Reinforce(space, seed), []
        for _ in range(70):
            (asked,) = strategy.ask()
            rewards.append(skips(asked)[0])
            strategy.tell([asked], rewards[-1:])
        gains.append(sum(rewards[-25:]) / 25 - sum(rewards[:25]) / 25)
    assert sum(gains) / 5 > 0.05


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_search_asks_for_the_same_candidates(strategy, tmp_path):
    settings = ArchitectureSearch(strategy=strategy, candidates=8, top=2)
    whole, seen = search_architectures(SPACE, skips, settings, seed=3), []

    def killed(architecture, draws):
        seen.append(architecture)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return skips(architecture, draws)

    with Checkpoint(tmp_path / "kept") as checkpoint:
        with pytest.raises(KeyboardInterrupt):
            search_architectures(SPACE, killed, settings, seed=3, checkpoint=checkpoint)
        resumed = search_architectures(SPACE, skips, settings, seed=3, checkpoint=checkpoint)
    assert resumed == whole
    known = {c.architecture for c in whole.candidates}
    assert {str(a) for a in seen} <= known


def test_the_number_of_processes_changes_nothing():
    settings = ArchitectureSearch(candidates=8, batch=4, top=2)
    assert search_architectures(SPACE, skips, settings, n_jobs=2) == search_architectures(
        SPACE, skips, settings, n_jobs=1
    )


def test_the_best_by_fresh_draws_is_chosen_among_the_top():
    def lucky(architecture, draws):
        clean, _ = skips(architecture)
        return (clean, clean) if draws == "search" else (1 - clean, 1 - clean)

    found = search_architectures(SPACE, lucky, ArchitectureSearch(strategy="random", candidates=30, top=3))
    again = [c for c in found.candidates if c.again]
    assert len(again) == 3 and min(c.clean for c in again) >= sorted(c.clean for c in found.candidates)[-20]
    assert found.best.again == max(c.again for c in again)
    assert found.architecture == Architecture.parse(found.best.architecture)


def test_the_oldest_dies():
    evolution = Evolution(SPACE, 0, population=3)
    for _ in range(5):
        asked = evolution.ask()
        evolution.tell(asked, [0.5])
    assert len(evolution.living) == 3


@pytest.fixture(scope="module")
def shared():
    recipe = Recipe(epochs=1, batch_size=16)
    return train_shared(SPACE, data(), recipe, SETTING, alpha=0.5, seed=0, channels=4, cells=3, outputs=4)


def test_shared_weights_train_alike_from_one_seed(shared):
    recipe = Recipe(epochs=1, batch_size=16)
    again = train_shared(SPACE, data(), recipe, SETTING, alpha=0.5, seed=0, channels=4, cells=3, outputs=4)
    other = train_shared(SPACE, data(), recipe, SETTING, alpha=0.5, seed=1, channels=4, cells=3, outputs=4)
    same = [torch.equal(a, b) for a, b in zip(shared.state_dict().values(), again.state_dict().values(), strict=True)]
    assert all(same)
    assert not torch.equal(shared.stem[0].weight, other.stem[0].weight)


@pytest.mark.parametrize("setting", [SETTING, FaultSetting(MiBB(), 0.05, "all")])
def test_a_reward_is_measured_quantised_and_leaves_the_weights(shared, setting):
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    reward = SharedReward(shared, data(seed=1), setting, 2, ("a test",))
    architecture = Architecture.parse("normal: conv1@0+skip@1; reduce: conv1@0+max3@1")
    clean, faulty = reward(architecture, "search")
    assert 0 <= clean <= 1 and 0 <= faulty <= 1 and reward(architecture, "search") == (clean, faulty)
    assert all(torch.equal(value, before[name]) for name, value in shared.state_dict().items())
    child = shared.child(architecture)
    assert F.cross_entropy(child(data().images), data().labels).isfinite()
    mean = MeanReward((reward, lambda a, d: (0.0, 1.0)))
    assert mean(architecture, "search") == pytest.approx((clean / 2, (faulty + 1) / 2))


def test_a_controller_learns_between_the_epochs_of_the_shared_weights():
    controller = Reinforce(SPACE, 0)
    before = {name: value.clone() for name, value in controller.state_dict().items()}
    recipe = Recipe(epochs=2, batch_size=16)
    train_shared(
        SPACE, data(), recipe, SETTING, alpha=0.0, seed=0, validation=data(16, 1), controller=controller,
        alpha_reward=0.2, channels=4, cells=3, outputs=4,
    )  # fmt: skip
    assert controller.baseline is not None
    assert any(not torch.equal(value, before[name]) for name, value in controller.state_dict().items())
    other = Reinforce(SPACE, 1)
    other.load_state_dict(controller.state_dict())
    assert other.sample(torch.Generator().manual_seed(0)) == controller.sample(torch.Generator().manual_seed(0))


def test_successive_halving_keeps_the_best():
    found, trained = [SPACE.sample(torch.Generator().manual_seed(i)) for i in range(6)], []

    def train(architecture, epochs):
        trained.append(epochs)
        return skips(architecture)[0] + epochs

    best, seen = halving(found, train, [(6, 1), (3, 2), (1, 4)])
    assert trained == [1] * 6 + [2] * 3 + [4]
    assert len(seen[str(best)]) == 3 and skips(best)[0] == max(skips(a)[0] for a in found)


def test_controls_have_the_size_of_the_found_one():
    space, settings = Space(2, ("skip", "conv1", "rcb3", "sep3")), {"channels": 4, "cells": 3, "stem_stride": 1}
    found = space.sample(torch.Generator().manual_seed(4))
    networks = of_its_size(found, space, settings, 3, (3, 16, 16), 0, samples=40)
    target = size(build(networks["found"]), (3, 16, 16))[1]
    assert networks["found"]["architecture"] == str(found)
    sizes = {name: size(build(of), (3, 16, 16)) for name, of in networks.items()}
    for name in ("random-1", "random-2", "random-3", "largest"):
        assert sizes[name][1] == pytest.approx(target, rel=0.2)
    assert sizes["largest"][0] == max(sizes[name][0] for name in sizes if name.startswith(("random", "largest")))
    assert sizes["matched"][1] == pytest.approx(target, rel=0.5)


def test_the_gate_tells_agreement_from_none():
    def noise(seed):
        return lambda a, d: (
            (float(torch.rand((), generator=torch.Generator().manual_seed(hash(str(a)) % 10**6 + seed))),) * 2
        )

    def worth(pair):
        return pair[0]

    space = Space(2, SPACE.operations)
    alike = agreement([skips, skips], space, 16, 0, worth)
    assert alike["rho"] == pytest.approx(1) and alike["p"] < 0.01 and len(alike["architectures"]) == 16
    constant = agreement([lambda a, d: (0.5, 0.5)] * 2, space, 5, 0, worth)
    assert (constant["rho"], constant["p"]) == (0.0, 1.0)
    assert abs(agreement([noise(1), noise(2)], space, 16, 0, worth)["rho"]) < 0.9
    assert W_FTT_NET.check() == W_FTT_NET


def test_a_killed_training_with_a_controller_goes_on_as_if_it_had_not_been_killed(tmp_path, monkeypatch):
    recipe = Recipe(epochs=3, batch_size=16)

    def trained(controller: Reinforce, checkpoint: Checkpoint | None = None) -> dict[str, torch.Tensor]:
        network = train_shared(
            SPACE, data(), recipe, SETTING, alpha=0.0, seed=0, validation=data(16, 1), controller=controller,
            alpha_reward=0.2, checkpoint=checkpoint, channels=4, cells=3, outputs=4,
        )  # fmt: skip
        return {**network.state_dict(), **controller.state_dict()}

    whole = trained(Reinforce(SPACE, 0))
    tell, told = Reinforce.tell, []

    def killed(controller, architectures, rewards):
        tell(controller, architectures, rewards)
        told.append(rewards)
        if len(told) == 2:  # at the end of the second epoch
            raise KeyboardInterrupt

    with Checkpoint(tmp_path / "kept", save_after_s=0) as checkpoint:
        monkeypatch.setattr(Reinforce, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(Reinforce(SPACE, 0), checkpoint)
        resumed = trained(Reinforce(SPACE, 0), checkpoint)
    assert len(told) == 4  # the first epoch was not done again
    assert set(whole) == set(resumed) and all(torch.equal(whole[name], resumed[name]) for name in whole)
