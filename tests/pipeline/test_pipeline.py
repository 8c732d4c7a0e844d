"""The pipeline through DVC, in a clone of its own, at the smallest scale. The tests build on one another, in order."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bayesft.training import Checkpoint

ROOT = Path(__file__).parents[2]
# Some of everything, so that the whole takes minutes: one task of each kind, both controls, two factors.
NARROW = {
    "scale": "smoke",
    "tasks": ["mlp-mnist", "vgg11-cifar10"],
    "deep.tasks": ["preact50-cifar10"],
    "no_norm.tasks": ["vgg11-cifar10"],
    "ablation.factors": ["dropout", "normalization"],
    "tuned.tasks": ["mlp-mnist"],
    "tuned.methods": ["awp", "drift_dropout"],
    "study.seeds": [0],
    "study.strategies": {
        "GP": {"search": {"epochs": 4, "weights": "scratch"}},
        "random": {"method": "drift_dropout", "search": {"strategy": "random"}},
    },
    "study.options": {"early stop": {"stop_early": True}},
}
pytestmark = pytest.mark.pipeline


class Clone:
    """A copy of what git has, or would have, of this project, as a repository of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.splitlines()
        for name in listed:
            if (ROOT / name).is_file() and not name.startswith(("reports/", "tests/")) and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        for key, value in NARROW.items():
            self.change(key, value)
        for command in ("init -q .", "config user.email t@example.org", "config user.name tests", "add -A"):
            self.run("git", *command.split())
        self.run("git", "commit", "-qm", "clone")

    def environment(self) -> dict:
        bin_folder = str(Path(sys.executable).parent)
        environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
        for name in ("BAYESFT_MIRROR", "DVC_ROOT", "DVC_EXP_NAME"):
            environment.pop(name, None)
        return environment

    def run(self, *command: str, ok: bool = True) -> str:
        """Run a command here; its standard output and error together."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (done.returncode == 0) == ok, done.stdout[-4000:]
        return done.stdout

    def change(self, key: str, value: object) -> None:
        """Change one entry of params.yaml."""
        path = self.folder / "params.yaml"
        content = yaml.safe_load(path.read_text())
        *parents, last = key.split(".")
        block = content
        for parent in parents:
            block = block[parent]
        block[last] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    return Clone(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def unchanged(clone):
    """Put params.yaml and the code back afterwards."""
    yield
    clone.run("git", "checkout", "-q", ".")


def test_a_wrong_parameter_stops_before_anything_computes(clone, unchanged):
    for key, value, said in (
        ("sigma_max", -1, "sigma_max = -1"),
        ("scale", "papr", "'smoke', 'quick', 'medium' or 'paper'"),
        ("tasks", ["mlp-mnits"], "mlp-mnist, lenet-mnist"),
        ("methods.train", ["erm", "empire"], "'erm', 'awp' or 'uniform'"),
    ):
        clone.run("git", "checkout", "-q", "params.yaml")
        clone.change(key, value)
        output = clone.run("dvc", "repro", ok=False)
        assert said in output and key.split(".")[0] in output, output
        assert stages_run(output) == ["check"]
        assert not list(clone.folder.glob("data/*/*"))


def test_repro_makes_every_figure_and_table(clone):
    clone.run("dvc", "repro")
    report = clone.folder / "reports/smoke"
    for figure in (
        "figure1",
        "figure2",
        "figure3",
        "figure3a",
        "figure3e",
        "figure3g",
        "figure3j",
        "figure4",
        "search",
        "tuned",
        "study",
        "landscape",
    ):
        for suffix in ("png", "pdf"):
            assert (report / f"figures/{figure}.{suffix}").stat().st_size > 5_000, figure
    page = (report / "README.md").read_text()
    assert "handwritten digits" in page and "scale: smoke" in page
    results = pd.read_csv(report / "results.csv")
    rows = {"erm", "ftna", "reram_v", "awp", "drift_aware", "uniform", "random", "bayesft-alg1", "bayesft"}
    rows |= {"drift_dropout"}
    tuned = {"awp-tuned", "drift_dropout-tuned"}
    assert set(results[results.task == "mlp-mnist"].row) == rows | tuned | {"erm-programmed"}
    study = json.loads((report / "study.json").read_text())
    assert set(study["mlp-mnist"]["0"]["runs"]) == {"GP", "random", "early stop", "uniform", "drift_dropout"}
    controls = {"erm-no-norm", "bayesft-no-norm"}
    assert set(results[results.task == "vgg11-cifar10"].row) == rows | controls | {"erm-programmed"}
    assert set(results[results.task == "preact50-cifar10"].row) == {"erm", "uniform", "bayesft", "bayesft-alg1"}
    assert set(results[results.task == "maskrcnn-pennfudan"].row) == {"erm", "bayesft", "bayesft-alg1"}
    assert set(results[results.task == "ablation-cifar10/dropout"].row) == {"none", "dropout 0.2", "alpha dropout 0.2"}
    assert results.accuracy.between(0, 1).all()
    assert not (report / "timings.csv").read_text().count("\n") < 10
    left = {path.parts[-3] for path in (clone.folder / "data/checkpoints").rglob("*.safetensors")}
    assert left == {"evaluate"}, "checkpoints of finished stages, but for what evaluation keeps"
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "results")


def test_a_second_repro_runs_nothing(clone):
    output = clone.run("dvc", "repro")
    assert stages_run(output) == []
    assert "up to date" in output
    assert clone.run("git", "status", "--porcelain") == ""


def test_metrics_and_status_work(clone):
    metrics = json.loads(clone.run("dvc", "metrics", "show", "--json"))
    assert "reports/smoke/metrics.json" in str(metrics)
    assert json.loads(clone.run("dvc", "status", "--json")) == {}


def test_a_new_sigma_max_runs_evaluation_and_render_alone(clone, unchanged):
    before = pd.read_csv(clone.folder / "reports/smoke/results.csv")
    raw = json.loads(clone.read("data/results/mlp-mnist/0.json"))
    output = clone.run("dvc", "exp", "run", "-S", "sigma_max=1.5")
    run = stages_run(output)
    assert run and {name.split("@")[0].split("-")[0] for name in run} == {"evaluate", "render"}
    assert len(run) == 2 + 1 + 2 + 1 + 1  # tasks, deep, ablations, detection, render
    after = pd.read_csv(clone.folder / "reports/smoke/results.csv")
    shared = before.merge(after, on=["task", "row", "sigma"], suffixes=("", "_after"))
    assert len(shared) == len(before) and len(after) > len(before)
    assert (shared.accuracy == shared.accuracy_after).all()
    longer = json.loads(clone.read("data/results/mlp-mnist/0.json"))
    for row, entry in raw["rows"].items():
        assert longer["rows"][row]["accuracy"][: len(raw["sigmas"])] == entry["accuracy"]


def test_a_parameter_of_one_method_retrains_that_method_alone(clone, unchanged):
    clone.run("dvc", "repro")
    output = clone.run("dvc", "exp", "run", "-S", "training.awp.gamma=0.02")
    tasks = NARROW["tasks"]
    expected = {f"train@{t}-awp-0" for t in tasks} | {f"evaluate@{t}-0" for t in tasks} | {"render"}
    assert set(stages_run(output)) == expected
    # The other methods' networks are not measured again.
    for task in tasks:
        assert f"{task} erm seed 0: resuming" in output and f"{task} awp seed 0: resuming" not in output


def test_another_seed_computes_that_seed_alone(clone, unchanged):
    narrow = ["tasks=[mlp-mnist]", "deep.tasks=[]", "no_norm.tasks=[]", "ablation.data=[]", "methods.train=[erm]"]
    narrow += [
        "tuned.tasks=[]",
        "study.tasks=[]",
        "detection.tasks=[]",
        "methods.adapt=[]",
        "methods.drift=[]",
        "methods.search=[]",
        "seeds=[0,1]",
    ]
    output = clone.run("dvc", "exp", "run", *[part for entry in narrow for part in ("-S", entry)])
    seed_1 = {"train@mlp-mnist-erm-1", "evaluate@mlp-mnist-1"}
    assert set(stages_run(output)) == {"check", "evaluate@mlp-mnist-0", "render"} | seed_1
    assert "mlp-mnist erm seed 0: resuming" in output, "seed 0 has fewer methods to show, and nothing to measure"
    assert "over 2 training seeds" in (clone.folder / "reports/smoke/README.md").read_text()


def test_everything_comes_back_from_the_cache(clone):
    """After narrower and wider runs, the committed state returns without any computing, to the byte."""
    output = clone.run("dvc", "repro")
    assert set(stages_run(output)) <= {"render"}
    assert clone.run("git", "status", "--porcelain").replace(" M reports/smoke/timings.csv\n", "") == ""


def changed_stages(clone: Clone) -> set[str]:
    clone.run("dvc", "repro", "code")  # the lists of code, on which the others depend
    return {name.split("@")[0] for name in json.loads(clone.run("dvc", "status", "--json"))}


def test_the_code_of_a_figure_concerns_render_alone(clone, unchanged):
    with open(clone.folder / "bayesft/report/figures.py", "a") as file:
        file.write("# changed\n")
    assert changed_stages(clone) == {"render"}


def test_the_drift_model_concerns_what_uses_it_and_nothing_else(clone, unchanged):
    with open(clone.folder / "bayesft/drift/faults.py", "a") as file:
        file.write("# changed\n")
    searches = {"search", "search-deep", "search-no-norm", "tune", "study", "detect"}
    evaluations = {"evaluate", "evaluate-deep", "evaluate-ablation", "evaluate-detection"}
    assert changed_stages(clone) == {"boundary", "drift", "render"} | searches | evaluations


class Killed:
    """One stage, killed with SIGKILL in the middle, run again, and compared with a run that nothing disturbed."""

    def __init__(self, clone: Clone, command: list[str], out: Path):
        self.clone, self.command, self.out = clone, command, clone.folder / out

    def bytes_out(self) -> dict[str, bytes]:
        files = [self.out] if self.out.is_file() else sorted(path for path in self.out.rglob("*") if path.is_file())
        assert files
        return {file.name: file.read_bytes() for file in files}

    def forget(self) -> None:
        """Remove the output, and what a run could go on from."""
        shutil.rmtree(self.out) if self.out.is_dir() else self.out.unlink(missing_ok=True)
        shutil.rmtree(self.clone.folder / "data/checkpoints", ignore_errors=True)

    def states(self) -> dict[str, float]:
        folder = self.clone.folder / "data/checkpoints"
        return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}

    def kill_after(self, saves: int) -> None:
        """Start the command and kill it, and its children, after so many checkpoint writes."""
        before = set(self.states().items())
        process = subprocess.Popen(
            self.command, cwd=self.clone.folder, env=self.clone.environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        seen, deadline = set(), time.monotonic() + 120
        while len(seen) < saves:
            assert process.poll() is None, "it ended before it could be killed: give it more to do"
            assert time.monotonic() < deadline
            seen |= set(self.states().items()) - before
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


KILLED = {  # the unit of work: what makes it long enough to be killed, the command, its output
    "epoch": ("train.epochs", 300, "stages.train mlp-mnist erm 0", "data/models/mlp-mnist/0/erm"),
    "trial": ("search.trials", 25, "stages.search mlp-mnist bayesft 0", "data/models/mlp-mnist/0/bayesft"),
    "σ": ("evaluate.sigma_step", 0.01, "stages.evaluate mlp-mnist 0", "data/results/mlp-mnist"),
}


@pytest.mark.parametrize("unit", KILLED)
def test_a_killed_stage_resumes_with_the_same_bytes(clone, unchanged, unit):
    key, value, command, out = KILLED[unit]
    clone.run("dvc", "repro", "train@mlp-mnist-erm-0")  # what the stages read
    clone.change(f"scales.smoke.tasks.mlp-mnist.{key}", value)
    killed = Killed(clone, [sys.executable, "-m", *command.split()], Path(out))
    killed.forget()
    killed.kill_after(5)
    saved = _saved(unit, killed.states())
    output = clone.run(*killed.command)
    found = re.search(rf"resuming after {unit} (\d+) of", output)
    assert found, output
    # What was saved is not computed again; only what was under way when the signal came is.
    assert int(found[1]) == saved
    after_kill = killed.bytes_out()
    killed.forget()
    undisturbed = clone.run(*killed.command)
    assert "resuming" not in undisturbed
    assert killed.bytes_out() == after_kill


def test_a_killed_study_ends_with_the_same_bytes(clone, unchanged):
    clone.run("dvc", "repro", "train@mlp-mnist-erm-0")
    clone.change("scales.smoke.tasks.mlp-mnist.search.trials", 12)
    out = Path("data/results/mlp-mnist/study-0.json")
    killed = Killed(clone, [sys.executable, "-m", "stages.study", "mlp-mnist", "0"], out)
    killed.forget()
    killed.kill_after(5)
    assert "resuming after trial" in clone.run(*killed.command)
    after_kill = killed.bytes_out()
    killed.forget()
    clone.run(*killed.command)
    assert killed.bytes_out() == after_kill


def _saved(unit: str, states: dict[str, float]) -> int:
    """How many units the checkpoint held when the signal came."""
    if unit == "σ":
        return len(states)
    path = Path(next(iter(states)))
    _, value = Checkpoint(path.parent).load(path.stem)
    return value["epochs"] if unit == "epoch" else len(value)


def test_the_pipeline_itself_can_be_killed(clone, unchanged):
    """`kill -9` on `dvc repro` and its children; the next `dvc repro` takes it from there."""
    clone.change("scales.smoke.tasks.mlp-mnist.train.epochs", 300)
    killed = Killed(clone, [str(Path(sys.executable).parent / "dvc"), "repro", "train@mlp-mnist-erm-0"], Path("data"))
    killed.kill_after(4)
    output = clone.run("dvc", "repro", "train@mlp-mnist-erm-0")
    assert "resuming after epoch" in output


def test_a_diverging_loss_stops_with_the_step_the_method_and_the_task(clone, unchanged):
    clone.change("scales.smoke.tasks.mlp-mnist.train.lr", 1e30)
    output = clone.run(sys.executable, "-m", "stages.train", "mlp-mnist", "awp", "0", ok=False)
    assert re.search(r"mlp-mnist awp seed 0: the loss is \S+ and its gradient's norm \S+ at step \d+", output), output
    assert "Traceback" not in output
