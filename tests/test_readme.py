"""The README's example runs as it stands, and the files that it names exist."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_for_your_own_network_runs(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert float(re.search(r"tensor\(([\d.]+)", printed)[1]) > 0.5  # chance is a third


def test_the_pictures_and_files_of_the_readme_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target
