"""Search of hyperparameters for tolerance to faults, around anyone's training: ask, train, measure, tell."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from bayesft.drift.faults import FaultModel, LogNormalDrift
from bayesft.hardening.batches import Batches
from bayesft.hardening.checks import check_fault, check_names, check_rereadable, checked_levels, is_number, whole_number
from bayesft.hardening.measure import evaluate
from bayesft.hardening.progress import tqdm
from bayesft.hardening.resume import fingerprint, opened
from bayesft.hardening.robustness import axes
from bayesft.hardening.scores import Scorer
from bayesft.hardening.state import own_random
from bayesft.seeds import derive_seed

if TYPE_CHECKING:  # loaded where they are used: they take longer than the rest
    import pandas as pd

    from bayesft.methods import Hyperparameter

Values = dict[str, float]
Train = Callable[[Values], nn.Module]


@dataclass(frozen=True)
class TunedTrial:
    """One trial of `tune`.

    Args:
        number: its number, from 0.
        values: what was tried, by name.
        objective: the area under the curve of the scores over the levels, divided by their range (end levels count
            half), averaged over the draws (`Curve.area`); NaN where the trial failed.
        standard_error: of the objective, over draws.
        seconds: how long training and measurement took.
        failed: why the trial failed; empty where it did not.
    """

    number: int
    values: Values
    objective: float
    standard_error: float
    seconds: float
    failed: str = ""


@dataclass(frozen=True)
class Study:
    """What `tune` has tried.

    Args:
        trials: in the order of their numbers.
        interrupted: whether Ctrl-C, the timeout or a callback ended the search early.
        network: the network of the best trial, or None where that trial comes from the storage.
    """

    trials: list[TunedTrial] = field(default_factory=list)
    interrupted: bool = False
    network: nn.Module | None = None

    @property
    def best(self) -> TunedTrial:
        """The trial of the highest objective, the earliest where some are equal. Its objective is too high on average.

        Raises:
            ValueError: no trial succeeded.
        """
        ended = [trial for trial in self.trials if not trial.failed]
        if not ended:
            why = f": {self.trials[0].failed}" if self.trials else ""
            raise ValueError(f"none of {len(self.trials)} trials succeeded{why}")
        return max(ended, key=lambda trial: trial.objective)

    def frame(self) -> "pd.DataFrame":
        """A row for each trial: number, the values by name, objective, standard_error, seconds, failed."""
        import pandas as pd

        rows = [{"number": t.number, **t.values, **{k: asdict(t)[k] for k in _NUMBERS}} for t in self.trials]
        return pd.DataFrame(rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw the objective of each trial, and the best so far, onto Matplotlib axes, and return the axes."""
        ax = axes(ax)
        ended = [trial for trial in self.trials if not trial.failed]
        numbers, values = [t.number for t in ended], [t.objective for t in ended]
        ax.errorbar(numbers, values, [t.standard_error for t in ended], fmt="o", label="a trial, ± standard error")
        ax.step(numbers, [max(values[: i + 1]) for i in range(len(values))], where="post", label="best so far")
        ax.set(xlabel="trial", ylabel="mean score over fault levels")
        ax.legend()
        return ax

    def __str__(self) -> str:
        return self.frame().drop(columns="failed").round(4).to_string(index=False) if self.trials else "no trials"


_NUMBERS = ("objective", "standard_error", "seconds", "failed")


