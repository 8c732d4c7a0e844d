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
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from bayesft.data import Split
from bayesft.drift import FaultModel, monte_carlo
from bayesft.models import Site, dropout, find_sites
from bayesft.search.surrogate import propose
from bayesft.seeds import derive_seed
from bayesft.settings import SearchSettings
from bayesft.training import Problem, Trained, fit

TOP = 3  # trials that are measured again


@dataclass(frozen=True)
class Trial:
    """One trial: rates α_n, estimate u_n with its standard error, and the epochs of training behind its weights.

    For the trials that are measured again with fresh draws, `recheck` is the second estimate.
    """

    number: int
    rates: tuple[float, ...]
    objective: float
    standard_error: float
    cumulative_epochs: int
    recheck: float | None = None
    recheck_error: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """Every trial in order, the chosen rates α*, and the end of Algorithm 1 itself: the best trial and its weights."""

    sites: list[Site]
    trials: list[Trial]
    rates: tuple[float, ...]
    best: Trial
    best_model: Trained


def search(
    problem: Problem,
    settings: SearchSettings,
    fault: FaultModel,
    *,
    random: bool = False,
    parameters: str = "all",
    sites: list[Site] | None = None,
    measure: Callable[..., tuple[float, float]] | None = None,
) -> SearchResult:
    """Run Algorithm 1 on `problem`; with `random`, the control that draws every α_n at random.

    Only training and validation images are touched. Resumes from the problem's checkpoint at any trial. A problem
    that is no classification brings its own `sites`, and its own `measure` of u with the arguments of `objective`.
    """
    method = "random search" if random else "bayesft search"
    model = problem.fresh()
    sites = sites or find_sites(model, problem.train.images[:1], settings.granularity)
    measure = measure or objective
    low, high = settings.bounds
    progress = _Progress(problem, method)
    trials = progress.trials
    if trials:
        tqdm.write(f"{problem.label(method)}: resuming after trial {len(trials)} of {settings.trials}")
        model.load_state_dict(progress.weights[len(trials) - 1])
    bar = tqdm(total=settings.trials, initial=len(trials), desc=problem.label(method), unit="trial", disable=None)
    while (n := len(trials)) < settings.trials:
        unit = propose(
            (np.array([t.rates for t in trials]).reshape(n, len(sites)) - low) / (high - low),
            np.array([t.objective for t in trials]),
            np.array([t.standard_error for t in trials]),
            len(sites),
            derive_seed(problem.task, problem.seed),
            rule=settings.acquisition,
            kernel=settings.kernel,
            initial=settings.initial,
            random=random,
        )
        rates = tuple(float(rate) for rate in low + (high - low) * unit)
        recipe, behind = problem.recipe.model_copy(update={"epochs": settings.epochs}), settings.epochs
        if settings.weights == "scratch":
            model = problem.fresh()
        else:
            recipe, behind = recipe.model_copy(update={"lr": settings.lr, "schedule": "constant"}), behind * (n + 1)
        seed = derive_seed(problem.seed, "trial", n)
        with dropout(model, sites, rates):
            label = f"{problem.label(method)}, trial {n}"
            fit(model, problem.train, recipe, seed=seed, label=label, gradient=problem.gradient)
        mean, error = measure(model, problem, settings, fault, ("trial", n), settings.draws, parameters)
        progress.add(Trial(n, rates, mean, error, behind), model)
        bar.update()
        bar.set_postfix(best=f"{progress.top()[0].objective:.4f}", refresh=False)
    bar.close()
    top = progress.top()
    best = top[0]
    for trial in top:
        model.load_state_dict(progress.weights[trial.number])
        fresh = measure(model, problem, settings, fault, ("recheck", trial.number), 2 * settings.draws, parameters)
        trials[trial.number] = replace(trial, recheck=fresh[0], recheck_error=fresh[1])
    chosen = max((trials[t.number] for t in top), key=lambda t: t.recheck)
    model.load_state_dict(progress.weights[best.number])
    about = {
        "epochs": best.cumulative_epochs,
        "epochs_search": search_epochs(settings),
        "rates": {site.name: rate for site, rate in zip(sites, best.rates, strict=True)},
        "trial": best.number,
    }
    return SearchResult(
        sites, trials, chosen.rates, trials[best.number], Trained.of(model, problem.specification, **about)
    )


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


def search_epochs(settings: SearchSettings) -> int:
    """All epochs of training that a search spends."""
    return settings.trials * settings.epochs


class _Progress:
    """The trials so far, with the weights of the top ones and of the last, kept in the checkpoint as one state."""

    def __init__(self, problem: Problem, method: str):
        self.checkpoint, self.name = problem.checkpoint, problem.label(method)
        self.trials: list[Trial] = []
        self.weights: dict[int, dict[str, Tensor]] = {}
        found = self.checkpoint.load(self.name) if self.checkpoint else None
        if found:
            tensors, log = found
            self.trials = [Trial(**{**entry, "rates": tuple(entry["rates"])}) for entry in log]
            for key, tensor in tensors.items():
                number, name = key.split("/", 1)
                self.weights.setdefault(int(number), {})[name] = tensor

    def add(self, trial: Trial, model: nn.Module) -> None:
        self.trials.append(trial)
        self.weights[trial.number] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        keep = {t.number for t in self.top()} | {trial.number}
        self.weights = {number: state for number, state in self.weights.items() if number in keep}
        if self.checkpoint:
            tensors = {f"{number}/{name}": t for number, state in self.weights.items() for name, t in state.items()}
            self.checkpoint.save(self.name, tensors, [asdict(t) for t in self.trials])

    def top(self) -> list[Trial]:
        """The best trials, the earlier first where two are equal."""
        return sorted(self.trials, key=lambda t: -t.objective)[:TOP]
