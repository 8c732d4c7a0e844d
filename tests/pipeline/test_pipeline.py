"""The pipeline through DVC, in a clone of its own, at the smallest scale. The tests build on one another, in order."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from tests.pipeline.clone import ROWS, Clone, stages_run

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    return Clone(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def unchanged(clone):
    """Put params.yaml and the code back afterwards."""
    yield
    clone.run("git", "checkout", "-q", ".")


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
    assert set(results[results.task == "vgg11-cifar10"].row) == rows | {"erm-no-norm"}
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


def test_a_new_sigma_max_runs_evaluation_and_render_alone(clone, unchanged):
    before = pd.read_csv(clone.folder / "reports/smoke-embedded/results.csv")
    output = clone.run("dvc", "exp", "run", "-S", "sigma_max=1.5")
    expected = {f"evaluate@{row}" for row in ROWS} | {"evaluate-ablation", "render"}
    assert set(stages_run(output)) == expected
    after = pd.read_csv(clone.folder / "reports/smoke-embedded/results.csv")
    shared = before.merge(after, on=["task", "row", "sigma"], suffixes=("", "_after"))
    assert len(shared) == len(before) < len(after)
    assert (shared.accuracy == shared.accuracy_after).all()


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
        file.write("# changed\n")
    assert set(stages_run(clone.run("dvc", "repro"))) == {"plan", "render"}


def test_a_damaged_item_of_the_store_is_named_and_made_anew(clone, unchanged):
    clone.run("dvc", "repro")
    before = clone.models()
    items = clone.folder.glob("data/store/*/*/awp.safetensors")  # those of other parameters among them
    item = next(item for item in items if item.read_bytes() in before.values())
    item.write_bytes(item.read_bytes()[:100])
    output = clone.run(sys.executable, "-m", "stages.train", "awp")
    assert item.parent.name in output and "made anew" in output
    assert clone.models() == before


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


@pytest.mark.parametrize("after_s", [4.0, 6.0])
def test_a_killed_stage_ends_with_the_same_bytes(clone, unchanged, after_s):
    clone.run("dvc", "repro")
    before = clone.models()
    shutil.rmtree(clone.folder / "data/store")
    shutil.rmtree(clone.folder / "data/models/bayesft")
    command = [sys.executable, "-m", "stages.train", "bayesft"]
    process = clone.start(*command)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    clone.run(*command)
    assert clone.models() == before


def trained_anew(clone: Clone, row: str) -> dict[str, bytes]:
    """The bytes of every network after a row's have been trained without anything to go on from."""
    shutil.rmtree(clone.folder / "data/store", ignore_errors=True)
    clone.run("dvc", "repro", "--force", "--single-item", f"train@{row}")
    return clone.models()


@pytest.mark.parametrize("after_s", [2.5, 5.0, 7.5])
def test_a_killed_pipeline_goes_on_to_the_same_bytes(clone, unchanged, after_s):
    """`kill -9` on `dvc repro` and its children, at many moments; the next `dvc repro` takes it from there."""
    clone.run("dvc", "repro")
    clone.change("methods.awp.gamma", after_s / 100)
    process = clone.start("dvc", "repro", "train@awp")
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    clone.run("git", "checkout", "-q", "dvc.lock")  # a write of it may have been cut
    clone.run("dvc", "repro", "train@awp")
    after = clone.models()
    assert trained_anew(clone, "awp") == after


def test_two_runs_at_once_end_as_one_does(clone, unchanged):
    clone.run("dvc", "repro")
    clone.change("methods.awp.gamma", 0.03)
    two = [clone.start("dvc", "repro", "train@awp") for _ in range(2)]
    assert 0 in [process.wait(timeout=300) for process in two]
    assert stages_run(clone.run("dvc", "repro", "train@awp")) == []
    after = clone.models()
    assert trained_anew(clone, "awp") == after


def test_queued_experiments_run_side_by_side(clone, unchanged):
    clone.run("dvc", "repro")
    before = clone.models()
    for gamma in ("0.02", "0.05"):
        clone.run("dvc", "exp", "run", "--queue", "-S", f"methods.awp.gamma={gamma}", "train@awp")
    clone.run("dvc", "queue", "start", "-j", "2")
    deadline = time.monotonic() + 300
    while (status := clone.run("dvc", "queue", "status")).count("Success") < 2:
        assert "Failed" not in status and time.monotonic() < deadline, status
        time.sleep(2)
    clone.run("dvc", "queue", "stop")
    assert clone.models() == before and clone.run("git", "status", "--porcelain") == ""


def test_a_lost_lock_file_costs_nothing(clone, unchanged):
    clone.run("dvc", "repro")
    (clone.folder / "dvc.lock").write_text("schema: '2.0'\n")
    clone.run("git", "checkout", "-q", "dvc.lock")
    assert stages_run(clone.run("dvc", "repro")) == []


def test_what_others_made_stays(clone, unchanged):
    mine = clone.folder / "data/models/mine/note.txt"
    mine.parent.mkdir()
    mine.write_text("a contributor's")
    clone.run("dvc", "exp", "run", "-S", "methods.uniform.rate.mnist=0.4")
    assert mine.read_text() == "a contributor's"
    shutil.rmtree(mine.parent)


def test_wrong_words_to_a_stage_are_refused(clone):
    output = clone.run(sys.executable, "-m", "stages.train", "nope", ok=False)
    assert "Planned: " in output and "train-erm" in output and "Traceback" not in output
