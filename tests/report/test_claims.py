"""Verdicts from accuracies made by hand, whose differences, intervals and p-values are known."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bayesft.report import claims
from bayesft.report.claims import (
    CLAIMS,
    UNDER_CALIBRATION,
    Claim,
    Comparison,
    Side,
    claims_table,
    judge,
    summary,
    verdict,
)
from bayesft.report.results import TaskResults
from bayesft.tasks import ABLATIONS, TASKS
from stages.parameters import read

ROOT = Path(__file__).parents[2]
TASK, LENET = ("mlp-mnist",), ("lenet-mnist",)
DATA = {"name": "MNIST", "source": "official", "classes": 10,
        "images_used": {"train": 5000, "validation": 9, "test": 9}}  # fmt: skip


def task(rows: dict[str, list[float]], end: float | None = 1.0, clean: float = 0.9, **about) -> TaskResults:
    """Results on one task: each row's area by seed is that of a line from `clean` to what gives it."""

    def curve(area: float) -> list[list[float]]:
        return [[clean] * 2, [2 * area - clean - 0.01, 2 * area - clean + 0.01]]  # two draws

    files = {
        seed: {"sigmas": [0.0, 1.0], "data": DATA,
               "rows": {row: {"accuracy": curve(areas[seed]), "about": {"epochs": 20, **about.get(row, {})}}
                        for row, areas in rows.items()}}
        for seed in range(len(next(iter(rows.values()))))
    }  # fmt: skip
    return TaskResults.gather(files, end=end)


def one(comparison: Comparison, results: dict, **more) -> claims.Finding:
    (finding,) = judge([Claim("1", "said", (comparison,))], results, **more)["1"]
    return finding


ABOVE = Comparison(Side("b", TASK), Side("a", TASK))
ALIKE = Comparison(Side("b", TASK), Side("a", TASK), "equal")
A = [0.5, 0.52, 0.54, 0.56, 0.58]  # areas by seed


def shifted(*by: float) -> dict:
    return {"mlp-mnist": task({"a": A[: len(by)], "b": [a + d for a, d in zip(A, by, strict=False)]})}


def test_a_side_is_called_as_the_row_is():
    assert str(Side("erm-no-norm", TASK)) == "ERM without BN" and str(Side("none", TASK)) == "none"
    assert str(Comparison(Side("erm-no-norm", TASK), Side("erm", TASK))) == "ERM without BN > ERM"


def test_greater_by_hand():
    by = [0.10, 0.11, 0.12, 0.13, 0.14]
    found = one(ABOVE, shifted(*by))
    assert found.verdict == "supported" and (found.seeds, found.draws) == (5, 2)
    assert found.difference.mean == pytest.approx(0.12)
    assert found.difference.half_width == pytest.approx(2.776445 * np.std(by, ddof=1) / 5**0.5, rel=1e-5)
    assert found.p == pytest.approx(stats.ttest_1samp(by, 0).pvalue) == found.corrected
    assert found.data == "MNIST, 5,000 images"
    assert one(ABOVE, shifted(*(-d for d in by))).verdict == "contradicted"
    assert one(ABOVE, shifted(0.1, -0.1, 0.2, -0.2, 0.05)).verdict == "inconclusive"


def test_equal_is_two_one_sided_tests():
    inside = [0.004, 0.006, 0.005, 0.007, 0.003]
    found = one(ALIKE, shifted(*inside))
    assert found.verdict == "supported"
    sides = [stats.ttest_1samp(inside, margin, alternative=side).pvalue
             for margin, side in ((0.02, "less"), (-0.02, "greater"))]  # fmt: skip
    assert found.p == pytest.approx(max(sides))
    assert one(ALIKE, shifted(0.019, 0.017, 0.021, 0.018, 0.020)).verdict == "inconclusive"
    outside = [-0.048, -0.05, -0.046, -0.049, -0.047]
    found = one(ALIKE, shifted(*outside))
    assert found.verdict == "contradicted" and found.p == pytest.approx(stats.ttest_1samp(outside, -0.02).pvalue)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.06, 0.06), min_size=5, max_size=5, unique=True))
