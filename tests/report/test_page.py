"""The page: every row, every level of the grid, what the data are and what the intervals are over."""

import copy
import re

import pytest

from bayesft.report.page import LEVELS, metrics, page
from bayesft.report.results import ROWS, TaskResults
from bayesft.tasks import ABLATION, TASKS

NOTE = "data: digits (embedded), 997 train; scale: quick; seed 0"
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


def cells_of(table: list[list[str]], name: str) -> dict[str, str]:
    (line,) = (line for line in table[2:] if line[0] == name)
    return dict(zip(table[0][1:], line[1:], strict=True))


@pytest.fixture(scope="module")
def whole(results, ablation):
    factors = {"activation": ablation(ABLATION["activation"].variants), "depth": ablation(ABLATION["depth"].variants)}
    return page("BayesFT, reproduced", NOTE, {task: results() for task in TASKS}, factors, PANELS)


def test_page_says_what_the_numbers_are(whole, results):
    assert whole.startswith("# BayesFT, reproduced\n\n" + NOTE + ".\n")
    assert whole.count("mean ± 95 % interval over 4 drift draws (one training seed, 0)") == 4  # two tasks, two factors
    assert "Accuracy on 1,500 test images" in whole
    assert "the grid σ = 0 … 0.75" in whole
    assert "paired by draw" in whole
    assert all(task.title in whole for task in TASKS.values())


def test_page_over_several_seeds_says_so(results):
    text = page("t", NOTE, {"mlp-mnist": results(seeds=(0, 1, 2))}, {}, [])
    assert re.search(r"mean ± 95 % interval over 3 training seeds \(.*\b4 drift draws each\)", text)
    assert "paired by seed" in text


def test_page_shows_the_pictures_that_it_is_given(whole, results):
    pictures = re.findall(r"!\[[^]]+\]\(figures/(\w+)\.png\)", whole)
    assert pictures == PANELS
    assert re.findall(r"\[PDF\]\(figures/(\w+)\.pdf\)", whole) == PANELS
    assert "figure2" not in page("t", NOTE, {"mlp-mnist": results()}, {}, ["figure1", "figure3"])


def test_accuracy_table_has_every_row_and_level(whole, results):
    table = tables(whole)[0]
    assert table[0] == ["", *(f"σ = {level:g}" for level in LEVELS), "mean", "BayesFT − row"]
    assert [line[0] for line in table[2:]] == list(ROWS.values())
    result = results()
    for row, name in ROWS.items():
        cells = cells_of(table, name)
        at = result.at(row, 0.6)
        assert cells["σ = 0.6"] == f"{at.mean:.3f} ± {at.half_width:.3f}"
        assert cells["σ = 0.9"] == cells["σ = 1.5"] == "–"  # not in the grid
        over = result.over_grid(row)
        assert cells["mean"] == f"{over.mean:.3f} ± {over.half_width:.3f}"
        apart = result.difference("bayesft", row)
        expected = "–" if row == "bayesft" else f"{apart.mean:+.3f} ± {apart.half_width:.3f}"
        assert cells["BayesFT − row"] == expected
    assert cells_of(table, "ERM")["BayesFT − row"].startswith("+0.03")


def test_epochs_of_search_and_training_are_apart(whole):
    table = tables(whole)[1]
    assert [line[0] for line in table[2:]] == list(ROWS.values())

    def epochs(name):
        cells = cells_of(table, name)
        return cells["final training"], cells["before or after it"], cells["all"]

    assert epochs("ERM") == ("40", "0", "40")
    assert epochs("FTNA") == ("40", "40", "80"), "its code needs a trained ERM network"
    assert epochs("ReRAM-V") == ("40", "1.5", "41.5")
    assert epochs("BayesFT") == epochs("random search") == ("40", "10", "50")
    assert epochs("BayesFT, Algorithm 1") == ("0", "10", "10")
    assert cells_of(table, "uniform dropout")["dropout rates"] == "0.25, 0.50"
    assert cells_of(table, "ERM")["dropout rates"] == "–"


def test_epochs_of_a_long_search_are_written_out(files):
    content = copy.deepcopy(files(methods=["erm", "random"]))
    content["random", 0]["rows"]["random"]["about"]["epochs_search"] = 1208
    table = tables(page("t", NOTE, {"mlp-mnist": TaskResults.gather(content)}, {}, []))[1]
    assert cells_of(table, "random search")["all"] == "1248"


def test_devices_have_a_table_where_there_are_devices(whole, results):
    table = tables(whole)[2]
    assert table[0][1:] == ["σ = 0", "mean over the grid"]
    assert [line[0] for line in table[2:]] == [
        "ERM, no device",
        "ERM, programmed and not repaired",
        "ReRAM-V, repaired",
    ]
    bare = results().at("erm-programmed", 0.0)
    expected = f"{bare.mean:.3f} ± {bare.half_width:.3f}"
    assert cells_of(table, "ERM, programmed and not repaired")["σ = 0"] == expected
    without = page("t", NOTE, {"mlp-mnist": results(methods=["erm", "bayesft"])}, {}, [])
    assert "programming error" not in without and len(tables(without)) == 2


def test_ablation_is_compared_with_its_first_variant(whole, ablation):
    first, second = tables(whole)[-2:]
    assert [line[0] for line in first[2:]] == ["ReLU", "ELU", "GELU", "leaky ReLU"]
    assert [line[0] for line in second[2:]] == ["3 layers", "6 layers", "9 layers"]
    apart = ablation(ABLATION["activation"].variants).difference("GELU", "ReLU")
    assert apart.mean > 0
    assert cells_of(first, "GELU")["difference"] == f"{apart.mean:+.3f} ± {apart.half_width:.3f}"
    assert cells_of(first, "ReLU")["difference"] == "–"
    assert "The ablation in numbers" in whole


def test_page_without_bayesft_speaks_of_no_difference(results):
    table = tables(page("t", NOTE, {"mlp-mnist": results(methods=["erm", "awp"])}, {}, []))[0]
    assert "BayesFT − row" not in table[0]
    assert [line[0] for line in table[2:]] == ["ERM", "AWP (weights only)"]


def test_metrics_are_clean_accuracy_and_mean_over_the_grid(results):
    result = results()
    found = metrics({"mlp-mnist": result})
    assert list(found) == ["mlp-mnist"] and list(found["mlp-mnist"]) == list(ROWS)
    for row in ROWS:
        assert found["mlp-mnist"][row] == {
            "clean": pytest.approx(result.accuracy[row][:, 0].mean(), abs=1e-6),
            "mean_over_grid": pytest.approx(result.accuracy[row].mean(), abs=1e-6),
        }
