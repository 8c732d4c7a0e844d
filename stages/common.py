"""What every stage does around its own work: its plan, the machine's settings, the store, workers, errors."""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from bayesft.files import Unusable, checksum, read_json
from bayesft.store import Store
from bayesft.training import Checkpoint
from stages.code import digest
from stages.kernels import AVX2
from stages.parameters import ParameterError, load_part
from stages.timings import note_times

# Experiments run in temporary copies; what must outlive a killed one stays in the main repository.
ROOT = Path(os.environ.get("DVC_ROOT", "."))
PLAN = Path("data/plan")
DATASETS = Path("data/datasets")
MODELS = Path("data/models")
RESULTS = Path("data/results")

Item = dict[str, Any]


class Stage:
    """A stage at work: what the plan says of it, the store, and where its times go.

    Args:
        name: The stage's name in the plan, "train-awp" say.
        folder: Where its outputs lie. It is made, also where there is nothing to do.

    Raises:
        ValueError: The plan does not know the stage.
    """

    def __init__(self, name: str, folder: Path | None = None):
        self.name = name
        file = PLAN / f"{name}.json"
        if not file.exists():
            known = sorted(path.stem for path in PLAN.glob(f"{name.split('-')[0]}*.json"))
            raise ValueError(f"{file} is missing: run dvc repro plan. Planned: {', '.join(known) or 'nothing'}")
        plan = read_json(file)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.items: list[Item] = plan["items"]
        self.machine: dict[str, Any] = plan["machine"]
        self.store = Store(ROOT / "data/store", tqdm.write)
        prepare(self.machine)

    @property
    def device(self) -> str:
        """The device that computes."""
        return self.machine["device"]

    def key(self, item: Item, *inputs: object) -> str:
        """The key of an item in the store: it names everything that decides the item, its code included."""
        return digest([item, inputs, self.machine])

    def made(self, item: Item, build: Callable[[Path, Checkpoint], None], *inputs: Path) -> Path:
        """The folder of an item in the store, which `build` makes where there is none.

        Args:
            item: What decides its content, and `label` and `cost`, which do not.
            build: Writes the files, as `Store.make` calls it.
            inputs: The files that it is made from, beside the item's data set.

        Returns:
            The folder.

        Raises:
            Unusable: An input is missing. It is a ValueError.
        """
        decides = {key: value for key, value in item.items() if key not in ("label", "cost")}
        return self.store.make(self.key(decides, *map(fingerprint, (*inputs, dataset(item["data"])))), build)

    def work(self, function: Callable[..., str], items: Sequence[Item], part: str = "") -> None:
        """Do all items, side by side on all cores, the longest first, with one progress bar.

        Args:
            function: Takes this stage and an item, and gives a line that says what was found. It runs in any process.
            items: The items; `cost` of each says about how long it takes.
            part: Names the items where a stage has several kinds of them.
        """
        began = time.perf_counter()
        order = sorted(items, key=lambda item: -item.get("cost", 0))
        jobs = [joblib.delayed(_timed)(function, self, item) for item in order]
        of, took = {item["label"]: digest(item) for item in items}, {}
        for label, line, seconds in tqdm(_parallel(jobs), desc=self.name, total=len(jobs), unit="item", disable=None):
            took[label] = (of[label], seconds)
            tqdm.write(f"{label}: {line} ({seconds:.1f} s)")
        note_times(f"{self.name}{part and '-' + part}", took)
        print(f"{self.name}: {len(jobs)} items in {time.perf_counter() - began:.1f} s", flush=True)


def prepare(machine: dict[str, Any]) -> None:
    """Set what the machine's settings say for this process: threads, and exact algorithms on a GPU.

    Raises:
        ValueError: The process uses other instructions than the settings say.
    """
    torch.set_num_threads(machine["threads"])
    if machine["kernels"] == "avx2" and torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        raise ValueError(
            "kernels: avx2, and this process computes with AVX-512: start it as python -m stages.…, or with "
            + " ".join(f"{name}={value!r}" for name, value in AVX2.items())
        )
    if machine["device"] == "cuda":  # the CPU's algorithms are deterministic as they are, and this call costs 1.5 s
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32 where drift is evaluated


