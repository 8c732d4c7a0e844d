"""The workflows: what they may do, and every line of shell in them, run as the host runs it."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(".github/workflows")
SCRIPT = Path(".github/difference-to-base").resolve()
HOST = ("bash", "--noprofile", "--norc", "-eo", "pipefail")  # what `shell: bash` means to the host
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yml"))}
JOBS = {f"{name}-{job}": content for name, flow in WORKFLOWS.items() for job, content in flow["jobs"].items()}
STEPS = {
    f"{name}-{step.get('name', step.get('id', i))}": step
    for name, job in JOBS.items()
    for i, step in enumerate(job["steps"])
}
RUNS = {name: step for name, step in STEPS.items() if "run" in step}
COMMANDS = ("dvc", "make", "gh", "python3.11")  # they stand in for the real ones
# `dvc repro --dry` tells what would run, as the file TODO says.
STAND_IN = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
if [[ "$(basename "$0") $*" == "${FAILS:-nothing}"* ]]; then exit 3; fi
if [[ "$*" == *--dry* ]]; then cat "$TODO"; fi
if [[ "$*" == "metrics diff"* ]]; then echo "| a difference |"; fi
"""


@pytest.fixture
def host(tmp_path) -> dict[str, str]:
    """The environment of a job: commands that stand in for the real ones and note how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for command in COMMANDS:
        (folder / command).write_text(STAND_IN)
        (folder / command).chmod(0o755)
    paths = {name: str(tmp_path / name) for name in ("CALLS", "TODO", "GITHUB_PATH", "GITHUB_STEP_SUMMARY", "TMPDIR")}
    Path(paths["TODO"]).write_text("Stage 'train' didn't change, skipping\n")
    Path(paths["TMPDIR"]).mkdir()
    home = {"HOME": str(tmp_path), "GITHUB_WORKSPACE": str(tmp_path / "work")}
    return {"PATH": f"{folder}:{os.environ['PATH']}", **paths, **home}


@pytest.fixture
def work(tmp_path, host) -> Path:
    """A repository with two commits, laid out like this one."""
    folder = tmp_path / "work"
    (folder / ".github").mkdir(parents=True)
    (folder / "reports/quick-embedded").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "requirements").mkdir()
    (folder / "requirements.txt").touch()
    (folder / "requirements/lint.txt").touch()
    (folder / "data/README.md").write_text("data\n")
    (folder / "reports/quick-embedded/README.md").write_text("the report\n")
    (folder / "alone/bin").mkdir(parents=True)
    for command in ("python", "bayesft"):
        (folder / "alone/bin" / command).symlink_to(tmp_path / "bin/dvc")
    (folder / SCRIPT.relative_to(Path.cwd())).write_text(SCRIPT.read_text())
    (folder / SCRIPT.relative_to(Path.cwd())).chmod(0o755)
    for number in range(2):
        (folder / "number").write_text(str(number))
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", str(number)]):
            subprocess.run([*git, *command], cwd=folder, check=True, env=host)
    return folder


def shell(text: str, work: Path, host: dict[str, str], **variables: str) -> subprocess.CompletedProcess:
    """Run lines of a workflow as the host does."""
    return subprocess.run([*HOST, "-c", text], cwd=work, env={**host, **variables}, capture_output=True, text=True)


def calls(host: dict[str, str]) -> list[str]:
    path = Path(host["CALLS"])
    return path.read_text().splitlines() if path.exists() else []


def variables(step: dict[str, Any]) -> dict[str, str]:
    return {name: "HEAD~1" if name == "BASE" else "3.11" for name in step.get("env", {})}


@pytest.mark.parametrize("name", STEPS)
def test_actions_are_those_of_a_commit(name):
    uses = STEPS[name].get("uses")
    assert uses is None or re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40}", uses)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_no_permissions_and_a_shell_that_sees_failures(name):
    assert WORKFLOWS[name]["permissions"] == {}
    assert WORKFLOWS[name]["defaults"]["run"]["shell"] == "bash"


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_runs_the_code_of_a_change_can_write_nothing(name):
    job, uses = JOBS[name], [step.get("uses", "") for step in JOBS[name]["steps"]]
    if any(action.startswith("actions/checkout@") for action in uses):
        assert job["permissions"] == {"contents": "read"}
        (checkout,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert checkout["with"]["persist-credentials"] is False
    assert job["timeout-minutes"] <= 90


def test_the_cache_is_saved_also_where_a_step_fails():
    (save,) = [step for step in STEPS.values() if step.get("uses", "").startswith("actions/cache/save@")]
    (restore,) = [step for step in STEPS.values() if step.get("uses", "").startswith("actions/cache/restore@")]
    assert save["if"] == "always()" and save["with"]["path"] == restore["with"]["path"]


@pytest.mark.parametrize("name", RUNS)
def test_every_line_of_shell_runs(work, host, name):
    step = RUNS[name]
    assert "${{" not in step["run"]  # a value of the event is never a part of the program
    (work / "difference.md").write_text("the difference\n")
    done = shell(step["run"], work, host, **variables(step))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", RUNS)
def test_a_step_fails_where_its_command_fails(work, host, name):
    step = RUNS[name]
    shell(step["run"], work, host, **variables(step))
    for call in calls(host):
        failed = shell(step["run"], work, host, **variables(step), FAILS=call)
        assert (failed.returncode != 0) != ("--dry" in call), call  # what can't be told is computed


def test_the_summary_has_the_report_and_where_its_pictures_are(work, host):
    (work / "difference.md").write_text("the difference\n")
    shell(RUNS["reproduce-report-Summary"]["run"], work, host, ARTIFACT="https://localhost/artifact")
    summary = Path(host["GITHUB_STEP_SUMMARY"]).read_text()
    assert all(part in summary for part in ("(https://localhost/artifact)", "the difference", "the report"))


def test_the_list_of_reports_names_each(work, host):
    shell(RUNS["reproduce-publish-A list of the reports"]["run"], work, host)
    assert (work / "reports/README.md").read_text() == "# Reports\n- [quick-embedded](quick-embedded/)\n"


@pytest.mark.parametrize("outdated", [False, True])
def test_the_report_of_the_base_is_made_where_it_is_outdated(work, host, outdated):
    Path(host["TODO"]).write_text("Running stage 'train':\n" if outdated else "Stage 'train' didn't change\n")
    done = shell(f"{SCRIPT} HEAD~1", work, host)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "## Accuracy under drift: the change against its base\n\n| a difference |\n"
    assert ("dvc repro" in calls(host)) == outdated
    assert calls(host)[-1] == "dvc metrics diff --md base-run"
    assert list(Path(host["TMPDIR"]).iterdir()) == []


@pytest.mark.parametrize("fails", ["dvc repro plan", "dvc metrics diff"])
def test_a_difference_that_can_not_be_had_fails_and_leaves_nothing(work, host, fails):
    done = shell(f"{SCRIPT} HEAD~1", work, host, FAILS=fails)
    assert done.returncode == 3 and list(Path(host["TMPDIR"]).iterdir()) == []
    assert shell(f"{SCRIPT} no-such-commit", work, host).returncode != 0
