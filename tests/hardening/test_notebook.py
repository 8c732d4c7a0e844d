"""The notebook runs as it stands, and was kept with what it prints and draws."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
FILE = Path(__file__).parents[2] / "docs" / "library" / "tour.ipynb"


def printed(notebook) -> list[str]:
    return [
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream"
    ]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_showed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FILE.parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kept = nbformat.read(FILE, 4)
    ran = nbformat.read(FILE, 4)
    nbclient.NotebookClient(ran, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [o for cell in ran.cells if cell.cell_type == "code" for o in cell.outputs if "data" in o]
    assert sum("image/png" in picture.data for picture in pictures) == 2
    before, after = ("\n".join(printed(notebook)) for notebook in (kept, ran))
    assert re.sub(r"[\d.±-]+|nan", "", before).split() == re.sub(r"[\d.±-]+|nan", "", after).split()
    numbers = [list(map(float, re.findall(r"-?\d+\.\d{4}", text))) for text in (before, after)]
    assert len(numbers[0]) == len(numbers[1]) > 50
    assert max(abs(a - b) for a, b in zip(*numbers, strict=True)) < 0.1  # processors differ
    gain = after[after.index("difference of accuracy") :]
    assert float(re.search(r"area (-?\d+\.\d+)", gain)[1]) > 0