def tune(
    train: Train,
    validation: Any,
    *,
    space: Mapping[str, Sequence[Any]],
    trials: int | None = 20,
    timeout: float | None = None,
    callbacks: Sequence[Callable[[Study], Any]] = (),
    storage: str | Path | None = None,
    key: str = "",
    batch: int = 1,
    n_jobs: int | None = None,
    strategy: Literal["gp", "random", "grid"] = "gp",
    initial: int = 4,
    fault: FaultModel = LogNormalDrift(),  # noqa: B008, frozen
    levels: Sequence[float] | None = None,
    draws: int = 10,
    seed: int = 0,
    progress: bool = True,
    **same: Any,
) -> Study:
    """Search the hyperparameters under which a training gives the most tolerant network.

    Each trial calls `train`, and `evaluate` measures what it gives. The next values come from the Gaussian process of
    BayesFT, eqs. (5)-(9) (`bayesft.search`). All trials meet the same faults, and the same global random streams.

    Args:
        train: a function of the values, by name, to a trained network. Where they do not work it raises ArithmeticError
            or `Diverged`, or gives a network whose score is not finite: the trial counts as failed.
        validation: data as for `evaluate`, which can be read again.
        space: for each name its lowest and highest value, and "log" as a third where orders of magnitude count alike.
        trials: how many; None for as many as `timeout` allows.
        timeout: seconds after which no trial begins.
        callbacks: functions of the `Study` so far, called after each trial; one that gives True ends the search.
        storage: a folder that keeps the trials. A later call with the same arguments goes on from there, also with more
            trials. It belongs to one call: space, search, seed, faults, `where`, `calibrate`, the score's name and
            data are compared; functions can't be.
        key: names what can't be compared (the training, the score), so that a change of it is noticed.
        batch: how many trials are proposed at once, to run side by side.
        n_jobs: processes for a batch, by joblib; None as `joblib.parallel_config` says. It changes no number.
        strategy: what proposes values: the surrogate, chance, or a grid in random order.
        initial: random trials before the first of the surrogate.
        fault, levels, draws, seed: as for `evaluate`. The objective is the area under the curve over these levels.
        progress: show a bar.
        same: the other arguments of `evaluate`.

    Returns:
        The trials. After Ctrl-C, those that were complete.

    Raises:
        ValueError: an argument is not allowed, or the storage belongs to another call; as `evaluate`.
    """
    from bayesft.search.optimizer import Optimizer
    from bayesft.search.parallel import Job, workers
    from bayesft.settings import SearchSettings

    if not callable(train):
        raise ValueError(f"train = {type(train).__name__}: must be a function of the values to a trained network")
    check_names(same, [evaluate], ("model", "data"), "tune: there is no argument")
    parameters = space_of(space)
    batch, seed = whole_number("batch", batch, 1), whole_number("seed", seed, None)
    draws = whole_number("draws", draws, 2)
    _check_budget(trials, timeout)
    check_fault(fault)
    levels = checked_levels(fault, levels)
    check_rereadable("validation", validation)
    room = _room(len(parameters))
    most = min(room, whole_number("trials", trials, 1)) if trials is not None else room
    if strategy == "grid" and trials is None:
        raise ValueError("trials = None: a grid needs their number")
    if trials is not None and trials > room:
        raise ValueError(f"trials = {trials}: {len(parameters)} value(s) to search have room for {room}")
    settings = SearchSettings(strategy=strategy, initial=whole_number("initial", initial, 1), trials=most)
    optimizer = Optimizer(len(parameters), settings, derive_seed("tune", seed))
    about = {
        "space": {name: list(map(str, bounds)) for name, bounds in space.items()},
        "search": [strategy, initial, batch, *([most] if strategy == "grid" else [])],
        "faults": [repr(fault), list(levels), draws],
        "seed": seed,
        "where": where if isinstance(where := same.get("where", "all"), str) else "chosen",
        "calibrate": fingerprint(same.get("calibrate")),
        "score": Scorer(same.get("score", "accuracy")).name,
        "data": fingerprint(Batches(validation, seed, same.get("forward") is not None)) if storage is not None else 0,
        "key": key,
    }
    work = _Work(train, validation, {"fault": fault, "levels": levels, "draws": draws, "seed": seed, **same})
    began, interrupted, network = time.monotonic(), False, None
    with opened(storage, "storage", about) if storage is not None else nullcontext() as store:
        found = store.load("trials") if store else None
        done = [TunedTrial(**entry) for entry in found[1]] if found else []
        bar = tqdm(total=None if trials is None else most, initial=len(done), disable=not progress, unit="trial")
        with workers(batch, n_jobs) as run, bar:
            start = 0
            try:
                while start < most and not interrupted:
                    if timeout is not None and len(done) <= start and time.monotonic() - began >= timeout:
                        interrupted = trials is not None
                        break
                    points = optimizer.ask(min(batch, most - start))
                    values = [{h.name: h.value(u) for h, u in zip(parameters, p, strict=True)} for p in points]
                    jobs: list[Job] = [
                        (_trial, (work, number, each, torch.get_num_threads()), {})
                        for number, each in enumerate(values, start)
                        if number >= len(done)  # the others come from the storage
                    ]
                    for trial, made in run(jobs):
                        done.append(trial)
                        if not trial.failed and Study(done).best is trial:
                            network = made
                        bar.update()
                        if store:
                            store.save("trials", {}, [asdict(t) for t in done])
                        so_far = Study(list(done), False, network)
                        interrupted |= any([callback(so_far) is True for callback in callbacks])
                    for point, trial in zip(points, done[start : start + len(points)], strict=True):
                        optimizer.tell(point, trial.objective, trial.standard_error)
                    start += len(points)
            except KeyboardInterrupt:
                if not done:
                    raise
                interrupted = True
                warnings.warn(f"interrupted: {len(done)} trials are complete", stacklevel=2)
    return Study(done, interrupted, network)


