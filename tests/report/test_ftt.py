"""Verdicts of the chapter on fault-tolerant training, from results made by hand."""

import numpy as np
import pytest

from bayesft.report.ftt import CLAIMS, Chapter, findings, tables, verdict

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
    assert second.verdict == "not run" and "row is not of this run" in second.why
    assert verdict([first, second]) == "not run" and verdict([first]) == "supported"


def test_a_clear_loss_contradicts_it():
    found = of(findings(chapter(plain={"accuracy": 0.7}, ftt={"accuracy": 0.4})), "F1")
    assert found[0].verdict == verdict(found) == "contradicted"


def test_two_seeds_decide_nothing():
    (first, *_) = of(findings(chapter(2, plain={"accuracy": 0.4}, ftt={"accuracy": 0.7})), "F1")
    assert (first.verdict, first.why) == ("inconclusive", "too few seeds") and np.isnan(first.corrected)


def test_a_gain_within_the_spread_over_seeds_decides_nothing():
    made = chapter(plain={"accuracy": 0.6}, ftt={"accuracy": 0.6})
    for seed, change in enumerate((-0.1, 0.0, 0.12)):
        level = made.networks["stuck", "ftt"][seed]["faults"]["stuck"]["accuracy"][1]
        made.networks["stuck", "ftt"][seed]["faults"]["stuck"]["accuracy"][1] = [a + change for a in level]
    assert of(findings(made), "F1")[0].verdict == "inconclusive"


def test_p_values_are_corrected_for_all_comparisons_that_were_run():
    found = findings(chapter(plain={"accuracy": 0.4, "calibrated": 0.7}, ftt={"accuracy": 0.7, "calibrated": 0.8}))
    run = [each for each in found if not np.isnan(each.p)]
    assert len(run) >= 4 and all(each.corrected >= each.p for each in run)
    assert of(found, "C1")[0].verdict == "supported" or of(found, "C1")[0].p == 0


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


def test_claims_have_numbers_of_their_own():
    numbers = [claim.number for claim in CLAIMS]
    assert len(set(numbers)) == len(numbers) and {f"F{i}" for i in range(1, 8)} <= set(numbers)
