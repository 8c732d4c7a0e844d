"""Work ahead of `dvc repro`, which runs one stage after the other, at low priority: no core is idle meanwhile.

A core has nothing to do while a stage starts, and while its last item is made. Then this process makes items of the
stages to come and puts them into the store, where their stages find them. It writes nothing else, so no result depends
on it, and it may be ended at any time.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bayesft.store import Store
from stages import ablate, evaluate, ftt_evaluate, ftt_search, ftt_train, study, train
from stages.code import digest
from stages.common import MODELS, Item, Stage, load_part, prepare
from stages.timings import note_times

LEAST_PRIORITY = 19
Job = tuple[Stage, Callable[[Stage, Item], Any], Item, tuple[Path, ...]]


def main(names: list[str]) -> None:
    """Make the items of the stages of these names, the last ones first, as soon as what they need is there."""
    began, parent, parallel = time.time(), os.getppid(), load_part("parallel")
    jobs = [job for name in reversed(names) for job in jobs_of(name, names)]
    cores = os.cpu_count() or 1
    if not jobs or jobs[0][0].device != "cpu" or parallel.backend != "fork" or parallel.jobs == 1 or cores == 1:
        return
    os.nice(LEAST_PRIORITY)
    os.environ["TQDM_DISABLE"] = "1"
    with ProcessPoolExecutor(cores - 1, get_context("fork")) as pool:
        running: set[Future] = set()
        while jobs or running:
            if os.getppid() != parent:  # what it works for was killed
                os.killpg(0, signal.SIGTERM)
            ready = [job for job in jobs if all(_is_newer(path, began) for path in job[-1])]
            for job in ready[: cores - 1 - len(running)]:
                jobs.remove(job)
                running.add(pool.submit(_made, job))
            if running:
                done, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()  # raises what no stage would
            else:
                time.sleep(1)


def jobs_of(name: str, names: list[str]) -> Iterator[Job]:
    """The items of a stage: what makes each, and the files that other stages of the run make for it first."""
    kind, _, row = name.partition("@")
    if kind not in MAKE:
        return
    stage, make = _quiet(name.replace("@", "-")), MAKE[kind]
    for item in evaluate.planned(stage) if make is evaluate.measured else stage.items:
        maker, file = _input(kind, row, item)
        yield stage, make, item, (file,) if file and maker in names else ()


def _input(kind: str, row: str, item: Item) -> tuple[str, Path | None]:
    """The stage that makes what an item needs beside the data, and where."""
    match kind:
        case "evaluate" | "evaluate-ablation":
            folder = MODELS / item["row"] / f"{item['task']}-{item['seed']}"
            return "ablate" if kind == "evaluate-ablation" else f"train@{row}", folder
        case "ftt-train":
            return "ftt-search", ftt_train.found_by(item)
        case "ftt-evaluate":
            return "ftt-train", ftt_evaluate.network_of(item)
        case _:
            return "download", None


MAKE: dict[str, Callable[[Stage, Item], Any]] = {
    "train": train.trained, "ablate": ablate.trained, "study": study.finished, "evaluate": evaluate.measured,
    "evaluate-ablation": evaluate.measured, "ftt-search": ftt_search.finished, "ftt-train": train.trained,
    "ftt-evaluate": ftt_evaluate.finished,
}  # fmt: skip


def _quiet(name: str) -> Stage:
    """A stage that says nothing of items that it waits for."""
    stage = Stage(name)
    stage.store = Store(stage.store.folder, _silent)
    return stage


def _silent(line: str) -> None:
    """Say nothing."""


def _is_newer(path: Path, began: float) -> bool:
    """Whether this run has made `path`: what an earlier one left is no input of this one's."""
    return path.exists() and path.stat().st_mtime >= began


def _made(job: Job) -> None:
    """Make one item. If that fails, its stage meets the same error and says it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stage, make, item, _ = job
    prepare(stage.machine)
    if stage.name == "ftt-train":
        item = ftt_train.named(item)
    began = time.perf_counter()
    try:
        make(stage, item)
    except (RuntimeError, OSError, ValueError):
        return
    took = round(time.perf_counter() - began, 2)
    note_times(stage.name, {item["label"]: (digest(item), took)}, others=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