def dataset(name: str) -> Path:
    """The file of a data set."""
    return DATASETS / f"{name}.safetensors"


def fingerprint(path: Path) -> str:
    """The checksum of an input.

    Raises:
        Unusable: The file is missing.
    """
    if not path.is_file():
        raise Unusable(f"{path} is missing")
    return checksum(path)


def _timed(function: Callable[..., str], stage: Stage, item: Item) -> tuple[str, str, float]:
    prepare(stage.machine)
    began = time.perf_counter()
    try:
        line = function(stage, item)
    except Exception as error:
        error.add_note(item["label"])
        raise
    return item["label"], line, round(time.perf_counter() - began, 2)


def _parallel(jobs: list) -> Iterable[tuple[str, str, float]]:
    """The results of the jobs, each as soon as it is there."""
    parallel = load_part("parallel")
    count = min(parallel.jobs or os.cpu_count() or 1, max(1, len(jobs)))
    if count == 1:
        return (function(*arguments) for function, arguments, _ in jobs)
    if parallel.backend == "ray":
        return _on_ray(jobs, parallel.jobs)
    os.environ["TQDM_DISABLE"] = "1"  # of the workers: the stage has one bar
    if parallel.backend == "loky":
        return joblib.Parallel(count, return_as="generator_unordered", batch_size=1, pre_dispatch="all")(jobs)
    return _forked(jobs, count)


def _forked(jobs: list, count: int) -> Iterator[tuple[str, str, float]]:
    """The same in forked processes: they have torch already, where a fresh process takes seconds to import it.

    A job is handed over when a worker is free, so that none begins after one that failed.
    """
    with ProcessPoolExecutor(count, get_context("fork"), _end_with, (os.getpid(),)) as pool:
        waiting = (pool.submit(_until_ctrl_c, function, *arguments) for function, arguments, _ in jobs)
        running = set(islice(waiting, count))
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for error in filter(None, (future.exception() for future in done)):
                labels = ": ".join(getattr(error, "__notes__", ("a worker",)))
                tqdm.write(f"{labels}: failed; no other item is begun")
                raise error
            running |= set(islice(waiting, len(done)))
            yield from (future.result() for future in done)


def _end_with(stage: int) -> None:
    """Let this worker end with its stage, the process of that number.

    Ctrl-C ends it without a traceback: the stage itself says that it stopped. A stage that is killed can't tell it.
    """
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))

    def watch() -> None:
        while os.getppid() == stage:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _until_ctrl_c(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function`. After Ctrl-C, what it has open is closed, and this worker takes no other job."""
    try:
        return function(*arguments)
    except SystemExit:
        os._exit(130)


def _on_ray(jobs: list, count: int) -> Iterable[tuple[str, str, float]]:
    """The same on a Ray cluster, whose machines see this folder. Its backend hands over all results at once."""
    from ray.util.joblib import register_ray

    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=count or -1):
        return joblib.Parallel()(jobs)


def run(main: Callable[..., None], *names: str) -> None:
    """Call `main` with the command line's arguments, and turn an expected failure into one clear message."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in names:
        parser.add_argument(name)
    arguments = vars(parser.parse_args())
    try:
        main(**arguments)
    except KeyboardInterrupt:
        sys.exit("stopped; what was finished is kept, and the next run goes on from there")
    except ParameterError as error:
        sys.exit(f"error: {error}")
    except (RuntimeError, OSError, ValueError) as error:
        if os.environ.get("BAYESFT_TRACEBACK"):
            raise
        remedy = "\nRemove the file, if it is there, and run dvc repro, which makes it" * isinstance(error, Unusable)
        said = ": ".join([*getattr(error, "__notes__", ()), type(error).__name__, str(error)])
        sys.exit(f"error: {said}{remedy}\n(BAYESFT_TRACEBACK=1 shows where)")
