"""What imports what: one direction in the library, and every stage depends on the list of the code that it runs."""

from pathlib import Path

import pytest
import yaml

from stages import code

ROOT = Path(__file__).parents[2]
# A package may import from its own layer and from those before it.
LAYERS = [
    "files",
    "tensors",
    "seeds",
    "settings",
    "tasks",
    "modes",
    "memory_format",
    "drift",
    "data",
    "models",
    "fault_tolerance",
    "calibration",
    "training",
    "store",
    "methods",
    "search",
    "evaluation",
    "hardening",
    "command",
    "report",
]
INDEPENDENT = {"drift", "data", "files", "tensors", "seeds", "settings", "tasks", "modes", "memory_format"}


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
    if own in ("__init__", "__main__"):
        return
    for file in code.direct_imports(path.relative_to(ROOT)) - {"bayesft/__init__.py"}:
        assert file.startswith("bayesft/"), f"the library imports {file}"
        other = layer(file)
        assert LAYERS.index(other) <= LAYERS.index(own), f"{path} imports {file}"
        if own in INDEPENDENT and other in {"drift", "data", "models"}:
            assert other == own, f"{path} imports {file}"


def test_every_stage_but_the_plan_depends_on_its_fingerprint_in_the_plan():
    for name, stage in declared().items():
        stage = stage.get("do", stage)
        planned = [entry for entry in stage["params"] if isinstance(entry, dict) and "data/plan.json" in entry]
        assert len(planned) == (name != "plan"), name
    assert declared()["train"]["do"]["params"] == [{"data/plan.json": ["train.${key}"]}]


def test_the_code_of_a_stage_is_what_it_imports_on_the_way():
    found = code.code_of(["stages/train.py", "bayesft/methods/awp.py"])
    assert {"stages/train.py", "stages/common.py", "bayesft/search/surrogate.py", "bayesft/methods/awp.py"} <= set(
        found
    )
    assert not any(file.startswith("bayesft/report/") for file in found)
    assert all(len(checksum) == 64 for checksum in found.values())
    assert "stages/parameters.py" not in found, "what it resolves is in the plan"


def test_the_checksums_beside_the_code_are_part_of_it():
    assert "bayesft/data/pennfudan.sha256" in code.code_of(["stages/download.py"])


def test_an_evaluation_does_not_depend_on_the_code_of_the_search():
    for start in ("stages/evaluate.py", "stages/ablate.py", "stages/ftt_evaluate.py"):
        found = code.code_of([start])
        assert not any(file.startswith("bayesft/search/") for file in found), start


def test_a_method_does_not_depend_on_the_code_of_another():
    found = code.code_of(["stages/train.py", "bayesft/methods/awp.py"])
    others = {file for file in found if file.startswith("bayesft/methods/")} - {"bayesft/methods/awp.py"}
    assert others == {"bayesft/methods/__init__.py", "bayesft/methods/method.py"}


def test_only_evaluation_and_render_read_sigma_max():
    readers = {name for name, stage in declared().items() if "sigma_max" in stage.get("do", stage)["params"]}
    assert {name.split("-")[0] for name in readers} == {"evaluate", "render"}


def test_imports_for_the_type_checker_alone_decide_nothing(tmp_path):
    text = "if TYPE_CHECKING:\n    import bayesft.command\nelse:\n    import bayesft.files\nimport bayesft.seeds\n"
    (tmp_path / "module.py").write_text(text)
    found = code.direct_imports(tmp_path / "module.py")
    assert found == {"bayesft/__init__.py", "bayesft/files.py", "bayesft/seeds.py"}
    stages = code.code_of(["stages/train.py", "stages/evaluate.py", "stages/render.py"])
    assert not any(file.startswith("bayesft/hardening/") for file in stages), "the study does not use it"


def test_relative_imports_are_refused(tmp_path):
    (tmp_path / "module.py").write_text("from . import other\n")
    with pytest.raises(ValueError, match="relative import"):
        code.direct_imports(tmp_path / "module.py")


def test_nothing_reads_or_writes_pickles():
    for path in [*(ROOT / "bayesft").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        text = path.read_text()
        for forbidden in ("import pickle", "torch.load(", "torch.save(", "joblib.load(", "allow_pickle=True"):
            assert forbidden not in text, f"{path}: {forbidden}"


@pytest.mark.parametrize(
    ("text", "other", "alike"),
    [
        ('def f(x):\n    return x + 1\n', '# Adds.\ndef f(x):\n    """Add one."""\n\n    return (x+1)\n', True),
        ('class A:\n    """One."""\n    b = 1\n', 'class A:\n    """Two."""\n    b = 1\n', True),
        ("async def f():\n    g()\n", 'async def f():\n    "Wait."\n    g()\n', True),
        ("x = 1\n", "x = 2\n", False),
        ("x = 1\n", "x = 1.0\n", False),
        ("x = 'a'\n", "x = b'a'\n", False),
        ("def f(x=1):\n    g()\n", "def f(x=2):\n    g()\n", False),
        ("f(a, b)\n", "f(b, a)\n", False),
        ("def f():\n    x = 'a'\n", "def f():\n    x = 'b'\n", False),
        ("@a\ndef f():\n    g()\n", "def f():\n    g()\n", False),
    ],
)  # fmt: skip
def test_the_meaning_of_code_is_what_it_does(tmp_path, text, other, alike):
    for name, content in (("one.py", text), ("two.py", other)):
        (tmp_path / name).write_text(content)
    assert (code.meaning(tmp_path / "one.py") == code.meaning(tmp_path / "two.py")) == alike
