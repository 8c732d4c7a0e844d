"""`make chaos`: wrong parameters, damaged files, kills at random moments, full disks, two runs at once.

It works on a copy of the project at the smallest scale, and prints a table of what was tried and what held. Kills go
on until the time is up. The same seed tries the same things.
"""

import argparse
import copy
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

from stages.parameters import ParameterError, load, read_all  # before PyTorch: the kernels are those of a run

# isort: split
import torch

from tests.parameters import write_parameters
from tests.pipeline.clone import Clone

SMALL = {"tasks": ["mlp-mnist"], "ablation": {"data": [], "factors": ["dropout"]}, "study": "none",
         "ftt.faults": {}, "methods.drift_dropout.tasks": []}  # fmt: skip
WRONG = (None, "", "nonsense", -1, 0, 1.5, 10**9, float("nan"), float("inf"), True, [], [1, 1], {}, {"a": 1})
TRAIN, EVALUATE, RENDER = ("stages.train", "bayesft"), ("stages.evaluate", "bayesft"), ("stages.render",)


class Table:
    """What was tried, by kind: how often, how often it held, and the first that did not."""

    def __init__(self) -> None:
        self.lines: dict[str, list] = {}

    def add(self, kind: str, wrong: str | None) -> None:
        """Note one try. `wrong` says what did not hold."""
        line = self.lines.setdefault(kind, [0, 0, ""])
        line[0] += 1
        line[1] += wrong is None
        line[2] = line[2] or (wrong or "")

    def __str__(self) -> str:
        rows = [f"| {kind} | {tried} | {held} | {first} |" for kind, (tried, held, first) in self.lines.items()]
        return "\n".join(["| what | tried | held | the first that did not |", "|---|---|---|---|", *rows])


