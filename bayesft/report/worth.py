"""What tuning is worth, method by method, what the search itself is, and why: three figures and their tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from bayesft.evaluation.measures import weights
from bayesft.evaluation.statistics import Estimate, estimate, holm, p_value
from bayesft.methods import Look
from bayesft.report.claims import LEVEL, MARGIN
from bayesft.report.results import NOT_MEASURED, TaskResults, known, show
from bayesft.report.rows import Row
from bayesft.report.style import COLUMN, PAGE, VARIANT_LOOKS, curve, save, titled
from bayesft.tasks import TASKS, heading


@dataclass(frozen=True)
class Landscape:
    """The space that is searched, and how well one trial can see it, each by seed.

    rates: one at all sites (rates,); objective: a trial's (seeds, rates); whole_objective: that of the final
    training's network; accuracy: under drift of that network on test images (seeds, rates). equal_trials
    and random_trials: objectives of trials of the same rates, and of random ones (seeds, trials); drawn: the standard
    error that each of the former owes to its drift draws.
    """

    rates: np.ndarray
    objective: np.ndarray
    whole_objective: np.ndarray
    accuracy: np.ndarray
    equal_trials: np.ndarray
    random_trials: np.ndarray
    drawn: np.ndarray

    @classmethod
    def gather(cls, files: list[dict[str, Any]], area: Callable[[np.ndarray], np.ndarray]) -> "Landscape":
        """From the results of each seed; `area` takes curves (..., σ) to what is under them.

        Raises:
            ValueError: Their rates or numbers of trials differ.
        """
        if len({(tuple(file["rates"]), len(file["equal_trials"]["objective"])) for file in files}) > 1:
            raise ValueError("the study's seeds have other rates or other numbers of trials: run dvc repro")
        return cls(
            np.array(files[0]["rates"]),
            np.array([file["objective"] for file in files]),
            np.array([file["whole_objective"] for file in files]),
            area(np.array([file["accuracy"] for file in files])),
            np.array([file["equal_trials"]["objective"] for file in files]),
            np.array([file["random_trials"]["objective"] for file in files]),
            np.array([file["equal_trials"]["standard_error"] for file in files]),
        )

    @property
    def chance(self) -> float:
        """Standard deviation of the objective among trials of the same rates: what no search can predict."""
        return float(self.equal_trials.var(1, ddof=1).mean() ** 0.5)

    @property
    def spread(self) -> float:
        """The same among trials of random rates: chance, and what the rates do."""
        return float(self.random_trials.var(1, ddof=1).mean() ** 0.5)

    @property
    def chance_without_draws(self) -> float:
        """What would be left of `chance` with endless drift draws."""
        return float(max(0.0, self.chance**2 - (self.drawn**2).mean()) ** 0.5)

    def rank_correlation(self, objective: np.ndarray) -> Estimate:
        """Spearman's, between an objective and the accuracy of a final training, with one rate at all sites."""
        from scipy import stats  # takes a second, and not every report has a study

        each = [
            0.0 if u.std() == 0 or a.std() == 0 else stats.spearmanr(u, a).statistic  # where all are alike, none
            for u, a in zip(objective, self.accuracy, strict=True)
        ]
        return estimate(np.array(each)[:, None])

    def best(self, values: np.ndarray) -> float:
        """The rate, one at all sites, at which the mean over the seeds of `values` (seeds, rates) is largest."""
        return float(self.rates[values.mean(0).argmax()])

    @property
    def good(self) -> tuple[float, float]:
        """The rates around the best one, least and greatest, whose final training is within the margin of it."""
        mean = self.accuracy.mean(0)
        low = high = int(mean.argmax())
        while low > 0 and mean[low - 1] >= mean.max() - MARGIN:
            low -= 1
        while high < len(mean) - 1 and mean[high + 1] >= mean.max() - MARGIN:
            high += 1
        return float(self.rates[low]), float(self.rates[high])


