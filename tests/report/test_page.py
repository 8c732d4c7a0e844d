"""The page: every row, every level of the grid, what the data are and what the intervals are over."""

import copy
import re
from dataclasses import replace

import pytest

from bayesft.report.page import LEVELS, metrics, page
from bayesft.report.results import METRICS, show
from bayesft.tasks import DETECTION, TASKS, heading
from tests.report.shown import ROWS, gather

NOTE = "scale: quick"
PANEL_TASKS = list(TASKS)[:2]
PANELS = ["figure1", "figure2", "figure3", "search"]


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
    return page("BayesFT, reproduced", NOTE, tasks, ablations(("activation", "depth")), PANELS)


def test_page_says_what_the_numbers_are(whole, results):
    band = "95 % interval over 4 drift draws (1 seed: 0)"
    assert whole.startswith(
        "# BayesFT, reproduced\n\n- data: digits (embedded), 997 train / 300 validation / 1,500 test images\n"
        f"- scale: quick; mean; band: {band}\n\n"
    )
    assert whole.count(f"mean ± {band}") == 6  # two tasks, two factors of two ablations
    assert "Accuracy on 1,500 test images" in whole
    assert "the grid σ = 0 … 0.75" in whole
    assert "paired by draw" in whole
    assert all(heading(task, "embedded") in whole for task in PANEL_TASKS)
    assert "MNIST" not in whole and "CIFAR-10" not in whole  # all data are stand-ins
    assert "figures/figure3b.png" in whole


def test_summary_has_all_tasks_and_methods(results):
    few = results(rows=["erm", "uniform", "bayesft"])
    text = page("t", NOTE, {"mlp-mnist": results(), "preact50-cifar10": few}, {}, [])
    table = tables(text)[0]
    assert table[0] == ["", "ERM, σ = 0", *(ROWS[row] for row in results().untuned())]
    cells = cells_of(table, "(g) PreAct-ResNet-50, drawn shapes")
    assert cells["FTNA"] == "–" and cells["BayesFT"] == f"{few.area('bayesft').mean:.3f}"
    assert cells["ERM, σ = 0"] == f"{few.at('erm', 0.0).mean:.3f}"


def test_page_says_where_erm_learned_too_little(files):
    def said(shift, classes=10):
        content = copy.deepcopy(files())
        content[0]["data"]["classes"] = classes
        row = content[0]["rows"]["erm"]
        row["accuracy"] = [[shift + 0.0 * value for value in draws] for draws in row["accuracy"]]
        return page("t", NOTE, {"mlp-mnist": gather(content)}, {}, [])

    weak = said(0.29)
    assert "can't be read as evidence:** without drift, ERM reaches 0.290, less than three times chance (0.100)" in weak
    assert cells_of(tables(weak)[0], "(a) MLP, handwritten digits")["ERM, σ = 0"] == "0.290†"
    assert "can't be read" not in said(0.31) and "can't be read" not in said(0.29, 43)


def test_page_marks_a_row_that_learned_too_little(files):
    def pages(shares):
        content = copy.deepcopy(files(rows=["erm", "awp", "uniform"]))
        for row, share in shares.items():
            content[0]["rows"][row]["accuracy"][0] = [share * 0.9] * 4
        return page("t", NOTE, {"mlp-mnist": gather(content)}, {}, [])

    text = pages({"erm": 1.0, "awp": 0.79, "uniform": 0.81})
    summary, table = tables(text)[:2]
    assert [cells_of(table, ROWS[row])[OF_ERM] for row in ("erm", "awp", "uniform")] == ["1.00", "0.79‡", "0.81"]
    (line,) = summary[2:]
    assert [cell.endswith("‡") for cell in line[2:]] == [False, True, False]
    assert text.count("‡ Without drift below 0.8 of ERM") == 2
    assert "‡" not in pages({"erm": 1.0, "awp": 0.8, "uniform": 0.81})


@pytest.fixture(scope="module")
def of_detection(detections):
    return page("t", NOTE, {DETECTION: detections()}, {}, ["figure3"])


def test_page_names_the_metric_of_detection(of_detection, results, detections):
    assert "Figure 3. Box mAP@0.5 under drift of every method" in of_detection
    assert "Box mAP@0.5 on 1,500 test images, mean ±" in of_detection
    assert "Box mAP@0.5, mean over the grid of σ; first column: ERM" in of_detection
    assert "figures/figure3j.png" in of_detection and "ccuracy" not in of_detection
    both = page("t", NOTE, {"mlp-mnist": results(), DETECTION: detections()}, {}, ["figure3"])
    assert "Figure 3. Accuracy (j: box mAP@0.5) under drift" in both
    assert "Accuracy (j: box mAP@0.5), mean over the grid of σ" in both
    clean = detections().at("erm", 0.0).mean
    assert cells_of(tables(both)[0], "(j) Mask R-CNN, drawn streets")["ERM, σ = 0"] == f"{clean:.3f}"


