"""The paper's figures, and a fourth that it lacks: the search."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from bayesft.evaluation.boundary import Boundaries
from bayesft.evaluation.statistics import estimate
from bayesft.report.results import ROWS, TaskResults, bands
from bayesft.report.style import LOOKS, VARIANT_LOOKS, accuracy_axes, curve, save
from bayesft.tasks import ABLATION, TASKS

OTHER_LOOK = ("black", "-", ".")


def figure_1(maps: Boundaries, folder: Path, note: str) -> None:
    """The decision boundary of a small classifier at rising σ: one drifted copy a panel, the mean over many above."""
    count = len(maps.sigmas)
    figure, axes = plt.subplots(1, count, figsize=(2.3 * count, 2.6), sharey=True, layout="constrained")
    for i, ax in enumerate(np.atleast_1d(axes)):
        x, y = maps.horizontal.numpy(), maps.vertical.numpy()
        shade = ax.contourf(x, y, maps.probability[i].numpy(), levels=np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.6)
        ax.contour(x, y, maps.probability[i].numpy(), levels=[0.5], colors="black", linewidths=1.2)
        for label, marker, colour in ((0, "o", "#2166ac"), (1, "^", "#b2182b")):
            points = maps.points[maps.labels == label].numpy()
            ax.scatter(*points.T, s=6, marker=marker, color=colour, edgecolor="white", linewidth=0.2)
        e = estimate(maps.accuracy[i : i + 1].numpy())
        ax.set_title(f"σ = {float(maps.sigmas[i]):g}\naccuracy {e.mean:.2f} ± {e.half_width:.2f}")
        ax.set(xlabel="first feature", aspect="equal", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        ax.grid(False)
    np.atleast_1d(axes)[0].set_ylabel("second feature")
    figure.colorbar(shade, ax=axes, label="probability of class 1", shrink=0.85)
    draws = maps.accuracy.shape[1]
    more = f"black: the boundary of one drifted copy; accuracy: mean over {draws} copies ± 95 % interval over draws"
    save(figure, folder, "figure1", f"{note}\n{more}")


def figure_2(results: Mapping[str, TaskResults], folder: Path, note: str) -> None:
    """The ablation: accuracy against σ, one panel a factor, one curve a variant."""
    figure, axes = plt.subplots(1, len(results), figsize=(3.1 * len(results), 3.0), sharey=True, layout="constrained")
    for ax, (factor, result) in zip(np.atleast_1d(axes), results.items(), strict=True):
        accuracy_axes(ax, result.sigmas[-1])
        for variant, look in zip(ABLATION[factor].variants, cycle(VARIANT_LOOKS), strict=False):
            curve(ax, result.sigmas, result.curve(variant), look, variant)
        ax.set_title(f"({ABLATION[factor].panel}) {ABLATION[factor].title}")
        ax.set_xlabel("drift level σ")
        ax.legend(loc="lower left", fontsize=8)
    for ax in np.atleast_1d(axes)[1:]:
        ax.set_ylabel("")
    save(figure, folder, "figure2", f"{note}\n{bands(results, {f: ABLATION[f].panel for f in results})}")


def figure_3(results: Mapping[str, TaskResults], folder: Path, note: str) -> None:
    """Every method on every task: accuracy against σ, one panel a task, and one file a panel."""
    figure, axes = plt.subplots(1, len(results), figsize=(3.8 * len(results), 4.3), sharey=True, layout="constrained")
    for ax, (task, result) in zip(np.atleast_1d(axes), results.items(), strict=True):
        _panel(ax, task, result)
    for ax in np.atleast_1d(axes)[1:]:
        ax.set_ylabel("")
    shown = {
        label: handle
        for ax in np.atleast_1d(axes)
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=min(5, 3 * len(results)), fontsize=8)
    save(figure, folder, "figure3", f"{note}\n{bands(results, {t: TASKS[t].panel for t in results})}")
    for task, result in results.items():
        figure, ax = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
        _panel(ax, task, result)
        ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8)
        save(figure, folder, f"figure3{TASKS[task].panel}", f"{note}\nmean; band: {result.band()}")


def _panel(ax, task: str, result: TaskResults) -> None:
    accuracy_axes(ax, result.sigmas[-1])
    for row in result.rows():
        curve(ax, result.sigmas, result.curve(row), LOOKS.get(row, OTHER_LOOK), ROWS.get(row, row))
    ax.set_title(f"({TASKS[task].panel}) {TASKS[task].title}")


def figure_search(results: Mapping[str, TaskResults], folder: Path, note: str) -> None:
    """The searches: the objective by trial with the best so far, and the rates that each chose."""
    figure, axes = plt.subplots(
        len(results), 2, figsize=(8.2, 3.0 * len(results)), squeeze=False, layout="constrained", width_ratios=(3, 2)
    )
    searches = ("bayesft", "random")
    for (left, right), (task, result) in zip(axes, results.items(), strict=True):
        for row in (row for row in searches if row in result.about):
            colour, dashes, marker = LOOKS[row]
            best = []
            for about in result.about[row]:
                values = [trial["objective"] for trial in about["trials"]]
                errors = [trial["standard_error"] for trial in about["trials"]]
                numbers = np.arange(1, len(values) + 1) + (0.12 if row == "random" else -0.12)
                left.errorbar(numbers, values, errors, color=colour, marker=marker, ls="", ms=5, lw=0.8, alpha=0.65)
                best.append(np.maximum.accumulate(values))
            left.step(
                numbers, np.mean(best, 0), where="post", color=colour, ls=dashes, label=f"{ROWS[row]}: best so far"
            )
        for row in (row for row in (*searches, "uniform") if row in result.about):
            colour, dashes, marker = LOOKS[row]
            for i, about in enumerate(result.about[row]):
                rates = list(about["rates"].values())
                right.plot(
                    range(1, len(rates) + 1), rates, color=colour, ls=dashes, marker=marker, lw=1, ms=6,
                    alpha=0.9 if len(result.seeds) == 1 else 0.6, label=ROWS[row] if i == 0 else None,
                )  # fmt: skip
        left.set(title=f"({TASKS[task].panel}) {TASKS[task].title}", xlabel="trial", ylabel="objective u on validation")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.legend(loc="lower right", fontsize=8)
        count = max(len(about["rates"]) for row in (*searches, "uniform") for about in result.about.get(row, []))
        right.set(
            title="rates of the final training", xlabel="dropout site, from input to output", ylabel="dropout rate",
            ylim=(0, 1), xticks=range(1, count + 1), xlim=(0.6, count + 0.4),
        )  # fmt: skip
        right.legend(fontsize=8)
    more = "points: trials ± standard error over draws; lines: best so far"
    if any(len(result.seeds) > 1 for result in results.values()):
        more += ", mean over seeds where there are several"
    if any(
        about["trials"][-1]["cumulative_epochs"] > about["trials"][0]["cumulative_epochs"]
        for result in results.values()
        for about in result.about.get("bayesft", [])
    ):
        more += ". Weights are inherited, so later trials have trained longer, in both searches alike"
    save(figure, folder, "search", f"{note}\n{more}")
