"""A copy of the project at the smallest scale, in which tests run the pipeline through DVC."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
# Some of everything, so that the whole takes minutes.
ROWS = (
    "erm",
    "reram_v",
    "awp",
    "bayesft",
    "algorithm1",
    "random",
    "uniform",
    "drift_dropout",
    "erm-no-norm",
    "awp-tuned",
)
NARROW = {
    "scale": "smoke",
    "tasks": ["mlp-mnist", "vgg11-cifar10", "maskrcnn-pennfudan"],
    "more_seeds": {},
    "ablation": {"data": ["mnist"], "factors": ["dropout"]},
    "calibration.details.methods": ["erm"],
    "studies.seeds": [0],
    "studies.small": ["gp", "early-stop"],
}


class Clone:
    """A copy of what git has, or would have, of this project, as a repository of its own.

    Args:
        folder: Where it is made.
        rows: The rows of params.yaml that it has.
        changes: Entries of params.yaml, by dotted key, that differ from `NARROW`.
    """

    def __init__(self, folder: Path, rows: tuple[str, ...] = ROWS, changes: dict[str, object] | None = None):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.splitlines()
        for name in listed:
            if (ROOT / name).is_file() and not name.startswith(("reports/", "tests/")) and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        content = self.parameters()
        self.change("methods", {row: content["methods"][row] for row in rows})
        if "erm-no-norm" in rows:
            self.change("methods.erm-no-norm.tasks", ["vgg11-cifar10"])
        for key, value in {**NARROW, **(changes or {})}.items():
            self.change(key, value)
        for command in ("init -q .", "config user.email t@example.org", "config user.name tests", "add -A"):
            self.run("git", *command.split())
        self.run("git", "commit", "-qm", "clone")

    def environment(self) -> dict:
        bin_folder = str(Path(sys.executable).parent)
        environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
        for name in ("BAYESFT_MIRROR", "DVC_ROOT", "DVC_EXP_NAME"):
            environment.pop(name, None)
        return environment

    def run(self, *command: str, ok: bool = True) -> str:
        """Run a command here; its standard output and error together."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (done.returncode == 0) == ok, done.stdout[-4000:]
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen:
        """Start a command here, in a process group of its own."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def parameters(self) -> dict:
        return YAML(typ="safe").load((self.folder / "params.yaml").read_text(encoding="utf-8"))

    def change(self, key: str, value: object) -> None:
        """Change one entry of params.yaml."""
        content = self.parameters()
        *parents, last = key.split(".")
        block = content
        for parent in parents:
            block = block[parent]
        block[last] = value
        with open(self.folder / "params.yaml", "w", encoding="utf-8") as file:
            YAML(typ="safe").dump(content, file)

    def models(self) -> dict[str, bytes]:
        """The bytes of every trained network."""
        return {
            str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.glob("data/models/*/*/*.safetensors")
        }


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)
