"""What runs again: the plan's fingerprints change for what a change decides, and for nothing else."""

import json
import os
import runpy
import shutil
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def make_plan(folder: Path) -> None:
    """Run the stage `plan` of the copy in `folder`, in this forked process, which has torch already."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv, sys.dont_write_bytecode = ["plan"], True
    for name in [name for name in sys.modules if name.split(".")[0] in ("bayesft", "stages")]:
        del sys.modules[name]
    runpy.run_module("stages.plan", run_name="__main__")


class Copy:
    """A copy of the code and params.yaml, in which files can be edited."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("bayesft", "stages"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("params.yaml", "scales.yaml"):
            shutil.copy(ROOT / name, folder)
        self.before = self.plan()

    def plan(self) -> dict[str, str]:
        """The fingerprints, by stage."""
        process = get_context("fork").Process(target=make_plan, args=(self.folder,))
        process.start()
        process.join()
        assert process.exitcode == 0
        content = json.loads((self.folder / "data/plan.json").read_text())
        return {f"{stage}.{of}": found for stage, part in content.items() for of, found in part.items()}

    def changed(self, file: str, old: str, new: str) -> set[str]:
        """The stages whose fingerprint an edit changes. The edit is undone."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        try:
            after = self.plan()
        finally:
            path.write_text(text, encoding="utf-8")
        return {name for name in self.before if after[name] != self.before[name]}


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Copy:
    return Copy(tmp_path_factory.mktemp("plan"))


def kinds(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_kernels_decide_everything(copy):
    assert copy.changed("params.yaml", "kernels: avx2 ", "kernels: native ") == set(copy.before)


def test_threads_decide_everything(copy):
    assert copy.changed("params.yaml", "threads: 1 ", "threads: 2 ") == set(copy.before)


def test_a_hyperparameter_of_a_method_decides_its_training(copy):
    changed = copy.changed("params.yaml", "awp: {gamma: {mnist: 0.01,", "awp: {gamma: {mnist: 0.02,")
    assert changed == {"train.awp", "render.all"}


def test_the_resolver_of_recipes_decides_what_trains(copy):
    edit = "return Recipe(**{**self.recipe.model_dump(), **length})"
    changed = copy.changed("stages/parameters.py", edit, edit.replace("**length}", "**length, 'weight_decay': 0.5}"))
    assert kinds(changed) == {"train", "ablate", "study"}
    assert {name for name in copy.before if name.startswith("train.")} <= changed


def test_the_resolver_of_searches_decides_what_searches(copy):
    edit = "return SearchSettings.model_validate(rule, strict=True)"
    changed = copy.changed("stages/parameters.py", edit, edit.replace("rule,", "{**rule, 'top': 2},"))
    assert {"train.bayesft", "train.random", "train.awp-tuned", "study.all"} <= changed
    assert not changed & {"train.erm", "train.ftna", "train.awp"} and "evaluate" not in kinds(changed)


def test_the_resolver_of_a_methods_settings_decides_its_training(copy):
    edit = "return load_method(row.method).Settings.model_validate(settings, strict=True).model_dump()"
    changed = copy.changed("stages/parameters.py", edit, edit + ' | ({"rounds": 1} if row.method == "reram_v" else {})')
    assert changed == {"train.reram_v"}


def test_the_code_of_a_method_of_the_study_decides_the_study(copy):
    method = "  gp: {title: GP, search: {epochs: 4}}", "  gp: {title: GP, method: awp, search: {epochs: 4}}"
    params = (copy.folder / "params.yaml").read_text(encoding="utf-8")
    (copy.folder / "params.yaml").write_text(params.replace(*method, 1), encoding="utf-8")
    before, copy.before = copy.before, copy.plan()
    assert before != copy.before
    try:
        assert "study.all" in copy.changed("bayesft/methods/awp.py", "\n\n\n", "\n\n\nCHANGED = True\n")
    finally:
        copy.before = before
        (copy.folder / "params.yaml").write_text(params, encoding="utf-8")


def test_the_lengths_of_the_study_decide_the_study(copy):
    assert copy.changed("stages/plan.py", "for part in (1, 2, 3)", "for part in (2, 3)") == {"study.all"}


def test_the_code_of_a_figure_decides_the_report(copy):
    assert copy.changed("bayesft/report/figures.py", "\n\n\n", "\n\n\nCHANGED = True\n") == {"render.all"}


def test_the_code_of_a_method_decides_its_rows(copy):
    changed = copy.changed("bayesft/methods/awp.py", "\n\n\n", "\n\n\nCHANGED = True\n")
    assert changed == {"train.awp", "train.awp-tuned", "render.all"}


def test_comments_docstrings_and_empty_lines_decide_nothing(copy):
    assert copy.changed("stages/common.py", '"""', '# Changed.\n\n"""Changed. ') == set()


