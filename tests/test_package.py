"""The wheel has all that the library needs, and the library needs none of the study's packages."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The study's extras. Pillow is among them, and matplotlib needs it too.
REFUSED = ("altair", "dvc", "jinja2", "pycocotools", "ray", "ruamel", "seaborn", "torchmetrics", "torchvision",
           "vl_convert")  # fmt: skip
USE = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ImportError(name + " is of an extra")

sys.meta_path.insert(0, Refused())
import torch
import bayesft
from bayesft.settings import Recipe

assert bayesft.__file__.startswith({folder!r}), bayesft.__file__
torch.manual_seed(0)
x = torch.randn(90, 6)
y = x[:, :3].argmax(1)
parts = (x[:50], y[:50]), (x[50:70], y[50:70]), (x[70:], y[70:])
quick = {{"levels": (0.0, 0.5), "draws": 2, "progress": False}}
build = lambda: torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
search = {{"trials": 2, "draws": 2}}
found = bayesft.harden(build, *parts, recipe=Recipe(epochs=1, batch_size=10), search=search, **quick)
found.plot()
found.table()
print(bayesft.compare(found.networks, parts[2], **quick))
print(bayesft.sensitivity(found.model, parts[2], level=0.5, draws=2, progress=False))
reference = bayesft.calibration_reference(found.model, x)
bayesft.calibrate(found.model, reference, x)
print("done")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, unpacked."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "bayesft", source / "bayesft", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(made), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (file,) = made.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(made / "content")
    return made / "content"


def test_the_wheel_has_every_file_that_the_code_reads(wheel):
    files = [p for p in (ROOT / "bayesft").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    missing = [str(p.relative_to(ROOT)) for p in files if not (wheel / p.relative_to(ROOT)).is_file()]
    assert not missing
    assert not (wheel / "stages").exists() and not (wheel / "tests").exists()


@pytest.mark.slow
def test_the_library_works_without_the_packages_of_the_study(wheel, tmp_path):
    code = USE.format(refused=set(REFUSED), folder=str(wheel))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(wheel)}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr
