"""ReRAM-V: what a device holds, what is repaired, when repair ends, and that it helps."""

from functools import cache

import pytest
import torch

from bayesft.methods import load
from bayesft.methods.reram_v import PROGRAMMED, SHARE_PER_ROUND
from bayesft.training import Checkpoint, Problem, Trained, accuracy
from tests.problems import RECIPE, flat, patterns, same, tiny, trained_erm

SIGMA = 1.2
STEPS = 50  # of an epoch


def larger(**changes) -> Problem:
    """The tiny problem with enough images for one epoch of repair to tell."""
    given = {"train": patterns(400), "validation": patterns(100, part=1)}
    return tiny(**{**given, "recipe": RECIPE.model_copy(update={"batch_size": 8}), **changes})


def repair(problem: Problem, sigma: float = SIGMA, rounds: int = 1, devices: int = 10) -> tuple[Trained, Trained]:
    """The repaired networks, and those of the same devices without repair."""
    values = {"sigma_device": sigma, "rounds": rounds, "devices": devices}
    found = load("reram_v").train(problem, values, {"erm": trained_erm()})
    assert found.keys() == {"reram_v", PROGRAMMED}
    return found["reram_v"], found[PROGRAMMED]


@cache
def repaired_in(rounds: int, seed: int) -> tuple[Trained, int, float]:
    """One device after at most so many rounds, the rounds that it took, and the validation accuracy."""
    problem = larger(seed=seed, train=patterns(200), validation=patterns(300, part=1))
    repaired, programmed = repair(problem, rounds=max(rounds, 1), devices=1)
    found = repaired if rounds else programmed
    reached = accuracy(found.networks()[0], problem.validation)
    return found, int(found.about["epochs_repair_per_device"]), reached


SEEDS, MOST = (0, 1, 2, 9), 4


@pytest.fixture(scope="module")
def one_round() -> tuple[Trained, Trained]:
    """Ten devices, one round of repair each."""
    return repair(larger())


def variations(programmed: dict[str, torch.Tensor]) -> torch.Tensor:
    return (flat(programmed).double() / flat(trained_erm().members[0]).double()).log()


def validated(trained: Trained) -> list[float]:
    return [accuracy(network, larger().validation) for network in trained.networks()]


def test_one_member_a_device_in_each_result(one_round):
    for trained, epochs in zip(one_round, (1, 0), strict=True):
        assert len(trained.members) == 10
        assert trained.specification == trained_erm().specification and trained.codebook is None
        assert trained.about == {
            "epochs": RECIPE.epochs, "epochs_repair_per_device": epochs, "sigma_device": SIGMA, "devices": 10,
        }  # fmt: skip
        assert all(m.keys() == trained_erm().members[0].keys() for m in trained.members)


def test_devices_multiply_by_log_normal_variations_of_the_given_size(one_round):
    lam = torch.cat([variations(member) for member in one_round[1].members])
    assert torch.isfinite(lam).all()
    count = len(lam)  # 3,440: four standard errors of deviation and mean
    assert float(lam.std()) == pytest.approx(SIGMA, abs=4 * SIGMA / (2 * count) ** 0.5)
    assert float(lam.mean()) == pytest.approx(0, abs=4 * SIGMA / count**0.5)


def test_every_device_has_a_variation_of_its_own(one_round):
    lam = torch.stack([variations(member) for member in one_round[1].members])
    correlation = torch.corrcoef(lam) - torch.eye(10, dtype=lam.dtype)
    assert correlation.abs().max() < 0.25  # equal draws would give 1


def test_smaller_variation_is_the_same_one_weaker(one_round):
    _, weaker = repair(larger(), SIGMA / 2, devices=1)
    expected = variations(one_round[1].members[0])
    torch.testing.assert_close(2 * variations(weaker.members[0]), expected, rtol=1e-3, atol=1e-5)


def test_worst_varying_share_keeps_what_the_device_held(one_round):
    kept = 0
    for repaired, programmed in zip(*(trained.members for trained in one_round), strict=True):
        unchanged = flat(repaired) == flat(programmed)
        if unchanged.all():
            continue  # the repair was no better, and the device stayed as it was programmed
        kept += 1
        assert abs(int(unchanged.sum()) - SHARE_PER_ROUND * len(unchanged)) <= 1  # the others were retrained
        severity = variations(programmed).abs()
        assert severity[unchanged].min() >= severity[~unchanged].max() * 0.99
    assert kept >= 5


def test_retrained_parameters_carry_the_variation_of_their_device(one_round):
    # An epoch of Adam moves a parameter by no more than its steps; without its variation it would jump back to ERM's.
    for repaired, programmed in zip(*(trained.members for trained in one_round), strict=True):
        lam = variations(programmed)
        move = (flat(repaired).double() / lam.exp() - flat(trained_erm().members[0])).abs()
        assert move.max() <= STEPS * RECIPE.lr / 2


