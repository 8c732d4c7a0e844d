"""What tuning is worth, method by method, and what the search itself is: two figures and their tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from bayesft.evaluation.statistics import Estimate, estimate
from bayesft.report.results import ROWS, TaskResults, notes
from bayesft.report.style import LOOKS, OTHER_LOOK, VARIANT_LOOKS, curve, save
from bayesft.tasks import TASKS

UNIFORM = "uniform"  # the run of the study that searches nothing


@dataclass(frozen=True)
class Study:
    """The study of the search on one task.

    runs: for each strategy and option, the epochs that the search spent (seeds, lengths) and the accuracy of a final
    training under what it chose, a mean over σ and draws (seeds, lengths). Each of `options` is a change of the
    strategy `reference`.
    """

    seeds: tuple[int, ...]
    sigmas: np.ndarray
    strategies: tuple[str, ...]
    options: tuple[str, ...]
    reference: str
    runs: dict[str, tuple[np.ndarray, np.ndarray]]
    data: dict

    @classmethod
    def gather(
        cls, files: Mapping[int, dict], strategies: Mapping[str, object], options: Mapping[str, object], reference: str
    ) -> "Study":
        """From the results of each seed. Raises ValueError where they were not made with the same settings."""
        seeds = tuple(sorted(files))
        first = files[seeds[0]]
        wanted = [*strategies, *options, UNIFORM]
        for seed in seeds:
            if sorted(files[seed]["runs"]) != sorted(wanted) or files[seed]["sigmas"] != first["sigmas"]:
                raise ValueError(f"the study's seed {seed} has other runs or another grid: run dvc repro")
        runs = {
            name: (
                np.array([[point["epochs_search"] for point in files[seed]["runs"][name]] for seed in seeds], float),
                np.array([[np.mean(point["accuracy"]) for point in files[seed]["runs"][name]] for seed in seeds]),
            )
            for name in wanted
        }
        return cls(seeds, np.array(first["sigmas"]), tuple(strategies), tuple(options), reference, runs, first["data"])

    def curve(self, name: str) -> tuple[np.ndarray, list[Estimate]]:
        """The epochs that a search spent, and what came of it, at each of its lengths."""
        epochs, accuracy = self.runs[name]
        return epochs.mean(0), [estimate(accuracy[:, i : i + 1]) for i in range(accuracy.shape[1])]

    def difference(self, name: str) -> Estimate:
        """What a whole run gains over the whole reference, paired by seed."""
        return estimate((self.runs[name][1][:, -1] - self.runs[self.reference][1][:, -1])[:, None])


def figure_study(studies: Mapping[str, Study], folder: Path, note: str) -> None:
    """Left: accuracy against the epochs that a search spent. Right: what each option gains over the reference."""
    figure, axes = plt.subplots(
        len(studies), 2, figsize=(10.5, 3.9 * len(studies)), squeeze=False, layout="constrained", width_ratios=(5, 4)
    )
    looks = [*VARIANT_LOOKS, ("#7a2300", "--", "h"), ("black", "-", "p")]
    for (left, right), (task, study) in zip(axes, studies.items(), strict=True):
        for i, name in enumerate(study.strategies):
            epochs, values = study.curve(name)
            look = looks[i % len(looks)]
            if len(epochs) > 1:
                curve(left, epochs, values, look, name)
            else:
                left.errorbar(
                    epochs, [values[0].mean], [values[0].half_width], color=look[0], marker=look[2], ls="", capsize=3,
                    label=name,
                )  # fmt: skip
        rest = study.curve(UNIFORM)[1][0]
        colour, dashes, _ = LOOKS["uniform"]
        left.axhline(rest.mean, color=colour, ls=dashes, lw=1.5, label="uniform rate, no search")
        left.axhspan(rest.low, rest.high, color=colour, alpha=0.15, lw=0)
        left.set(
            xlabel="epochs of training that the search spent", ylabel="accuracy of the final training,\nmean over σ"
        )
        left.set_title(f"({TASKS[task].panel}) {TASKS[task].title}: strategies")
        left.legend(fontsize=7.5, loc="best", frameon=True, framealpha=0.75, edgecolor="none")
        others = [name for name in (UNIFORM, *study.strategies, *study.options) if name != study.reference]
        for place, name in enumerate(reversed(others)):
            e = study.difference(name)
            clear = e.low > 0 or e.high < 0
            right.errorbar(
                e.mean, place, xerr=e.half_width, color="black" if clear else "0.45", marker="o" if clear else "s",
                mfc="black" if clear else "white", ls="", capsize=2.5, ms=4.5,
            )  # fmt: skip
        named = ["uniform rate, no search" if name == UNIFORM else name for name in reversed(others)]
        right.set_yticks(range(len(others)), named, fontsize=8)
        right.axvline(0, color="0.3", lw=1)
        right.set(
            xlabel=f"gain in mean accuracy over “{study.reference}”, paired by seed", ylim=(-0.6, len(others) - 0.4)
        )
        right.set_title("strategies and options, whole searches")
    first = next(iter(studies.values()))
    more = (
        f"{note}; test accuracy, mean over σ = 0 … {first.sigmas[-1]:g}, of a fresh network trained with the usual "
        f"recipe under the rates that the search had found by then; 95 % intervals over {len(first.seeds)} training "
        f"seeds ({', '.join(map(str, first.seeds))}); filled: the interval excludes 0 (not corrected for the number of "
        f"comparisons); data: {first.data['name']} ({first.data['source']})"
    )
    save(figure, folder, "study", fill(more, 150))


def figure_tuned(results: Mapping[str, TaskResults], folder: Path, note: str) -> None:
    """Every method at its default values and, where it has numbers to tune, tuned: mean accuracy over the grid."""
    columns = len(results)
    figure, axes = plt.subplots(
        1, columns, figsize=(5.2 * columns, 4.2), squeeze=False, sharey=True, layout="constrained"
    )
    rows = [row for row in ROWS if any(row in result.untuned() for result in results.values())]
    for ax, (task, result) in zip(axes[0], results.items(), strict=True):
        tuned = result.tuned()
        for place, row in enumerate(reversed(rows)):
            for name, shift, filled in ((row, 0.16 if row in tuned else 0.0, False), (tuned.get(row), -0.16, True)):
                if name not in result.accuracy:
                    continue
                e = result.over_grid(name)
                colour = LOOKS.get(row, OTHER_LOOK)[0]
                ax.errorbar(
                    e.mean, place + shift, xerr=e.half_width, color=colour, marker="D" if filled else "o",
                    mfc=colour if filled else "white", ls="", capsize=2.5, ms=5,
                )  # fmt: skip
        ax.set_yticks(range(len(rows)), [ROWS[row] for row in reversed(rows)], fontsize=8)
        ax.set(xlabel=f"mean accuracy over σ = 0 … {result.sigmas[-1]:g}")
        ax.set_title(f"({TASKS[task].panel}) {TASKS[task].title}")
    handles = [
        Line2D([], [], color="black", ls="", marker="o", mfc="white", label="default values"),
        Line2D([], [], color="black", ls="", marker="D", label="tuned by the search, on validation data"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=8)
    panels = {task: TASKS[task].panel for task in results}
    save(figure, folder, "tuned", notes(results, panels, note, min(160, 80 * columns)))


def study_table(study: Study) -> pd.DataFrame:
    """A line for each run: epochs of search, accuracy, gain over the reference."""
    lines = {}
    for name in (UNIFORM, *study.strategies, *study.options):
        epochs, values = study.curve(name)
        gain = study.difference(name)
        lines["uniform rate, no search" if name == UNIFORM else name] = {
            "epochs of search": f"{epochs[-1]:g}",
            "mean accuracy": f"{values[-1].mean:.3f} ± {values[-1].half_width:.3f}",
            f"gain over “{study.reference}”": "–"
            if name == study.reference
            else f"{gain.mean:+.3f} ± {gain.half_width:.3f}",
        }
    return pd.DataFrame(lines).T


def tuned_table(result: TaskResults) -> pd.DataFrame:
    """A line for each tuned method: what the search found, and what that gains over the default values."""
    lines = {}
    for row, tuned in result.tuned().items():
        found = [
            ", ".join(
                f"{key.replace('sigma_train', 'σ_train').replace('gamma', 'γ')} {value:.3g}" for key, value in pairs
            )
            for pairs in map(_numbers, result.about[tuned])
        ]
        cells = {"found": "; ".join(found)}
        for name, of in (("default", row), ("tuned", tuned)):
            e = result.over_grid(of) if of in result.accuracy else None
            cells[name] = "–" if e is None else f"{e.mean:.3f} ± {e.half_width:.3f}"
        gain = result.difference(tuned, row) if row in result.accuracy else None
        cells["tuned − default"] = "–" if gain is None else f"{gain.mean:+.3f} ± {gain.half_width:.3f}"
        lines[ROWS.get(row, row)] = cells
    return pd.DataFrame(lines).T


def _numbers(about: Mapping) -> list[tuple[str, float]]:
    """The numbers that a description tells: the rates by site, or one where all are the same, and the others."""
    rates = about.get("rates", {})
    same = len(set(rates.values())) == 1
    pairs = [("rate", next(iter(rates.values())))] if same else [(f"rate {site}", r) for site, r in rates.items()]
    return pairs + [(key, about[key]) for key in ("gamma", "sigma_train") if key in about]
