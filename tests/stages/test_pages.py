"""The settings in the commands of the pages are such as params.yaml allows."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from stages.parameters import load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every command of the pages that changes settings, as a reader copies it."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    found = re.findall(r"dvc exp run[^`\n]* -S [^`\n#]*", text)
    return sorted({command.replace("\\|", "|").split(", then")[0].strip() for command in found})


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_has_settings_that_are_allowed(command, tmp_path):
    for name in ("params.yaml", "scales.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    words = shlex.split(command)
    for setting in (words[i + 1] for i, word in enumerate(words) if word in ("-S", "--set-param")):
        file, separator, rest = setting.partition(":")
        there = separator and file.endswith(".yaml")
        apply_overrides(tmp_path / (file if there else "params.yaml"), [rest if there else setting])
    load(tmp_path / "params.yaml")


def test_the_pages_have_commands():
    assert len(commands()) > 10