@dataclass(frozen=True)
class _Work:
    """What every trial needs, in any process."""

    train: Train
    validation: Any
    measure: Mapping[str, Any]


def _trial(work: _Work, number: int, values: Values, threads: int) -> tuple[TunedTrial, nn.Module | None]:
    """Train with `values` and measure: the trial, and its network. It depends on its arguments alone."""
    from bayesft.training import Diverged

    torch.set_num_threads(threads)  # another number of threads would round otherwise
    began, network, why, objective, error = time.monotonic(), None, "", math.nan, math.nan
    try:
        with own_random(derive_seed("tune", work.measure["seed"], "trial")):
            with torch.inference_mode(False), torch.enable_grad():
                network = work.train(dict(values))
        if not isinstance(network, nn.Module):
            raise ValueError(f"train gives {type(network).__name__}: must give a torch.nn.Module")
        curve = evaluate(network, work.validation, progress=False, **work.measure)
        if curve.about["interrupted"]:
            raise KeyboardInterrupt
        objective, error = curve.area, float(curve.areas.std(ddof=1) / len(curve.areas) ** 0.5)
        if not math.isfinite(objective):
            why, objective, error = f"the objective is {objective}", math.nan, math.nan
    except (ArithmeticError, Diverged) as failure:
        why = f"{type(failure).__name__}: {failure}"
    if why:
        tqdm.write(f"trial {number} failed, and the search goes on: {why}")
        network = None
    return TunedTrial(number, values, objective, error, time.monotonic() - began, why), network


def _check_budget(trials: Any, timeout: Any) -> None:
    if trials is None and timeout is None:
        raise ValueError("trials = None, timeout = None: a search needs one of them")
    if timeout is not None and not (is_number(timeout) and timeout > 0):
        raise ValueError(f"timeout = {timeout!r}: must be a number of seconds greater than 0")


def space_of(space: Any) -> list["Hyperparameter"]:
    """The hyperparameters of a space, checked."""
    from bayesft.methods import Hyperparameter

    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"space = {space!r}: must be a dictionary of (lowest, highest), and not empty")
    found = []
    for name, bounds in space.items():
        given = tuple(bounds) if isinstance(bounds, Sequence) and not isinstance(bounds, str) else ()
        low, high = given[:2] if len(given) in (2, 3) else (math.nan, math.nan)
        numbers = is_number(low) and is_number(high)
        log = given[2:] == ("log",)
        if not numbers or not low < high or (given[2:] and not log) or (log and low <= 0):
            raise ValueError(
                f"space[{name!r}] = {bounds!r}: must be (lowest, highest), or (lowest, highest, 'log') above 0"
            )
        found.append(Hyperparameter(str(name), float(low), float(high), log))
    return found


def _room(dimensions: int) -> int:
    """How many trials a space of so many dimensions has room for, at most 10,000."""
    from bayesft.search.surrogate import CLOSEST

    return min(10_000, int((1 / (2 * CLOSEST)) ** min(dimensions, 4) + 1e-9))
