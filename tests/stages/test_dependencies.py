"""What imports what: one direction in the library, and every stage declares the code that it runs."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# A package may import from its own layer and from those before it.
LAYERS = [
    "files",
    "seeds",
    "settings",
    "tasks",
    "drift",
    "data",
    "models",
    "training",
    "search",
    "evaluation",
    "report",
]
INDEPENDENT = {"drift", "data", "models", "files", "seeds", "settings", "tasks"}
# Plumbing that decides no result: what it passes on is tracked as parameters.
PLUMBING = {
    "stages/__init__.py",
    "stages/common.py",
    "stages/parameters.py",
    "bayesft/__init__.py",
    "bayesft/settings.py",
}
METHODS_OF = {"train": ["erm", "awp", "uniform"], "adapt": ["ftna", "reram_v"], "drift": ["drift_aware"]}


def imported(path: Path) -> set[str]:
    """The files of this project that a file imports, the packages on the way among them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = set()
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            base = ROOT.joinpath(*parts[:end])
            files |= {
                p.relative_to(ROOT).as_posix() for p in (base / "__init__.py", base.with_suffix(".py")) if p.exists()
            }
    return files


def walk(start: set[str]) -> set[str]:
    """Everything that is imported, directly or not, the plumbing and what only it imports aside."""
    seen, todo = set(), set(start)
    while todo:
        file = todo.pop()
        seen.add(file)
        todo |= imported(ROOT / file) - seen - PLUMBING
    return seen


@pytest.mark.parametrize("path", sorted((ROOT / "bayesft").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    def layer(file: str) -> str:
        return file.removeprefix("bayesft/").split("/")[0].removesuffix(".py")

    own = layer(path.relative_to(ROOT).as_posix())
    if own == "__init__":
        return
    for file in imported(path) - {"bayesft/__init__.py"}:
        assert file.startswith("bayesft/"), f"the library imports {file}"
        other = layer(file)
        assert LAYERS.index(other) <= LAYERS.index(own), f"{path} imports {file}"
        if own in INDEPENDENT and other in {"drift", "data", "models"}:
            assert other == own, f"{path} imports {file}"


def stages() -> list[tuple[str, str, dict]]:
    """Each stage, with each of the methods that its `${item.method}` stands for."""
    entries = []
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        entries += [(f"{name}@{method}", method, stage) for method in METHODS_OF.get(name, [""])]
    return entries


@pytest.mark.parametrize(("name", "method", "stage"), stages(), ids=[name for name, *_ in stages()])
def test_a_stage_depends_on_the_code_that_it_imports(name, method, stage):
    module = stage["cmd"].split()[2]
    entry = {module.replace(".", "/") + ".py"}
    if method:
        entry.add(f"bayesft/training/{method}.py")
    declared = [dep.replace("${item.method}", method) for dep in stage.get("deps", [])]
    for file in walk(entry):
        covered = any(file == dep or file.startswith(dep + "/") for dep in declared)
        assert covered, f"{name} runs {file} but does not depend on it"


def test_training_without_drift_does_not_depend_on_the_drift_model():
    stages_ = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in ("download", "ablate", "train", "adapt"):
        assert not any("drift" in dep for dep in stages_[name]["deps"]), name


def test_only_evaluation_and_render_read_sigma_max():
    stages_ = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    readers = {name for name, stage in stages_.items() if "sigma_max" in stage.get("params", [])}
    assert {name.split("-")[0] for name in readers} == {"evaluate", "render"}


def test_no_figure_code_is_a_dependency_of_anything_but_render():
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        if name != "render":
            assert not {"bayesft", "bayesft/report", "stages"} & set(stage["deps"]), name


def test_nothing_reads_or_writes_pickles():
    for path in [*(ROOT / "bayesft").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        text = path.read_text()
        for forbidden in ("import pickle", "torch.load(", "torch.save(", "joblib.load(", "allow_pickle=True"):
            assert forbidden not in text, f"{path}: {forbidden}"
