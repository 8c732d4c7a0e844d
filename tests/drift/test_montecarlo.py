"""Monte-Carlo estimates: the shared first layer against a plain loop, common random numbers, nothing left behind."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bayesft.drift import LogNormalDrift, drifted_parameters, monte_carlo, monte_carlo_grid, select
from bayesft.drift.montecarlo import _share_of_work, images_within
from bayesft.models import build
from bayesft.tasks import TASKS

FAULT = LogNormalDrift()
KEY = ("a task", 3)
SIGMA = 0.6
DRAWS = [0, 1, 4]


class Plain(nn.Sequential):
    """The same network with the same parameter names, as a kind that has no shared start."""


class Wrapper(nn.Module):
    """A network inside of another module, as users write them."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def likelihood(outputs: Tensor, labels: Tensor) -> Tensor:
    # A smooth score: accuracies would hide small differences.
    return -nn.functional.cross_entropy(outputs, labels, reduction="none")


def right(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(1) == labels).float()


def data(count: int, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, *shape, generator=generator), torch.randint(classes, (count,), generator=generator)


def small(seed: int = 0, **changes) -> nn.Sequential:
    return build({"network": "mlp", "inputs": 6, "hidden": (16, 8), "outputs": 3, **changes}, seed)


def small_data(count: int = 40) -> tuple[Tensor, Tensor]:
    return data(count, (6,), 3)


def with_statistics(model: nn.Module) -> nn.Module:
    """Give every batch normalisation running statistics and weights other than the initial ones."""
    generator = torch.Generator().manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.5, 2, generator=generator)
                module.bias.normal_(generator=generator)
    return model


@torch.no_grad()
def by_hand(model, images, labels, score, sigma, draws, parameters="all") -> Tensor:
    """One drifted deep copy of the whole network after the other, all the images at once."""
    means = []
    for draw in draws:
        drifted = drifted_parameters(model, FAULT, sigma, KEY, draw, parameters)
        twin = copy.deepcopy(model).eval()
        for name, theta in twin.named_parameters():
            theta.copy_(drifted.get(name, theta))
        means.append(score(twin(images), labels).double().mean())
    return torch.stack(means)


def estimate(model, images, labels, sigma=SIGMA, draws=DRAWS, score=likelihood, key=KEY, **options) -> Tensor:
    return monte_carlo(model, images, labels, score, FAULT, sigma, draws, key, **options)


def assert_same(first: Tensor, second: Tensor):
    """Equal but for the rounding of float32 sums in another order."""
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parameters", ["all", "weights"])
@pytest.mark.parametrize(("task", "count"), [("mlp-mnist", 1100), ("lenet-mnist", 300)])
def test_shared_first_layer_scores_as_a_plain_loop_also_with_a_smaller_last_batch(task, count, parameters):
    model, (images, labels) = build(TASKS[task].specification, 5), data(count)
    values = estimate(model, images, labels, parameters=parameters)
    assert values.shape == (3,) and values.dtype == torch.float64
    assert len(set(values.tolist())) == 3
    assert_same(values, by_hand(model, images, labels, likelihood, SIGMA, DRAWS, parameters))


@pytest.mark.parametrize("task", ["mlp-mnist", "lenet-mnist"])
def test_other_modules_score_the_same(task):
    model, (images, labels) = build(TASKS[task].specification, 5), data(300)
    plain = Plain(OrderedDict(model.named_children()))
    assert_same(estimate(plain, images, labels), estimate(model, images, labels))
    wrapper = Wrapper(model)  # other parameter names, so other draws
    assert_same(estimate(wrapper, images, labels), by_hand(wrapper, images, labels, likelihood, SIGMA, DRAWS))


