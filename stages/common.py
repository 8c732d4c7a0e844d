"""What every stage does around its own work: check the parameters, resume or start, say what it did, keep the time."""

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bayesft.files import checksum, write_text
from stages.parameters import ParameterError, Parameters, load

# Experiments run in temporary copies; what must outlive a killed one stays in the main repository.
ROOT = Path(os.environ.get("DVC_ROOT", "."))
# Packages, beside torch, that decide results.
DECIDING = ("numpy", "scikit-learn", "scikit-optimize", "torchvision", "torchmetrics", "pycocotools")
# Code that decides no result: a change there must not discard checkpoints.
NO_RESULTS = ("bayesft/report/", "stages/render.py", "stages/check.py", "stages/code.py")


def data_file(task: str) -> Path:
    """The tensors of a task, or of an ablation ("ablation-mnist")."""
    return Path("data/datasets") / f"{task}.safetensors"


def models_folder(task: str, seed: int) -> Path:
    """The trained networks of a task: a folder for each method, with a file for each row that it has in the report.

    An ablation has its files here, one for each network.
    """
    return Path("data/models") / task / str(seed)


def results_file(task: str, seed: int) -> Path:
    """The accuracies under drift of all networks of a task, or of an ablation."""
    return Path("data/results") / task / f"{seed}.json"


def pictures_file(task: str, seed: int) -> Path:
    """What detectors find in some of the scenes."""
    return Path("data/results") / task / f"{seed}.pictures.safetensors"


def study_file(task: str, seed: int) -> Path:
    """What the study of the search found on a task."""
    return Path("data/results") / task / f"study-{seed}.json"


def networks_of(task: str, seed: int, methods: Sequence[str]) -> list[Path]:
    """The files of the networks of `methods`. Those of methods that params.yaml no longer names are removed.

    Evaluation depends on their folder, which would read as changed with leftovers in it; DVC's cache has them.
    """
    folder = models_folder(task, seed)
    for leftover in folder.iterdir():
        if leftover.is_dir() and leftover.name not in methods:
            shutil.rmtree(leftover)
    return [file for method in methods for file in sorted((folder / method).glob("*.safetensors"))]


def timings_folder(scale: str) -> Path:
    """Where the seconds of each stage go."""
    return Path("data/timings") / scale


def code_digest() -> str:
    """SHA-256 over the code that decides results, so that a checkpoint is never resumed by other code."""
    digest = hashlib.sha256()
    for path in sorted([*Path("bayesft").rglob("*.py"), *Path("stages").glob("*.py")]):
        if not path.as_posix().startswith(NO_RESULTS):
            digest.update(f"{path.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class Stage:
    """A stage at work: the checked parameters, the device, and the checkpoint of this very item."""

    parameters: Parameters
    device: str
    checkpoint: object


@contextmanager
def stage(
    name: str,
    item: str,
    matters: Callable[[Parameters], object],
    inputs: tuple[Path, ...] = (),
    keep: bool = False,
) -> Iterator:
    """Run a stage's work: `with stage("train", "mlp-mnist-erm-0", …) as s`.

    The checkpoint is keyed by `item` and everything that its result depends on: `matters(parameters)`, the bytes of
    `inputs`, the code, the versions, the device and the threads. It is cleared when the work is done, unless the
    stage wants to `keep` what another run of it can use. The seconds go to data/timings, which no stage depends on: a
    time is never the same twice.
    """
    import torch

    from bayesft.training import Checkpoint

    parameters = load()
    torch.set_num_threads(parameters.threads)
    device = parameters.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # the CPU's algorithms are deterministic as they are, and this call costs 1.5 s
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32 where drift is evaluated
    key = [repr(matters(parameters)), [checksum(path) for path in inputs], code_digest(), torch.__version__]
    key += [device, parameters.threads, platform.machine(), *map(version, DECIDING)]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    began = time.perf_counter()
    with held(Checkpoint(ROOT / "data/checkpoints" / name / f"{item}-{digest}")) as checkpoint:
        yield Stage(parameters, device, checkpoint)
        if not keep:
            checkpoint.clear()
    seconds = round(time.perf_counter() - began, 2)
    write_text(timings_folder(parameters.scale) / f"{name}@{item}.json", json.dumps(seconds))
    print(f"{name} {item}: done in {seconds:.1f} s", flush=True)


@contextmanager
def held(checkpoint, patience_s: float = 3600) -> Iterator:
    """Hold a checkpoint; while another process does (a queued experiment that needs the same item), wait for it."""
    deadline, waiting = time.monotonic() + patience_s, False
    while True:
        try:
            checkpoint.__enter__()
            break
        except RuntimeError as busy:
            if time.monotonic() > deadline:
                raise
            if not waiting:
                print(f"{busy}. Waiting for it", flush=True)
            waiting = True
            time.sleep(0.5)
    try:
        yield checkpoint
    finally:
        checkpoint.__exit__()


def run(main: Callable[..., None], *names: str) -> None:
    """Call `main` with the command line's arguments, and turn an expected failure into one clear message."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in names:
        parser.add_argument(name, type=int if name == "seed" else str)
    arguments = vars(parser.parse_args())
    try:
        main(**arguments)
    except ParameterError as error:
        sys.exit(f"error: {error}")
    except (RuntimeError, OSError, ValueError) as error:
        if os.environ.get("BAYESFT_TRACEBACK"):
            raise
        sys.exit(f"error: {type(error).__name__}: {error}\n(BAYESFT_TRACEBACK=1 shows where)")
