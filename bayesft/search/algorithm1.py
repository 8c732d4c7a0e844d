"""Algorithm 1 of BayesFT: dropout rates α and weights θ, optimised alternately.

    for n = 1 … N:
        α_n from the surrogate of the trials so far
        θ continues under dropout α_n for E epochs          (or starts afresh: `weights: scratch`)
        u_n = mean over T drifted copies, on validation data  (eqs. 3, 4)
        the surrogate learns (α_n, u_n)

It ends with the α and θ of the best trial. Two departures, each a result of its own: with inherited weights later
trials have trained longer, so the epochs behind each trial are logged and the random-search control runs in the same
mode; and since the best of N noisy estimates is partly luck, the top trials are measured again with fresh draws, and
the best of those gives α* for a final training from a fresh initialisation, with the epochs that every method gets.
θ moves by Adam, as everywhere in this study, at a constant step while it is inherited; each trial starts Adam anew.

α is whatever a method lets be tuned (`Tunable`): BayesFT's rates, or the number that matters of another method.
Trials from fresh weights need not wait for one another: `batch` of them are proposed at once, and run side by side in
as many processes as joblib is given.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import joblib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from bayesft.data import Split
from bayesft.drift import FaultModel, monte_carlo
from bayesft.search.surrogate import check_space, propose_batch
from bayesft.seeds import derive_seed
from bayesft.settings import SearchSettings
from bayesft.training import Problem, Trained, fit
from bayesft.training.tunable import Tunable

ENOUGH = 3  # finished trials, before another one can be called hopeless

State = dict[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """One trial: values α_n, estimate u_n with its standard error, and the epochs of training behind its weights.

    `epochs` are those that it took itself. With early stopping, `halfway` is the estimate after half of them; a trial
    that was `stopped` there has a prediction as its u_n. For the trials that are measured again with fresh draws,
    `recheck` is the second estimate.
    """

    number: int
    values: tuple[float, ...]
    objective: float
    standard_error: float
    cumulative_epochs: int
    epochs: int
    halfway: float | None = None
    stopped: bool = False
    recheck: float | None = None
    recheck_error: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """Every trial in order, the chosen values α*, and the end of Algorithm 1 itself: the best trial and its weights."""

    trials: list[Trial]
    values: tuple[float, ...]
    best: Trial
    best_model: Trained

    @property
    def about(self) -> dict:
        """What the description of a network trained under α* tells of the search."""
        return {
            "epochs_search": sum(trial.epochs for trial in self.trials),
            "trials": [asdict(trial) for trial in self.trials],
        }


def search(
    problem: Problem,
    tunable: Tunable,
    settings: SearchSettings,
    fault: FaultModel,
    *,
    parameters: str = "all",
    measure: Callable[..., tuple[float, float]] | None = None,
    n_jobs: int | None = None,
    name: str = "search",
) -> SearchResult:
    """Run Algorithm 1 on `problem`, over what is `tunable`.

    Only training and validation images are touched. Resumes from the problem's checkpoint at any trial; `name` tells
    several searches of one problem apart. A problem that is no classification brings its own `measure` of u, with the
    arguments of `objective`. The trials of a batch run in `n_jobs` processes, which change no number; without it, as
    `joblib.parallel_config` says, which also chooses another backend (a cluster).

    Raises ValueError when there is nothing to tune, or more than a surrogate can tell apart, or when there is no room
    for so many trials.
    """
    dimensions = tunable.dimensions
    check_space(len(dimensions), settings.trials)
    measure = measure or objective
    progress = _Progress(problem, name, settings)
    trials = progress.trials
    if trials:
        tqdm.write(f"{problem.label(name)}: resuming after trial {len(trials)} of {settings.trials}")
    bar = tqdm(total=settings.trials, initial=len(trials), desc=problem.label(name), unit="trial", disable=None)
    with _workers(settings, n_jobs) as run:
        while (n := len(trials)) < settings.trials:
            told = trials[: n - n % settings.batch]  # what was known when the batch was proposed
            points = propose_batch(
                min(settings.batch, settings.trials - len(told)),
                np.array([[d.unit(v) for d, v in zip(dimensions, t.values, strict=True)] for t in told]),
                np.array([t.objective for t in told]),
                np.array([t.standard_error for t in told]),
                len(dimensions),
                derive_seed(problem.task, problem.seed),
                strategy=settings.strategy,
                design=settings.design,
                rule=settings.acquisition,
                kernel=settings.kernel,
                initial=settings.initial,
                trials=settings.trials,
            )
            start = progress.weights[n - 1] if settings.weights == "inherit" and trials else None
            here = replace(problem, checkpoint=None), torch.get_num_threads()
            work = (*here, tunable, settings, fault, parameters, measure, name)
            jobs = [
                joblib.delayed(_trial)(*work, number, _values(tunable, point), start, _Halfway.of(told, settings))
                for number, point in enumerate(points, len(told))
                if number >= n
            ]
            for trial, weights in run(jobs):
                progress.add(trial, weights)
                bar.update()
                bar.set_postfix(best=f"{progress.top()[0].objective:.4f}", refresh=False)
    bar.close()
    model, top = problem.fresh(), progress.top()
    best = top[0]
    for trial in top:
        model.load_state_dict(progress.weights[trial.number])
        fresh = measure(model, problem, settings, fault, ("recheck", trial.number), 2 * settings.draws, parameters)
        trials[trial.number] = replace(trial, recheck=fresh[0], recheck_error=fresh[1])
    chosen = max((trials[t.number] for t in top), key=lambda t: t.recheck)
    model.load_state_dict(progress.weights[best.number])
    about = {
        "epochs": best.cumulative_epochs,
        "epochs_search": sum(trial.epochs for trial in trials),
        **tunable.about(best.values),
        "trial": best.number,
    }
    return SearchResult(
        list(trials), chosen.values, trials[best.number], Trained.of(model, problem.specification, **about)
    )


def _values(tunable: Tunable, point: np.ndarray) -> tuple[float, ...]:
    return tuple(dimension.value(unit) for dimension, unit in zip(tunable.dimensions, point, strict=True))


@contextmanager
def _workers(settings: SearchSettings, n_jobs: int | None) -> Iterator[Callable[[list], Iterable]]:
    """What runs the trials of a batch, and gives them in order, each as soon as it and those before it are there."""
    if settings.batch == 1:
        yield lambda jobs: (trial(*arguments) for trial, arguments, _ in jobs)
        return
    try:
        parallel = joblib.Parallel(n_jobs, return_as="generator")
    except ValueError:  # Ray's backend hands over the whole batch at once
        parallel = joblib.Parallel(n_jobs)
    with parallel:  # the same processes for all batches
        yield parallel


def _trial(
    problem: Problem,
    threads: int,
    tunable: Tunable,
    settings: SearchSettings,
    fault: FaultModel,
    parameters: str,
    measure: Callable[..., tuple[float, float]],
    name: str,
    number: int,
    values: tuple[float, ...],
    start: State | None,
    others: "_Halfway | None",
) -> tuple[Trial, State]:
    """Train under `values`, from the weights `start` or fresh ones, and measure u: the trial and its weights.

    It depends on its arguments alone, so it can run in any process.
    """
    torch.set_num_threads(threads)  # another number of threads would round otherwise
    model, recipe = problem.fresh(), problem.recipe.model_copy(update={"epochs": settings.epochs})
    if settings.weights == "inherit":
        recipe = recipe.model_copy(update={"lr": settings.lr, "schedule": "constant"})
    if start is not None:
        model.load_state_dict(start)
    own = () if settings.common_draws else (number,)
    seen: list[tuple[float, float]] = []

    def u(kind: str) -> tuple[float, float]:
        return measure(model, problem, settings, fault, (kind, *own), settings.draws, parameters)

    def hopeless(done: int) -> bool:
        if others is None or done != settings.epochs // 2:
            return False
        seen.append(u("halfway"))
        return others.beat(*seen[0])

    label, seed = f"{problem.label(name)}, trial {number}", derive_seed(problem.seed, "trial", *own)
    with tunable.training(model, values) as gradient:
        fit(model, problem.train, recipe, seed=seed, label=label, gradient=gradient, after_epoch=hopeless)
    stopped = bool(seen) and others.beat(*seen[0])
    if stopped:
        (mean, error), epochs = others.predicted(*seen[0]), settings.epochs // 2
    else:
        (mean, error), epochs = u("trial"), settings.epochs
    behind = settings.epochs * (number + 1) if settings.weights == "inherit" else epochs
    halfway = seen[0][0] if seen else None
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return Trial(number, values, mean, error, behind, epochs, halfway, stopped), weights


@dataclass(frozen=True)
class _Halfway:
    """What the finished trials had reached after half of their epochs, and what they gained from there to the end."""

    reached: tuple[float, ...]
    gained: tuple[float, ...]

    @classmethod
    def of(cls, trials: Sequence[Trial], settings: SearchSettings) -> "_Halfway | None":
        if not settings.stop_early:
            return None
        finished = [trial for trial in trials if not trial.stopped]
        return cls(tuple(t.halfway for t in finished), tuple(t.objective - t.halfway for t in finished))

    def beat(self, mean: float, error: float) -> bool:
        """Whether a trial that has reached `mean` is worse than half of them, by more than two standard errors."""
        return len(self.reached) >= ENOUGH and mean + 2 * error < float(np.median(self.reached))

    def predicted(self, mean: float, error: float) -> tuple[float, float]:
        """What it would have ended with, had it gained what they did on average, and the error of that."""
        return mean + float(np.mean(self.gained)), float(np.hypot(error, np.std(self.gained, ddof=1)))


def objective(
    model: nn.Module,
    problem: Problem,
    settings: SearchSettings,
    fault: FaultModel,
    purpose: tuple,
    draws: int,
    parameters: str,
) -> tuple[float, float]:
    """u(α, θ) of eq. (4) on validation data, averaged over the settings' σ: (mean, standard error over the draws).

    The draws are fresh for each `purpose`, and shared by the GP search and its random control.
    """
    data: Split = problem.validation
    key = (problem.task, problem.seed, "search", *purpose)
    score = accuracy_score if settings.objective == "accuracy" else neg_loss_score
    per_level = [
        monte_carlo(model, data.images, data.labels, score, fault, sigma, range(draws), key, parameters)
        for sigma in settings.sigmas
    ]
    u = torch.stack(per_level).mean(0)  # (T,): one number a draw, since a draw is shared by the levels
    return float(u.mean()), float(u.std() / draws**0.5)


def accuracy_score(outputs: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest output is the label's, else 0: (B,)."""
    return (outputs.argmax(1) == labels).float()


