"""The runs on real data: `runs.yaml` has what each changes of the parameters.

    python -m studies.runs            names them
    python -m studies.runs cifar10    changes params.yaml and scales.yaml; then `make reproduce`

`git checkout params.yaml scales.yaml` is the way back.
"""

import argparse
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bayesft.files import write_text
from stages.parameters import PARAMETERS, SCALES, read

RUNS = {name: run for name, run in read(Path(__file__).with_name("runs.yaml")).items() if not name.startswith(".")}


def main() -> None:
    """Change the parameters to those of a run."""
    parser = argparse.ArgumentParser(description="Change the parameters to those of a run on real data.")
    parser.add_argument("run", nargs="?", choices=list(RUNS))
    name = parser.parse_args().run
    if name is None:
        print("runs: " + ", ".join(RUNS))
        return
    files = [str(PARAMETERS), SCALES]
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *files], check=False).returncode:
        raise SystemExit(f"{' or '.join(files)} is changed already: `git checkout {' '.join(files)}` first")
    prepare(name, PARAMETERS.parent)
    print(f"{PARAMETERS} and {SCALES} are those of the run {name}. Now: make reproduce")


def prepare(name: str, folder: Path) -> None:
    """Change params.yaml and scales.yaml in a folder to those of a run. Their comments stay.

    Args:
        name: The run, one of `RUNS`.
        folder: Where the two files are.
    """
    yaml = YAML()
    yaml.width = 120
    for file in (PARAMETERS.name, SCALES):
        content = yaml.load((folder / file).read_text(encoding="utf-8"))
        for key, value in RUNS[name].get(file, {}).items():
            _set(content, key.split("."), value)
        if file == PARAMETERS.name:
            content["methods"] = {row: content["methods"][row] for row in RUNS[name]["rows"]}
        text = StringIO()
        yaml.dump(content, text)
        write_text(folder / file, text.getvalue())


def _set(content: dict[str, Any], key: list[str], value: Any) -> None:
    """Set the entry of a key in parts; the entries above it are there."""
    for part in key[:-1]:
        content = content[part]
    content[key[-1]] = value


if __name__ == "__main__":
    main()