def test_repair_never_loses_validation_accuracy_and_gains_some(one_round):
    repaired, programmed = map(validated, one_round)
    assert all(after >= before for after, before in zip(repaired, programmed, strict=True))
    assert sum(repaired) > sum(programmed)


def test_all_rounds_are_run_and_the_best_state_is_kept():
    kept = 0
    for seed in SEEDS:
        states, done, reached = zip(*(repaired_in(rounds, seed) for rounds in range(MOST + 1)), strict=True)
        assert done == tuple(range(MOST + 1))
        assert all(after >= before for before, after in zip(reached, reached[1:], strict=False))
        # A round after one that gained nothing is run, and its state is kept where it is better.
        gains = [after > before for before, after in zip(reached, reached[1:], strict=False)]
        kept += any(not first and later for first, later in zip(gains, gains[1:], strict=False))
        for before, after, gained in zip(states, states[1:], gains, strict=False):
            assert same(before.members[0], after.members[0]) == (not gained)
    assert kept  # or the test says nothing


def test_statistics_of_batch_norm_are_those_of_the_device():
    network = {"network": "mlp", "inputs": 16, "hidden": (32,), "outputs": 4, "normalization": "batch"}
    problem = larger(specification=network)
    erm = load("erm").train(problem, {}, {})["erm"]
    given = {"sigma_device": SIGMA, "rounds": 1, "devices": 2}
    found = load("reram_v").train(problem, given, {"erm": erm})
    for repaired, programmed in zip(found["reram_v"].networks(), found[PROGRAMMED].networks(), strict=True):
        (norm,) = (module for module in repaired.modules() if isinstance(module, torch.nn.BatchNorm1d))
        inputs = []
        norm.register_forward_hook(lambda module, given, out: inputs.append(given[0]))
        with torch.no_grad():
            repaired(problem.train.images)  # fewer than 512, so all were used
        torch.testing.assert_close(norm.running_mean, inputs[0].mean(0), rtol=0.05, atol=0.05)
        stale = {n: b for n, b in programmed.named_buffers() if n.endswith("running_mean")}
        assert all(torch.equal(b, erm.members[0][n]) for n, b in stale.items())  # the partner keeps those of ERM


def test_each_round_fixes_a_further_share():
    compared = 0
    for seed in SEEDS:
        for rounds in range(MOST):
            last, before, after = (
                flat(repaired_in(count, seed)[0].members[0]) for count in (max(0, rounds - 1), rounds, rounds + 1)
            )
            if torch.equal(before, after) or (rounds and torch.equal(last, before)):
                continue  # a round that gained nothing, whose state was not kept
            compared += 1
            # A round fixes what the device holds after the round before: that share is never changed again.
            fixed = int((before == after).sum())
            assert abs(fixed - (rounds + 1) * SHARE_PER_ROUND * len(before)) <= 1
    assert compared >= 5


def test_results_repeat_and_leave_the_given_network_alone(one_round):
    before = flat(trained_erm().members[0]).clone()
    torch.manual_seed(3)
    for first, second in zip(one_round, repair(larger(), devices=2), strict=True):
        assert all(same(a, b) for a, b in zip(first.members[:2], second.members, strict=True))
    assert torch.equal(flat(trained_erm().members[0]), before)
    other = repair(larger(seed=1), devices=1)[1]
    assert not same(other.members[0], one_round[1].members[0])


class Labelled(Checkpoint):
    """A checkpoint that notes which trainings ask it for their state, and is interrupted at one of them."""

    def __init__(self, folder, stop: int | None = None):
        super().__init__(folder, save_after_s=0)
        self.asked, self.stop = [], stop

    def load(self, name):
        self.asked.append(name)
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        return super().load(name)


def test_rounds_are_counted(tmp_path):
    with Labelled(tmp_path / "c") as checkpoint:
        repaired, _ = repair(larger(checkpoint=checkpoint), rounds=3, devices=4)
    assert len(set(checkpoint.asked)) == len(checkpoint.asked)  # each round of each device has a name of its own
    rounds = [sum(f"device {device} " in label for label in checkpoint.asked) for device in range(4)]
    assert rounds == [3] * 4 and repaired.about["epochs_repair_per_device"] == 3


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_interrupted_repair_resumes_to_the_same_bits(tmp_path, stop):
    whole = repair(larger(), rounds=3, devices=2)
    with Labelled(tmp_path / "c", stop) as checkpoint:
        with pytest.raises(KeyboardInterrupt):
            repair(larger(checkpoint=checkpoint), rounds=3, devices=2)
    with Labelled(tmp_path / "c") as checkpoint:
        resumed = repair(larger(checkpoint=checkpoint), rounds=3, devices=2)
    for first, second in zip(whole, resumed, strict=True):
        assert all(same(a, b) for a, b in zip(first.members, second.members, strict=True))
