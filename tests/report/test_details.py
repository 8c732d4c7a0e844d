"""The tables: every row, every level of the grid, what the data are and what the intervals are over."""

import copy
import re

import pytest

from bayesft.report.details import details
from bayesft.report.results import METRICS, show
from bayesft.report.rows import BESIDE
from bayesft.tasks import DETECTION, TASKS, heading
from tests.report.shown import ROWS, gather

NOTE = "scale: quick"
PANEL_TASKS = list(TASKS)[:2]


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a page: lines of cells."""
    found, lines = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            found.append(lines)
            lines = []
    return found


OWN_GAIN = "row − ERM"


OF_ERM = "σ = 0, of ERM"


def said(e, sign="") -> str:
    """A mean and its interval; alone where all draws are the same."""
    return show(e, sign)


def cells_of(table: list[list[str]], name: str) -> dict[str, str]:
    (line,) = (line for line in table[2:] if line[0] == name)
    return dict(zip(table[0][1:], line[1:], strict=True))


@pytest.fixture(scope="module")
def whole(results, ablations):
    tasks = {task: results() for task in PANEL_TASKS}
    return details("BayesFT, reproduced", NOTE, tasks, ablations(("activation", "depth")))


def test_page_says_what_the_numbers_are(whole, results):
    band = "95 % interval over 4 drift draws (1 seed: 0)"
    assert whole.startswith(
        "# BayesFT, reproduced: all tables\n\n"
        "- data: digits (embedded), 997 train / 300 validation / 1,500 test images\n"
        "- scale: quick; training seed 0\n\n"
    )
    assert whole.count(f"mean ± {band}") == 6  # two tasks, two factors of two ablations
    assert "Accuracy on 1,500 test images" in whole
    assert "of the curve, σ = 0 … 0.75" in whole
    assert "paired by draw" in whole
    assert all(heading(task, "embedded") in whole for task in PANEL_TASKS)
    assert "MNIST" not in whole and "CIFAR-10" not in whole  # all data are stand-ins
    assert "figures/figure3b.png" in whole


def test_page_says_where_erm_learned_too_little(files):
    def said(shift, classes=10):
        content = copy.deepcopy(files())
        content[0]["data"]["classes"] = classes
        row = content[0]["rows"]["erm"]
        row["accuracy"] = [[shift + 0.0 * value for value in draws] for draws in row["accuracy"]]
        return details("t", NOTE, {"mlp-mnist": gather(content)}, {})

    weak = said(0.29)
    assert "can't be read as evidence:** without drift, ERM reaches 0.290, less than three times chance (0.100)" in weak
    assert "can't be read" not in said(0.31) and "can't be read" not in said(0.29, 43)


def test_page_marks_a_row_that_learned_too_little(files):
    def pages(shares):
        content = copy.deepcopy(files(rows=["erm", "awp", "uniform"]))
        for row, share in shares.items():
            content[0]["rows"][row]["accuracy"][0] = [share * 0.9] * 4
        return details("t", NOTE, {"mlp-mnist": gather(content)}, {})

    text = pages({"erm": 1.0, "awp": 0.79, "uniform": 0.81})
    table = tables(text)[0]
    assert [cells_of(table, ROWS[row])[OF_ERM] for row in ("erm", "awp", "uniform")] == ["1.00", "0.79‡", "0.81"]
    assert text.count("‡ Without drift below 0.8 of ERM") == 1
    assert "‡" not in pages({"erm": 1.0, "awp": 0.8, "uniform": 0.81})


@pytest.fixture(scope="module")
def of_detection(detections):
    return details("t", NOTE, {DETECTION: detections()}, {})


def test_page_names_the_metric_of_detection(of_detection):
    assert "Box mAP@0.5 on 1,500 test images, mean ±" in of_detection
    assert "figures/figure3j.png" in of_detection and "ccuracy on" not in of_detection


def test_detection_has_a_table_of_all_metrics(of_detection, detections):
    result, (main, every, *_) = detections(), tables(of_detection)
    assert main[0] == ["", "σ = 0", OF_ERM, "σ = 0.3", "σ = 0.6", "σ = 0.75", "σ50", "area", "BayesFT − row", OWN_GAIN]
    assert every[0] == [cell for cell in main[0][:-2] if cell not in (OF_ERM, "σ50")]
    assert [line[0] for line in every[2:]] == [f"{m}: {ROWS[row]}" for m in METRICS.values() for row in result.rows()]
    assert cells_of(every, "box mAP@0.5: ERM") == {k: v for k, v in cells_of(main, "ERM").items() if k in every[0]}
    for name, shown in METRICS.items():
        cells = cells_of(every, f"{shown}: BayesFT")
        at, over = result.at("bayesft", 0.6, name), result.area("bayesft", name)
        assert cells["σ = 0.6"] == said(at)
        assert cells["area"] == said(over)


def test_page_says_where_a_detector_learned_too_little(detection_files):
    def said(shift):
        content = copy.deepcopy(detection_files())
        row = content[0]["rows"]["erm"]
        row["accuracy"] = [[shift + 0.0 * value for value in draws] for draws in row["accuracy"]]
        return details("t", NOTE, {DETECTION: gather(content)}, {})

    weak = said(0.49)
    assert "evidence:** without drift, ERM reaches 0.490, less than 0.5 box mAP@0.5.\n" in weak
    assert "can't be read" not in said(0.51)


def test_normalization_is_a_control_where_it_was_taken_out(results, whole):
    result = results(rows=list(ROWS))
    text = details("t", NOTE, {"vgg11-cifar10": result}, {})
    table = tables(text)[1]
    assert "Normalisation as a control" in text and "takes batch norm (BN) out of BayesFT alone" in text
    assert [line[0] for line in table[2:]] == ["ERM", "BayesFT", "BayesFT − ERM"]
    apart = result.difference("erm-no-norm", "erm")
    assert cells_of(table, "ERM")["without − with"] == said(apart, "+")
    apart = result.difference("bayesft-no-norm", "erm-no-norm")
    assert cells_of(table, "BayesFT − ERM")["without BN"] == said(apart, "+")
    assert "Normalisation as a control" not in whole


def test_sites_have_their_rates(whole, files):
    table = tables(whole)[2]
    assert [line[0] for line in table[2:]] == ["2", "4"]
    half = dict.fromkeys(("uniform dropout", "random search", "BayesFT, Algorithm 1", "BayesFT"), "0.50")
    assert cells_of(table, "4") == {**half, "drift-aware + dropout": "0.20"}
    content = copy.deepcopy(files(seeds=(0, 1), rows=["erm", "uniform", "bayesft"]))
    for seed in content:
        content[seed]["rows"]["bayesft"]["about"]["rates"] = {"late": 0.1 + seed / 2, "early": 0.2}
    uniform, found = tables(details("t", NOTE, {"mlp-mnist": gather(content)}, {}))[2:4]
    assert uniform[0][1:] == ["uniform dropout"] and found[0][1:] == ["BayesFT"]
    assert [line[0] for line in found[2:]] == ["late", "early"]  # the order of the network, not of the alphabet
    assert cells_of(found, "late")["BayesFT"] == "0.10; 0.60"


def test_fewer_than_three_draws_give_no_interval(files):
    result = gather(files(rows=["erm", "bayesft"], draws=2))
    assert result.intervals() == "1 seed, no intervals: 2 draws"
    text = details("t", NOTE, {"mlp-mnist": result}, {})
    assert "mean, no interval: 2 drift draws (1 seed: 0)" in text and "±" not in text


def test_page_over_several_seeds_says_so(results):
    text = details("t", NOTE, {"mlp-mnist": results(seeds=(0, 1, 2))}, {})
    assert re.search(r"mean ± 95 % interval over 3 training seeds \(.*\b4 drift draws each\)", text)
    assert "paired by seed" in text


def test_accuracy_table_has_every_row_and_level(whole, results):
    table = tables(whole)[0]
    levels = ["σ = 0.3", "σ = 0.6", "σ = 0.75"]  # those of the grid
    assert table[0] == ["", "σ = 0", OF_ERM, *levels, "σ50", "area", "BayesFT − row", OWN_GAIN]
    assert [line[0] for line in table[2:]] == [ROWS[row] for row in results().rows()]
    result = results()
    for row in result.rows():
        name = ROWS[row]
        cells = cells_of(table, name)
        at = result.at(row, 0.6)
        assert cells["σ = 0.6"] == said(at)
        over = result.area(row)
        assert cells["area"] == said(over)
        apart = result.difference("bayesft", row)
        expected = "–" if row == "bayesft" else said(apart, "+")
        assert cells["BayesFT − row"] == expected
        own = result.difference(row, "erm")
        assert cells[OWN_GAIN] == ("–" if row == "erm" else said(own, "+"))
    assert cells_of(table, "ERM")["BayesFT − row"].startswith("+0.04")


def test_epochs_of_search_and_training_are_apart(whole, results):
    table = tables(whole)[1]
    assert [line[0] for line in table[2:]] == [ROWS[row] for row in results().rows()]

    def epochs(name):
        cells = cells_of(table, name)
        return cells["final training"], cells["other epochs"], cells["all"]

    assert epochs("ERM") == ("40", "0", "40")
    assert epochs("FTNA") == ("40", "40", "80"), "its code needs a trained ERM network"
    assert epochs("ReRAM-V") == ("40", "1.5", "41.5")
    assert epochs("BayesFT") == epochs("random search") == ("40", "10", "50")
    assert epochs("BayesFT, Algorithm 1") == ("0", "10", "10")


def test_epochs_of_a_long_search_are_written_out(files):
    content = copy.deepcopy(files(rows=["erm", "random"]))
    content[0]["rows"]["random"]["about"]["epochs_search"] = 1208
    table = tables(details("t", NOTE, {"mlp-mnist": gather(content)}, {}))[1]
    assert cells_of(table, "random search")["all"] == "1248"


def test_tuned_methods_stand_beside_their_default_values(whole, results):
    table, result = tables(whole)[3], results()
    assert [line[0] for line in table[2:]] == [ROWS[tuned] for _, tuned in result.tuned()]
    assert len(result.tuned()) == 4
    cells = cells_of(table, "AWP (weights only), tuned")
    assert cells["found"] == "γ 0.021"
    assert cells["as in Figure 3"].startswith(f"{result.area('awp').mean:.3f} ±")
    assert cells["tuned"].startswith(f"{result.area('awp-tuned').mean:.3f} ±")
    gain = result.difference("awp-tuned", "awp")
    assert cells["difference"] == said(gain, "+")
    assert cells_of(table, "drift-aware + dropout, tuned")["found"] == "rate 0.3, σ_train 1.1"
    assert "tuned" not in details("t", NOTE, {"mlp-mnist": results(rows=["erm", "awp"])}, {})


def test_the_study_has_its_table_under_its_figure(results, studies):
    text = details("t", NOTE, {"mlp-mnist": results()}, {}, {"mlp-mnist": studies()})
    cells = cells_of(next(table for table in tables(text) if "epochs of search" in table[0]), "random")
    assert cells["epochs of search"] == "48" and cells["area"].startswith("0.")
    assert cells["gain over “GP”"].startswith("-0.0")


def test_devices_have_a_table_where_there_are_devices(whole, results):
    table = tables(whole)[4]
    assert table[0][1:] == ["σ = 0", "area", "devices"]
    assert [line[0] for line in table[2:]] == ["ERM", BESIDE["erm-programmed"], "ReRAM-V"]
    bare = results().at("erm-programmed", 0.0)
    expected = said(bare)
    assert cells_of(table, BESIDE["erm-programmed"])["σ = 0"] == expected
    without = details("t", NOTE, {"mlp-mnist": results(rows=["erm", "bayesft"])}, {})
    assert "programming error" not in without and len(tables(without)) == 3


def test_ablations_are_compared_with_their_first_variant(whole, ablations):
    first, second, third, _ = tables(whole)[-4:]
    assert [line[0] for line in first[2:]] == [line[0] for line in third[2:]] == ["ReLU", "ELU", "GELU", "leaky ReLU"]
    assert [line[0] for line in second[2:]] == ["3 layers", "6 layers", "9 layers"]
    apart = ablations(("activation", "depth"))["mnist"]["activation"].difference("GELU", "ReLU")
    assert apart.mean > 0
    assert cells_of(first, "GELU")["difference"] == said(apart, "+")
    assert cells_of(first, "ReLU")["difference"] == "–"
    assert "The ablations in numbers" in whole and "### plain VGG, drawn shapes\n\n- data: digits" in whole


def test_page_without_bayesft_speaks_of_no_difference(results):
    table = tables(details("t", NOTE, {"mlp-mnist": results(rows=["erm", "awp"])}, {}))[0]
    assert "BayesFT − row" not in table[0]
    assert [line[0] for line in table[2:]] == ["ERM", "AWP (weights only)"]
