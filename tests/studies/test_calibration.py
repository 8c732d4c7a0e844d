"""The study of calibration: what was finished is found again, and the tables say how many seeds stand behind a mean."""

import pandas as pd
import pytest

from bayesft.drift import LogNormalDrift
from bayesft.settings import Recipe
from bayesft.store import Store
from studies import calibration
from studies.calibration import TRANSFORMER, Copies, Study, tables, worth


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(calibration.IMAGES, "digits", {"train": 60, "validation": 20, "test": 40})
    monkeypatch.setitem(calibration.RECIPES, "digits", Recipe(epochs=1, batch_size=30))
    monkeypatch.setitem(calibration.SIGMAS, "digits", (0.0, 0.5))
    monkeypatch.setitem(calibration.DRAWS, "digits", 2)


def test_a_stopped_study_goes_on_where_it_was(small, tmp_path):
    found = []
    for minutes, rows in ((60, ("erm",)), (0, ("erm", "drift_aware"))):  # no time: what is there, and nothing more
        study = Study(Store(tmp_path / "store"), minutes, None, tmp_path / "raw")
        worth(study, TRANSFORMER, rows, (0,))
        found.append(study.lines)
    assert found[0] == found[1] and [line["level"] for line in found[0]] == [0.0, 0.5] * 2
    by_setting = {(line["setting"], line["level"]): line["accuracy"] for line in found[0]}
    assert by_setting["nothing", 0.0] == by_setting["128 images", 0.0]
    assert "| nothing |" in tables(pd.DataFrame(found[0])) and "[1 seeds]" in tables(pd.DataFrame(found[0]))


def test_labels_train_the_two_numbers_alone(small, tmp_path):
    study = Study(Store(tmp_path / "store"), 60, None, tmp_path / "raw")
    trained = study.trained(TRANSFORMER, "erm", 0)
    parts = study.parts("digits")[1]
    copies = Copies(trained, parts, "test", LogNormalDrift(), [0.5], 1, ("labels",), "all")
    network = trained.networks()[0]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copies.trained = type("One", (), {"networks": lambda self: [network]})()
    assert 0 <= copies.with_labels(20, 2, 0.01)[0, 0] <= 1
    after = network.state_dict()
    assert after.keys() == before.keys() and all((after[name] == before[name]).all() for name in before)
