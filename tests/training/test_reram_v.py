"""ReRAM-V: what a device holds, what is repaired, and that repair helps."""

from functools import partial

import pytest
import torch

from bayesft.training import Checkpoint, Trained, accuracy, reram_v
from bayesft.training.loop import plain_gradient
from bayesft.training.reram_v import SHARE_PER_ROUND

SIGMA = 1.2


STEPS = 50  # of an epoch


@pytest.fixture(scope="module")
def make_larger(make_problem, separable, recipe):
    """The tiny problem with enough images for one epoch of repair to tell."""
    more = {"train": separable(400), "validation": separable(100, part=1)}
    return partial(make_problem, **more, recipe=recipe.model_copy(update={"batch_size": 8}))


@pytest.fixture(scope="module")
def one_round(make_larger, trained_erm):
    """Ten devices, one round of repair each."""
    return reram_v.train(make_larger(), trained_erm, SIGMA, rounds=1, devices=10)


def flat(member: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in member.values()])


def variations(programmed: dict[str, torch.Tensor], erm: Trained) -> torch.Tensor:
    return (flat(programmed).double() / flat(erm.members[0]).double()).log()


def test_one_member_a_device_in_each_result(one_round, trained_erm, recipe):
    repaired, programmed = one_round
    assert len(repaired.members) == len(programmed.members) == 10
    for trained, epochs in ((repaired, 1), (programmed, 0)):
        assert trained.specification == trained_erm.specification and trained.codebook is None
        assert trained.about == {
            "epochs": recipe.epochs, "epochs_repair_per_device": epochs, "sigma_device": SIGMA, "devices": 10,
        }  # fmt: skip
        assert all(m.keys() == trained_erm.members[0].keys() for m in trained.members)


def test_devices_multiply_by_log_normal_variations_of_the_given_size(one_round, trained_erm):
    lam = torch.cat([variations(member, trained_erm) for member in one_round[1].members])
    assert torch.isfinite(lam).all()
    count = len(lam)  # 3,440: four standard errors of deviation and mean
    assert float(lam.std()) == pytest.approx(SIGMA, abs=4 * SIGMA / (2 * count) ** 0.5)
    assert float(lam.mean()) == pytest.approx(0, abs=4 * SIGMA / count**0.5)


def test_every_device_has_a_variation_of_its_own(one_round, trained_erm):
    lam = torch.stack([variations(member, trained_erm) for member in one_round[1].members])
    correlation = torch.corrcoef(lam) - torch.eye(10, dtype=lam.dtype)
    assert correlation.abs().max() < 0.25  # equal draws would give 1


def test_smaller_variation_is_the_same_one_weaker(make_larger, trained_erm, one_round):
    _, weaker = reram_v.train(make_larger(), trained_erm, SIGMA / 2, rounds=1, devices=1)
    torch.testing.assert_close(
        2 * variations(weaker.members[0], trained_erm),
        variations(one_round[1].members[0], trained_erm),
        rtol=1e-3, atol=1e-5,
    )  # fmt: skip


def test_worst_varying_share_keeps_what_the_device_held(one_round, trained_erm):
    kept = 0
    for repaired, programmed in zip(*(trained.members for trained in one_round), strict=True):
        same = flat(repaired) == flat(programmed)
        if same.all():
            continue  # the repair was no better, and the device stayed as it was programmed
        kept += 1
        assert abs(int(same.sum()) - SHARE_PER_ROUND * len(same)) <= 1  # the others were retrained
        severity = variations(programmed, trained_erm).abs()
        assert severity[same].min() >= severity[~same].max() * 0.99
    assert kept >= 5


def test_fixed_parameters_stay_put_while_the_others_are_retrained(make_larger, trained_erm, monkeypatch):
    seen, fit = [], reram_v.fit

    def spy(*arguments, **rest):
        def gradient(model, loss, x, y, progress):
            seen.append(flat({name: p.detach().clone() for name, p in model.named_parameters()}))
            return plain_gradient(model, loss, x, y)

        return fit(*arguments, gradient=gradient, **rest)

    monkeypatch.setattr(reram_v, "fit", spy)
    _, programmed = reram_v.train(make_larger(), trained_erm, SIGMA, rounds=1, devices=1)
    assert len(seen) == STEPS
    fixed = torch.stack([state == flat(programmed.members[0]) for state in seen]).all(0)
    assert abs(int(fixed.sum()) - SHARE_PER_ROUND * len(fixed)) <= 1


def test_retrained_parameters_carry_the_variation_of_their_device(one_round, trained_erm, make_larger):
    # An epoch of Adam moves a parameter by no more than its steps; without its variation it would jump back to ERM's.
    recipe = make_larger().recipe
    for repaired, programmed in zip(*(trained.members for trained in one_round), strict=True):
        lam = variations(programmed, trained_erm)
        move = (flat(repaired).double() / lam.exp() - flat(trained_erm.members[0])).abs()
        assert move.max() <= STEPS * recipe.lr / 2


