"""Every task with every one of its rows, at the smallest scale: the stages as functions, in a folder of their own."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bayesft.tasks import ABLATIONS, CLASSIFICATION, DETECTION, TASKS
from bayesft.training import Trained
from stages import ablate, boundary, download, evaluate, plan, study, train
from stages.parameters import Parameters, load, read_all
from tests.parameters import write_parameters

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Iterator[Parameters]:
    """A folder with the project's code and params.yaml at scale smoke, in which all stages but render have run."""
    folder, before = tmp_path_factory.mktemp("every-task"), Path.cwd()
    for name in ("bayesft", "stages"):
        (folder / name).symlink_to(ROOT / name)
    content = read_all(ROOT / "params.yaml")
    content |= {"scale": "smoke", "sigma_max": 0.6, "more_seeds": {"mnist": [1]}, "study": "full"}
    content["boundary"] |= {"epochs": 2, "draws": 2}
    content["scales"]["smoke"]["all"]["search"] |= {"trials": 2, "initial": 1}
    content["studies"] |= {"seeds": [0], "landscape": 3}
    for of in content["studies"]["strategies"].values():
        of["search"] = {key: value for key, value in of["search"].items() if key not in ("trials", "epochs")}
    write_parameters(folder, content)
    os.chdir(folder)
    try:
        plan.main()
        download.main()
        boundary.main()
        for row in load().methods:
            Path("data/models", row).mkdir(parents=True)
            train.main(row)
            evaluate.main(row)
        ablate.main()
        evaluate.main("ablation")
        study.main()
        yield load()
    finally:
        os.chdir(before)


def results(row: str, task: str, seed: int = 0) -> dict:
    return json.loads(Path(f"data/results/{row}/{task}-{seed}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_a_task_has_results_of_all_its_rows(workspace, task):
    draws = workspace.budget(task).evaluate.draws
    shown = {path.parent.name for path in Path("data/results").glob(f"*/{task}-0.json")}
    assert shown == set(workspace.rows_of(task))
    for row in workspace.rows_of(task):
        for seed in workspace.seeds_of(task):
            found = results(row, task, seed)
            assert found["sigmas"][0] == 0 and found["sigmas"][-1] == 0.6
            for measured in found["rows"].values():
                accuracy = np.array(measured["accuracy"])
                assert accuracy.shape == (len(found["sigmas"]), draws)
                assert ((accuracy >= 0) & (accuracy <= 1)).all()


@pytest.mark.parametrize("task", TASKS)
def test_every_row_has_its_calibrated_copies(workspace, task):
    for row in workspace.rows_of(task):
        found = results(row, task)
        calibrated, (plain, *_) = found["calibrated"], [found["rows"][row]]
        assert calibrated["images"] == min(128, found["data"]["images_used"]["train"])
        draws = workspace.calibrated(task, row)["draws"]
        assert np.array(calibrated["accuracy"]).shape == (len(calibrated["sigmas"]), draws)
        assert set(calibrated["sigmas"]) <= set(found["sigmas"])
        assert calibrated["accuracy"][0][0] == pytest.approx(plain["accuracy"][0][0], abs=0.05)
        asked = row in workspace.calibration.details.methods and task in workspace.calibration.details.tasks
        assert set(calibrated.get("details", ())) == (set() if not asked else {"images", "layers", "calibrated_at"})


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_a_searched_row_says_what_was_tried(workspace, task):
    for row in set(workspace.rows_of(task)) & {"bayesft", "random", "algorithm1"}:
        about = Trained.load(Path(f"data/models/{row}/{task}-0/{row}.safetensors")).about
        low, high = workspace.row_search(task, workspace.row(row)).bounds
        assert about["rates"] and all(low <= rate <= high for rate in about["rates"].values())
        assert len(about["trials"]) == 2


def test_every_search_is_in_the_store_once(workspace):
    p = workspace
    searches = [
        (task, row, seed)
        for task in TASKS
        for row in p.rows_of(task)
        if p.row_search(task, p.row(row))
        for seed in p.seeds_of(task)
    ]
    assert len(list(Path("data/store").glob("*/*/log.json"))) == len(searches) > 20


@pytest.mark.parametrize("data", ABLATIONS)
def test_an_ablation_has_all_its_variants(workspace, data):
    rows = results("ablation", f"ablation-{data}")["rows"]
    assert set(rows) == set(ABLATIONS[data].networks(tuple(ABLATIONS[data].factors)))


def test_detection_has_all_metrics_of_all_its_rows(workspace):
    rows = workspace.rows_of(DETECTION)
    assert set(rows) == {"erm", "algorithm1", "bayesft"}
    for row in rows:
        (measured,) = results(row, DETECTION)["rows"].values()
        assert set(measured["metrics"]) == {"box_map", "box_map_50", "mask_map", "mask_map_50"}
        assert measured["accuracy"] == measured["metrics"]["box_map_50"]
        assert ((np.array(measured["accuracy"]) >= 0) & (np.array(measured["accuracy"]) <= 1)).all()


def test_the_study_has_every_search_at_each_of_its_lengths(workspace):
    studies, task = workspace.studies, workspace.studies.tasks[0]
    for name in workspace.study_names():
        method, settings = workspace.study_search(task, name)
        found = json.loads(Path(f"data/results/study/{task}-0-{name}.json").read_text(encoding="utf-8"))["points"]
        lengths = plan.lengths(name in studies.strategies, settings)
        assert [point["trials"] for point in found] == lengths, name
        if not settings.stop_early:
            assert [point["epochs_search"] for point in found] == [settings.epochs * n for n in lengths], name
    space = json.loads(Path(f"data/results/study/{task}-0-landscape.json").read_text(encoding="utf-8"))
    assert space["rates"] == sorted(space["rates"]) and 0 < space["rates"][0] < space["rates"][-1] < 0.8
    assert len(space["rates"]) == len(space["whole_objective"]) == len(space["accuracy"]) == 3
    for kind in ("equal_trials", "random_trials"):
        assert len(space[kind]["objective"]) == len(space[kind]["standard_error"]) == 2
