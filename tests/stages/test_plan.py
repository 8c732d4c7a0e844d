"""What runs again: the plan's fingerprints change for what a change decides, and for nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class Copy:
    """A copy of the code and params.yaml, in which files can be edited."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("bayesft", "stages"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "params.yaml", folder)
        self.before = self.plan()

    def plan(self) -> dict[str, str]:
        """The fingerprints, by stage."""
        command = [sys.executable, "-m", "stages.plan"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        content = json.loads((self.folder / "data/plan.json").read_text())
        return {f"{stage}.{of}": found for stage, part in content.items() for of, found in part.items()}

    def changed(self, file: str, old: str, new: str) -> set[str]:
        """The stages whose fingerprint an edit changes. The edit is undone."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        after = self.plan()
        path.write_text(text, encoding="utf-8")
        return {name for name in self.before if after[name] != self.before[name]}


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Copy:
    return Copy(tmp_path_factory.mktemp("plan"))


def kinds(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_threads_decide_everything(copy):
    assert copy.changed("params.yaml", "threads: 1 ", "threads: 2 ") == set(copy.before)


def test_a_hyperparameter_of_a_method_decides_its_training(copy):
    changed = copy.changed("params.yaml", "awp: {gamma: 0.01}", "awp: {gamma: 0.02}")
    assert changed == {"train.awp", "render.all"}


def test_the_resolver_of_recipes_decides_what_trains(copy):
    edit = "return Recipe(**{**self.recipe.model_dump(), **length})"
    changed = copy.changed("stages/parameters.py", edit, edit.replace("**length}", "**length, 'weight_decay': 0.5}"))
    assert kinds(changed) == {"train", "ablate", "study"}
    assert {name for name in copy.before if name.startswith("train.")} <= changed


def test_the_resolver_of_searches_decides_what_searches(copy):
    changed = copy.changed("stages/parameters.py", "return SearchSettings(**rule)", "return SearchSettings(**{**rule, 'top': 2})")
    assert {"train.bayesft", "train.random", "train.awp-tuned", "study.all"} <= changed
    assert not changed & {"train.erm", "train.ftna", "train.awp"} and "evaluate" not in kinds(changed)


def test_the_resolver_of_a_methods_settings_decides_its_training(copy):
    edit = "return load_method(row.method).Settings(**settings).model_dump()"
    changed = copy.changed("stages/parameters.py", edit, edit + ' | ({"rounds": 1} if row.method == "reram_v" else {})')
    assert changed == {"train.reram_v"}


def test_the_lengths_of_the_study_decide_the_study(copy):
    assert copy.changed("stages/plan.py", "for part in (1, 2, 3)", "for part in (2, 3)") == {"study.all"}


def test_the_code_of_a_figure_decides_the_report(copy):
    assert copy.changed("bayesft/report/figures.py", '"""', '"""Changed. ') == {"render.all"}


def test_the_code_of_a_method_decides_its_rows(copy):
    changed = copy.changed("bayesft/methods/awp.py", '"""', '"""Changed. ')
    assert changed == {"train.awp", "train.awp-tuned", "render.all"}


def test_the_fault_model_decides_what_drifts(copy):
    changed = copy.changed("bayesft/drift/faults/lognormal.py", '"""', '"""Changed. ')
    assert kinds(changed) >= {"boundary", "train", "evaluate", "study"}
