"""What the pipeline survives: kills, damage, two runs at once. A small part of it, in a clone of its own."""

import os
import shutil
import signal
import sys
import time

import pytest

from tests.pipeline.clone import Clone, stages_run

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(3000)]  # a busy machine takes its time
ROWS = ("erm", "awp", "bayesft")
SMALL = {
    "tasks": ["mlp-mnist", "vgg11-cifar10"],
    "ablation.data": [],
    "calibration.methods": [],
    "calibration.details.methods": [],
    "study": "none",
    "ftt.faults": {},
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("survival"), ROWS, SMALL)
    clone.run("dvc", "repro")
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "results")
    return clone


def test_a_damaged_item_of_the_store_is_named_and_made_anew(clone, unchanged):
    clone.run("dvc", "repro")
    before = clone.models()
    items = clone.folder.glob("data/store/*/*/awp.safetensors")  # those of other parameters among them
    item = next(item for item in items if item.read_bytes() in before.values())
    item.write_bytes(item.read_bytes()[:100])
    output = clone.run(sys.executable, "-m", "stages.train", "awp")
    assert item.parent.name in output and "made anew" in output
    assert clone.models() == before


def killed_in_training(clone: Clone, *command: str) -> None:
    """Start a command, and `kill -9` it and its children while a network is trained."""
    unfinished = clone.folder / "data/store/unfinished"
    process, deadline = clone.start(*command), time.monotonic() + 300
    while not any(entry.is_dir() for entry in unfinished.glob("*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert any(entry.is_dir() for entry in unfinished.glob("*")), "nothing was cut"


def test_a_killed_stage_ends_with_the_same_bytes(clone, unchanged):
    clone.run("dvc", "repro")
    before = clone.models()
    shutil.rmtree(clone.folder / "data/store")
    shutil.rmtree(clone.folder / "data/models/bayesft")
    command = [sys.executable, "-m", "stages.train", "bayesft"]
    killed_in_training(clone, *command)
    clone.run(*command)
    assert clone.models() == before


def trained_anew(clone: Clone, row: str) -> dict[str, bytes]:
    """The bytes of every network after a row's have been trained without anything to go on from."""
    shutil.rmtree(clone.folder / "data/store", ignore_errors=True)
    clone.run("dvc", "repro", "--force", "--single-item", f"train@{row}")
    return clone.models()


def test_a_killed_pipeline_goes_on_to_the_same_bytes(clone, unchanged):
    """`kill -9` on `dvc repro` and its children; the next `dvc repro` takes it from there."""
    clone.run("dvc", "repro")
    clone.change("methods.awp.gamma", 0.05)
    killed_in_training(clone, "dvc", "repro", "train@awp")
    clone.run("git", "checkout", "-q", "dvc.lock")  # a write of it may have been cut
    clone.run("dvc", "repro", "train@awp")
    after = clone.models()
    assert trained_anew(clone, "awp") == after


def test_two_runs_at_once_end_as_one_does(clone, unchanged):
    clone.run("dvc", "repro")
    clone.change("methods.awp.gamma", 0.03)
    two = [clone.start("dvc", "repro", "train@awp") for _ in range(2)]
    assert 0 in [process.wait(timeout=300) for process in two]
    assert stages_run(clone.run("dvc", "repro", "train@awp")) == []
    after = clone.models()
    assert trained_anew(clone, "awp") == after


def test_queued_experiments_run_side_by_side(clone, unchanged):
    clone.run("dvc", "repro")
    before = clone.models()
    for gamma in ("0.02", "0.05"):
        clone.run("dvc", "exp", "run", "--queue", "-S", f"methods.awp.gamma={gamma}", "train@awp")
    clone.run("dvc", "queue", "start", "-j", "2")
    deadline = time.monotonic() + 300
    while (status := clone.run("dvc", "queue", "status")).count("Success") < 2:
        assert "Failed" not in status and time.monotonic() < deadline, status
        time.sleep(2)
    clone.run("dvc", "queue", "stop")
    assert clone.models() == before and clone.run("git", "status", "--porcelain") == ""


def trained(clone: Clone) -> dict[str, int]:
    """When each network of the store was written, those of other parameters among them."""
    networks = [item for row in ROWS for item in clone.folder.glob(f"data/store/*/*/{row}.safetensors")]
    return {str(item): item.stat().st_mtime_ns for item in networks}


def test_without_a_lock_file_no_network_is_trained_again(clone, unchanged):
    clone.run("dvc", "repro")
    clone.run("dvc", "repro", "--force", "--single-item", "plan")  # it fills the store with the networks that are there
    before, items = clone.models(), trained(clone)
    (clone.folder / "dvc.lock").write_text("schema: '2.0'\n")
    shutil.rmtree(clone.folder / ".dvc/cache/runs")
    assert "train@bayesft" in stages_run(clone.run("dvc", "repro"))
    assert clone.models() == before and trained(clone) == items
