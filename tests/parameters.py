"""params.yaml and scales.yaml in a folder of a test."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.parameters import SCALES


def write_parameters(folder: Path, content: dict[str, Any]) -> Path:
    """Write what `read_all` reads. Returns the path of params.yaml."""
    knobs = {key: value for key, value in content.items() if key != "scales"}
    for name, part in (("params.yaml", knobs), (SCALES, content["scales"])):
        with open(folder / name, "w", encoding="utf-8") as file:
            YAML(typ="safe").dump(part, file)
    return folder / "params.yaml"