def test_detection_has_a_table_of_all_metrics(of_detection, detections):
    result, (_, main, every, *_) = detections(), tables(of_detection)
    assert main[0] == ["", "σ = 0", OF_ERM, "σ = 0.2", "σ = 0.4", "σ = 0.6", "mean", "BayesFT − row", OWN_GAIN]
    assert every[0] == [cell for cell in main[0][:-2] if cell != OF_ERM]
    assert [line[0] for line in every[2:]] == [f"{m}: {ROWS[row]}" for m in METRICS.values() for row in result.rows()]
    assert cells_of(every, "box mAP@0.5: ERM") == {k: v for k, v in cells_of(main, "ERM").items() if k in every[0]}
    for name, shown in METRICS.items():
        cells = cells_of(every, f"{shown}: BayesFT")
        at, over = result.at("bayesft", 0.6, name), result.area("bayesft", name)
        assert cells["σ = 0.6"] == said(at) and cells["σ = 0.2"] == "–"
        assert cells["mean"] == said(over)


def test_page_says_where_a_detector_learned_too_little(detection_files, files):
    def said(shift, **others):
        content = copy.deepcopy(detection_files())
        row = content[0]["rows"]["erm"]
        row["accuracy"] = [[shift + 0.0 * value for value in draws] for draws in row["accuracy"]]
        return page("t", NOTE, {DETECTION: gather(content), **others}, {}, [])

    weak = said(0.49)
    assert "evidence:** without drift, ERM reaches 0.490, less than 0.5 box mAP@0.5.\n" in weak
    assert "† Less than 0.5 box mAP@0.5: the panel" in weak and "chance" not in weak
    assert "can't be read" not in said(0.51)
    content = copy.deepcopy(files(rows=["erm"]))
    content[0]["data"]["classes"] = 3
    assert "† Less than 0.5 box mAP@0.5 or three times chance:" in said(
        0.2, **{"mlp-mnist": gather(content)}
    )


def test_normalization_is_a_control_where_it_was_taken_out(results, whole):
    result = results(rows=list(ROWS))
    text = page("t", NOTE, {"vgg11-cifar10": result}, {}, [])
    table = tables(text)[2]
    assert "Normalisation as a control" in text and "takes batch norm (BN) out of BayesFT alone" in text
    assert [line[0] for line in table[2:]] == ["ERM", "BayesFT", "BayesFT − ERM"]
    apart = result.difference("erm-no-norm", "erm")
    assert cells_of(table, "ERM")["without − with"] == said(apart, "+")
    apart = result.difference("bayesft-no-norm", "erm-no-norm")
    assert cells_of(table, "BayesFT − ERM")["without BN"] == said(apart, "+")
    assert "Normalisation as a control" not in whole


def test_sites_have_their_rates(whole, files):
    table = tables(whole)[3]
    assert [line[0] for line in table[2:]] == ["2", "4"]
    half = dict.fromkeys(("uniform dropout", "random search", "BayesFT, Algorithm 1", "BayesFT"), "0.50")
    assert cells_of(table, "4") == {**half, "drift-aware + dropout": "0.20"}
    content = copy.deepcopy(files(seeds=(0, 1), rows=["erm", "uniform", "bayesft"]))
    for seed in content:
        content[seed]["rows"]["bayesft"]["about"]["rates"] = {"late": 0.1 + seed / 2, "early": 0.2}
    uniform, found = tables(page("t", NOTE, {"mlp-mnist": gather(content)}, {}, []))[3:5]
    assert uniform[0][1:] == ["uniform dropout"] and found[0][1:] == ["BayesFT"]
    assert [line[0] for line in found[2:]] == ["late", "early"]  # the order of the network, not of the alphabet
    assert cells_of(found, "late")["BayesFT"] == "0.10; 0.60"


def test_page_over_several_seeds_says_so(results):
    text = page("t", NOTE, {"mlp-mnist": results(seeds=(0, 1, 2))}, {}, [])
    assert re.search(r"mean ± 95 % interval over 3 training seeds \(.*\b4 drift draws each\)", text)
    assert "paired by seed" in text


def test_page_shows_the_pictures_that_it_is_given(whole, results):
    pictures = re.findall(r"!\[[^]]+\]\(figures/(\w+)\.png\)", whole)
    assert pictures == PANELS
    assert re.findall(r"^\[PDF\]\(figures/(\w+)\.pdf\)", whole, re.M) == PANELS
    shown = page("t", NOTE, {"mlp-mnist": results()}, {}, ["figure4"])
    assert "![Figure 4. What the detectors find in the same test images" in shown and "figures/figure4.png" in shown
    assert "figure2" not in page("t", NOTE, {"mlp-mnist": results()}, {}, ["figure1", "figure3"])