@dataclass(frozen=True)
class Study:
    """The study of the search on one task.

    runs: for each strategy and option, the epochs that the search spent (seeds, lengths) and the accuracy under drift
    of a final training under what it chose, the area under its curve (seeds, lengths). Each of `options` is a change
    of the strategy `reference`. `unsearched` are runs of methods with given hyperparameters, with the look of each.
    """

    seeds: tuple[int, ...]
    strategies: tuple[str, ...]
    options: tuple[str, ...]
    reference: str
    runs: dict[str, tuple[np.ndarray, np.ndarray]]
    landscape: Landscape
    data: dict[str, Any]
    unsearched: Mapping[str, Look]

    @classmethod
    def gather(
        cls,
        files: Mapping[int, dict[str, Any]],
        strategies: Sequence[str],
        options: Sequence[str],
        reference: str,
        unsearched: Mapping[str, Look],
        end: float | None = None,
    ) -> "Study":
        """From the results of each seed, whose area is measured up to σ = `end` (None: up to the last).

        Raises:
            ValueError: They were not made with the same settings, or σ does not go so far.
        """
        seeds = tuple(sorted(files))
        first = files[seeds[0]]
        wanted = [*strategies, *options, *unsearched]
        for seed in seeds:
            if sorted(files[seed]["runs"]) != sorted(wanted) or files[seed]["sigmas"] != first["sigmas"]:
                raise ValueError(f"the study's seed {seed} has other runs or another grid: run dvc repro")
        by_level = weights(first["sigmas"], end)
        if by_level is None:
            raise ValueError(f"studies.sigma_max = {first['sigmas'][-1]:g}: must be at least {end:g}")

        def area(curves: ArrayLike) -> np.ndarray:
            return np.asarray(curves, float) @ by_level

        runs = {
            name: (
                np.array([[point["epochs_search"] for point in files[seed]["runs"][name]] for seed in seeds], float),
                np.array([[area(point["accuracy"]) for point in files[seed]["runs"][name]] for seed in seeds]),
            )
            for name in wanted
        }
        space = Landscape.gather([files[seed]["landscape"] for seed in seeds], area)
        return cls(seeds, tuple(strategies), tuple(options), reference, runs, space, first["data"], unsearched)

    def heading(self, task: str) -> str:
        """The network of a task and the data, by their own name where they stand in for the real ones."""
        return heading(task, self.data["source"])

    def intervals(self) -> str:
        """How many seeds there are and what the intervals are over, in a few words."""
        return f"{len(self.seeds)} seeds, 95 % intervals over seeds" if len(self.seeds) > 1 else "1 seed, no intervals"

    def curve(self, name: str) -> tuple[np.ndarray, list[Estimate]]:
        """The epochs that a search spent, and what came of it, at each of its lengths."""
        epochs, accuracy = self.runs[name]
        return epochs.mean(0), [estimate(accuracy[:, i : i + 1]) for i in range(accuracy.shape[1])]

    def difference(self, name: str) -> Estimate:
        """What a whole run gains over the whole reference, paired by seed."""
        return estimate(self._apart(name)[:, None])

    def _apart(self, name: str) -> np.ndarray:
        return self.runs[name][1][:, -1] - self.runs[self.reference][1][:, -1]

    def others(self) -> list[str]:
        """The runs that are compared with the reference."""
        return [name for name in (*self.unsearched, *self.strategies, *self.options) if name != self.reference]

    def corrected(self) -> dict[str, float]:
        """The p of each difference from the reference, corrected for their number (Holm)."""
        names = self.others()
        return dict(zip(names, holm([p_value(self._apart(name)) for name in names]).tolist(), strict=True))


def figure_study(studies: Mapping[str, Study], folder: Path) -> str:
    """Left: accuracy against the epochs that a search spent. Right: what each option gains over the reference."""
    figure, axes = plt.subplots(
        len(studies),
        2,
        figsize=(PAGE, 2.9 * len(studies) + 0.6),
        squeeze=False,
        layout="constrained",
        width_ratios=(4, 3),
    )
    for (left, right), (task, study) in zip(axes, studies.items(), strict=True):
        for name, look in _looks(study.strategies).items():
            epochs, values = study.curve(name)
            if len(epochs) > 1:
                curve(left, epochs, values, look, name)
            else:
                left.errorbar(
                    epochs, [values[0].mean], [values[0].half_width], color=look.colour, marker=look.marker, ls="",
                    capsize=3, label=name,
                )  # fmt: skip
        for name, look in study.unsearched.items():
            rest = study.curve(name)[1][0]
            left.axhline(rest.mean, color=look.colour, ls=look.dashes, lw=1.5, label=name)
            left.axhspan(rest.low, rest.high, color=look.colour, alpha=0.15, lw=0)
        left.set(
            xlabel="epochs of training that the search spent", ylabel="accuracy under drift\nof the final training"
        )
        titled(left, f"({TASKS[task].panel}) {study.heading(task)}: strategies", study.intervals())
        others, p = study.others(), study.corrected()
        for place, name in enumerate(reversed(others)):
            e = study.difference(name)
            clear = p[name] < LEVEL
            right.errorbar(
                e.mean, place, xerr=e.half_width, color="black" if clear else "0.45", marker="o" if clear else "s",
                mfc="black" if clear else "white", ls="", capsize=2.5, ms=4.5,
            )  # fmt: skip
        right.set_yticks(range(len(others)), list(reversed(others)), fontsize=7)
        right.axvline(0, color="0.3", lw=1)
        right.set(xlabel=f"gain over “{study.reference}”, paired by seed", ylim=(-0.6, len(others) - 0.4))
        titled(right, "whole searches", study.intervals())
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, handlelength=3)
    more = (
        "test accuracy of a fresh network trained with the usual recipe under the numbers that the search had found by "
        f"then; filled: p < {LEVEL:g} after Holm's correction for all comparisons of the panel"
    )
    save(figure, folder, "study")
    return f"{more[0].upper()}{more[1:]}."


