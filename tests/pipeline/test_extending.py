"""docs/extending.md, followed word by word in a scratch clone: a method, a task and a fault model of one's own."""

import re

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.pipeline.clone import ROOT, Clone

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(3000)]  # a busy machine takes its time
OFF = {"tasks": ["mlp-mnist"], "ablation": {"data": [], "factors": ["dropout"]}, "study": "none"}


def follow(clone: Clone) -> None:
    """Do what the page says with each of its blocks, whose first line names the place."""
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    for language, block in re.findall(r"```(python|yaml)\n(.*?)```", page, re.DOTALL):
        if language == "yaml":
            for key, value in YAML(typ="safe").load(block).items():
                old = clone.parameters()[key]
                clone.change(key, {**old, **value} if key == "methods" else value)
            continue
        place, code = block.removeprefix("# ").split("\n", 1)
        if place.startswith("bayesft/"):
            file = clone.folder / place
            assert not file.exists()
            file.write_text(code, encoding="utf-8")
            continue
        into, _, name = place.partition(" of ")
        file = clone.folder / name
        text = file.read_text(encoding="utf-8")
        if into == "the head":
            after = next(re.finditer(r"^from bayesft", text, re.MULTILINE)).start()
        else:
            after = next(re.finditer(rf"^{into}\b.*{{\n", text, re.MULTILINE)).end()
        file.write_text(text[:after] + code + text[after:], encoding="utf-8")


def test_the_pages_method_task_and_fault_model_run(tmp_path):
    clone = Clone(tmp_path, ("erm", "ftna", "uniform"), OFF)
    follow(clone)
    clone.run("dvc", "repro")
    results = pd.read_csv(clone.folder / "reports/smoke-embedded/results.csv")
    assert set(results[results.task == "mlp-mnist"].row) == {"erm", "ftna", "uniform", "smoothing", "smoothing-tuned"}
    assert set(results[results.task == "wide-mnist"].row) == {"erm", "ftna", "uniform", "smoothing"}
    page = (clone.folder / "reports/smoke-embedded/details.md").read_text(encoding="utf-8")
    assert "label smoothing" in page and "wide MLP, handwritten digits" in page
    assert (clone.folder / "reports/smoke-embedded/figures/figure3k.png").stat().st_size > 5_000
    output = clone.run("dvc", "exp", "run", "-S", "drift.settings.largest_only=3", ok=False)
    assert "largest_only" in output and "Traceback" not in output


@pytest.mark.slow
def test_a_ray_cluster_trains_the_same_networks(tmp_path):
    pytest.importorskip("ray")
    clone = Clone(tmp_path, ("erm", "uniform"), OFF)
    clone.run("dvc", "repro", "train@erm", "train@uniform")
    before = clone.models()
    clone.change("parallel", {"backend": "ray", "jobs": 2})
    for row in ("erm", "uniform"):
        clone.run("rm", "-rf", "data/store", f"data/models/{row}")
        clone.run("dvc", "repro", "--force", "--single-item", f"train@{row}")
    assert before and clone.models() == before
