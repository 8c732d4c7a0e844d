"""What imports what: one direction in the library, and every stage depends on the list of the code that it runs."""

from pathlib import Path

import pytest
import yaml

from stages import code

ROOT = Path(__file__).parents[2]
# A package may import from its own layer and from those before it.
LAYERS = [
    "files",
    "seeds",
    "settings",
    "tasks",
    "modes",
    "memory_format",
    "drift",
    "data",
    "models",
    "calibration",
    "training",
    "search",
    "evaluation",
    "harden",
    "report",
]
INDEPENDENT = {"drift", "data", "models", "files", "seeds", "settings", "tasks", "modes", "memory_format"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def declared() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("path", sorted((ROOT / "bayesft").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    def layer(file: str) -> str:
        return file.removeprefix("bayesft/").split("/")[0].removesuffix(".py")

    own = layer(path.relative_to(ROOT).as_posix())
    if own == "__init__":
        return
    for file in code.direct_imports(path.relative_to(ROOT)) - {"bayesft/__init__.py"}:
        assert file.startswith("bayesft/"), f"the library imports {file}"
        other = layer(file)
        assert LAYERS.index(other) <= LAYERS.index(own), f"{path} imports {file}"
        if own in INDEPENDENT and other in {"drift", "data", "models"}:
            assert other == own, f"{path} imports {file}"


@pytest.mark.parametrize("name", sorted(set(declared()) - {"check", "code"}))
def test_a_stage_depends_on_the_list_of_the_code_that_it_runs(name):
    stage = declared()[name]
    module = stage["cmd"].split()[2].removeprefix("stages.")
    lists = [dep for dep in stage["deps"] if dep.startswith("data/code/")]
    method = "-${item.method}" if module in code.METHODS else ""
    assert lists == [f"data/code/{module}{method}.txt"]


def test_every_list_is_an_output_of_the_stage_that_writes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "write_text", lambda path, text: written.update({path.as_posix(): text}))
    written: dict[str, str] = {}
    code.main()
    assert sorted(written) == sorted(declared()["code"]["outs"])
    assert all(len(line.split("  ")[0]) == 64 for text in written.values() for line in text.splitlines())


def files_of(stage: str, *more: str) -> set[str]:
    return code.imported_by([Path(f"stages/{stage}.py"), *map(Path, more)])


def test_a_list_holds_what_is_imported_on_the_way_and_no_plumbing():
    found = files_of("search")
    assert {"stages/search.py", "stages/problem.py", "bayesft/search/surrogate.py", "bayesft/drift/faults.py"} <= found
    assert not found & code.PLUMBING
    assert not any(file.startswith(("bayesft/report/", "bayesft/evaluation/")) for file in found)


def test_what_only_plumbing_passes_on_is_in_every_list():
    for stage in code.PLAIN:
        assert {"bayesft/tasks.py", "bayesft/settings.py"} <= files_of(stage), stage


def test_the_checksums_beside_the_code_are_in_its_list():
    assert "bayesft/data/pennfudan.sha256" in files_of("scenes")


def test_training_without_drift_does_not_depend_on_the_drift_model():
    for stage, methods in (("download", [""]), ("ablate", [""]), ("train", code.METHODS["train"]), ("adapt", ["ftna"])):
        for method in methods:
            found = files_of(stage, *([f"bayesft/training/{method}.py"] if method else []))
            assert not any(file.startswith("bayesft/drift/") for file in found), (stage, method)


def test_a_method_does_not_depend_on_the_code_of_another():
    found = files_of("train", "bayesft/training/awp.py")
    assert "bayesft/training/awp.py" in found
    assert not found & {f"bayesft/training/{m}.py" for m in ("uniform", "ftna", "reram_v", "drift_aware", "erm")}


def test_only_evaluation_and_render_read_sigma_max():
    readers = {name for name, stage in declared().items() if "sigma_max" in stage.get("params", [])}
    assert {name.split("-")[0] for name in readers} == {"evaluate", "render"}


def test_relative_imports_are_refused(tmp_path):
    (tmp_path / "module.py").write_text("from . import other\n")
    with pytest.raises(ValueError, match="relative import"):
        code.direct_imports(tmp_path / "module.py")


def test_nothing_reads_or_writes_pickles():
    for path in [*(ROOT / "bayesft").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        text = path.read_text()
        for forbidden in ("import pickle", "torch.load(", "torch.save(", "joblib.load(", "allow_pickle=True"):
            assert forbidden not in text, f"{path}: {forbidden}"