def test_repair_never_loses_validation_accuracy_and_gains_some(one_round, make_larger):
    data = make_larger().validation
    repaired, programmed = ([accuracy(network, data) for network in trained.networks()] for trained in one_round)
    assert all(after >= before for after, before in zip(repaired, programmed, strict=True))
    assert sum(repaired) > sum(programmed)


def test_rounds_are_bounded_and_counted(make_larger, trained_erm, monkeypatch):
    trainings = []

    def spy(*arguments, label, **rest):
        trainings.append(label)
        return fit(*arguments, label=label, **rest)

    fit = reram_v.fit
    monkeypatch.setattr(reram_v, "fit", spy)
    repaired, _ = reram_v.train(make_larger(), trained_erm, SIGMA, rounds=3, devices=4)
    assert len(set(trainings)) == len(trainings)
    rounds = [sum(f"device {device} " in label for label in trainings) for device in range(4)]
    assert all(1 <= count <= 3 for count in rounds) and max(rounds) > 1
    assert repaired.about["epochs_repair_per_device"] == sum(rounds) / 4


def test_repair_ends_at_the_first_round_that_gains_nothing(make_larger, trained_erm, monkeypatch):
    # Accuracies that the device is said to have: as programmed, then after each round.
    said = iter([0.5, 0.6, 0.6005, 0.9])
    monkeypatch.setattr(reram_v, "accuracy", lambda *_: next(said))
    trained, _ = reram_v.train(make_larger(), trained_erm, SIGMA, rounds=5, devices=1)
    assert trained.about["epochs_repair_per_device"] == 2
    assert next(said) == 0.9


@pytest.mark.parametrize(
    "said, rounds_kept", [([0.5, 0.4], 0), ([0.5, 0.6, 0.55], 1), ([0.5, 0.6, 0.7, 0.65], 2), ([0.5, 0.6, 0.6005], 2)]
)
def test_best_state_is_kept(make_larger, trained_erm, monkeypatch, said, rounds_kept):
    def repair(accuracies, rounds):
        values = iter(accuracies)
        monkeypatch.setattr(reram_v, "accuracy", lambda *_: next(values))
        return reram_v.train(make_larger(), trained_erm, SIGMA, rounds=rounds, devices=1)

    repaired, programmed = repair(said, rounds=9)
    expected = programmed if rounds_kept == 0 else repair([0.1, 0.2, 0.3], rounds=rounds_kept)[0]
    assert torch.equal(flat(repaired.members[0]), flat(expected.members[0]))


def test_each_round_fixes_a_further_share(make_larger, trained_erm, monkeypatch):
    held = []  # the parameters at every evaluation: as programmed, then after each round

    def improving(network, _):
        held.append(flat({name: p.detach().clone() for name, p in network.named_parameters()}))
        return 0.1 * len(held)

    monkeypatch.setattr(reram_v, "accuracy", improving)
    reram_v.train(make_larger(), trained_erm, SIGMA, rounds=4, devices=1)
    assert len(held) == 5
    for turn in range(4):
        # A round fixes what the device holds after the round before: that share is never changed again.
        fixed = torch.stack([held[later] == held[turn] for later in range(turn + 1, 5)]).all(0)
        assert abs(int(fixed.sum()) - (turn + 1) * SHARE_PER_ROUND * len(fixed)) <= 1
    assert len({tuple(state.tolist()) for state in held}) == 5


def test_results_repeat_and_leave_the_given_network_alone(make_larger, trained_erm, one_round):
    before = flat(trained_erm.members[0]).clone()
    torch.manual_seed(3)
    again = reram_v.train(make_larger(), trained_erm, SIGMA, rounds=1, devices=2)
    for first, second in zip(one_round, again, strict=True):
        for a, b in zip(first.members[:2], second.members, strict=True):
            assert torch.equal(flat(a), flat(b))
    assert torch.equal(flat(trained_erm.members[0]), before)
    other = reram_v.train(make_larger(seed=1), trained_erm, SIGMA, rounds=1, devices=1)[1]
    assert not torch.equal(flat(other.members[0]), flat(one_round[1].members[0]))


def test_interrupted_repair_resumes_to_the_same_bits(tmp_path, make_larger, trained_erm, monkeypatch):
    whole = reram_v.train(make_larger(), trained_erm, SIGMA, rounds=3, devices=2)
    fit, calls = reram_v.fit, []

    def killed(*arguments, **rest):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **rest)

    with Checkpoint(tmp_path / "c") as checkpoint:
        problem = make_larger(checkpoint=checkpoint)
        monkeypatch.setattr(reram_v, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            reram_v.train(problem, trained_erm, SIGMA, rounds=3, devices=2)
        resumed = reram_v.train(problem, trained_erm, SIGMA, rounds=3, devices=2)
    for first, second in zip(whole, resumed, strict=True):
        for a, b in zip(first.members, second.members, strict=True):
            assert torch.equal(flat(a), flat(b))
