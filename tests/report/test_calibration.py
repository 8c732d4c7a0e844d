"""What the report says of calibration, from results made by hand."""

import numpy as np
import pytest

from bayesft.report import calibration
from bayesft.report.calibration import MARK, Calibrated
from tests.report.shown import gather

ROWS = ("erm", "uniform")
SIGMAS = [0.0, 0.6]  # among those of the plain results
GAIN = {"erm": 0.1, "uniform": 0.04}  # at σ = 0.6


def entries(files: dict, details: tuple[str, ...] = ("erm",), **changes) -> dict:
    """The entry "calibrated" of each row and seed: two of the four draws, GAIN better at σ = 0.6."""
    found = {}
    for row in ROWS:
        found[row] = {}
        for seed, content in files.items():
            plain = np.array(content["rows"][row]["accuracy"])[[0, 2], :2]
            better = plain + np.array([[0.0], [GAIN[row]]])
            entry = {"images": 128, "sigmas": SIGMAS, "accuracy": better.tolist(), **changes}
            if row in details:
                less = (better - 0.01).tolist()
                entry["details"] = {
                    "images": {"8": less, "32": better.tolist()},
                    "layers": {"first alone": less, "all but the last": less},
                    "calibrated_at": {"0.3": less},
                }
            found[row][seed] = entry
    return found


@pytest.fixture
def found(files) -> dict[str, Calibrated]:
    content = files(seeds=(0, 1, 2), rows=ROWS)
    return {"mlp-mnist": Calibrated.gather(gather(content), entries(content))}


def test_rows_are_paired_with_themselves(found):
    of = found["mlp-mnist"]
    assert of.rows == ROWS and of.range == "σ = 0 … 0.6" and list(of.details) == ["erm"]
    for row in ROWS:
        gain = of.gain(row)
        assert gain.mean == pytest.approx(GAIN[row] / 2) and gain.half_width == pytest.approx(0, abs=1e-9)
        assert gain.over == "seeds" and gain.count == 3
        assert of.results.at(row + MARK, 0.0).mean == pytest.approx(of.results.at(row, 0.0).mean)
    assert of.mean(of.details["erm"]["images"]["8"]).mean == pytest.approx(of.results.area("erm" + MARK).mean - 0.01)


def test_every_number_is_published(found):
    table = calibration.lines(found).set_index(["row", "setting", "seed", "draw", "sigma"]).accuracy.sort_index()
    assert len(table) == 3 * 2 * 2 * (2 + 5 + 2)  # seeds, draws, σ; settings of erm and of uniform
    apart = table["erm", "128 images"] - table["erm", "none"]
    assert np.allclose(apart.xs(0.6, level="sigma"), GAIN["erm"]) and np.allclose(apart.xs(0.0, level="sigma"), 0)
    assert {"8 images", "layers: first alone", "calibrated at σ = 0.3"} <= set(table.index.get_level_values("setting"))


def test_the_page_and_the_figures_say_that_it_is_another_contract(found, tmp_path):
    said = calibration.section(found, calibration.contracts(found, {}), tmp_path)
    assert "another contract" in said and "+0.035 on average over 2 rows of 1 panel; 2 of" in said
    assert len(said.encode()) < 1500  # the page is short
    assert {path.name for path in tmp_path.glob("*.p*")} == {
        f"{name}.{suffix}" for name in ("calibration", "calibration-details") for suffix in ("png", "pdf")
    }
    tables = calibration.tables(found)
    assert "128 images calibrate a device" in tables and "3 training seeds" in tables and "another contract" in tables
    assert "| σ = 0 | σ = 0, +cal | mean | mean, +cal | gain, paired |" in tables and "| +0.050 |" in tables


def test_without_calibrated_rows_nothing_is_drawn(files, tmp_path):
    assert Calibrated.gather(gather(files(rows=ROWS)), {"erm": {}}) is None
    assert calibration.section({}, [], tmp_path) == calibration.tables({}) == "" and calibration.lines({}).empty
    assert not list(tmp_path.iterdir())


def test_what_does_not_belong_together_is_refused(files):
    content = files(seeds=(0, 1), rows=ROWS)
    mixed = entries(content)
    mixed["erm"][1]["images"] = 64
    with pytest.raises(ValueError, match="differ in images"):
        Calibrated.gather(gather(content), mixed)
    with pytest.raises(ValueError, match=r"calibrated at σ = \[0.0, 0.5\]"):
        Calibrated.gather(gather(content), entries(content, sigmas=[0.0, 0.5]))


def test_claims_are_judged_in_both_contracts(files, tmp_path):
    """BayesFT is above the published methods without calibration; with it, all are alike."""
    rows = ("erm", "ftna", "reram_v", "awp", "bayesft")
    content = files(seeds=(0, 1, 2), rows=rows)
    of_rows = {}
    for place, row in enumerate(rows):
        of_rows[row] = {}
        for number, (seed, each) in enumerate(content.items()):
            shift = 0.02 * number + 0.001 * place * number
            level = 0.9 if row == "bayesft" else 0.5
            each["rows"][row]["accuracy"] = [[0.9 + shift / 100] * 4, [level] * 4, [level - shift] * 4]
            equal = [[0.9] * 2, [0.8 + shift] * 2]
            of_rows[row][seed] = {"images": 128, "sigmas": SIGMAS, "accuracy": equal}
    found = {"lenet-mnist": Calibrated.gather(gather(content), of_rows)}
    judged = calibration.contracts(found, {})
    table = calibration.contracts_table(judged).set_index(["contract", "claim", "comparison"]).verdict
    assert table["uncalibrated", "6", "BayesFT > ERM"] == "supported"
    assert table["calibrated", "6", "BayesFT > ERM"] == "inconclusive"
    said = calibration.section(found, judged, tmp_path)
    assert "1 of these 1 verdicts differ" in said and "| supported |" in said and "| inconclusive |" in said
    assert "every device calibrated" in said
