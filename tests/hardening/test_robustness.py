"""Curves: intervals that cover, area and half-way level of known curves, pairs, files, pictures."""

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

from bayesft.hardening import comparison
from bayesft.hardening.comparison import compare
from bayesft.hardening.measure import evaluate
from bayesft.hardening.robustness import Curve, Robustness
from tests.hardening.conftest import Net, data, seeded

matplotlib.use("Agg")


def curve(means, levels=None, draws=3, count=4) -> Robustness:
    means = np.array(means, float)
    levels = np.arange(len(means), dtype=float) if levels is None else np.array(levels, float)
    return Robustness(
        levels, means[:, None].repeat(draws, 1), means[:, None].repeat(count, 1), {}, np.zeros((len(means), draws), int)
    )


def test_area_is_the_mean_over_the_range_of_levels():
    assert curve([1, 0.5, 0]).area == pytest.approx(0.5)
    assert curve([1, 0.5, 0], levels=[0, 1, 4]).area == pytest.approx((0.75 + 3 * 0.25) / 4)
    assert curve([0.7]).area == pytest.approx(0.7)
    assert curve([1, 0.5, 0]).area_interval() == 0


def test_sigma50_is_where_the_clean_value_is_halved():
    assert curve([0.8, 0.6, 0.2]).sigma50 == pytest.approx(1.5)
    assert curve([0.8, 0.4, 0.2]).sigma50 == pytest.approx(1)
    assert np.isnan(curve([0.8, 0.6, 0.5]).sigma50)
    assert np.isnan(curve([0.8, 0.2], levels=[1, 2]).sigma50)


def test_intervals_cover_the_true_mean():
    """Draws crossed with examples, with an interaction: the interval over both holds the mean 95 times in a hundred."""
    random, covered, alone, trials = np.random.default_rng(0), 0, 0, 400
    for _ in range(trials):
        draws, examples = random.normal(0, 0.3, (12, 1)), random.normal(0, 1, (1, 60))
        cells = draws + examples + random.normal(0, 1, (12, 60))
        table = Curve(np.zeros(1), cells.mean(1)[None], cells.mean(0)[None]).table()
        covered += abs(table["mean"][0]) <= table.over_both[0]
        alone += abs(table["mean"][0]) <= table.over_draws[0]
    assert 0.93 * trials <= covered <= 0.995 * trials  # the interaction counts twice
    assert alone < 0.9 * trials


def test_too_few_to_tell_is_nan():
    table = Curve(np.zeros(1), np.ones((1, 1)), np.ones((1, 5))).table()
    assert np.isnan(table.over_draws[0]) and np.isnan(table.over_both[0]) and table.over_examples[0] == 0
    assert np.isnan(Curve(np.zeros(1), np.ones((1, 4)), np.ones((1, 0))).table().over_both[0])


def test_saved_numbers_come_back(tmp_path):
    x, y = data()
    result = evaluate(seeded(Net), (x, y), levels=(0, 1.0), draws=3, progress=False)
    (tmp_path / "r.safetensors").write_text("of before")
    result.save(tmp_path / "r.safetensors")
    first = (tmp_path / "r.safetensors").read_bytes()
    result.save(tmp_path / "r.safetensors")
    assert first == (tmp_path / "r.safetensors").read_bytes()
    back = Robustness.load(tmp_path / "r.safetensors")
    for name in ("levels", "scores", "examples", "not_finite"):
        assert np.array_equal(getattr(back, name), getattr(result, name))
    assert back.about == result.about and str(back) == str(result)
    assert np.array_equal(back.minus(result).scores, np.zeros((2, 3)))
    from safetensors.numpy import save_file

    save_file({"levels": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no saved Robustness"):
        Robustness.load(tmp_path / "other.safetensors")
    (tmp_path / "r.safetensors").write_bytes(first[:-9])
    with pytest.raises(ValueError, match="damaged"):
        Robustness.load(tmp_path / "r.safetensors")


def test_what_is_printed_and_drawn():
    result = evaluate(seeded(Net), data(), levels=(0, 0.7, 2.5), draws=3, progress=False)
    for word in ("accuracy under LogNormalDrift()", "3 draws, 60 examples", "±", "area", "not finite"):
        assert word in str(result)
    ax = result.plot()
    assert np.allclose(ax.lines[0].get_ydata(), result.mean) and result.plot(ax) is ax
    half, low = result.table().over_both[1], ax.collections[0].get_datalim(ax.transData).y0
    assert low <= result.mean[1] - half + 1e-9


def test_compare_pairs_draws_and_examples():
    x, y = data(200)
    mine, other = seeded(Net, 1), seeded(Net, 2)
    found = compare({"mine": mine, "same": mine, "other": other}, (x, y), levels=(0, 0.8), draws=4, progress=False)
    assert found.baseline == "mine" and np.all(found.differences["same"].scores == 0)
    alone = evaluate(other, (x, y), levels=(0, 0.8), draws=4, progress=False)
    assert np.array_equal(found.curves["other"].scores, alone.scores)
    gain = alone.scores - found.curves["mine"].scores
    table = found.table().set_index(["network", "level"])
    assert table.gain["other", 0.8] == pytest.approx(gain[1].mean()) and np.isnan(table.gain["mine", 0.8])
    assert table.gain_over_both["same", 0.8] == 0 < table.gain_over_both["other", 0.8]
    assert "other minus mine" in str(found)
    assert [text.get_text() for text in found.plot().get_legend().get_texts()] == ["mine", "same", "other"]


def test_what_can_not_be_paired():
    model, (x, y) = seeded(Net), data()
    base = evaluate(model, (x, y), levels=(0, 1), draws=2, progress=False)
    for name, changes in (
        ("draws", dict(draws=3)),
        ("levels", dict(levels=(0, 2))),
        ("seed", dict(seed=1)),
        ("score", dict(score=lambda o, t: o[:, 0])),
    ):
        with pytest.raises(ValueError, match=name):
            base.minus(evaluate(model, (x, y), **{"levels": (0, 1), "draws": 2, "progress": False, **changes}))
    with pytest.raises(ValueError, match="data"):
        base.minus(evaluate(model, (x.flip(0), y.flip(0)), levels=(0, 1), draws=2, progress=False))
    for given, message in (({"a": model}, "models"), ([model, model], "models")):
        with pytest.raises(ValueError, match=message):
            compare(given, (x, y))
    with pytest.raises(ValueError, match="iterator"):
        compare({"a": model, "b": model}, iter([(x, y)]))
    with pytest.raises(ValueError, match=r"models\['b'\].*lazy"):
        compare({"a": model, "b": nn.LazyLinear(3)}, (x, y), levels=(0,), draws=1, progress=False)


def test_an_interrupted_comparison_has_what_is_complete(monkeypatch):
    real, calls = comparison.evaluate, []

    def evaluate(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(comparison, "evaluate", evaluate)
    models = {name: seeded(Net) for name in "abcd"}
    with pytest.warns(UserWarning, match="a, b alone"):
        found = compare(models, data(), levels=(0,), draws=2, progress=False)
    assert list(found.curves) == ["a", "b"]


def test_another_kind_of_task():
    """A regression: the score is minus the squared error, and a drifted copy does worse."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(100, 4)
    y = model(x).detach()
    result = evaluate(
        model, (x, y), score=lambda o, t: -(o - t).square().squeeze(1), levels=(0, 0.5), draws=5, progress=False
    )
    assert result.mean[0] == 0 > result.mean[1] and np.isnan(result.sigma50)
