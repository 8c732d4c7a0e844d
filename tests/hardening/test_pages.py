"""Every Python block of docs/library/ runs as it stands; those of a page share their names."""

import re
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
FOLDER = Path(__file__).parents[2] / "docs" / "library"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
OPTIONAL = ("aihwkit", "lightning", "timm", "transformers")


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, left_out = {"__name__": "page"}, []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks(page):
            missing = [name for name in OPTIONAL if re.search(rf"^(import|from) {name}\b", block, re.M)]
            missing = [name for name in missing if find_spec(name) is None]
            if missing:
                left_out += missing
            else:
                exec(compile(block, f"docs/library/{page}.md", "exec"), names)
    assert capsys.readouterr().out or left_out
    if page == "quick-start":
        gain = names["both"].differences["hardened"].table()
        assert gain["mean"].iloc[-1] > gain.over_both.iloc[-1] > 0 and names["found"].mean[0] > 0.85
        assert (tmp_path / "both.png").exists() and (tmp_path / "layers.png").exists()
    if page == "sites":
        shown = re.search(r"^```text\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE).group(1)
        found = names["find_sites"](names["model"], torch.rand(2, 3, 32, 32))
        assert str(found) == shown.strip()
    if left_out:
        pytest.skip(f"without {', '.join(left_out)}: the other blocks ran")


def test_links_lead_somewhere():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (FOLDER / target).exists(), (page, target)
