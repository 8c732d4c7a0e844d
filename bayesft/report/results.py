"""The results of a run, gathered: accuracies of every network at every σ, and how each was trained."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesft.evaluation.statistics import Estimate, estimate, paired

# Rows in the order in which figures and tables show them, and their names there.
ROWS = {
    "erm": "ERM",
    "ftna": "FTNA",
    "reram_v": "ReRAM-V",
    "awp": "AWP (weights only)",
    "drift_aware": "drift-aware",
    "uniform": "uniform dropout",
    "random": "random search",
    "bayesft-alg1": "BayesFT, Algorithm 1",
    "bayesft": "BayesFT",
}
DEVICE_ROW = "erm-programmed"  # ERM on ReRAM-V's devices: no method, so in no figure


@dataclass(frozen=True)
class TaskResults:
    """One task, or one factor of the ablation.

    accuracy: for each row, (seeds, σ, draws); sigmas: (σ,); about: for each row, how the network of each seed was
    trained; data: what is known of the images.
    """

    sigmas: np.ndarray
    seeds: tuple[int, ...]
    accuracy: dict[str, np.ndarray]
    about: dict[str, list[dict]]
    data: dict

    @classmethod
    def gather(cls, files: Mapping[tuple[str, int], dict]) -> "TaskResults":
        """From the results of (method, seed): the content of their files. Every method has every seed.

        Raises ValueError when they were evaluated on different grids.
        """
        seeds = tuple(sorted({seed for _, seed in files}))
        methods = list(dict.fromkeys(method for method, _ in files))
        first = next(iter(files.values()))
        for (method, seed), content in files.items():
            if content["sigmas"] != first["sigmas"]:
                raise ValueError(
                    f"{method} seed {seed} was evaluated on another grid of σ than the others: run dvc repro"
                )
        accuracy, about = {}, {}
        for method in methods:
            for row in files[method, seeds[0]]["rows"]:
                entries = [files[method, seed]["rows"][row] for seed in seeds]
                accuracy[row] = np.array([entry["accuracy"] for entry in entries])
                about[row] = [entry["about"] for entry in entries]
        return cls(np.array(first["sigmas"]), seeds, accuracy, about, first["data"])

    def rows(self) -> list[str]:
        """The rows to show, in the order of the reports."""
        known = [row for row in ROWS if row in self.accuracy]
        return known + [row for row in self.accuracy if row not in ROWS and row != DEVICE_ROW]

    def curve(self, row: str) -> list[Estimate]:
        """The accuracy of a row at each σ."""
        return [estimate(self.accuracy[row][:, i]) for i in range(len(self.sigmas))]

    def at(self, row: str, sigma: float) -> Estimate | None:
        """The accuracy of a row at `sigma`, or None where the grid has no such point."""
        found = np.flatnonzero(np.isclose(self.sigmas, sigma))
        return estimate(self.accuracy[row][:, found[0]]) if len(found) else None

    def over_grid(self, row: str) -> Estimate:
        """The mean accuracy of a row over the grid of σ."""
        return estimate(self.accuracy[row].mean(1))

    def difference(self, first: str, second: str) -> Estimate:
        """The mean accuracy over the grid of one row minus another's, paired by seed or by draw."""
        return paired(self.accuracy[first].mean(1), self.accuracy[second].mean(1))

    def band(self) -> str:
        """What the intervals are over, in words."""
        draws = next(iter(self.accuracy.values())).shape[2]
        if len(self.seeds) > 1:
            numbers = ", ".join(map(str, self.seeds))
            return f"95 % interval over {len(self.seeds)} training seeds ({numbers}; {draws} drift draws each)"
        return f"95 % interval over {draws} drift draws (one training seed, {self.seeds[0]})"


def bands(results: Mapping[str, TaskResults], panels: Mapping[str, str]) -> str:
    """What the intervals of several panels are over: said once where all agree, else panel by panel."""
    said: dict[str, list[str]] = {}
    for name, result in results.items():
        said.setdefault(result.band(), []).append(panels[name])
    if len(said) == 1:
        return f"mean; band: {next(iter(said))}"
    return "mean; band: " + "; ".join(f"({', '.join(names)}) {band}" for band, names in said.items())


def curves_table(results: Mapping[str, TaskResults]) -> pd.DataFrame:
    """Every curve of every task, one line a point."""
    lines = []
    for task, result in results.items():
        for row in [*result.rows(), *([DEVICE_ROW] if DEVICE_ROW in result.accuracy else [])]:
            for sigma, e in zip(result.sigmas, result.curve(row), strict=True):
                lines.append(
                    {
                        "task": task,
                        "row": row,
                        "sigma": sigma,
                        "accuracy": e.mean,
                        "low": e.low,
                        "high": e.high,
                        "interval_over": e.over,
                        "count": e.count,
                        "seeds": " ".join(map(str, result.seeds)),
                    }
                )
    return pd.DataFrame(lines)


def trials_table(results: Mapping[str, TaskResults]) -> pd.DataFrame:
    """Every trial of every search, one line a trial."""
    lines = []
    for task, result in results.items():
        for row in ("bayesft", "random"):
            for seed, about in zip(result.seeds, result.about.get(row, []), strict=False):
                for trial in about["trials"]:
                    rates = {f"rate_{i + 1}": rate for i, rate in enumerate(trial["rates"])}
                    rest = {key: value for key, value in trial.items() if key != "rates"}
                    lines.append({"task": task, "search": row, "seed": seed, **rest, **rates})
    return pd.DataFrame(lines)
