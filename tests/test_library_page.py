"""Every example of docs/library.md runs as it stands, and its table names the arguments that there are."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from bayesft.harden import Hardened, harden

PAGE = (Path(__file__).parents[1] / "docs" / "library.md").read_text(encoding="utf-8")
EXAMPLES = {
    title: code for title, code in re.findall(r"^## ([^\n]*)\n\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
}


def test_every_block_is_an_example():
    assert len(EXAMPLES) == PAGE.count("```python") == 4


@pytest.mark.parametrize("title", EXAMPLES)
def test_examples_run(title, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(EXAMPLES[title], "docs/library.md", "exec"), found)
    assert isinstance(found["result"], Hardened) and capsys.readouterr().out
    if title == "A classifier":
        table = found["result"].table.set_index(["network", "sigma"])
        assert table.metric["hardened", 0.0] > 0.9  # chance is a tenth
        gain = table.loc[("hardened", 0.6)]
        assert gain.gain > gain.gain_half_width > 0
        assert (tmp_path / "hardened.pt").exists()
    if title == "Several inputs, from a DataLoader":
        assert list(found["result"].rates) == ["lstm"]


def test_the_tables_name_every_argument_and_every_field():
    rows = " ".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(\w+)`", rows))
    assert named == set(inspect.signature(harden).parameters) | {field.name for field in fields(Hardened)} - {
        "measured_on"
    }