@pytest.mark.parametrize(
    "start",
    [
        (nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2, bias=False), nn.AvgPool2d(2), nn.GELU()),
        (nn.Conv2d(2, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        (nn.Conv2d(2, 4, 3, groups=2), nn.ReLU()),
        (nn.Conv2d(2, 4, 3, padding=2, padding_mode="circular"), nn.MaxPool2d(3)),
        (nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU()), nn.Conv2d(4, 4, 3)),
        (nn.Identity(), nn.Dropout(0.5), nn.Conv2d(2, 3, 3), nn.Dropout2d(0.5), nn.PReLU()),
        (nn.Linear(9, 5), nn.LeakyReLU(inplace=True)),
        (nn.Flatten(), nn.Unflatten(1, (2, 9, 9)), nn.Conv2d(2, 4, 3), nn.ReLU()),
        (nn.Flatten(0, 1), nn.Unflatten(0, (-1, 2)), nn.Conv2d(2, 4, 3), nn.ReLU()),
    ],
    ids=["strided", "batch norm", "grouped", "circular", "nested", "dropout", "linear on maps", "unflattened", "split"],
)
def test_any_first_layer_scores_as_a_plain_loop(start):
    torch.manual_seed(0)
    model = nn.Sequential(*copy.deepcopy(start), nn.Flatten(), nn.LazyLinear(3))
    images, labels = data(30, (2, 9, 9), 3)
    model.eval()(images)
    for parameters in ("all", "weights"):
        expected = by_hand(model, images, labels, likelihood, SIGMA, DRAWS, parameters)
        assert_same(estimate(model, images, labels, parameters=parameters), expected)


@pytest.mark.parametrize("count", [1, 40, 1025])
@pytest.mark.parametrize("shared", [0, 1, 3, 6])
@pytest.mark.parametrize("bias", [True, False])
def test_inputs_that_all_images_have_in_common_score_as_a_plain_loop(count, shared, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=bias), nn.ReLU(), nn.Linear(8, 3))
    images, labels = small_data(count)
    images[:, :shared] = torch.arange(6.0)[:shared]  # a margin, black or not
    images = images.flip(1)
    for parameters in ("all", "weights"):
        expected = by_hand(model, images, labels, likelihood, SIGMA, DRAWS, parameters)
        assert_same(estimate(model, images, labels, parameters=parameters), expected)


def test_an_activation_used_twice_counts_twice():
    relu = nn.ReLU()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), relu, nn.Linear(8, 8), relu, nn.Linear(8, 3))
    images, labels = small_data()
    assert_same(estimate(model, images, labels), by_hand(model, images, labels, likelihood, SIGMA, DRAWS))


def test_a_weight_shared_with_the_first_layer_drifts_in_both():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    images, labels = small_data()
    assert_same(estimate(model, images, labels), by_hand(model, images, labels, likelihood, SIGMA, DRAWS))