def neg_loss_score(outputs: Tensor, labels: Tensor) -> Tensor:
    """−ℓ of eq. (3) with cross entropy as ℓ: (B,)."""
    return -F.cross_entropy(outputs, labels, reduction="none")


class _Progress:
    """The trials so far, with the weights of the top ones and of the last, kept in the checkpoint as one state."""

    def __init__(self, problem: Problem, name: str, settings: SearchSettings):
        self.checkpoint, self.name = problem.checkpoint, problem.label(name)
        self.inherit, self.keep = settings.weights == "inherit", settings.top
        self.trials: list[Trial] = []
        self.weights: dict[int, State] = {}
        found = self.checkpoint.load(self.name) if self.checkpoint else None
        if found:
            tensors, log = found
            self.trials = [Trial(**{**entry, "values": tuple(entry["values"])}) for entry in log]
            for key, tensor in tensors.items():
                number, parameter = key.split("/", 1)
                self.weights.setdefault(int(number), {})[parameter] = tensor

    def add(self, trial: Trial, weights: State) -> None:
        self.trials.append(trial)
        self.weights[trial.number] = weights
        keep = {t.number for t in self.top()} | ({trial.number} if self.inherit else set())
        self.weights = {number: state for number, state in self.weights.items() if number in keep}
        if self.checkpoint:
            tensors = {f"{number}/{name}": t for number, state in self.weights.items() for name, t in state.items()}
            self.checkpoint.save(self.name, tensors, [asdict(t) for t in self.trials])

    def top(self) -> list[Trial]:
        """The best trials that ended, the earlier first where two are equal."""
        return sorted((t for t in self.trials if not t.stopped), key=lambda t: -t.objective)[: self.keep]
