"""Verdicts of the chapter on fault-tolerant training, from results made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bayesft.evaluation.devices import CALIBRATIONS
from bayesft.fault_tolerance import ROWS
from bayesft.report import ftt
from bayesft.report.ftt import CLAIMS, NAMES, Chapter, findings, shown, tables, verdict

DATA = {"name": "shapes", "source": "embedded", "classes": 10, "images_used": {"train": 10, "validation": 5, "test": 5}}


def measured(
    accuracy: float, macs: int = 1_000_000, seed: int = 0, calibrated: float | None = None, under=("stuck",)
) -> dict:
    """One network: accuracy under each fault's own level, three devices, a little spread."""

    def devices(mean: float) -> list[float]:
        return [mean + 0.01 * (seed - 1) + d for d in (-0.01, 0.0, 0.01)]

    faults = {
        fault: {"levels": [0.0, 0.08], "level": 0.08, "accuracy": [[0.9] * 3, devices(accuracy)],
                "calibrated": {} if calibrated is None else {"bn-device": devices(calibrated)}}
        for fault in under
    }  # fmt: skip
    return {"parameters": 1000, "macs": macs, "clean": 0.9, "faults": faults, "about": {}, "data": DATA}


def chapter(seeds: int = 3, **rows: dict) -> Chapter:
    networks = {}
    for name, options in rows.items():
        row = name.replace("_", "-") if name not in ("drift_ftt", "drift_dropout") else name
        key = ("any" if row in ("plain", "bayesft", "drift_dropout") else "stuck", row)
        networks[key] = {seed: measured(seed=seed, **options) for seed in range(seeds)}
    plan = {"faults": {"stuck": {"level": 0.08, "at_20_channels": 0.08}}, "channels": 8, "networks": [], "searches": []}
    return Chapter(plan, networks, {})


def of(found, number: str) -> list:
    return [each for each in found if each.claim.number == number]


def test_a_clear_gain_of_three_seeds_supports_a_claim():
    found = findings(chapter(plain={"accuracy": 0.4}, ftt={"accuracy": 0.7}))
    first, second = of(found, "F1")
    assert (first.verdict, first.seeds) == ("supported", 3)
    assert first.difference.mean == pytest.approx(0.3) and first.corrected < 0.05
    assert second.verdict == "not run" and "a row was not trained" in second.why
    assert verdict([first, second]) == "not run" and verdict([first]) == "supported"


def test_a_clear_loss_contradicts_it():
    found = of(findings(chapter(plain={"accuracy": 0.7}, ftt={"accuracy": 0.4})), "F1")
    assert found[0].verdict == verdict(found) == "contradicted"


def test_two_seeds_decide_nothing():
    (first, *_) = of(findings(chapter(2, plain={"accuracy": 0.4}, ftt={"accuracy": 0.7})), "F1")
    assert (first.verdict, first.why) == ("inconclusive", "2 seeds") and np.isnan(first.corrected)


def test_a_gain_within_the_spread_over_seeds_decides_nothing():
    made = chapter(plain={"accuracy": 0.6}, ftt={"accuracy": 0.6})
    shifted(made, "ftt", (-0.1, 0.0, 0.12))
    assert of(findings(made), "F1")[0].verdict == "inconclusive"


def test_p_values_are_corrected_for_all_comparisons_that_were_run():
    made = chapter(plain={"accuracy": 0.4, "calibrated": 0.7}, ftt={"accuracy": 0.7, "calibrated": 0.8})
    shifted(made, "ftt", (-0.02, 0.0, 0.03))
    found = findings(made)
    ours = of(found, "F1")[0]
    assert ours.p == pytest.approx(stats.ttest_1samp([0.28, 0.3, 0.33], 0).pvalue)
    shifted(made, "plain", (0.01, -0.03, 0.0), "bn-device")
    found = findings(made)
    given = [each.p for each in found]
    assert len({p for p in given if p > 0}) >= 3
    assert [each.corrected for each in found] == pytest.approx(list(by_hand(given)), nan_ok=True)


def shifted(made: Chapter, row: str, by: tuple[float, ...], how: str | None = None) -> None:
    """Change the accuracies of a row at its level, as it is or calibrated, seed by seed."""
    for seed, change in enumerate(by):
        of = made.networks["any" if row == "plain" else "stuck", row][seed]["faults"]["stuck"]
        values, key = (of["accuracy"], 1) if how is None else (of["calibrated"], how)
        values[key] = [a + change for a in values[key]]


def by_hand(given: list[float]) -> list[float]:
    """Holm's correction, the definition: the greatest of the products of all that are not above."""
    real = sorted(p for p in given if not np.isnan(p))
    return [np.nan if np.isnan(p) else min(1, max((len(real) - i) * q for i, q in enumerate(real) if q <= p))
            for p in given]  # fmt: skip


