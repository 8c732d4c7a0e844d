"""The stage `render`: it writes what the plan names, or says what is missing, and leaves alone what others made."""

import json

import pytest
import torch

from bayesft.evaluation.boundary import Boundaries
from bayesft.files import write_json
from stages import render

DATA = {"name": "digits", "source": "embedded", "classes": 10,
        "images_used": {"train": 9, "validation": 3, "test": 5}}  # fmt: skip
ROWS = {name: {"method": name, "network": {}, "tuned": False} for name in ("erm", "uniform")}
TIMED = "stage,item,seconds\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with the results of two rows on one task, and of one that the plan does not name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(render, "offline_page", lambda *arguments: "")
    for name in ("figure_3", "figure_gains"):
        monkeypatch.setattr(render.figures, name, lambda *arguments: "")  # drawn elsewhere, and slow
    plan = {
        "scale": "smoke", "source": "embedded", "report": "smoke-embedded", "rows": ROWS, "ablation": {}, "factors": [],
        "study": {"tasks": []},
        "tasks": {"mlp-mnist": {"rows": list(ROWS), "seeds": [0, 1]}}, "parameters": {"seeds": [0, 1]}, "budgets": {},
        "code": "0123456789abcdef", "ftt": {"networks": []},
    }  # fmt: skip
    machine = {"device": "cpu", "kernels": "native", "threads": 1, "versions": {"torch": "2"}}
    write_json(tmp_path / "data/plan/render.json", {"items": [plan], "machine": machine})
    (tmp_path / "params.yaml").write_text("sigma_max: 0.6\n")
    for row in (*ROWS, "left-over"):
        for seed in (0, 1):
            entry = {"accuracy": [[0.9, 0.9], [0.5 + seed / 10, 0.6]], "about": {"epochs": 1}}
            content = {"task": "mlp-mnist", "seed": seed, "sigmas": [0.0, 0.6], "data": DATA, "device": "cpu",
                       "rows": {row: entry}}  # fmt: skip
            write_json(tmp_path / f"data/results/{row}/mlp-mnist-{seed}.json", content)
    axis, labels = torch.linspace(-1, 1, 12), torch.tensor([0, 1])
    maps = axis.sigmoid().expand(1, 2, 12, 12).contiguous()
    Boundaries(maps, axis, axis, torch.zeros(1), torch.ones(1, 2), torch.eye(2), labels).save(
        tmp_path / "data/boundary.safetensors"
    )
    return tmp_path


def test_what_the_plan_names_is_rendered_and_nothing_is_removed(run):
    before = sorted(path for path in (run / "data").rglob("*"))
    render.main()
    assert sorted(path for path in (run / "data").rglob("*")) == before
    report = run / "reports/smoke-embedded"
    assert "| uniform dropout |" in (report / "details.md").read_text(encoding="utf-8")
    for name in ("README.md", "results.csv", "accuracies.csv", "metrics.json"):
        assert "left-over" not in (report / name).read_text(encoding="utf-8")
    said = json.loads((report / "provenance.json").read_text(encoding="utf-8"))
    assert said["code"] == "0123456789abcdef" and said["seeds"] == {"mlp-mnist": [0, 1]}
    assert said["machine"]["threads"] == 1 and said["machine"]["processor"]
    assert said["parameters"] == {"seeds": [0, 1], "sigma_max": 0.6} and said["versions"]["torch"] == "2"


def test_a_missing_result_is_an_error_that_names_it(run):
    (run / "data/results/uniform/mlp-mnist-1.json").unlink()
    with pytest.raises(ValueError, match="data/results/uniform/mlp-mnist-1.json is missing"):
        render.main()
    assert not (run / "reports").exists()


@pytest.mark.parametrize("change", [{"sigmas": [0.0, 1.2]}, {"data": {**DATA, "source": "official"}}])
def test_results_of_another_run_are_refused(run, change):
    file = run / "data/results/uniform/mlp-mnist-0.json"
    write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **change})
    with pytest.raises(ValueError, match=f"mlp-mnist differ in {next(iter(change))}"):
        render.main()


def test_a_partial_run_does_not_replace_the_times_of_a_whole_one(run):
    times = run / "reports/smoke-embedded/timings.csv"
    write_json(run / "data/timings/train-erm.json", {"erm seed 0": ["x", 1.5], "erm seed 1": ["y", 2.0]})
    render.main()
    whole = TIMED + "train-erm,erm seed 0,1.5\ntrain-erm,erm seed 1,2.0\n"
    assert times.read_text(encoding="utf-8") == whole
    write_json(run / "data/timings/train-erm.json", {"erm seed 0": ["x", 9.0]})
    render.main()
    assert times.read_text(encoding="utf-8") == whole