def test_a_hook_on_the_first_layer_acts():
    model = small()
    model[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    images, labels = small_data()
    assert_same(estimate(model, images, labels), by_hand(model, images, labels, likelihood, SIGMA, DRAWS))


@pytest.mark.parametrize("task", ["mlp-mnist", "lenet-mnist"])
def test_level_zero_is_the_clean_network(task):
    model, (images, labels) = build(TASKS[task].specification, 5).eval(), data(300)
    with torch.no_grad():
        clean = right(model(images), labels).double().mean()
    values = estimate(model, images, labels, 0.0, range(4), right)
    assert torch.equal(values, clean.repeat(4))
    assert 0 < clean < 1


@pytest.mark.parametrize("task", ["mlp-mnist", "lenet-mnist"])
def test_the_memory_bound_changes_no_score(task):
    model, (images, labels) = build(TASKS[task].specification, 5), data(200)
    draws = range(7)
    tight = estimate(model, images, labels, draws=draws, memory_mib=1)
    assert_same(tight, estimate(model, images, labels, draws=draws, memory_mib=1024))


def test_the_memory_bound_holds_and_the_first_layer_is_shared_within_it(monkeypatch):
    outputs = []
    conv2d = nn.functional.conv2d

    def recorded(x: Tensor, *others) -> Tensor:
        output = conv2d(x, *others)
        if x.shape[1] == 1:  # the first layer
            outputs.append((len(x), output.shape[1]))
        return output

    monkeypatch.setattr(nn.functional, "conv2d", recorded)
    model, (images, labels) = build(TASKS["lenet-mnist"].specification, 5), data(500)
    estimate(model, images, labels, draws=range(5), memory_mib=8)
    batch = images_within(4, model, images)
    shared = [channels for size, channels in outputs if size == batch]
    assert shared == [12, 12, 6] and 250 < batch < 500  # two copies of 4 MiB, two more, and one
    assert max(size * channels * 24 * 24 * 4 for size, channels in outputs) <= 8 * 2**20


@pytest.mark.parametrize("make", [lambda: build(TASKS["mlp-mnist"].specification, 5), lambda: Wrapper(small())])
def test_a_draw_depends_neither_on_the_order_nor_on_the_others(make):
    model = make()
    images, labels = small_data() if isinstance(model, Wrapper) else data(60)
    together = estimate(model, images, labels, draws=[7, 2, 5])
    assert_same(estimate(model, images, labels, draws=[5, 7, 2]), together[[2, 0, 1]])
    for place, draw in enumerate([7, 2, 5]):
        assert_same(estimate(model, images, labels, draws=[draw]), together[place : place + 1])
    assert len(set(together.tolist())) == 3


def test_no_draws_give_no_scores():
    images, labels = small_data()
    for sigma in (0.0, SIGMA):
        assert estimate(small(), images, labels, sigma, []).shape == (0,)


def test_levels_and_networks_share_their_draws_but_keys_do_not():
    first, second = small(seed=0), small(seed=1)

    def factors(model: nn.Module, sigma: float, key: tuple = KEY, draw: int = 2) -> dict[str, Tensor]:
        drifted = drifted_parameters(model, FAULT, sigma, key, draw)
        return {name: (drifted[name] / theta.detach()).log() / sigma for name, theta in model.named_parameters()}

    base = factors(first, 0.5)
    for same in (factors(first, 1.1), factors(second, 0.5)):
        for name, value in base.items():
            torch.testing.assert_close(same[name], value, rtol=1e-3, atol=1e-5)
    for other in (factors(first, 0.5, ("a task", 4)), factors(first, 0.5, draw=3)):
        for name, value in base.items():
            assert (other[name] - value).abs().max() > 0.1, name


def test_parameters_of_one_shape_drift_independently():
    model = build({"network": "mlp", "inputs": 30, "hidden": (30,), "outputs": 30}, 0)
    drifted = drifted_parameters(model, FAULT, 1.0, KEY, 0)
    first, second = ((drifted[name] / model.get_parameter(name)).log().flatten() for name in ("1.weight", "3.weight"))
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 4 / 30


def test_level_zero_and_small_levels_join():
    images, labels = small_data()
    clean, near = (estimate(small(), images, labels, sigma) for sigma in (0.0, 1e-6))
    torch.testing.assert_close(near, clean, rtol=1e-4, atol=1e-4)


def test_weights_alone_leave_biases_and_normalisation():
    model = with_statistics(small(normalization="batch"))
    assert [type(module).__name__ for module in model[1:3]] == ["Linear", "BatchNorm1d"]
    weights = ["1.weight", "4.weight", "7.weight"]
    assert list(select(model, "weights")) == weights
    assert list(drifted_parameters(model, FAULT, SIGMA, KEY, 0, "weights")) == weights
    assert list(drifted_parameters(model, FAULT, SIGMA, KEY, 0, "all")) == [n for n, _ in model.named_parameters()]
    for name, value in drifted_parameters(model, FAULT, SIGMA, KEY, 0, "weights").items():
        assert not torch.equal(value, model.get_parameter(name))
    assert list(select(nn.Linear(2, 2), "weights")) == ["weight"]
    assert list(select(nn.Sequential(nn.ConvTranspose2d(1, 1, 2), nn.LayerNorm(2)), "weights")) == ["0.weight"]


@pytest.mark.parametrize("parameters", ["all", "weights"])
def test_running_statistics_neither_drift_nor_change(parameters):
    model = with_statistics(small(normalization="batch")).train()
    images, labels = small_data()
    expected = by_hand(model, images, labels, likelihood, SIGMA, DRAWS, parameters)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    assert_same(estimate(model, images, labels, parameters=parameters), expected)
    assert len(buffers) == 6
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name]), name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make", [lambda: build(TASKS["lenet-mnist"].specification, 5), lambda: Wrapper(small(normalization="batch"))]
)
def test_the_network_comes_back_as_it_was(make, training):
    model = make().train(training)
    images, labels = small_data() if isinstance(model, Wrapper) else data(20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    estimate(model, images, labels)
    assert list(model.state_dict()) == list(before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [module.training for module in model.modules()] == [training] * len(list(model.modules()))
    assert all(theta.requires_grad and theta.grad is None for theta in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_training_mode_comes_back_after_an_error():
    def broken(outputs: Tensor, labels: Tensor) -> Tensor:
        raise RuntimeError("score")

    model = small().train()
    with pytest.raises(RuntimeError, match="score"):
        estimate(model, *small_data(), score=broken)
    assert all(module.training for module in model.modules())


def test_mixed_training_modes_come_back():
    model = small(normalization="batch").train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    estimate(model, *small_data())
    assert [module.training for module in model.modules()] == modes


def test_dropout_is_off():
    images, labels = small_data()
    plain, dropping = small(), small(dropout=("dropout", 0.5)).train()
    # Dropout shifts the layers' names, so the comparison is with the plain loop on the same network.
    assert_same(estimate(dropping, images, labels), by_hand(dropping, images, labels, likelihood, SIGMA, DRAWS))
    assert_same(estimate(dropping, images, labels, 0.0), estimate(plain, images, labels, 0.0))


@pytest.mark.parametrize(("images", "labels"), [(5, 4), (4, 5), (0, 0)])
def test_as_many_labels_as_images_are_needed(images, labels):
    with pytest.raises(ValueError, match=f"{images} images and {labels} labels"):
        estimate(small(), torch.zeros(images, 6), torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_a_level_that_is_negative_or_not_finite_is_refused(sigma):
    with pytest.raises(ValueError, match=f"sigma = {sigma}: must be finite and at least 0"):
        estimate(small(), *small_data(), sigma=sigma)
    with pytest.raises(ValueError, match=f"sigma = {sigma}"):
        monte_carlo_grid(small(), *small_data(), likelihood, FAULT, [0.5, sigma], DRAWS, KEY)


@pytest.mark.parametrize("sigma", [0.0, SIGMA])
def test_unknown_parameters_are_refused_and_the_allowed_named(sigma):
    with pytest.raises(ValueError, match="'biases': must be one of all, weights"):
        estimate(small(), *small_data(), sigma=sigma, parameters="biases")


@pytest.mark.parametrize("tied", ["module", "parameter"])
def test_what_stands_in_two_places_drifts_in_both_and_comes_back(tied):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first if tied == "module" else nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x).relu())

    model = Twice()
    before = {name: theta.detach().clone() for name, theta in model.named_parameters()}
    images, labels = torch.randn(6, 4), torch.zeros(6)
    found = monte_carlo(model, images, labels, lambda out, _: out.sum(1), LogNormalDrift(), 0.5, [0], ("k",))
    own = dict(model.named_parameters())
    assert own.keys() == before.keys()
    assert all(torch.equal(own[name], before[name]) and own[name].requires_grad for name in before)
    drifted = drifted_parameters(model, LogNormalDrift(), 0.5, ("k",), 0)
    with torch.no_grad():
        for name, theta in drifted.items():
            own[name].copy_(theta)
        expected = model(images).sum(1).mean()
    torch.testing.assert_close(found[0].float(), expected)


SIGMAS = [0.0, 0.3, 1.5, 0.3]


class Redrawn:
    """Log-normal drift without `sample` and `apply`, as most faults are written."""

    def perturb(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return LogNormalDrift().perturb(theta, level, generator)


class Noisy(Redrawn):
    """A fault that is there at level 0 too."""

    identity_at_zero = False

    def perturb(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return super().perturb(theta, level + 0.5, generator)


@pytest.mark.parametrize("fault", [FAULT, Redrawn()])
@pytest.mark.parametrize("make", [lambda: build(TASKS["lenet-mnist"].specification, 5), lambda: Wrapper(small())])
def test_a_grid_is_each_of_its_levels_alone_to_the_bit(make, fault):
    model = make()
    images, labels = small_data() if isinstance(model, Wrapper) else data(60)
    grid = monte_carlo_grid(model, images, labels, likelihood, fault, SIGMAS, range(10), KEY)
    assert grid.shape == (4, 10) and grid.dtype == torch.float64
    for row, sigma in zip(grid, SIGMAS, strict=True):
        assert torch.equal(row, estimate(model, images, labels, sigma, range(10)))
    assert len(set(grid[1].tolist())) == 10


class Doubled(LogNormalDrift):
    """A subclass that changes what happens to a parameter, and inherits `sample` and `apply`."""

    def perturb(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return 2 * super().perturb(theta, level, generator)


def test_a_subclass_that_changes_perturb_is_not_drawn_as_its_parent():
    model = small()
    ours = drifted_parameters(model, Doubled(), 0.5, KEY, 0)
    for name, theta in drifted_parameters(model, LogNormalDrift(), 0.5, KEY, 0).items():
        assert torch.equal(ours[name], 2 * theta)


def test_a_draw_is_made_once_for_all_levels(monkeypatch):
    drawn = []
    sample = LogNormalDrift.sample
    monkeypatch.setattr(
        LogNormalDrift, "sample", lambda self, theta, generator: drawn.append(1) or sample(self, theta, generator)
    )
    model = small()
    monte_carlo_grid(model, *small_data(), likelihood, FAULT, [0.2, 0.4, 0.8], DRAWS, KEY)
    assert len(drawn) == len(DRAWS) * len(list(model.parameters()))


def test_a_fault_that_is_there_at_level_zero_is_drawn_there():
    values = monte_carlo(small(), *small_data(), likelihood, Noisy(), 0.0, DRAWS, KEY)
    assert torch.equal(values, estimate(small(), *small_data(), 0.5))


def test_grids_without_levels_or_draws_are_empty():
    for sigmas, draws in (([], DRAWS), (SIGMAS, []), ([], [])):
        grid = monte_carlo_grid(small(), *small_data(), likelihood, FAULT, sigmas, draws, KEY)
        assert grid.shape == (len(sigmas), len(draws))


class Standardising(nn.Module):
    """A network that standardises its input where it stands."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return self.layer(x.div_(2))


@pytest.mark.parametrize(
    "make", [Standardising, lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))]
)
def test_a_network_that_writes_into_its_input_sees_each_image_as_it_is(make):
    torch.manual_seed(0)
    model, (images, labels) = make(), small_data(300)
    kept = images.clone()
    values = [estimate(model, images, labels, sigma) for sigma in (0.0, SIGMA, SIGMA)]
    assert torch.equal(images, kept)
    assert torch.equal(values[1], values[2])
    for sigma, value in zip((0.0, SIGMA), values, strict=False):
        expected = torch.cat([by_hand(model, kept.clone(), labels, likelihood, sigma, [draw]) for draw in DRAWS])
        assert_same(value, expected)


class Aliased(nn.Module):
    """A network that holds its first weight in a list, its second as a view, and its last in a function."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.weights = [self.a.weight]
        self.view = self.b.weight.detach().t()
        self.head = lambda h: self.c(h)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(nn.functional.linear(x, self.weights[0], self.a.bias))
        return self.head(torch.relu(h @ self.view + self.b.bias))


class Ordinary(Aliased):
    """The same network with the usual calls."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def test_lists_views_and_functions_meet_the_drifted_parameters():
    torch.manual_seed(0)
    model, twin = Aliased(), Ordinary()
    twin.load_state_dict(model.state_dict())
    images, labels = small_data()
    assert_same(estimate(model, images, labels), estimate(twin, images, labels))
    assert_same(estimate(twin, images, labels), by_hand(twin, images, labels, likelihood, SIGMA, DRAWS))


@pytest.mark.parametrize("make", [small, lambda: Wrapper(small())])
@pytest.mark.parametrize("broken", ["score", "fault"])
def test_the_parameters_come_back_after_an_error(make, broken):
    calls = []

    def fails(*_):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("broken")

    class Failing(LogNormalDrift):
        def apply(self, theta, sample, level):
            fails()
            return super().apply(theta, sample, level)

    def score(outputs: Tensor, labels: Tensor) -> Tensor:
        if broken == "score":
            fails()
        return likelihood(outputs, labels)

    model = make()
    before = [theta.detach().clone() for theta in model.parameters()]
    with pytest.raises(RuntimeError, match="broken"):
        monte_carlo(model, *small_data(), score, Failing() if broken == "fault" else FAULT, SIGMA, range(5), KEY)
    assert all(torch.equal(theta, kept) for theta, kept in zip(model.parameters(), before, strict=True))


def test_a_gradient_that_was_begun_before_can_be_finished_after():
    model, (images, labels) = small(), small_data()
    loss = likelihood(model(images), labels).mean()
    expected = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    estimate(model, images, labels)
    loss.backward()
    assert all(torch.equal(theta.grad, grad) for theta, grad in zip(model.parameters(), expected, strict=True))


def test_parameters_of_whole_numbers_do_not_drift():
    model = small()
    model.ids = nn.Parameter(torch.arange(3), requires_grad=False)
    assert "ids" not in select(model) and len(select(model)) == 6


@pytest.mark.parametrize(
    "score",
    [
        lambda outputs, labels: likelihood(outputs, labels).mean(),
        lambda outputs, labels: (outputs.argmax(1) == labels[:, None]).float(),
    ],
    ids=["one number", "pairs"],
)
def test_scores_of_another_shape_are_refused(score):
    with pytest.raises(ValueError, match="score gives the shape"):
        estimate(small(), *small_data(), score=score)


def test_a_mean_over_scores_that_are_not_finite_is_not_finite():
    images, labels = small_data()
    images[3] = float("nan")
    assert estimate(small(), images, labels).isnan().all()
    assert estimate(small(), images, labels, score=right).isfinite().all()


@pytest.mark.parametrize("task", ["mlp-mnist", "lenet-mnist"])
def test_the_share_of_the_first_layer_is_that_of_its_floating_point_operations(task):
    model, (images, _) = build(TASKS[task].specification, 5), data(1)
    place = 1 if task == "mlp-mnist" else 0
    with FlopCounterMode(display=False) as whole:
        model(images)
    with FlopCounterMode(display=False) as first:
        model[: place + 1](images)
    assert _share_of_work(model[place], model, images) == first.get_total_flops() / whole.get_total_flops()


def test_images_that_fit_into_the_memory_of_a_gpu():
    model, (images, _) = build(TASKS["lenet-mnist"].specification, 5), data(5)
    largest = 4 * 6 * 24 * 24  # the first layer's maps of an image
    assert images_within(1, model, images) == images_within(1, model, images[:1]) == 2**20 // largest
    assert images_within(0, model, images) == 1
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("task", ["mlp-mnist", "lenet-mnist"])
def test_a_gpu_meets_the_draws_of_the_cpu(task):
    model, (images, labels) = build(TASKS[task].specification, 5), data(300)
    expected = monte_carlo_grid(model, images, labels, likelihood, FAULT, SIGMAS, DRAWS, KEY)
    found = monte_carlo_grid(model.cuda(), images.cuda(), labels.cuda(), likelihood, FAULT, SIGMAS, DRAWS, KEY)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