def test_at_least_as_good_allows_the_margin():
    made = chapter(found={"accuracy": 0.6}, found_ft_nas={"accuracy": 0.601}, found_nas={"accuracy": 0.7})
    shifted(made, "found", (-0.001, 0.0, 0.002))
    alike, worse = of(findings(made), "F5")[:2]
    assert alike.verdict == "supported" and alike.difference.mean == pytest.approx(-0.001 + 0.001 / 3)
    assert alike.p == pytest.approx(stats.ttest_1samp([-0.002, -0.001, 0.001], -0.02).pvalue)
    assert worse.verdict == "contradicted" and "≥" in str(worse.comparison)


def test_every_measure_of_a_claim_exists():
    for claim in CLAIMS:
        for each in claim.comparisons:
            for side in filter(None, (each.first, each.second)):
                assert side.row in ROWS and {side.trained, side.under} <= set(NAMES)
                assert side.how is None or side.how in CALIBRATIONS


def test_sizes_are_counted_and_need_no_interval():
    small = chapter(1, ftt={"accuracy": 0.6}, found={"accuracy": 0.6, "macs": 900_000})
    assert of(findings(small), "F6")[0].verdict == "supported"
    large = chapter(1, ftt={"accuracy": 0.6}, found={"accuracy": 0.6, "macs": 2_000_000})
    assert of(findings(large), "F6")[0].verdict == "contradicted"
    assert of(findings(large), "F6")[0].difference.mean == pytest.approx(2.0)


def test_a_slope_over_the_cells_is_found():
    rows = {f"random_{i}": {"accuracy": 0.4 + 0.1 * i, "macs": 10 ** (5 + i)} for i in (1, 2, 3)}
    found = of(findings(chapter(**rows)), "F7")[0]
    assert found.difference.mean == pytest.approx(0.1) and found.seeds == 3 and found.verdict == "supported"
    assert of(findings(chapter(random_1=rows["random_1"])), "F7")[0].verdict == "not run"


def test_the_page_says_what_was_trained_too_briefly_and_shows_the_papers_numbers_as_of_another_scale(tmp_path):
    made = chapter(plain={"accuracy": 0.4}, ftt={"accuracy": 0.7})
    assert "trained too briefly" not in tables(made, tmp_path)
    for of_seed in made.networks["stuck", "ftt"].values():
        of_seed["clean"] = 0.8
    page = tables(made, tmp_path)
    assert "ResNet-20, FTT loses 0.100 of clean accuracy against the plain network" in page
    assert "0.400 ±" in page and "86.2 against 68.1 (paper, other scale)" in page


def test_comparisons_have_words_of_their_own():
    said = [str(each) for claim in CLAIMS for each in claim.comparisons]
    assert len(set(said)) == len(said)
    assert "log-normal drift: ResNet-20, FTT under bit flips > ResNet-20, plain" in said


def test_a_claim_that_was_not_run_says_how_many_of_its_comparisons_were(tmp_path):
    made = chapter(found={"accuracy": 0.6}, random_1={"accuracy": 0.5})
    page = tables(made, tmp_path)
    assert "| **not run** (1 of 8 comparisons was) |" in page and "| **not run** |" in page


def test_accuracies_under_drift_have_their_calibrated_columns(tmp_path):
    page = tables(chapter(plain={"accuracy": 0.4, "calibrated": 0.7, "under": ("stuck", "lognormal")}), tmp_path)
    assert "| stuck cells, batch norm by device | drift, batch norm by device |" in page
    assert "batch norm pooled" not in page and page.count("0.700 ±") == 2


@pytest.mark.parametrize("rho, p, alike", [(0.6, 0.01, True), (0.6, 0.1, False), (-1.0, 0.0, False)])
def test_shared_weights_tell_architectures_apart_where_two_networks_rank_them_alike(rho, p, alike):
    searched = {("stuck", "ftt-nas"): {"gate": {"rho": rho, "p": p}}}
    (said,) = ftt._agreement(replace(chapter(plain={"accuracy": 0.4}), searches=searched))
    assert ("do not tell architectures apart" not in said) == alike


def test_one_seed_of_two_devices_has_no_interval():
    made = chapter(1, plain={"accuracy": 0.4}).at("plain", "stuck", "stuck")
    assert "±" in shown(made) and shown(made[:, :2]) == "0.385"


def test_claims_have_numbers_of_their_own():
    numbers = [claim.number for claim in CLAIMS]
    assert len(set(numbers)) == len(numbers) and {f"F{i}" for i in range(1, 8)} <= set(numbers)
