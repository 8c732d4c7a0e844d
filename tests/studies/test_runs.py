"""The runs on real data: their parameters are allowed, and those of a committed report are the ones that made it."""

import shutil
from pathlib import Path

import pytest

from bayesft.files import read_json
from bayesft.tasks import TASKS
from stages.parameters import load, read_all
from studies.runs import RUNS, prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    for name in ("params.yaml", "scales.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", RUNS)
def test_parameters_of_a_run_are_allowed(name, folder):
    prepare(name, folder)
    parameters = load(folder / "params.yaml")
    assert parameters.scale in ("medium", "paper") and parameters.data.source == "official"
    assert list(parameters.methods) == RUNS[name]["rows"]
    assert len(parameters.seeds_of("mlp-mnist")) >= 3 or name == "ftt"
    assert (folder / "params.yaml").read_text().count("#") > 20  # comments stay


@pytest.mark.parametrize("name", RUNS)
def test_a_committed_report_is_of_its_run(name, folder):
    prepare(name, folder)
    asked = read_all(folder / "params.yaml")
    report = ROOT / "reports" / f"{asked['scale']}-official{asked['report']}" / "provenance.json"
    if not report.exists():
        pytest.skip("not run yet")
    made = read_json(report)["parameters"]
    for key in ("tasks", "seeds", "ablation", "recipe", "drift", "search"):
        assert asked[key] == made[key], key
    for data in {TASKS[task].data for task in asked["tasks"]} or {"cifar10"}:
        assert of_data(asked["methods"], data) == of_data(made["methods"], data)


def of_data(methods, data):
    """The settings of methods on a data set: those that are given by data set have an entry for it."""
    return {
        row: {key: value.get(data, value) if isinstance(value, dict) else value for key, value in settings.items()}
        for row, settings in methods.items()
    }
