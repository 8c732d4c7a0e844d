"""Every task with every one of its methods, at the smallest scale: the stages as functions, in one process."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from bayesft.tasks import ABLATIONS, CLASSIFICATION, DETECTION, TASKS
from bayesft.training import Trained
from stages import (
    ablate,
    adapt,
    boundary,
    detect,
    detections,
    download,
    drift,
    evaluate,
    render,
    scenes,
    search,
    study,
    train,
    tune,
)
from stages.common import models_folder, results_file, study_file
from stages.parameters import load

PARAMS = Path(__file__).parents[2] / "params.yaml"
STAGE_OF = {
    **dict.fromkeys(("erm", "awp", "uniform"), train),
    **dict.fromkeys(("ftna", "reram_v"), adapt),
    **dict.fromkeys(("drift_aware", "drift_dropout"), drift),
    **dict.fromkeys(("bayesft", "random"), search),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with params.yaml at scale smoke, which is the working folder of this module's tests."""
    folder, before = tmp_path_factory.mktemp("every-task"), Path.cwd()
    content = yaml.safe_load(PARAMS.read_text()) | {"scale": "smoke", "threads": 1, "sigma_max": 0.6}
    content["boundary"] |= {"epochs": 2, "draws": 2}
    content["study"] |= {"seeds": [0], "jobs": 1, "options": {"batches of 2": {"batch": 2}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_a_task_runs_with_all_its_methods(workspace, task):
    p = load()
    download.main(task)
    for method in p.methods_of(task):
        if method.endswith("-tuned"):
            tune.main(task, method.removesuffix("-tuned"), 0)
        else:
            STAGE_OF[method.removesuffix("-no-norm")].main(task, method, 0)
    evaluate.main(task, 0)
    result = json.loads(results_file(task, 0).read_text())
    rows, draws = result["rows"], p.budget(task).evaluate.draws
    assert set(p.methods_of(task)) <= set(rows)
    for row in rows.values():
        accuracy = np.array(row["accuracy"])
        assert accuracy.shape == (len(result["sigmas"]), draws)
        assert ((accuracy >= 0) & (accuracy <= 1)).all()
    searched = Trained.load(models_folder(task, 0) / "bayesft/bayesft.safetensors").about
    low, high = p.search_settings(task).bounds
    assert searched["rates"] and all(low <= rate <= high for rate in searched["rates"].values())
    assert len(searched["trials"]) == p.search_settings(task).trials


@pytest.mark.parametrize("data", ABLATIONS)
def test_an_ablation_runs_with_all_its_variants(workspace, data):
    name = f"ablation-{data}"
    download.main(name)
    ablate.main(data, 0)
    evaluate.main(name, 0)
    rows = json.loads(results_file(name, 0).read_text())["rows"]
    assert set(rows) == set(ABLATIONS[data].networks(tuple(ABLATIONS[data].factors)))


def test_detection_runs_with_both_methods(workspace):
    scenes.main(DETECTION)
    for method in load().detection.methods:
        detect.main(DETECTION, method, 0)
    detections.main(DETECTION, 0)
    rows = json.loads(results_file(DETECTION, 0).read_text())["rows"]
    assert set(rows) == {"erm", "bayesft", "bayesft-alg1"}
    for row in rows.values():
        assert set(row["metrics"]) == {"box_map", "box_map_50", "mask_map", "mask_map_50"}
        assert row["accuracy"] == row["metrics"]["box_map_50"]
        assert ((np.array(row["accuracy"]) >= 0) & (np.array(row["accuracy"]) <= 1)).all()


def test_the_study_has_every_search_at_each_of_its_lengths(workspace):
    study.main("mlp-mnist", 0)
    p = load()
    found = json.loads(study_file("mlp-mnist", 0).read_text())
    assert found["sigmas"][-1] == p.study.sigma_max
    settings = {name: of for name, (_, of) in p.study_settings("mlp-mnist").items()}
    settings |= dict.fromkeys(study.UNSEARCHED)
    assert list(found["runs"]) == list(settings)
    for name, points in found["runs"].items():
        assert [point["trials"] for point in points] == list(p.study.lengths(name, settings[name]))
        epochs = settings[name].epochs if settings[name] else 0
        assert [point["epochs_search"] for point in points] == [epochs * point["trials"] for point in points]
        assert all(len(point["accuracy"]) == len(found["sigmas"]) for point in points)
    assert len(found["runs"]["GP"]) > len(found["runs"]["grid"]) == 1
    for values in ("objective", "whole_objective", "accuracy"):
        assert len(found["landscape"][values]) == p.study.landscape
    space, trials = found["landscape"], p.search_settings("mlp-mnist").trials
    assert len(space["rates"]) == p.study.landscape
    assert space["rates"] == sorted(space["rates"]) and space["rates"][0] > 0 and space["rates"][-1] < 0.8
    for kind in ("equal_trials", "random_trials"):
        assert len(space[kind]["objective"]) == len(space[kind]["standard_error"]) == trials


def test_the_report_of_all_of_them(workspace):
    boundary.main()
    render.main()
    figures = workspace / "reports/smoke/figures"
    for name in [
        "figure1",
        "figure2",
        "figure3",
        "figure4",
        "search",
        "tuned",
        "study",
        "landscape",
        *(f"figure3{task.panel}" for task in TASKS.values()),
    ]:
        assert (figures / f"{name}.png").stat().st_size > 5_000, name
    page = (workspace / "reports/smoke/README.md").read_text()
    assert all(task.title in page for task in TASKS.values())
