"""Accuracy on a grid of drift levels: the levels, several members, codes, and runs that are killed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesft.data import Split
from bayesft.drift import LogNormalDrift, monte_carlo
from bayesft.evaluation.grid import accuracy_grid, counted_grid, resumed, sigma_grid
from bayesft.models import build
from bayesft.training import Checkpoint, Trained, accuracy

FAULT = LogNormalDrift()
KEY = ("a task", 0)
SPECIFICATION = {"network": "mlp", "inputs": 4, "hidden": (8,), "outputs": 3}
SIGMAS = [0.0, 0.5, 1.0, 1.5]
DRAWS = 5


def data(count: int = 200) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 2, 2, generator=generator)
    # Labels that an untrained network gets right more often than not without drift, and less often with it.
    labels = build(SPECIFICATION, 1).eval()(images).argmax(1)
    labels[:40] = torch.randint(3, (40,), generator=generator)
    return Split(images, labels)


def trained(*seeds: int) -> Trained:
    return Trained(SPECIFICATION, [build(SPECIFICATION, seed).state_dict() for seed in seeds])


def always(*outputs: float) -> dict[str, torch.Tensor]:
    """The weights of a network whose outputs are these for every image, and keep their signs under any drift."""
    model = build({**SPECIFICATION, "outputs": len(outputs)})
    for theta in model.parameters():
        torch.nn.init.zeros_(theta)
    model[-1].bias.data = torch.tensor(outputs, dtype=torch.float32)
    return model.state_dict()


def shares(*percent: int) -> Split:
    """A hundred images of which so many have the label 0, 1, 2."""
    labels = torch.tensor([label for label, count in enumerate(percent) for _ in range(count)])
    return Split(torch.randn(100, 1, 2, 2, generator=torch.Generator().manual_seed(0)), labels)


def grid(network: Trained, split: Split, sigmas=SIGMAS, draws=DRAWS, **options) -> np.ndarray:
    return accuracy_grid(network, split, FAULT, sigmas, draws, KEY, **options)


@pytest.mark.parametrize(
    ("end", "step", "expected"),
    [
        (0.3, 0.1, [0.0, 0.1, 0.2, 0.3]),
        (0.25, 0.1, [0.0, 0.1, 0.2, 0.25]),
        (1.2, 0.4, [0.0, 0.4, 0.8, 1.2]),
        (1.5, 0.3, [0.0, 0.3, 0.6, 0.9, 1.2, 1.5]),
        (0.05, 0.1, [0.0, 0.05]),
        (0.3, 0.05, [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (2, 1, [0, 1, 2]),
        (0.0, 0.1, [0.0]),
    ],
)
def test_levels_of_known_grids(end, step, expected):
    assert sigma_grid(end, step) == expected


def test_the_papers_grid():
    assert sigma_grid(1.5, 0.1) == [i / 10 for i in range(16)]


steps = st.integers(1, 500).map(lambda thousandths: thousandths / 1000)


@given(step=steps, first=st.integers(0, 60), more=st.integers(0, 60))
@settings(deadline=None)
def test_the_grid_of_a_smaller_end_is_the_start_of_the_other(step, first, more):
    short, long = sigma_grid(first * step, step), sigma_grid((first + more) * step, step)
    assert len(short) == first + 1 and len(long) == first + more + 1
    assert short == long[: first + 1]  # to the bit: a level names its results


@given(step=steps, ends=st.tuples(st.floats(0, 3), st.floats(0, 3)))
@settings(deadline=None)
def test_grids_of_any_ends_share_all_but_their_ends(step, ends):
    short, long = (sigma_grid(end, step) for end in sorted(ends))
    assert set(short[:-1]) <= set(long)
    for levels, end in ((short, min(ends)), (long, max(ends))):
        assert levels[0] == 0 and levels[-1] == pytest.approx(end, abs=1e-6)
        assert np.all(np.diff(levels) > 0) and np.all(np.diff(levels) < step + 1e-6)


def test_a_step_of_more_than_six_digits_ends_once():
    levels = sigma_grid(2 / 3, 1 / 3)
    assert len(levels) == 3 and levels == sorted(levels)


def test_the_clean_row_is_the_clean_accuracy_of_every_draw():
    split, network = data(), trained(1)
    result = grid(network, split)
    assert result.shape == (len(SIGMAS), DRAWS) and result.dtype == np.float64
    clean = accuracy(network.networks()[0], split)
    assert result[0].tolist() == pytest.approx([clean] * DRAWS, abs=1e-12)
    assert 0.8 < clean < 1
    assert len(set(result[-1])) > 1 and result[-1].mean() < clean


@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_draws_meet_the_members_in_turn(sigma):
    network = Trained(SPECIFICATION, [always(1, 0, 0), always(0, 1, 0), always(0, 0, 1)])
    result = grid(network, shares(50, 30, 20), [sigma], 8)
    assert result[0].tolist() == pytest.approx([0.5, 0.3, 0.2, 0.5, 0.3, 0.2, 0.5, 0.3])


def test_fewer_draws_than_members_meet_the_first_members():
    network = Trained(SPECIFICATION, [always(1, 0, 0), always(0, 1, 0), always(0, 0, 1)])
    assert grid(network, shares(50, 30, 20), [0.5], 2)[0].tolist() == pytest.approx([0.5, 0.3])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_outputs_that_are_not_finite_are_wrong_and_counted(value):
    network = Trained(SPECIFICATION, [always(value, 0, 0), always(1, 0, 0)])
    split = shares(50, 30, 20)
    accuracies, not_finite = counted_grid(network, split, FAULT, [0.0, 0.5], DRAWS, KEY)
    assert accuracies.tolist() == [[0.0, 0.5, 0.0, 0.5, 0.0]] * 2
    assert not_finite.tolist() == [[1.0, 0.0, 1.0, 0.0, 1.0]] * 2
    assert grid(network, split, [0.0, 0.5]).tolist() == accuracies.tolist()


@pytest.mark.parametrize("parameters", ["all", "weights"])
def test_draw_t_is_draw_t_of_its_member(parameters):
    split, network = data(), trained(1, 2)
    result = grid(network, split, [0.7], parameters=parameters)
    members = network.networks()
    for draw in range(DRAWS):
        alone = monte_carlo(
            members[draw % 2],
            split.images,
            split.labels,
            lambda outputs, labels: (outputs.argmax(1) == labels).float(),
            FAULT,
            0.7,
            [draw],
            KEY,
            parameters,
        )
        assert result[0, draw] == pytest.approx(float(alone), abs=0.5 / len(split))


def test_no_number_depends_on_the_other_levels_or_on_the_number_of_draws():
    split, network = data(), trained(1, 2)
    result = grid(network, split)
    np.testing.assert_allclose(grid(network, split, [1.5, 0.5], 3), result[[3, 1], :3], rtol=0, atol=0.5 / len(split))
    assert np.array_equal(grid(network, split, [1.5, 0.5]), result[[3, 1]])


def test_the_key_names_the_draws():
    split, network = data(), trained(1)
    first = accuracy_grid(network, split, FAULT, [1.0], 8, ("a task", 0))
    assert np.array_equal(first, accuracy_grid(network, split, FAULT, [1.0], 8, ("a task", 0)))
    assert not np.array_equal(first, accuracy_grid(network, split, FAULT, [1.0], 8, ("a task", 1)))


def test_outputs_of_a_code_are_decoded():
    codebook = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1, 1]], dtype=torch.uint8)
    # The word of class 2 with its first bit wrong; the largest output is that of bit 4, which is no class at all.
    outputs = always(-1, -1, -1, -1, 3, 1, 1)
    network = Trained({**SPECIFICATION, "outputs": 7}, [outputs], codebook)
    for sigma in (0.0, 0.8):
        assert grid(network, shares(50, 30, 20), [sigma])[0].tolist() == pytest.approx([0.2] * DRAWS)


class Measured:
    """What `resumed` calls to measure: it notes the levels, and is killed when it has been called often enough."""

    def __init__(self, calls_before_it_is_killed: int | None = None):
        self.calls: list[list[float]] = []
        self.left = calls_before_it_is_killed

    def __call__(self, levels):
        if self.left is not None and len(self.calls) >= self.left:
            raise KeyboardInterrupt
        self.calls.append(list(levels))
        return np.array([[level, 2 * level] for level in levels])


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_killed_run_goes_on_where_it_was(tmp_path, done):
    levels = [0.0, 0.5, 1.0, 1.5]
    with Checkpoint(tmp_path / "run") as checkpoint:
        if done < 2:
            with pytest.raises(KeyboardInterrupt):
                resumed(levels, Measured(done), "x", checkpoint, together=2)
        else:
            resumed(levels, Measured(), "x", checkpoint, together=2)
    again = Measured()
    with Checkpoint(tmp_path / "run") as checkpoint:
        found = resumed(levels, again, "x", checkpoint, together=2)
    assert again.calls == [levels[:2], levels[2:]][done:]
    assert found.tolist() == [[level, 2 * level] for level in levels]


def test_only_the_levels_that_are_missing_are_measured(tmp_path):
    again = Measured()
    with Checkpoint(tmp_path / "run") as checkpoint:
        resumed([0.5, 1.5], Measured(), "x", checkpoint)
        found = resumed([0.0, 0.5, 0.7, 1.5], again, "x", checkpoint)
    assert again.calls == [[0.0, 0.7]]
    assert found[:, 0].tolist() == [0.0, 0.5, 0.7, 1.5]


def test_a_grid_from_a_checkpoint_is_the_grid(tmp_path):
    split, network = data(), trained(1, 2)
    with Checkpoint(tmp_path / "run") as checkpoint:
        grid(network, split, [0.5, 1.5], checkpoint=checkpoint)
        found = grid(network, split, [0.0, 0.5, 1.5], checkpoint=checkpoint)
    assert np.array_equal(found, grid(network, split, [0.0, 0.5, 1.5]))
