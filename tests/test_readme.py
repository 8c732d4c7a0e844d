"""The README's example runs as it stands, and the files that it names exist."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_for_your_own_network_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    names: dict = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "README.md", "exec"), names)
    assert "dropout rates: 1 " in capsys.readouterr().out
    table = names["result"].table().set_index(["network", "level"])
    assert set(table.index.levels[0]) == {"given", "plain", "hardened"}
    assert all(table["mean"][name, 0.0] > 0.5 for name in ("plain", "hardened"))  # chance is a third
    assert (tmp_path / "gain.png").exists()


def test_the_pictures_and_files_of_the_readme_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target
