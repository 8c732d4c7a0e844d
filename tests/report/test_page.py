"""The first page: claims, figures with what one sees in them, a small table a panel; its sentences are computed."""

import copy
import re
from dataclasses import replace

import pytest

from bayesft.report.claims import CLAIMS, claims_table, judge, summary
from bayesft.report.offline import offline_page
from bayesft.report.page import (
    HEADINGS,
    MOST,
    claims_section,
    figures_section,
    metrics,
    page,
    tables_section,
    tells,
    what_one_sees,
)
from bayesft.report.results import accuracies_table, show
from bayesft.tasks import CLASSIFICATION, DETECTION, TASKS
from tests.report.shown import ROWS, gather
from tests.report.test_details import cells_of, tables

MAIN = ("erm", "ftna", "reram_v", "awp", "bayesft", "drift_dropout")


def test_the_whole_page_is_small(results, detections, ablations, studies):
    tasks = {
        task: results(seeds=(0, 1, 2), rows=["erm", "uniform", "bayesft"] if TASKS[task].family else None)
        for task in CLASSIFICATION
    } | {DETECTION: detections(seeds=(0, 1, 2))}
    judged = judge(CLAIMS, tasks)
    seen = what_one_sees(tasks, ablations(), {"mlp-mnist": studies()})
    captions = {name: 150 * "x" for name in HEADINGS}
    sections = [claims_section(judged), figures_section(captions, seen, tasks), tables_section(tasks, "scale: quick")]
    text = page("t", sections)
    assert len(text.encode()) < MOST
    assert max(len(table[0]) for table in tables(text)[1:]) == 6  # the rows, and five columns


def test_a_page_that_is_too_long_leaves_the_tables_to_the_second_one():
    assert page("t", ["a", "numbers", "b"], "numbers") == "# t\n\na\n\nnumbers\n\nb\n"
    text = page("t", ["a" * MOST, "numbers", "b"], "numbers")
    assert "numbers\n" not in text and "[details.md](details.md)" in text and text.endswith("\n\nb\n")


def test_the_first_line_counts_the_verdicts_and_the_table_has_the_claims_that_were_run(results):
    judged = judge(CLAIMS, {"lenet-mnist": results()})
    text = claims_section(judged)
    assert text.startswith(f"**{summary(judged)}**")
    (table,) = tables(text)
    assert [line[0] for line in table[2:]] == ["6", "13", "15"]
    assert "\n\nNot run here: 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 14. [claims.csv](claims.csv) says" in text
    cells = cells_of(table, "6")
    assert "(1 seed)" in cells["difference"] and "1 seed × 4 draws" in cells["measured on"] and cells["p"] == "–"
    assert "digits" in cells["measured on"] and "**" not in cells["verdict"]


def test_a_panels_table_has_the_measures_and_the_gain(results):
    result = results(seeds=(0, 1, 2))
    few = results()
    text = tables_section({"mlp-mnist": result, "lenet-mnist": few}, "scale: quick")
    first, second = tables(text)
    assert first[0] == ["", "clean", "σ = 0.3", "σ50", "area", "gain over ERM"]
    assert second[0][-1] == "gain over ERM (1 seed)"
    assert [line[0] for line in first[2:]] == [ROWS[row] for row in MAIN]
    gain, area = result.difference("bayesft", "erm"), result.area("bayesft")
    cells = cells_of(first, "BayesFT")
    assert cells["gain over ERM"] == show(gain, "+")
    assert cells["area"] == show(area) and cells["σ50"] == "> 0.75"


def test_what_was_not_evaluated_so_far_is_not_measured(results):
    text = tables_section({"mlp-mnist": replace(results(), end=1.5)}, "scale: quick")
    assert cells_of(tables(text)[0], "BayesFT")["area"] == "not measured"
    assert "figure3" not in what_one_sees({"mlp-mnist": replace(results(), end=1.5)})


def test_sentences_count_what_the_figures_show(results, ablations, studies):
    few, many = results(), results(seeds=(0, 1, 2))
    seen = what_one_sees({"mlp-mnist": many, "lenet-mnist": few}, ablations(("depth",), ("mnist",)))
    assert "Of 1 panel with 3 seeds or more, BayesFT is above ERM in 1 (a) and below in none" in seen["figure3"]
    few_said = "BayesFT is above ERM in 1 of the 1 panel with fewer than 3 seeds, which proves nothing."
    assert few_said in seen["figure3"]
    assert re.search(r"The greatest area: [^;]+ in 1 \(a\); with 1 seed or 2, .+ in 1 \(b\)\.", seen["gains"])
    gain = ablations(("depth",), ("mnist",))["mnist"]["depth"].difference("6 layers", "3 layers").mean
    assert f"(c) 6 layers {gain:+.3f}" in seen["figure2"] and "1 seed" in seen["figure2"]
    assert "Of 1 panel with 3 seeds or more, the surrogate is above random search in 1 (a)" in seen["search"]
    assert seen["search"].endswith("At the last trial: (a) +0.010, (b) +0.010 (1 seed).")
    clear = [name for name, p in studies().corrected().items() if p < 0.05]
    text = what_one_sees({"mlp-mnist": many}, {}, {"mlp-mnist": studies()})["study"]
    assert all(name in text for name in clear) and "Holm" in text and "(3 seeds)" in text


def test_figures_have_their_sentence_and_caption(results):
    text = figures_section({"gains": "A caption."}, {"gains": "One sees this."}, {"mlp-mnist": results()})
    assert "\n\nOne sees this. A caption.\n\n" in text
    assert re.findall(r"!\[[^]]+\]\(figures/(\w+)\.png\)", text) == ["gains"]


def test_metrics_are_clean_accuracy_area_and_half_level(results):
    result = results()
    found = metrics({"mlp-mnist": result, "lenet-mnist": replace(result, end=1.5)})
    for row in result.rows():
        clean, area = result.at(row, 0.0).mean, result.area(row).mean
        assert found["mlp-mnist"][row] == pytest.approx({"clean": clean, "area": area}, abs=1e-4)  # none falls to half
        assert list(found["lenet-mnist"][row]) == ["clean"]  # σ was not evaluated so far


def test_the_surrogate_is_ahead_where_the_interval_says_so(files):
    content = copy.deepcopy(files(seeds=(0, 1, 2)))
    for seed, last in zip(content, (0.7, 0.8, 0.75), strict=True):  # random search's best is 0.7
        content[seed]["rows"]["bayesft"]["about"]["trials"][4]["objective"] = last
    seen = what_one_sees({"mlp-mnist": gather(content)})
    assert "above random search in none and below in none (the interval excludes 0)" in seen["search"]


def test_tables_that_say_nothing_are_not_listed(results):
    judged = judge(CLAIMS, {"lenet-mnist": results()})
    assert tells(claims_table(judged)) and tells(accuracies_table({"lenet-mnist": results()}))
    assert not tells(claims_table(judge(CLAIMS, {}, {}))) and not tells(accuracies_table({}))


def test_a_run_without_tasks_has_a_page():
    judged = judge(CLAIMS, {}, {})
    assert claims_section(judged) == "**This run tests no claim of the BayesFT paper.**"
    assert "The claims of FTT-NAS stand below." in claims_section(judged, chapter=True)
    assert tables_section({}, "scale: smoke") == "" and metrics({}) == {} and accuracies_table({}).empty
    assert "Figure 1." in figures_section({"figure1": "Moons."}, {}, {}) and figures_section({}, {}, {}) == ""
    assert "No panel was run" in offline_page("t", {}, judged, [])