def test_equal_is_supported_where_the_ninety_percent_interval_lies_inside(by):
    half = stats.t.ppf(0.95, 4) * np.std(by, ddof=1) / 5**0.5
    low, high = np.mean(by) - half, np.mean(by) + half
    if min(abs(low + 0.02), abs(high - 0.02)) > 1e-9:
        assert (one(ALIKE, shifted(*by)).verdict == "supported") == (low > -0.02 and high < 0.02)


def test_fewer_than_three_seeds_decide_nothing_and_say_so():
    for by, why in (((0.3,), "1 seed"), ((0.3, 0.31), "2 seeds")):
        found = one(ABOVE, shifted(*by))
        assert (found.verdict, found.why) == ("inconclusive", why)
        assert found.difference.mean == pytest.approx(np.mean(by)) and np.isnan(found.p)


def test_holm_is_for_all_comparisons_of_the_report():
    weak = [0.01, 0.03, 0.02, 0.04, 0.015]  # p = 0.012: enough alone, too little beside nine others
    alone = one(ABOVE, shifted(*weak))
    assert alone.verdict == "supported" and 0.005 < alone.p < 0.05
    family = [Claim(str(n), "said", (ABOVE,)) for n in range(10)]
    (found,) = judge(family, shifted(*weak))["3"]
    assert found.verdict == "inconclusive" and found.corrected == pytest.approx(10 * alone.p)


def test_a_claim_is_what_its_comparisons_are():
    more, less, unsure = [0.1, 0.11, 0.12], [-0.1, -0.11, -0.12], [0.3, -0.3, 0.01]

    def said(*each):
        results = {"mlp-mnist": task({"a": A[:3], **{f"b{i}": np.add(A[:3], by) for i, by in enumerate(each)}})}
        parts = tuple(Comparison(Side(f"b{i}", TASK), Side("a", TASK)) for i in range(len(each)))
        return verdict(judge([Claim("1", "said", parts)], results)["1"])

    assert said(more, more).verdict == "supported" and said(more, unsure).verdict == "inconclusive"
    assert said(more, less).verdict == "contradicted" and said(more, less).comparison.first.row == "b1"
    assert said(more, less).why == "1 of 2 comparisons"
    absent = Comparison(Side("c", TASK), Side("a", TASK))
    found = verdict(judge([Claim("1", "said", (ABOVE, absent))], shifted(*more))["1"])
    assert found.verdict == "not run" and "no results of c on (a)" in found.why


def test_what_was_not_evaluated_so_far_is_not_run():
    found = one(ABOVE, {"mlp-mnist": task({"a": A, "b": A}, end=1.5)})
    assert found.verdict == "not run" and found.why == "σ was evaluated to 1, 1.5 is needed"


def test_at_one_sigma_between_two_levels():
    flat = Comparison(Side("a", TASK, 0.25), Side("a", TASK, 0.0), "equal")
    found = one(flat, {"mlp-mnist": task({"a": [0.7, 0.7, 0.7]}, clean=0.9)})
    assert found.difference.mean == pytest.approx(-0.1)  # a quarter of the way from 0.9 to 0.5
    assert found.verdict == "contradicted"


def test_a_share_of_clean_accuracy_and_equal_budgets():
    deep, shallow = task({"a": [0.2] * 3}, clean=0.5), task({"a": [0.45, 0.46, 0.47]}, clean=0.9)
    results = {"mlp-mnist": shallow, "lenet-mnist": deep}
    falls = Comparison(Side("a", TASK, share=True), Side("a", LENET, share=True))
    found = one(falls, results)
    assert found.difference.mean == pytest.approx(0.46 / 0.9 - 0.4) and found.verdict == "supported"
    budgets = {"mlp-mnist": {"network": {"width": 1}}, "lenet-mnist": {"network": {"width": 0.5}}}
    found = one(falls, results, budgets=budgets)
    assert (found.verdict, found.why) == ("not run", "(a) and (b) have different widths")