def test_the_fault_model_decides_what_drifts(copy):
    changed = copy.changed("bayesft/drift/faults/lognormal.py", "\n\n\n", "\n\n\nCHANGED = True\n")
    assert kinds(changed) >= {"boundary", "train", "evaluate", "study"}


def test_calibration_decides_what_is_evaluated_and_trains_nothing(copy):
    changed = copy.changed("params.yaml", "  images: 128 ", "  images: 64 ")
    rows = {name for name in copy.before if name.startswith("evaluate.")} - {"evaluate.ablation"}
    assert changed == rows | {"render.all"}
    assert copy.changed("params.yaml", "  methods: all ", "  methods: [erm] ") >= {"evaluate.awp", "render.all"}


def test_what_decides_no_result_is_in_no_plan(copy):
    assert copy.changed("params.yaml", "sigma_max: 1.2 ", "sigma_max: 1.5 ") == set()
    assert copy.changed("params.yaml", "{backend: fork, jobs: 0}", "{backend: loky, jobs: 3}") == set()


def test_the_device_decides_everything(copy):
    assert copy.changed("params.yaml", "device: auto ", "device: cuda ") == set(copy.before)


def test_seeds_decide_what_is_trained_and_measured_and_neither_the_data_nor_the_study(copy):
    rows = {name for name in copy.before if kinds({name}) <= {"train", "evaluate", "ablate", "render"}}
    assert copy.changed("params.yaml", "seeds: [0] ", "seeds: [0, 7] ") == rows
    edit = "return tuple(sorted({*self.seeds,"
    assert copy.changed("stages/parameters.py", edit, edit.replace("{*", "{9, *")) == rows


def test_the_resolver_of_networks_decides_what_trains(copy):
    edit = "**self.budget(task).network, **network}"
    changed = copy.changed("stages/parameters.py", edit, edit + ' | ({"width": 0.5} if "mnist" in task else {})')
    assert kinds(changed) == {"train", "study"}


def test_the_resolver_of_budgets_decides_what_has_them(copy):
    edit = "return Budget.model_validate(merged, strict=True)"
    grid = 'b.evaluate.model_copy(update={"draws": 20})'
    more = "(b := " + edit.removeprefix("return ") + ').model_copy(update={"evaluate": ' + grid + "})"
    assert kinds(copy.changed("stages/parameters.py", edit, f"return {more}")) == {"evaluate", "study", "render"}


def test_the_resolver_of_the_studys_searches_decides_the_study(copy):
    edit = "return of.method, self.search_settings(task, of.search)"
    changed = copy.changed("stages/parameters.py", edit, edit.replace("of.search)", "of.search, {'draws': 3})"))
    assert changed == {"study.all"}


def test_the_resolver_of_a_rows_search_decides_the_rows_that_search(copy):
    edit = "return self.search_settings(task, own or {}, row.search or {})"
    changed = copy.changed("stages/parameters.py", edit, edit.replace("or {})", "or {}, {'draws': 3})"))
    assert {"train.bayesft", "train.algorithm1", "train.awp-tuned"} <= changed and kinds(changed) == {"train"}
    assert not changed & {"train.erm", "train.awp", "train.uniform", "train.reram_v"}