def _looks(strategies: Sequence[str]) -> dict[str, Look]:
    """How each strategy is drawn: what proposes (before the comma) gives dashes and marker, the rest the colour."""
    kinds = list(dict.fromkeys(name.partition(", ")[2] for name in strategies))
    by_proposer = {"GP": ("-", "o"), "random": ("--", "s")}
    looks = {}
    for name in strategies:
        proposer, _, kind = name.partition(", ")
        colour = VARIANT_LOOKS[kinds.index(kind) % len(VARIANT_LOOKS)].colour
        looks[name] = Look(colour, *by_proposer.get(proposer, (":", "D")))
    return looks


def figure_landscape(studies: Mapping[str, Study], folder: Path) -> str:
    """Along one rate at all sites: what a trial tells the search, and what a final training is worth; and chance."""
    figure, axes = plt.subplots(
        len(studies), 3, figsize=(PAGE, 2.6 * len(studies)), squeeze=False, layout="constrained"
    )
    for (left, middle, right), (task, study) in zip(axes, studies.items(), strict=True):
        space = study.landscape

        def along(ax: Axes, values: np.ndarray, look: Look, label: str, rates: np.ndarray = space.rates) -> None:
            curve(ax, rates, [estimate(values[:, i : i + 1]) for i in range(len(rates))], look, label)
            ax.set(xlabel="dropout rate, one at all sites")

        along(left, space.accuracy, VARIANT_LOOKS[0], "")
        left.set_ylabel("accuracy under drift, test images")
        titled(left, f"({TASKS[task].panel}) final training", study.intervals())
        along(middle, space.objective, VARIANT_LOOKS[1], "of one trial")
        along(middle, space.whole_objective, VARIANT_LOOKS[4], "of the final network")
        middle.set_ylabel("objective, validation images")
        middle.legend(loc="best")
        titled(middle, "what the search sees", study.intervals())
        # Every seed has its own weights at the start, so its trials are compared with one another.
        for place, (values, look) in enumerate(
            ((space.random_trials, VARIANT_LOOKS[2]), (space.equal_trials, VARIANT_LOOKS[3]))
        ):
            off = (values - values.mean(1, keepdims=True)).ravel()
            shift = np.linspace(-0.25, 0.25, len(off))  # one beside the other, by seed
            right.plot(off, place + shift, color=look.colour, marker=look.marker, ls="", ms=3.5, alpha=0.8)
        right.set_yticks(
            (0, 1),
            (f"random rates\n(SD {space.spread:.3f})", f"same rates, repeated\n(SD {space.chance:.3f})"),
            fontsize=7,
        )
        right.set(xlabel="objective minus its seed's mean", ylim=(-0.6, 1.6))
        titled(right, "rates against chance", f"trials of {study.intervals().partition(',')[0]}")
    more = (
        "left: the area under the curve; middle and right: a mean over the σ of the search; repeated trials differ in "
        "the order of images, dropout and drift alone"
    )
    save(figure, folder, "landscape")
    return f"{more[0].upper()}{more[1:]}."


