"""A trial of a search, and the log of trials that a killed search resumes from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from bayesft.settings import SearchSettings
from bayesft.training import Problem

State = dict[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Args:
        number: The number of the trial, from 0.
        values: α_n, the hyperparameters.
        objective: u_n, or NaN where the training diverged.
        standard_error: The standard error of u_n over the draws.
        cumulative_epochs: The epochs of training behind its weights.
        epochs: The epochs that the trial itself took.
        halfway: With early stopping, the objective after half of the epochs.
        stopped: Whether the trial ended half-way. Its objective is then a prediction.
        failed: Whether the training diverged.
        recheck: For the best trials, the objective with fresh draws.
        recheck_error: The standard error of `recheck`.
    """

    number: int
    values: tuple[float, ...]
    objective: float
    standard_error: float
    cumulative_epochs: int
    epochs: int
    halfway: float | None = None
    stopped: bool = False
    failed: bool = False
    recheck: float | None = None
    recheck_error: float | None = None


class Log:
    """The trials so far, with the weights of the best ones and of the last one.

    It is kept in the problem's checkpoint, where there is one.
    """

    def __init__(self, problem: Problem, settings: SearchSettings, name: str):
        self.checkpoint, self.name = problem.checkpoint, problem.label(name)
        self.inherits, self.top = settings.weights == "inherit", settings.top
        self.trials: list[Trial] = []
        self.weights: dict[int, State] = {}
        found = self.checkpoint.load(self.name) if self.checkpoint else None
        if found:
            tensors, entries = found
            self.trials = [Trial(**{**entry, "values": tuple(entry["values"])}) for entry in entries]
            for key, tensor in tensors.items():
                number, parameter = key.split("/", 1)
                self.weights.setdefault(int(number), {})[parameter] = tensor

    def add(self, trial: Trial, weights: State) -> None:
        """Append a trial, and keep its weights while they are among the best or may be inherited."""
        self.trials.append(trial)
        self.weights[trial.number] = weights
        keep = {t.number for t in self.best()} | ({trial.number} if self.inherits else set())
        self.weights = {number: state for number, state in self.weights.items() if number in keep}
        if self.checkpoint:
            tensors = {f"{number}/{name}": t for number, state in self.weights.items() for name, t in state.items()}
            self.checkpoint.save(self.name, tensors, [asdict(t) for t in self.trials])

    def before(self, number: int) -> tuple[State, int] | None:
        """What trial `number` inherits: the weights of the trial before, and the epochs behind them. None: nothing."""
        if not self.inherits or number == 0:
            return None
        return self.weights[number - 1], self.trials[number - 1].cumulative_epochs

    def best(self) -> Sequence[Trial]:
        """The best trials that ended, the earlier first where two are equal."""
        ended = [trial for trial in self.trials if not trial.stopped and not trial.failed]
        return sorted(ended, key=lambda trial: -trial.objective)[: self.top]
