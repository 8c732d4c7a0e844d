"""The table of the advice is that of what was measured, and the defaults are those that it speaks for."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from bayesft.hardening.harden import FINE_TUNING

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def page():
    spec = spec_from_file_location("make_advice", DOCS / "make_advice.py")
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_table_is_that_of_the_measurements(page):
    table = (DOCS / "library" / "advice.md").read_text(encoding="utf-8").split("<!-- table -->\n")[1]
    assert table.split("\n<!-- end of table -->")[0].splitlines() == page.rows(json.loads(page.FILE.read_text()))


def test_the_default_step_of_fine_tuning_did_best_on_validation_data(page):
    found = json.loads(page.FILE.read_text())
    for name in page.NETWORKS:
        means = {}
        for run in page.TUNED:
            values = [found[key][0][0] for seed in page.SEEDS if (key := f"{name}/{seed}/{run}") in found]
            if values:
                means[run[2]] = sum(values) / len(values)
        assert not means or max(means, key=means.get) == FINE_TUNING.lr


def test_its_networks_have_sites_and_learn_digits(page):
    (x, y), *_ = page.parts()
    for build in page.NETWORKS.values():
        assert build()(x[:3]).shape == (3, 10)
