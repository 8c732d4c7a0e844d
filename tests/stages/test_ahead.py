"""Work ahead of the pipeline: it fills the store, writes nothing else, and changes no byte."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stages import reproduce
from stages.parameters import read_all
from tests.parameters import write_parameters

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif((os.cpu_count() or 1) == 1, reason="needs a second core")]


def run(folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> Path:
    """A folder with the plan and the data of two rows of one task."""
    folder = tmp_path_factory.mktemp("ahead")
    for name in ("bayesft", "stages"):
        (folder / name).symlink_to(ROOT / name)
    content = read_all(ROOT / "params.yaml")
    content |= {"scale": "smoke", "tasks": ["mlp-mnist"], "methods": {"erm": {}, "uniform": {"rate": 0.5}}}
    content |= {"more_seeds": {}, "study": "none", "ablation": {"data": [], "factors": ["depth"]}}
    content["ftt"]["faults"] = {}
    content["calibration"]["details"]["methods"] = []
    write_parameters(folder, content)
    run(folder, "stages.plan")
    run(folder, "stages.download")
    return folder


@pytest.fixture
def folder(planned, tmp_path) -> Path:
    shutil.copytree(planned, tmp_path / "work", symlinks=True)
    return tmp_path / "work"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def networks(folder: Path) -> list[Path]:
    return sorted(path for row in ("erm", "uniform") for path in (folder / "data/store").glob(f"*/*/{row}.safetensors"))


def left(group: int) -> list[psutil.Process]:
    """The processes of a group that still run, after a moment in which they may end."""
    for _ in range(50):
        every = psutil.process_iter(["status"])
        running = [p for p in every if p.info["status"] != psutil.STATUS_ZOMBIE and in_group(p.pid, group)]
        if not running:
            break
        time.sleep(0.1)
    return running


def in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group
    except ProcessLookupError:
        return False


def train(folder: Path, row: str) -> str:
    (folder / "data/models" / row).mkdir(parents=True)
    return run(folder, "stages.train", row)


def test_a_stage_finds_what_was_made_ahead_with_the_same_bytes(folder):
    run(folder, "stages.ahead", "train@erm", "train@uniform")
    assert not (folder / "data/models").exists() and not (folder / "data/results").exists()
    items = networks(folder)
    assert len(items) == 2
    made = [item.stat().st_mtime_ns for item in items]
    took = {name: (folder / f"data/timings/train-{name}.json").read_text() for name in ("erm", "uniform")}
    for row in took:
        train(folder, row)
        assert (folder / f"data/timings/train-{row}.json").read_text() == took[row]  # the time that making it took
    assert [item.stat().st_mtime_ns for item in items] == made
    ahead = files(folder / "data/models")
    shutil.rmtree(folder / "data/models")
    shutil.rmtree(folder / "data/store")
    for row in took:
        train(folder, row)
    assert files(folder / "data/models") == ahead


def test_an_evaluation_waits_for_the_networks_of_this_run(folder):
    train(folder, "erm")
    command = [sys.executable, "-m", "stages.ahead", "train@erm", "evaluate@erm"]
    process = subprocess.Popen(command, cwd=folder, start_new_session=True)
    measured = folder / "data/store/measured"
    try:
        time.sleep(10)
        assert process.poll() is None and not measured.exists()  # these are the networks of a run before
        os.utime(folder / "data/models/erm/mlp-mnist-0")
        process.wait(60)
        assert len([path for path in measured.iterdir() if path.is_dir()]) == 2  # without and with calibration
        assert not (folder / "data/results").exists()
    finally:
        process.kill()


def test_what_fails_is_left_to_its_stage(folder):
    (folder / "data/datasets/mnist.safetensors").write_bytes(b"damaged")
    run(folder, "stages.ahead", "train@erm", "render")
    assert not networks(folder)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        train(folder, "erm")
    assert "mnist.safetensors" in failed.value.stderr


def test_it_ends_with_the_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    started, popen = [], subprocess.Popen

    def kept(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", kept)
    with reproduce.working_ahead(["train@erm", "evaluate@erm"]):
        time.sleep(5)
        assert started[0].poll() is None
    assert started[0].poll() is not None
    assert not left(started[0].pid)
    with reproduce.working_ahead([]):
        assert len(started) == 1


def test_the_stages_that_wait_are_those_that_dvc_names(tmp_path, monkeypatch):
    dvc = tmp_path / "dvc"
    dvc.write_text(
        "#!/bin/sh\n[ \"$2\" = download ] && exit $DOWNLOAD\n"
        "[ \"$1\" = stage ] && echo train@erm && echo evaluate@erm && exit 0\n"
        "echo \"Stage 'plan' didn't change, skipping\"\necho \"Running stage 'train@erm':\"\necho '> python'\n"
        "echo \"Running stage 'render':\"\nexit $DRY\n"
    )  # fmt: skip
    dvc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for download, dry, expected in (
        ("0", "0", ["train@erm", "render"]), ("0", "1", ["train@erm", "evaluate@erm"]), ("1", "0", []),
    ):  # fmt: skip
        monkeypatch.setenv("DOWNLOAD", download)
        monkeypatch.setenv("DRY", dry)
        assert reproduce.waiting() == expected