def figure_tuned(results: Mapping[str, TaskResults], folder: Path) -> str:
    """Every method as in Figure 3 and, where it has numbers to tune, tuned: accuracy under drift."""
    columns = len(results)
    figure, axes = plt.subplots(
        1, columns, figsize=(min(PAGE, COLUMN * columns + 0.6), 3.1), squeeze=False, sharey=True, layout="constrained"
    )
    rows = list(dict.fromkeys(row for r in results.values() for row in (*r.untuned(), *(of for of, _ in r.tuned()))))
    titles = {row: r.title(row) for r in results.values() for row in rows if row in r.accuracy}
    for ax, (task, result) in zip(axes[0], results.items(), strict=True):
        doubled = {of for of, _ in result.tuned()}
        points = [(row, row, 0.16 * (row in doubled), False) for row in result.untuned()]
        points += [(of, tuned, -0.16, True) for of, tuned in result.tuned()]
        for line, row, shift, filled in points:
            e, colour = known(result.so_far().area(row)), result.look(row).colour
            ax.errorbar(
                e.mean, len(rows) - 1 - rows.index(line) + shift, xerr=e.half_width, color=colour,
                marker="D" if filled else "o", mfc=colour if filled else "white", ls="", capsize=2.5, ms=5,
            )  # fmt: skip
        ax.set_yticks(range(len(rows)), [titles[row] for row in reversed(rows)], fontsize=7)
        of = "accuracy under drift" if result.measured else "mean accuracy"  # of a part of the range it is no area
        ax.set(xlabel=f"{of}, σ = 0 … {result.so_far().measured_to:g}")
        titled(ax, f"({TASKS[task].panel}) {result.heading(task)}", result.intervals(), result.searched())
    handles = [
        Line2D([], [], color="black", ls="", marker="o", mfc="white", label="as in Figure 3"),
        Line2D([], [], color="black", ls="", marker="D", label="tuned by the search, on validation data"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    save(figure, folder, "tuned")
    return "Bars: 95 % intervals. Diamonds: the numbers of the method found on validation data by one search for all."


def study_table(study: Study) -> pd.DataFrame:
    """A line for each run: epochs of search, accuracy, gain over the reference."""
    lines, p = {}, study.corrected()
    for name in (*study.unsearched, *study.strategies, *study.options):
        epochs, values = study.curve(name)
        gain = study.difference(name)
        lines[name] = {
            "epochs of search": f"{epochs[-1]:g}",
            "area": show(values[-1]),
            f"gain over “{study.reference}”": "–" if name == study.reference else show(gain, "+"),
            "p (Holm)": "–" if name == study.reference or np.isnan(p[name]) else f"{p[name]:.2g}",
        }
    return pd.DataFrame(lines).T


def landscape_text(study: Study) -> str:
    """What the landscape says of the search, in numbers."""
    space = study.landscape
    low, high = space.good
    return (
        f"One rate at all sites: from {low:.2f} to {high:.2f} within {MARGIN:g} of the best "
        f"({space.accuracy.mean(0).max():.3f}). The objective has a standard deviation of {space.spread:.3f} among "
        f"trials of random rates, and of {space.chance:.3f} among trials repeated with the same rates (with "
        f"endless drift draws {space.chance_without_draws:.3f} would be left of that). With one rate at all sites, "
        f"the final training is best at {space.best(space.accuracy):.2f}, the objective of a trial at "
        f"{space.best(space.objective):.2f}, and that of the final training's network at "
        f"{space.best(space.whole_objective):.2f}; with the test accuracy of that network, the two have rank "
        f"correlations of {show(space.rank_correlation(space.objective))} and "
        f"{show(space.rank_correlation(space.whole_objective))}."
    )


def tuned_table(result: TaskResults) -> pd.DataFrame:
    """A line for each tuned method: what the search found, and what that gains over what Figure 3 shows."""
    lines = {}
    for row, tuned in result.tuned():
        found = [", ".join(f"{key} {value:.3g}" for key, value in _numbers(result.shown[tuned], about).items())
                 for about in result.about[tuned]]  # fmt: skip
        alone = row == tuned
        lines[result.title(tuned)] = {
            "found": "; ".join(found),
            "as in Figure 3": "–" if alone else show(result.area(row), missing=NOT_MEASURED),
            "tuned": show(result.area(tuned), missing=NOT_MEASURED),
            "difference": "–" if alone else show(result.difference(tuned, row), "+"),
        }
    return pd.DataFrame(lines).T


def _numbers(row: Row, about: Mapping[str, Any]) -> dict[str, float]:
    """The hyperparameters that a description tells: rates by site, or one where all are the same, and the others."""
    rates = about.get("rates", {})
    same = len(set(rates.values())) == 1
    numbers = {"rate": next(iter(rates.values()))} if same else {f"rate {site}": rate for site, rate in rates.items()}
    others = {name: about[name] for name in row.of.Settings.model_fields if name in about}
    return {name.replace("sigma", "σ").replace("gamma", "γ"): value for name, value in (numbers | others).items()}
