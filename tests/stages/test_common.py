"""A stage at work in a terminal: Ctrl-C and wrong words end with one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stages.timings import note_times, times

ROOT = Path(__file__).parents[2]
STAGE = """
import time
from pathlib import Path
from stages.common import Stage, run

def work(stage, item):
    Path(item["label"]).touch()
    time.sleep(item["seconds"])
    return "slept"

def main(row):
    stage = Stage(f"train-{row}")
    stage.work(work, stage.items)

run(main, "row")
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a plan of two items and a stage that sleeps."""
    (tmp_path / "sleeper.py").write_text(STAGE)
    (tmp_path / "data/plan").mkdir(parents=True)
    items = [{"label": name, "seconds": 60} for name in "abc"]
    plan = {"items": items, "machine": {"threads": 1, "kernels": "native", "device": "cpu", "versions": {}}}
    (tmp_path / "data/plan/train-erm.json").write_text(json.dumps(plan))
    for name in ("params.yaml", "scales.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def started(folder: Path, *words: str) -> subprocess.Popen:
    """The stage, in a process group of its own, as a shell starts it."""
    text = (folder / "params.yaml").read_text().replace("jobs: 0", "jobs: 2")
    (folder / "params.yaml").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "sleeper.py", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)
    finally:
        signal.signal(signal.SIGINT, heard)


def test_ctrl_c_says_one_line_and_begins_no_other_item(folder):
    process = started(folder, "erm")
    for _ in range(600):
        if (folder / "a").exists() and (folder / "b").exists():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # a terminal tells all processes of the group
    said, wrong = process.communicate(timeout=30)
    assert process.returncode == 1 and said == "" and not (folder / "c").exists()
    assert wrong == "stopped; what was finished is kept, and the next run goes on from there\n"


def test_wrong_words_are_refused_with_what_is_allowed(folder):
    process = started(folder, "nope")
    assert "Planned: train-erm" in process.communicate(timeout=60)[1] and process.returncode == 1
    process = started(folder, "erm", "nonsense")
    assert "unrecognized arguments: nonsense" in process.communicate(timeout=60)[1] and process.returncode == 2


def test_the_time_of_an_item_is_that_of_making_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    note_times("train-erm", {"a": ("quick", 9.0), "c": ("medium", 60.0)}, others=True)  # made ahead
    note_times("train-erm", {"gone": ("quick", 1.0)}, others=True)
    note_times("train-erm", {"a": ("quick", 0.1), "b": ("quick", 3.0), "c": ("quick", 5.0)})  # a was found
    assert times() == [("train-erm", "a", 9.0), ("train-erm", "b", 3.0), ("train-erm", "c", 5.0)]
    (tmp_path / "data/timings/train-erm.json").write_text("damaged")
    note_times("train-erm", {"a": ("quick", 2.0)})
    assert times() == [("train-erm", "a", 2.0)]


def test_an_item_that_fails_ends_the_stage_and_is_named(folder):
    plan = json.loads((folder / "data/plan/train-erm.json").read_text())
    plan["items"] = [{"label": name, "seconds": seconds} for name, seconds in zip("abcd", [-1, 3, 1, 1], strict=True)]
    (folder / "data/plan/train-erm.json").write_text(json.dumps(plan))
    process = started(folder, "erm")
    wrong = process.communicate(timeout=50)[1]
    assert process.returncode == 1
    assert "error: a: ValueError: sleep length must be non-negative" in wrong
    assert not (folder / "c").exists(), "no item is begun after that"


def test_workers_end_with_a_stage_that_is_killed(folder):
    process = started(folder, "erm")
    for _ in range(600):
        if (folder / "a").exists() and (folder / "b").exists():
            break
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]
    assert not (folder / "c").exists()
