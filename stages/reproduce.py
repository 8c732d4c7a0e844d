"""`make reproduce`: `dvc repro`, and how long it took, also in a unit that does not depend on the machine.

The unit is a yardstick: the time of 100 training steps (batch 64) of ResNet-18 at width 1/8 on one thread, measured
here after the run. It is no stage: a time is not a result.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

WORTH_A_YARDSTICK_S = 60.0  # a run that took less did not compute much


def main() -> None:
    """Run `dvc repro` with the arguments given, and print its time."""
    began = time.perf_counter()
    targets = sys.argv[1:]
    with working_ahead([] if targets else waiting()):
        done = subprocess.run(["dvc", "repro", *targets], check=False)
    seconds = time.perf_counter() - began
    if done.returncode == 0 and seconds > WORTH_A_YARDSTICK_S:
        unit = yardstick()
        print(
            f"dvc repro: {seconds:.0f} s on {os.cpu_count()} cores, {seconds / unit:.0f} yardsticks of {unit:.1f} s "
            "(100 training steps of ResNet-18 at width 1/8, one thread)"
        )
    sys.exit(done.returncode)


def waiting() -> list[str]:
    """The stages that `dvc repro` would run, in its order, when the plan and the data sets are there."""
    if subprocess.run(["dvc", "repro", "download"], check=False).returncode:
        return []
    dry = _asked("dvc", "repro", "--dry")
    if dry.returncode:  # it stops at the first input that is not there yet
        return _asked("dvc", "stage", "list", "--name-only").stdout.split()
    return re.findall(r"^Running stage '(.+)'", dry.stdout, re.MULTILINE)


def _asked(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True)


@contextmanager
def working_ahead(names: list[str]) -> Iterator[None]:
    """Within it, idle cores make items of these stages (`stages.ahead`)."""
    if not names:
        yield
        return
    null = subprocess.DEVNULL
    ahead = subprocess.Popen([sys.executable, "-m", "stages.ahead", *names], stdout=null, stderr=null, process_group=0)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(ahead.pid, signal.SIGTERM)
        ahead.wait()


def yardstick(steps: int = 30) -> float:
    """Seconds of 100 training steps of ResNet-18 at width 1/8 on 32 × 32 images.

    Args:
        steps: So many steps are timed, after five that are not.

    Returns:
        Seconds of 100 steps.
    """
    import torch

    from bayesft.data import Split
    from bayesft.models import build
    from bayesft.settings import Recipe
    from bayesft.training import fit

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)

    def timed(count: int) -> float:
        images = torch.randn(64 * count, 3, 32, 32, generator=generator)
        data = Split(images, torch.randint(10, (64 * count,), generator=generator))
        model = build({"network": "resnet18", "width": 0.125}, seed=0)
        began = time.perf_counter()
        fit(model, data, Recipe(epochs=1, batch_size=64), seed=0, label="yardstick")
        return time.perf_counter() - began

    timed(5)
    return timed(steps) * 100 / steps


if __name__ == "__main__":
    main()