class Stages:
    """The stages of a copy, each run in a forked process, which has torch already."""

    def __init__(self, folder: Path):
        self.folder, self.output = folder, folder / "output.txt"

    def _run(self, module: str, words: tuple[str, ...]) -> None:
        os.setsid()
        os.chdir(self.folder)
        for name in [name for name in sys.modules if name.split(".")[0] in ("bayesft", "stages")]:
            del sys.modules[name]
        sys.path.insert(0, str(self.folder))
        sys.argv = [module, *words]
        with open(self.output, "w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as error:
                print(error.code)  # a stage's last word, for which the exit code is 1
                sys.exit(int(error.code not in (None, 0)))

    def start(self, module: str, *words: str) -> ForkProcess:
        """Start a stage, in a process group of its own."""
        process = get_context("fork").Process(target=self._run, args=(module, words))
        process.start()
        return process

    def run(self, module: str, *words: str) -> tuple[int, str]:
        """Run a stage: its exit code and what it said."""
        process = self.start(module, *words)
        process.join()
        return process.exitcode, self.output.read_text(encoding="utf-8")

    def models(self) -> dict[str, bytes]:
        """The bytes of every trained network."""
        return {path.name: path.read_bytes() for path in self.folder.glob("data/models/bayesft/*/*.safetensors")}

    def forget(self) -> None:
        """Remove what training has made."""
        for name in ("store", "models/bayesft"):
            shutil.rmtree(self.folder / "data" / name, ignore_errors=True)


def whole_run(stages: Stages) -> None:
    """Run every stage of the copy once."""
    for row in ("erm", "bayesft"):
        for name in ("models", "results"):
            (stages.folder / "data" / name / row).mkdir(parents=True)
    rows = [(f"stages.{stage}", row) for stage in ("train", "evaluate") for row in ("erm", "bayesft")]
    for command in (("stages.plan",), ("stages.download",), ("stages.boundary",), *rows, RENDER):
        code, said = stages.run(*command)
        if code:
            sys.exit(f"{' '.join(command)}: {said}")


def wrong_parameters(table: Table, stages: Stages, chance: random.Random, count: int = 200) -> None:
    """Any wrong value of any key is refused by the key's name, or read as it is."""
    whole, folder = read_all(stages.folder / "params.yaml"), stages.folder / "wrong"
    folder.mkdir()
    for _ in range(count):
        content, path = copy.deepcopy(whole), []
        block = content
        while isinstance(block, dict) and block and (not path or chance.random() < 0.8):
            path.append(chance.choice(list(block)))
            parent, block = block, block[path[-1]]
        value = parent[path[-1]] = chance.choice(WRONG)
        file = write_parameters(folder, content)
        shown = f"{'.'.join(map(str, path))} = {value!r}"
        try:
            load(file)
            table.add("wrong parameters", None)
        except ParameterError as error:
            named = any(str(part) in str(error) for part in path)
            table.add("wrong parameters", None if named else f"{shown} is not named: {error}")
        except Exception as error:
            table.add("wrong parameters", f"{shown}: {type(error).__name__}: {error}")


def cut(path: Path, chance: random.Random) -> None:
    """Cut a file at a random place."""
    path.write_bytes(path.read_bytes()[: chance.randrange(max(1, path.stat().st_size))])


def flip(path: Path, chance: random.Random) -> None:
    """Change the first bytes of a file, which say what it is, and one more."""
    content = bytearray(path.read_bytes())
    for place in (0, 1, chance.randrange(len(content))):
        content[place] ^= 0xFF
    path.write_bytes(content)


def empty(path: Path, chance: random.Random) -> None:
    """Leave nothing of a file."""
    path.write_bytes(b"")


def folder_in_place(path: Path, chance: random.Random) -> None:
    """Put a folder in place of a file."""
    path.unlink()
    path.mkdir()


def not_finite(path: Path, chance: random.Random) -> None:
    """Put NaN among the numbers of a file of tensors, whole otherwise."""
    from bayesft.tensors import load_tensors, save_tensors

    tensors, about = load_tensors(path)
    name = chance.choice([name for name, tensor in tensors.items() if tensor.is_floating_point()])
    tensors[name].view(-1)[0] = torch.nan
    save_tensors(path, tensors, about)


def damaged_files(table: Table, stages: Stages, chance: random.Random, deadline: float) -> None:
    """A damaged file is made anew, or named in one line with what to do; never a traceback, never other results."""
    before = stages.models()
    kinds = {
        "damaged data set": ("data/datasets/mnist.safetensors", TRAIN, (cut, flip, empty, folder_in_place)),
        "damaged plan": ("data/plan/train-bayesft.json", TRAIN, (cut, empty, folder_in_place)),
        "damaged item of the store": ("data/store/??/*/*.safetensors", TRAIN, (cut, flip, empty, folder_in_place)),
        "damaged list of the store": ("data/store/??/*/item.json", TRAIN, (cut, empty, folder_in_place)),
        "damaged network": ("data/models/bayesft/*/bayesft.safetensors", EVALUATE,
                            (cut, flip, empty, folder_in_place, not_finite)),
        "damaged measurement": ("data/store/measured/*/*.safetensors", EVALUATE, (cut, flip, empty)),
        "damaged result": ("data/results/bayesft/*.json", RENDER, (cut, empty, folder_in_place)),
        "damaged boundary": ("data/boundary.safetensors", RENDER, (cut, flip, empty, folder_in_place)),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as kept:
        shutil.copytree(stages.folder / "data", kept, dirs_exist_ok=True)
        for kind, (pattern, command, damages) in kinds.items():
            for damage in damages:
                if time.monotonic() > deadline:
                    return
                path = chance.choice(sorted(stages.folder.glob(pattern)))
                damage(path, chance)
                code, said = stages.run(*command)
                wrong = _wrong(code, said, path.name)
                if wrong is None and "network" not in kind and stages.models() != before:
                    wrong = "other networks"
                name = path.relative_to(stages.folder)
                table.add(kind, wrong and f"{damage.__name__} of {name}: {wrong}")
                shutil.rmtree(stages.folder / "data")
                shutil.copytree(kept, stages.folder / "data")


def _wrong(code: int, said: str, name: str) -> str | None:
    if "Traceback" in said:
        return f"a traceback: {said.strip().splitlines()[-1]}"
    if code == 0:
        return None
    return None if name in said and "error: " in said else f"exit {code}: {said.strip()[-200:]}"


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[bool]:
    """`folder` on a disk of so many KiB; False where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    mounted = bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def full_disks(table: Table, stages: Stages, chance: random.Random) -> None:
    """A full disk ends a stage with one line. With room, the next run gives the same networks."""
    before = stages.models()
    for _ in range(4):
        stages.forget()
        kib = chance.choice((4, 32, 128, 512))
        with small_disk(stages.folder / "data/store", kib) as mounted:
            if not mounted:
                table.add("full disk (mounting is not allowed here)", None)
                return
            code, said = stages.run(*TRAIN)
        wrong = None if "Traceback" not in said and (code == 0 or "No space left" in said) else said.strip()[-200:]
        code, said = stages.run(*TRAIN)
        if code or stages.models() != before:
            wrong = wrong or f"not the same afterwards: {said.strip()[-200:]}"
        table.add("full disk", wrong and f"{kib} KiB: {wrong}")


def two_at_once(table: Table, stages: Stages) -> None:
    """Two runs of one stage both end well, with the networks of one."""
    before = stages.models()
    for _ in range(2):
        stages.forget()
        two = [stages.start(*TRAIN) for _ in range(2)]
        for process in two:
            process.join()
        codes = [process.exitcode for process in two]
        table.add("two at once", None if codes == [0, 0] and stages.models() == before else f"exit codes {codes}")


def kills(table: Table, stages: Stages, chance: random.Random, deadline: float) -> None:
    """A stage killed at a random moment goes on to the same networks."""
    before = stages.models()
    stages.forget()
    began = time.monotonic()
    stages.run(*TRAIN)
    whole = time.monotonic() - began
    while time.monotonic() + 2 * whole < deadline:
        stages.forget()
        after = chance.uniform(0, whole)
        process = stages.start(*TRAIN)
        time.sleep(after)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()  # it has no group of its own yet
        process.join()
        code, said = stages.run(*TRAIN)
        same = code == 0 and stages.models() == before
        table.add("kills", None if same else f"after {after:.2f} s: exit {code}: {said.strip()[-200:]}")


def main() -> int:
    """Try everything, and print the table. The exit status is 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    table, chance = Table(), random.Random(given.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(Path(folder) / "clone", ("erm", "bayesft", "drift_dropout"), SMALL)
        stages = Stages(clone.folder)
        steps: tuple[Callable[[], None], ...] = (
            lambda: wrong_parameters(table, stages, chance),
            lambda: whole_run(stages),
            lambda: damaged_files(table, stages, chance, deadline - 60 * given.minutes / 2),
            lambda: two_at_once(table, stages),
            lambda: full_disks(table, stages, chance),
            lambda: kills(table, stages, chance, deadline),
        )
        for step in steps:
            step()
            print(f"{deadline - time.monotonic():.0f} s left", file=sys.stderr)
    print(table)
    return int(any(tried > held for tried, held, _ in table.lines.values()))


if __name__ == "__main__":
    sys.exit(main())
