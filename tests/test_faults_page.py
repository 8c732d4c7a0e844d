"""docs/faults.md: its examples run, and its tables of fault models are those of the classes."""

import importlib.util
import re
from pathlib import Path

import pytest

from bayesft.drift.faults import FAULT_MODELS

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "faults.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("make_faults", DOCS / "make_faults.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def registry_as_before():
    before = dict(FAULT_MODELS)
    yield
    FAULT_MODELS.clear()
    FAULT_MODELS.update(before)


def test_the_tables_of_models_are_current(script):
    """If this fails, run `python docs/make_faults.py`."""
    assert script.with_current_tables(PAGE) == PAGE


def test_every_model_has_its_accuracies_and_its_panel(script):
    accuracies = PAGE.split("<!-- accuracies -->")[1]
    assert re.findall(r"^\| `(\w+)` \|", accuracies, re.MULTILINE) == sorted(FAULT_MODELS) == list(script.examples())
    assert (DOCS / "faults.png").stat().st_size < 200_000


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example):
    exec(compile(example, "docs/faults.md", "exec"), {})


def test_there_are_four_examples():
    assert len(EXAMPLES) == 4