def test_the_ratio_is_the_greatest_of_all_points_and_never_over_less_than_a_guess():
    ratio = Comparison(Side("b", TASK), Side("a", TASK), "ratio")
    found = one(ratio, {"mlp-mnist": task({"a": [0.5] * 3, "b": [0.6, 0.62, 0.61]}, clean=1.0)})
    # At σ = 1, a has 2 · 0.5 − 1 = 0, which counts as 0.1; b has 0.2, 0.24, 0.22.
    logs = np.log([2, 2.4, 2.2])
    half = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / 3**0.5
    expected = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    assert found.interval() == pytest.approx(tuple(expected)) and found.seeds == 3
    (line,) = claims_table({"13": [found]}).itertuples()
    assert (line.difference, line.low, line.high) == pytest.approx(tuple(expected))
    assert found.verdict == "contradicted" and "at σ = 1" in found.why and "(a)" in found.why


def test_that_no_ratio_reaches_ten_is_said_of_every_point():
    ratio = Comparison(Side("b", (*TASK, *LENET)), Side("a", (*TASK, *LENET)), "ratio")
    certain = task({"a": [0.5] * 3, "b": [0.6, 0.62, 0.61]}, clean=1.0)
    spread = task({"a": [0.5] * 3, "b": [0.95, 0.502, 0.501]}, clean=1.0)  # ratios at σ = 1: 9, 1 and 1
    found = one(ratio, {"mlp-mnist": certain, "lenet-mnist": spread})
    ratios = np.log([9, 1, 1])
    assert found.difference.mean == pytest.approx(np.log([2, 2.4, 2.2]).mean())  # the greatest mean
    assert found.p == pytest.approx(stats.ttest_1samp(ratios, np.log(10)).pvalue) and found.verdict == "inconclusive"
    one_seed = task({"a": [0.5], "b": [0.51]}, clean=1.0)
    found = one(ratio, {"mlp-mnist": certain, "lenet-mnist": one_seed})
    assert (found.verdict, found.seeds) == ("inconclusive", 1) and "greatest ratio: (a)" in found.why


def test_the_cost_counts_the_epochs_of_the_search():
    cost = Comparison(Side("b", TASK), Side("a", TASK), "cost")
    for epochs, said in ((12, "contradicted"), (1, "supported")):
        found = one(cost, {"mlp-mnist": task({"a": A, "b": A}, b={"epochs_search": epochs})})
        assert found.verdict == said and found.difference.mean == pytest.approx(1 + epochs / 20)


def test_the_claims_name_what_exists():
    """Every row is a method or a variant, every place a task or a factor: a slip would read as "not run"."""
    assert [claim.number for claim in CLAIMS] == [str(n + 1) for n in range(15)]
    methods = {"erm", "ftna", "reram_v", "awp", "bayesft", "erm-no-norm"}
    assert methods <= set(read(ROOT / "params.yaml")["methods"])
    for claim in (*CLAIMS, *UNDER_CALIBRATION):
        for comparison in claim.comparisons:
            for side in (comparison.first, comparison.second):
                for place in side.places:
                    data, _, factor = place.removeprefix("ablation-").partition("/")
                    known = methods if place in TASKS else ABLATIONS[data].factors[factor].variants
                    assert side.row in known, (claim.number, side)


def test_the_table_has_every_comparison_and_the_first_line_counts():
    judged = judge(CLAIMS, shifted(0.1, 0.1, 0.1))
    table = claims_table(judged)
    assert len(table) == sum(len(claim.comparisons) for claim in CLAIMS) and set(table.verdict) == {"not run"}
    assert (table.groupby("claim", sort=False).decides.sum() >= 1).all()
    assert summary(judged) == "Of 15 claims: 0 supported, 0 contradicted, 0 inconclusive, 15 not run."
