"""The pipeline through DVC, in a clone of its own, at the smallest scale. The tests build on one another, in order."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests.pipeline.clone import ROWS, Clone, stages_run

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(3000)]  # a busy machine takes its time


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    return Clone(tmp_path_factory.mktemp("pipeline"))


def test_a_wrong_parameter_stops_before_anything_computes(clone, unchanged):
    clone.change("tasks", ["mlp-mnits"])
    clone.change("sigma_max", -1)
    output = clone.run("dvc", "repro", ok=False)
    assert "mlp-mnist, lenet-mnist" in output and "sigma_max = -1" in output and "Traceback" not in output
    assert stages_run(output) == ["plan"]
    assert not list(clone.folder.glob("data/*/*"))


def test_repro_makes_every_figure_and_table(clone):
    clone.run("dvc", "repro")
    report = clone.folder / "reports/smoke-embedded"
    figures = ("figure1", "figure2", "figure3", "figure3a", "figure3e", "figure3j", "figure4", "gains", "search",
               "tuned", "study", "landscape")  # fmt: skip
    for figure in figures:
        for suffix in ("png", "pdf"):
            assert (report / f"figures/{figure}.{suffix}").stat().st_size > 5_000, figure
    page = (report / "README.md").read_text(encoding="utf-8")
    assert "handwritten digits" in page and "scale: smoke" in page and "(a) MLP, handwritten digits" in page
    results = pd.read_csv(report / "results.csv")
    rows = {"erm", "reram_v", "erm-programmed", "awp", "bayesft", "algorithm1", "random", "uniform", "drift_dropout"}
    assert set(results[results.task == "mlp-mnist"].row) == rows | {"awp-tuned"}
    assert set(results[results.task == "vgg11-cifar10"].row) == rows - {"random"} | {"erm-no-norm"}
    assert set(results[results.task == "maskrcnn-pennfudan"].row) == {"erm", "bayesft", "algorithm1"}
    assert results.accuracy.between(0, 1).all()
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "results")


def test_a_second_repro_runs_nothing(clone):
    output = clone.run("dvc", "repro")
    assert stages_run(output) == [] and "up to date" in output
    assert clone.run("git", "status", "--porcelain") == ""
    assert json.loads(clone.run("dvc", "status", "--json")) == {}
    assert "reports/smoke-embedded/metrics.json" in clone.run("dvc", "metrics", "show", "--json")


def test_hyperparameters_are_chosen_by_the_searches_of_the_tuned_rows(clone, unchanged):
    output = clone.run(sys.executable, "-m", "studies.choice")
    trials = pd.read_csv(clone.folder / "studies/choice.csv")
    report = pd.read_csv(clone.folder / "reports/smoke-embedded/searches.csv").query("search == 'awp-tuned'")
    assert list(trials.gamma) == list(report.value_1) and list(trials.objective) == list(report.objective)
    assert trials.chosen.sum() == 1 and f"{trials[trials.chosen].gamma.item():.2g}" in output


def test_a_new_sigma_max_runs_evaluation_and_render_alone(clone, unchanged):
    before = pd.read_csv(clone.folder / "reports/smoke-embedded/results.csv")
    output = clone.run("dvc", "exp", "run", "-S", "sigma_max=1.5")
    expected = {f"evaluate@{row}" for row in ROWS} | {"evaluate-ablation", "render"}
    assert set(stages_run(output)) == expected
    after = pd.read_csv(clone.folder / "reports/smoke-embedded/results.csv")
    shared = before.merge(after, on=["task", "row", "sigma"], suffixes=("", "_after"))
    assert len(shared) == len(before) < len(after)
    assert (shared.accuracy == shared.accuracy_after).all()


def test_a_misspelt_key_stops_the_next_run(clone, unchanged):
    clone.change("search.trails", 3)
    output = clone.run("dvc", "repro", ok=False)
    assert "search.trails = 3: unknown key; did you mean trials?" in output and "Traceback" not in output


def test_a_parameter_of_one_method_retrains_that_method_alone(clone, unchanged):
    clone.run("dvc", "repro")
    before = clone.models()
    output = clone.run("dvc", "exp", "run", "-S", "methods.awp.gamma=0.02")
    assert set(stages_run(output)) == {"plan", "train@awp", "evaluate@awp", "render"}
    after = clone.models()
    assert {name for name in before if after[name] != before[name]} == {n for n in before if "/awp/" in n}


def test_the_code_of_a_figure_runs_render_alone(clone, unchanged):
    clone.run("dvc", "repro")
    with open(clone.folder / "bayesft/report/figures.py", "a", encoding="utf-8") as file:
        file.write("CHANGED = True\n")
    assert set(stages_run(clone.run("dvc", "repro"))) == {"plan", "render"}


def test_a_seed_costs_that_seed_also_in_a_clone_that_has_pulled(clone, unchanged, tmp_path):
    clone.run("dvc", "repro")
    clone.run("dvc", "remote", "add", "-f", "-d", "team", str(tmp_path / "remote"))
    clone.run("dvc", "push", "-q")
    clone.run("git", "commit", "-qam", "remote")
    other = object.__new__(Clone)
    other.folder = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", str(clone.folder), str(other.folder)], check=True)
    other.run("dvc", "pull", "-q")
    assert stages_run(other.run("dvc", "repro")) == []
    assert other.models() == clone.models()
    other.change("seeds", [0, 1])
    other.run("dvc", "repro", "train@awp")
    items = {p.parent.name: p.stat().st_mtime for p in other.folder.glob("data/store/*/*/awp.safetensors")}
    assert len(items) == 2 * 2, "two tasks with two seeds; those of seed 0 came with the pull"
    assert all(other.models()[name] == content for name, content in clone.models().items() if "/awp/" in name)


def test_what_others_made_stays(clone, unchanged):
    mine = clone.folder / "data/models/mine/note.txt"
    mine.parent.mkdir()
    mine.write_text("a contributor's")
    clone.run("dvc", "exp", "run", "-S", "methods.uniform.rate.mnist=0.4")
    assert mine.read_text() == "a contributor's"
    shutil.rmtree(mine.parent)
