"""Gathering results: which numbers belong together, and what is made of them."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bayesft.evaluation.statistics import Estimate
from bayesft.report.details import details
from bayesft.report.results import (
    METRICS,
    accuracies_table,
    curves_table,
    letters,
    measures_table,
    notes,
    searches_table,
    show,
    shown_half,
)
from bayesft.tasks import DETECTION
from tests.report.shown import DEVICE_ROW, ROWS, gather

DATA = {
    "name": "digits",
    "source": "embedded",
    "classes": 10,
    "images_used": {"train": 1200, "validation": 30, "test": 10},
}


def file(accuracies: dict[str, list], about: dict | None = None) -> dict:
    rows = {row: {"accuracy": values, "about": about or {"epochs": 1}} for row, values in accuracies.items()}
    return {"sigmas": [0.0, 1.0], "data": DATA, "rows": rows}


ONE_SEED = gather({4: file({"erm": [[0.9, 0.9, 0.9], [0.3, 0.4, 0.5]], "bayesft": [[0.8, 0.8, 0.8], [0.5, 0.6, 0.7]]})})
TWO_SEEDS = gather(
    {
        1: file({"erm": [[0.8, 1.0], [0.5, 0.7]], "bayesft": [[0.9, 0.9], [0.8, 1.0]]}),
        0: file({"erm": [[0.6, 0.8], [0.1, 0.3]], "bayesft": [[0.7, 0.9], [0.4, 0.6]]}),
    }
)


def t_half_width(values, confidence=0.95):
    values = np.asarray(values)
    return stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))


def test_gathering_puts_seeds_levels_and_draws_in_their_axes():
    assert TWO_SEEDS.seeds == (0, 1)  # sorted, whatever the order of the files
    assert TWO_SEEDS.sigmas.tolist() == [0.0, 1.0]
    assert TWO_SEEDS.accuracy["erm"].shape == (2, 2, 2)
    assert TWO_SEEDS.accuracy["erm"][0].tolist() == [[0.6, 0.8], [0.1, 0.3]]
    assert TWO_SEEDS.accuracy["bayesft"][1].tolist() == [[0.9, 0.9], [0.8, 1.0]]
    assert TWO_SEEDS.data == DATA


def test_gathering_keeps_how_each_seed_was_trained():
    gathered = gather({seed: file({"erm": [[0.5, 0.5]] * 2}, {"epochs": 10 + seed}) for seed in (2, 1)})
    assert gathered.about == {"erm": [{"epochs": 11}, {"epochs": 12}]}


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda content: content["rows"].pop("awp"), "rows"),
        (lambda content: content["rows"].update(random=content["rows"]["awp"]), "rows"),
        (lambda content: content.update(sigmas=[0.0, 2.0]), "grid of σ"),
        (lambda content: content.update(data={**DATA, "source": "official"}), "images"),
        (lambda content: content["rows"].update(file({"awp": [[0.5, 0.5, 0.5]] * 2})["rows"]), "drift draws"),
    ],
)
def test_gathering_refuses_seeds_that_do_not_belong_together(change, said):
    files = {seed: copy.deepcopy(file({"erm": [[0.5, 0.5]] * 2, "awp": [[0.5, 0.5]] * 2})) for seed in (0, 3)}
    change(files[3])
    with pytest.raises(ValueError, match=f"seeds 0 and 3 differ in .*{said}.*dvc repro"):
        gather(files)


def test_gathering_keeps_every_metric_of_detection(detections, results):
    result = detections(seeds=(1, 0))
    assert set(result.metrics) == set(result.accuracy) and set(result.metrics["erm"]) == set(METRICS)
    assert np.array_equal(result.metrics["erm"]["box_map_50"], result.accuracy["erm"])
    assert np.array_equal(result.metrics["bayesft"]["mask_map"], 0.4 * result.accuracy["bayesft"])
    assert result.chance is None and results().chance == 0.1 and results().metrics == {}
    assert result.at("erm", 0.3, "box_map").mean == pytest.approx(0.5 * result.at("erm", 0.3).mean)
    assert result.area("erm", "box_map").mean == pytest.approx(0.5 * result.area("erm").mean)
    assert result.at("erm", 0.5, "box_map") is None
    some = result.only({"x": "bayesft"})
    assert list(some.metrics) == ["x"] and some.metrics["x"] is result.metrics["bayesft"]


@pytest.mark.parametrize("row, change", [("erm", lambda m: m.pop("box_map")), ("bayesft", lambda m: m.clear())])
def test_gathering_refuses_seeds_of_other_metrics(detection_files, row, change):
    content = copy.deepcopy(detection_files(seeds=(0, 3)))
    change(content[3]["rows"][row]["metrics"])
    with pytest.raises(ValueError, match="seeds 0 and 3 differ in metrics"):
        gather(content)


def test_gathering_refuses_a_metric_of_another_grid(detection_files):
    content = copy.deepcopy(detection_files())
    content[0]["rows"]["erm"]["metrics"]["mask_map"].pop()
    with pytest.raises(ValueError, match=r"erm: mask_map of shape \(1, 3, 4\), accuracy of \(1, 4, 4\)"):
        gather(content)


def test_gathering_nothing_is_an_error():
    with pytest.raises(ValueError, match="dvc repro"):
        gather({})


def test_some_rows_under_the_names_that_show_them():
    factor = ONE_SEED.only({"none": "bayesft", "before": "erm"})
    assert factor.rows() == ["none", "before"]
    assert factor.accuracy["none"] is ONE_SEED.accuracy["bayesft"] and factor.about["before"] == [{"epochs": 1}]
    assert (factor.seeds, factor.data) == (ONE_SEED.seeds, ONE_SEED.data)
    with pytest.raises(ValueError, match="no results of batch: run dvc repro"):
        ONE_SEED.only({"none": "erm", "batch": "batch"})


def test_sites_keep_their_order(files):
    content = copy.deepcopy(files(rows=["bayesft"]))
    content[0]["rows"]["bayesft"]["about"]["rates"] = {"10": 0.1, "2": 0.2, "1": 0.3}
    assert list(gather(content).about["bayesft"][0]["rates"]) == ["10", "2", "1"]


def test_curve_of_one_seed_is_over_draws():
    clean, drifted = ONE_SEED.curve("erm")
    assert (clean.mean, clean.half_width, clean.over, clean.count) == (pytest.approx(0.9), pytest.approx(0), "draws", 3)
    assert drifted.mean == pytest.approx(0.4)
    assert drifted.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert (drifted.low, drifted.high) == (drifted.mean - drifted.half_width, drifted.mean + drifted.half_width)


def test_curve_of_two_seeds_is_over_the_means_of_seeds():
    clean, drifted = TWO_SEEDS.curve("erm")
    assert (clean.over, clean.count) == ("seeds", 2)
    assert clean.mean == pytest.approx(0.8)  # of 0.7 and 0.9
    assert clean.half_width == pytest.approx(12.7062047 * 0.1, rel=1e-6)
    assert drifted.mean == pytest.approx(0.4)


def test_the_area_is_taken_before_the_interval():
    over = ONE_SEED.area("erm")
    assert over.mean == pytest.approx(0.65)
    assert over.half_width == pytest.approx(t_half_width([0.6, 0.65, 0.7]))
    over = TWO_SEEDS.area("erm")
    assert over.mean == pytest.approx(0.6)
    assert over.half_width == pytest.approx(t_half_width([0.45, 0.75]))


def test_the_area_is_of_a_fixed_range():
    whole = replace(ONE_SEED, end=0.1)  # of a grid up to 0.2 or more
    assert replace(ONE_SEED, end=9.0).area("erm") is None and not replace(ONE_SEED, end=9.0).measured
    assert replace(ONE_SEED, end=9.0).difference("bayesft", "erm") is None
    assert whole.area("erm").mean > ONE_SEED.area("erm").mean  # accuracy falls with σ


def test_accuracies_are_published_one_by_one():
    table = accuracies_table({"mlp-mnist": TWO_SEEDS})
    assert len(table) == sum(values.size for values in TWO_SEEDS.accuracy.values())
    for (row, seed, sigma), of in table.groupby(["row", "seed", "sigma"]):
        place = TWO_SEEDS.seeds.index(seed), list(TWO_SEEDS.sigmas).index(sigma)
        assert of.sort_values("draw").accuracy.tolist() == TWO_SEEDS.accuracy[row][place].tolist()
    found = measures_table({"mlp-mnist": TWO_SEEDS}).set_index("row")
    assert found.loc["bayesft", "gain"] == pytest.approx(TWO_SEEDS.difference("bayesft", "erm").mean)


def test_outputs_that_are_not_finite_are_said():
    content = {0: file({"erm": [[0.9, 0.9], [0.3, 0.4]], "bayesft": [[0.8, 0.8], [0.5, 0.6]]})}
    content[0]["rows"]["erm"]["not_finite"] = [0.0, 0.25]
    result = gather(content)
    assert list(result.not_finite) == ["erm"] and result.not_finite["erm"].tolist() == [0.0, 0.25]
    text = details("t", "scale: quick", {"mlp-mnist": result}, {})
    assert f"count as wrong: ERM from σ = {result.sigmas[1]:g} (at most 25%)." in text


def test_how_numbers_are_shown():
    def e(mean, width, over="seeds", count=5):
        return Estimate(mean, width, over, count)

    assert show(e(0.5, 0.0)) == "0.500" and show(e(0.5, 0.0002)) == "0.500 ± 0.001" and show(None) == "–"
    assert show(e(0.5, 0.0124)) == "0.500 ± 0.012" and show(e(0.5, 0.0124), "+") == "+0.500 ± 0.012"
    assert show(e(0.5, 0.01, "draws", 20), "+") == "+0.500 ± 0.010 (1 seed)"
    assert show(e(0.5, 0.01, count=2), "+") == "+0.500 ± 0.010 (2 seeds)"
    assert show(e(0.5, 0.01, "draws", 20)) == "0.500 ± 0.010"


@pytest.mark.parametrize(
    ("sigmas", "end", "levels"),
    [
        (np.arange(16) / 10, 1.5, [0, 0.3, 0.6, 0.9, 1.2, 1.5]),
        (np.arange(9) / 10, 0.8, [0, 0.2, 0.3, 0.5, 0.6, 0.8]),
        (np.arange(13) / 10, 0.8, [0, 0.2, 0.3, 0.5, 0.6, 0.8, 1.2]),  # evaluated further than is judged
        (np.arange(5) / 10, 1.5, [0, 0.1, 0.2, 0.3, 0.4]),  # and not so far
        (np.array([0.0]), 1.5, [0]),
    ],
)
def test_levels_of_a_table_are_of_the_grid_with_both_ends(sigmas, end, levels):
    assert replace(ONE_SEED, sigmas=sigmas, end=end).levels() == pytest.approx(levels)


def test_a_network_that_gives_nothing_has_no_half_level():
    dead = replace(ONE_SEED, accuracy={**ONE_SEED.accuracy, "dead": np.zeros_like(ONE_SEED.accuracy["erm"])})
    assert shown_half(dead, "dead") == "–"
    flat = replace(dead, accuracy={"erm": np.full_like(dead.accuracy["erm"], 0.5)})
    assert shown_half(flat, "erm") == f"> {ONE_SEED.sigmas[-1]:g}"


def test_difference_is_paired():
    apart = ONE_SEED.difference("bayesft", "erm")
    assert apart.mean == pytest.approx(0.05)
    assert apart.half_width == pytest.approx(0, abs=1e-12)  # the same in every draw, though both rows vary
    assert ONE_SEED.difference("erm", "bayesft").mean == pytest.approx(-0.05)
    apart = TWO_SEEDS.difference("bayesft", "erm")
    assert (apart.over, apart.count) == ("seeds", 2)
    assert apart.mean == pytest.approx(0.175)  # 0.2 with seed 0, 0.15 with seed 1
    assert apart.half_width == pytest.approx(t_half_width([0.2, 0.15]))


def test_accuracy_at_a_level_or_none():
    assert ONE_SEED.at("erm", 1.0) == ONE_SEED.curve("erm")[1]
    assert ONE_SEED.at("erm", 1.0 + 1e-12) == ONE_SEED.curve("erm")[1]
    assert ONE_SEED.at("erm", 0.5) is None


@pytest.mark.parametrize(
    "trials, said",
    [
        ([(40, 40), (40, 40)], "trials from fresh weights, as long as the training"),
        ([(4, 4), (2, 2), (4, 4)], "trials from fresh weights, 4 of the training's 40 epochs"),
        ([(1, 1), (1, 2), (1, 3)], "trials inherit weights, 1 epoch each"),
    ],
)
def test_words_for_the_search(trials, said):
    about = {"epochs": 40, "trials": [{"epochs": one, "cumulative_epochs": behind} for one, behind in trials]}
    result = gather({0: file({"bayesft": [[0.5, 0.5]] * 2}, about)})
    assert result.searched() == f"BayesFT: {said}"
    assert gather({0: file({"erm": [[0.5, 0.5]] * 2})}).searched() == ""


def test_words_for_the_interval():
    assert ONE_SEED.intervals() == "1 seed, 95 % intervals over 3 draws"
    assert TWO_SEEDS.intervals() == "2 seeds, 95 % intervals over seeds"
    assert ONE_SEED.band() == "95 % interval over 3 drift draws (1 seed: 4)"
    over_seeds = TWO_SEEDS.band()
    assert over_seeds.startswith("95 % interval over 2 training seeds")
    assert "0, 1" in over_seeds and "2 drift draws each" in over_seeds


def test_notes_on_panels_that_agree_are_said_once():
    said = notes({"x": ONE_SEED, "y": ONE_SEED}, {"x": "a", "y": "b"}, "scale: quick")
    assert said.splitlines() == [
        "data: digits (embedded), 1,200 train / 30 validation / 10 test images",
        "scale: quick; mean; band: 95 % interval over 3 drift draws (1 seed: 4)",
    ]


def test_notes_group_the_panels_of_the_same_images():
    other = gather({4: {**file({"erm": [[0.5] * 3] * 2}), "data": {**DATA, "name": "signs"}}})
    panels = {name: name for name in "abcde"}
    first, second, last = notes(
        dict(zip(panels, [ONE_SEED, other, ONE_SEED, ONE_SEED, ONE_SEED], strict=True)), panels
    ).splitlines()
    assert first.startswith("(a, c-e) data: digits") and second.startswith("(b) data: signs")
    assert last == f"mean; band: {ONE_SEED.band()}"


def test_notes_on_intervals_that_differ_name_the_panels():
    said = notes({"x": ONE_SEED, "y": TWO_SEEDS, "z": ONE_SEED}, {"x": "a", "y": "b", "z": "c"}, "scale: quick", 300)
    first, second, last = said.splitlines()
    assert first.startswith("(a, c) data: ") and first.endswith(f"band: {ONE_SEED.band()}")
    assert second.startswith("(b) data: ") and second.endswith(f"band: {TWO_SEEDS.band()}")
    assert last == "scale: quick; mean and band"


def test_notes_without_means_name_the_seeds():
    assert notes({"x": TWO_SEEDS}, {"x": "a"}, "scale: quick", mean=False).endswith(
        "\nscale: quick; training seed 0, 1"
    )
    said = notes({"x": ONE_SEED, "y": TWO_SEEDS}, {"x": "a", "y": "b"}, "scale: quick", mean=False).splitlines()
    assert said[0].endswith("training seed 4") and said[1].endswith("training seed 0, 1") and said[2] == "scale: quick"


def test_notes_are_lines_of_limited_length():
    said = notes({"x": ONE_SEED}, {"x": "a"}, "long words " * 40, 80)
    assert len(said.splitlines()) > 5 and all(len(line) <= 80 for line in said.splitlines())


@pytest.mark.parametrize(
    "names, said", [("a", "a"), ("ab", "a, b"), ("abc", "a-c"), ("hgca", "a, c, g, h"), ("abdefi", "a, b, d-f, i")]
)
def test_letters_of_panels(names, said):
    assert letters(names) == said


def test_table_of_curves_has_a_line_a_point(results):
    table = curves_table({"mlp-mnist": results(), "lenet-mnist": results(rows=["erm", "reram_v", DEVICE_ROW])})
    assert list(table.columns) == [
        "task", "row", "metric", "sigma", "accuracy", "low", "high", "interval_over", "count", "seeds",
    ]  # fmt: skip
    assert len(table) == (len(results().rows()) + 1) * 4 + 3 * 4  # the device row is here, though in no figure
    line = table[(table.task == "lenet-mnist") & (table.row == DEVICE_ROW) & (table.sigma == 0.6)]
    expected = results().at(DEVICE_ROW, 0.6)
    assert line[["accuracy", "low", "high"]].values.tolist() == [[expected.mean, expected.low, expected.high]]
    assert line[["interval_over", "count", "seeds"]].values.tolist() == [["draws", 4, "0"]]
    assert not table.duplicated(["task", "row", "sigma"]).any()


def test_table_of_curves_says_what_was_measured(detections):
    table = curves_table({"mlp-mnist": ONE_SEED, DETECTION: detections(), "ablation-mnist/depth": ONE_SEED})
    assert table.groupby("task").metric.unique().map(list).to_dict() == {
        "mlp-mnist": ["accuracy"], DETECTION: ["box mAP@0.5"], "ablation-mnist/depth": ["accuracy"],
    }  # fmt: skip


def test_table_of_curves_names_all_seeds():
    table = curves_table({"mlp-mnist": TWO_SEEDS})
    assert set(table.seeds) == {"0 1"} and set(table.interval_over) == {"seeds"}


def test_table_of_trials_has_a_line_a_trial(results):
    table = searches_table({"mlp-mnist": results(seeds=(0, 3)), "lenet-mnist": results(rows=["erm", "random"])})
    assert len(table) == 2 * 6 * 5 + 5  # BayesFT, its control and four tuned methods; the control alone
    assert list(table.columns) == [
        "task", "search", "seed", "number", "objective", "standard_error", "cumulative_epochs", "epochs", "recheck",
        "recheck_error", "value_1", "value_2",
    ]  # fmt: skip
    line = table[(table.task == "mlp-mnist") & (table.search == "bayesft") & (table.seed == 3) & (table.number == 2)]
    assert line[["objective", "cumulative_epochs", "epochs", "recheck", "value_1", "value_2"]].values.tolist() == [
        pytest.approx([0.71, 6, 2, 0.68, 0.2, 0.6])
    ]
    assert set(table[table.task == "lenet-mnist"].search) == {"random"}


def test_table_of_trials_without_a_search_is_empty(results):
    assert len(searches_table({"mlp-mnist": results(rows=["erm", "awp"])})) == 0


def test_table_of_trials_of_networks_with_other_numbers_of_sites(files):
    content = copy.deepcopy(files(rows=["bayesft", "bayesft-no-norm"]))
    for trial in content[0]["rows"]["bayesft"]["about"]["trials"]:
        trial["values"] = [0.1, 0.2, 0.3, 0.4]
    table = searches_table({"mlp-mnist": gather(files(rows=["random"])), "x": gather(content)})
    assert list(table.columns)[-4:] == ["value_1", "value_2", "value_3", "value_4"]
    assert table[table.search == "random"][["value_3", "value_4"]].isna().all(axis=None)
    assert table[table.search == "bayesft"].iloc[0][["value_3", "value_4"]].tolist() == [0.3, 0.4]
    assert set(table[table.task == "x"].search) == {"bayesft", "bayesft-no-norm"}


def test_draws_on_a_few_devices_are_no_independent_measurements():
    draws = [[0.9, 0.5, 0.1, 0.9, 0.5, 0.1]] * 2  # three devices, each of which gives its own value twice
    rows = {
        "erm": {"accuracy": [[0.5] * 6] * 2, "about": {"epochs": 1}},
        "reram_v": {"accuracy": draws, "about": {"epochs": 1, "devices": 3}},
    }
    data = {
        "name": "digits",
        "source": "embedded",
        "classes": 10,
        "images_used": {"train": 1, "validation": 1, "test": 1},
    }
    result = gather({0: {"sigmas": [0.0, 0.3], "data": data, "rows": rows}})
    e = result.at("reram_v", 0.0)
    assert (e.over, e.count) == ("devices", 3)
    assert e.mean == pytest.approx(0.5) and np.isnan(e.half_width) and show(e) == "0.500"  # no interval over three
    assert np.isnan(result.difference("erm", "reram_v").half_width)
    assert result.devices("reram_v") == pytest.approx(np.array([[0.9, 0.9], [0.5, 0.5], [0.1, 0.1]]))
    line = curves_table({"mlp-mnist": result}).set_index("row").loc["reram_v"].iloc[0]
    assert (line.low, line.high, line.interval_over) == (0.1, 0.9, "devices")
    assert result.at("erm", 0.0).over == "draws"
    assert "ReRAM-V: its 3 devices, no interval" in result.band()


def test_rows_of_other_draws_cannot_be_paired():
    with pytest.raises(ValueError, match="can't be paired"):
        replace(ONE_SEED, accuracy={"a": np.zeros((1, 2, 3)), "b": np.zeros((1, 2, 4))}).difference("a", "b")


def test_tuned_rows_are_told_apart_from_the_methods_that_they_are_of(results):
    result = results()
    assert result.tuned() == [(row, f"{row}-tuned") for row in ("awp", "drift_aware", "uniform", "drift_dropout")]
    assert not [row for row in result.untuned() if row.endswith("-tuned")]
    assert set(result.rows()) == {*result.untuned(), *(tuned for _, tuned in result.tuned())}
    assert result.searches() == ["random", "bayesft"]


def test_rows_are_those_of_the_report_in_its_order(results):
    everything = results()
    assert everything.rows() == [row for row in ROWS if not row.endswith("-no-norm")]
    assert results(rows=list(reversed(ROWS))).rows() == list(ROWS)
    assert everything.beside() == [DEVICE_ROW]
