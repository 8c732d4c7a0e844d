"""The figures and tables of tuning and of the search's worth."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from bayesft.report import worth
from bayesft.report.worth import Study, figure_landscape, figure_study, figure_tuned, landscape_text, study_table
from tests.report.conftest import OPTIONS, STRATEGIES, UNSEARCHED
from tests.report.shown import ROWS


@pytest.fixture
def drawn(monkeypatch):
    """The figures by name, as they are given to be saved."""
    kept = {}
    monkeypatch.setattr(worth, "save", lambda figure, folder, name: kept.update({name: figure}))
    yield kept
    plt.close("all")


def test_a_study_is_averaged_over_seeds_and_levels(studies):
    epochs, values = studies().curve("GP")
    assert list(epochs) == [16, 32, 48]
    assert values[-1].mean == pytest.approx((0.9 + 0.0005 * 48 + 0.5) / 2)
    assert values[-1].over == "seeds" and values[-1].count == 3


def test_gains_are_paired_by_seed(studies):
    gain = studies().difference("random")
    each = np.array([-0.01, -0.008, -0.006]) / 2
    assert gain.mean == pytest.approx(each.mean())
    assert gain.half_width == pytest.approx(stats.t.ppf(0.975, 2) * each.std(ddof=1) / 3**0.5)
    assert studies().difference("GP").mean == 0


def test_whole_searches_are_compared_also_where_one_spent_less(studies):
    study = studies()
    assert study.curve("early stop")[0][-1] == 30
    each = np.array([-0.04, -0.032, -0.024]) / 2 + 0.0005 * (30 - 48) / 2
    assert study.difference("early stop").mean == pytest.approx(each.mean())


@pytest.mark.parametrize("change", ["runs", "sigmas"])
def test_seeds_that_do_not_belong_together_are_refused(study_files, change):
    files = study_files()
    files[1][change] = {} if change == "runs" else [0.0]
    with pytest.raises(ValueError, match="seed 1 has other runs or another grid: run dvc repro"):
        Study.gather(files, STRATEGIES, OPTIONS, "GP", UNSEARCHED)


def test_the_studys_figure_has_every_run_on_both_sides(drawn, studies):
    note = figure_study({"mlp-mnist": studies(), "lenet-mnist": studies()}, "folder")
    figure = drawn["study"]
    left, right = figure.axes[:2]
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {"GP", "random", "grid", "uniform", "drift_dropout"}
    assert [tick.get_text() for tick in right.get_yticklabels()] == [
        "early stop", "more draws", "grid", "random", "drift_dropout", "uniform",
    ]  # fmt: skip
    assert left.get_title().startswith("(a)") and figure.axes[2].get_title().startswith("(b)")
    assert "Holm" in note and "3 seeds" in left.texts[0].get_text()


def test_what_differs_clearly_is_filled(drawn, studies):
    study = studies()
    figure_study({"mlp-mnist": study}, "folder")
    right = drawn["study"].axes[1]
    points = {
        line.get_ydata()[0]: line for line in right.lines if line.get_marker() in "os" and len(line.get_xdata()) == 1
    }
    for place, name in enumerate(["early stop", "more draws", "grid", "random", "drift_dropout", "uniform"]):
        assert (points[place].get_marker() == "o") == (study.corrected()[name] < 0.05), name
    clear = [name for name, p in study.corrected().items() if p < 0.05]
    assert clear and len(clear) < len(study.others())


def test_the_studys_table_has_a_line_a_run(studies):
    table = study_table(studies())
    unsearched = ["uniform", "drift_dropout"]
    assert list(table.index) == [*unsearched, "GP", "random", "grid", "more draws", "early stop"]
    assert table.loc["GP", "gain over “GP”"] == "–"
    assert table.loc["early stop", "epochs of search"] == "30"
    study = studies()
    raw = stats.ttest_1samp(study.runs["random"][1][:, -1] - study.runs["GP"][1][:, -1], 0).pvalue
    assert raw <= study.corrected()["random"] <= len(study.others()) * raw
    assert table.loc["random", "p (Holm)"] == f"{study.corrected()['random']:.2g}"


def test_what_trials_differ_by_is_taken_within_their_seed(studies):
    # The seeds of the equal trials are 1 apart, which is no spread among the trials of one search.
    space = studies().landscape
    assert space.chance == pytest.approx(np.std([0.7, 0.72, 0.74, 0.76], ddof=1))
    assert space.spread == pytest.approx(np.std([0.1, 0.3, 0.2, 0.6], ddof=1))
    assert space.chance_without_draws == pytest.approx(np.sqrt(space.chance**2 - (0.03**2 + 3 * 0.01**2) / 4))


def test_the_landscape_tells_how_far_rates_may_be_off_and_how_well_trials_rank_them(studies):
    space = studies().landscape
    # Mean accuracies are 0.71, 0.79, 0.81, 0.76: the second is within 0.02 of the third, the best.
    assert space.accuracy.mean(0) == pytest.approx([0.705, 0.785, 0.805, 0.755])
    assert space.good == (0.3, 0.5)
    # Ranks of accuracy 1 3 4 2; of the objective 1 2 4 3, and of seed 1's 1 2 3 4.
    assert space.rank_correlation(space.objective).mean == pytest.approx((0.8 + 0.4 + 0.8) / 3)
    assert space.rank_correlation(space.whole_objective).mean == pytest.approx(0.8)
    assert space.rank_correlation(np.full((3, 4), 0.5)).mean == 0
    assert (space.best(space.accuracy), space.best(space.objective)) == (0.5, 0.5)
    text = landscape_text(studies())
    assert "from 0.30 to 0.50" in text and f"{space.chance:.3f}" in text and "0.667 ±" in text


def test_the_landscapes_figure_has_every_trial_of_every_seed(drawn, studies):
    figure_landscape({"mlp-mnist": studies()}, "folder")
    left, middle, right = drawn["landscape"].axes
    assert [len(line.get_xdata()) for line in left.lines] == [4]  # the area is no mean over the σ of the objective
    assert [len(line.get_xdata()) for line in middle.lines] == [4, 4]
    random, equal = right.lines
    assert len(random.get_xdata()) == len(equal.get_xdata()) == 3 * 4
    assert equal.get_xdata() == pytest.approx([-0.03, -0.01, 0.01, 0.03] * 3)
    assert sum(random.get_xdata()) == pytest.approx(0)


def test_the_figure_of_tuning_has_both_values_of_every_method(drawn, results):
    result = results()
    figure_tuned({"mlp-mnist": result, "lenet-mnist": results(rows=["erm", "awp", "awp-tuned"])}, "folder")
    figure = drawn["tuned"]
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == [ROWS[row] for row in reversed(result.untuned())]
    for axes, counts in ((left, (len(result.untuned()), 4)), (right, (2, 1))):
        markers = [line.get_marker() for line in axes.lines if line.get_marker() in ("o", "D")]
        assert (markers.count("o"), markers.count("D")) == counts
    tuned = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "D"]
    assert tuned == [pytest.approx(results().area("awp-tuned").mean)]