def test_accuracy_table_has_every_row_and_level(whole, results):
    table = tables(whole)[1]
    levels = [f"σ = {level:g}" for level in LEVELS[1:]]
    assert table[0] == ["", "σ = 0", OF_ERM, *levels, "mean", "BayesFT − row", OWN_GAIN]
    assert [line[0] for line in table[2:]] == [ROWS[row] for row in results().rows()]
    result = results()
    for row in result.rows():
        name = ROWS[row]
        cells = cells_of(table, name)
        at = result.at(row, 0.6)
        assert cells["σ = 0.6"] == said(at)
        assert cells["σ = 0.9"] == cells["σ = 1.5"] == "–"  # not in the grid
        over = result.area(row)
        assert cells["mean"] == said(over)
        apart = result.difference("bayesft", row)
        expected = "–" if row == "bayesft" else said(apart, "+")
        assert cells["BayesFT − row"] == expected
        own = result.difference(row, "erm")
        assert cells[OWN_GAIN] == ("–" if row == "erm" else said(own, "+"))
    assert cells_of(table, "ERM")["BayesFT − row"].startswith("+0.04")


def test_epochs_of_search_and_training_are_apart(whole, results):
    table = tables(whole)[2]
    assert [line[0] for line in table[2:]] == [ROWS[row] for row in results().rows()]

    def epochs(name):
        cells = cells_of(table, name)
        return cells["final training"], cells["before or after it"], cells["all"]

    assert epochs("ERM") == ("40", "0", "40")
    assert epochs("FTNA") == ("40", "40", "80"), "its code needs a trained ERM network"
    assert epochs("ReRAM-V") == ("40", "1.5", "41.5")
    assert epochs("BayesFT") == epochs("random search") == ("40", "10", "50")
    assert epochs("BayesFT, Algorithm 1") == ("0", "10", "10")


def test_epochs_of_a_long_search_are_written_out(files):
    content = copy.deepcopy(files(rows=["erm", "random"]))
    content[0]["rows"]["random"]["about"]["epochs_search"] = 1208
    table = tables(page("t", NOTE, {"mlp-mnist": gather(content)}, {}, []))[2]
    assert cells_of(table, "random search")["all"] == "1248"


def test_tuned_methods_stand_beside_their_default_values(whole, results):
    table, result = tables(whole)[4], results()
    assert [line[0] for line in table[2:]] == [ROWS[tuned] for _, tuned in result.tuned()]
    assert len(result.tuned()) == 4
    cells = cells_of(table, "AWP (weights only), tuned")
    assert cells["found"] == "γ 0.021"
    assert cells["as in Figure 3"].startswith(f"{result.area('awp').mean:.3f} ±")
    assert cells["tuned"].startswith(f"{result.area('awp-tuned').mean:.3f} ±")
    gain = result.difference("awp-tuned", "awp")
    assert cells["difference"] == said(gain, "+")
    assert cells_of(table, "drift-aware + dropout, tuned")["found"] == "rate 0.3, σ_train 1.1"
    assert "tuned" not in page("t", NOTE, {"mlp-mnist": results(rows=["erm", "awp"])}, {}, [])


def test_the_study_has_its_table_under_its_figure(results, studies):
    text = page("t", NOTE, {"mlp-mnist": results()}, {}, ["study"], {"mlp-mnist": studies()})
    cells = cells_of(next(table for table in tables(text) if "epochs of search" in table[0]), "random")
    assert cells["epochs of search"] == "48" and cells["area"].startswith("0.")
    assert cells["gain over “GP”"].startswith("-0.0") and "figures/study.png" in text


def test_devices_have_a_table_where_there_are_devices(whole, results):
    table = tables(whole)[5]
    assert table[0][1:] == ["σ = 0", "mean over the grid"]
    assert [line[0] for line in table[2:]] == ["ERM", "erm-programmed", "ReRAM-V"]
    bare = results().at("erm-programmed", 0.0)
    expected = said(bare)
    assert cells_of(table, "erm-programmed")["σ = 0"] == expected
    without = page("t", NOTE, {"mlp-mnist": results(rows=["erm", "bayesft"])}, {}, [])
    assert "programming error" not in without and len(tables(without)) == 4


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
    table = tables(page("t", NOTE, {"mlp-mnist": results(rows=["erm", "awp"])}, {}, []))[1]
    assert "BayesFT − row" not in table[0]
    assert [line[0] for line in table[2:]] == ["ERM", "AWP (weights only)"]


def test_metrics_are_clean_accuracy_area_and_half_level(results):
    result = results()
    found = metrics({"mlp-mnist": result, "lenet-mnist": replace(result, end=1.5)})
    for row in result.rows():
        clean, area = result.at(row, 0.0).mean, result.area(row).mean
        assert found["mlp-mnist"][row] == pytest.approx({"clean": clean, "area": area}, abs=1e-4)  # none falls to half
        assert list(found["lenet-mnist"][row]) == ["clean"]  # σ was not evaluated so far
