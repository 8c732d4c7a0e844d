"""The paper's figures, and a fourth that it lacks: the search."""

import re
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from bayesft.evaluation.boundary import Boundaries
from bayesft.evaluation.statistics import estimate
from bayesft.report.results import ROWS, TaskResults, notes
from bayesft.report.style import LOOKS, VARIANT_LOOKS, accuracy_axes, chance_line, curve, save
from bayesft.tasks import ABLATIONS, TASKS

OTHER_LOOK = ("black", "-", ".")
# Rows that belong to a method of another name: where figures say which methods a panel has, they don't count.
PARTS = {"bayesft-alg1": "bayesft", "bayesft-no-norm": "bayesft", "erm-no-norm": "erm"}


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


def figure_2(results: Mapping[str, Mapping[str, TaskResults]], folder: Path, note: str) -> None:
    """The ablations: accuracy against σ, one row of panels a data set, one panel a factor, one curve a variant."""
    columns = max(map(len, results.values()))
    figure = plt.figure(figsize=(3.1 * columns, 3.0 * len(results)), layout="constrained")
    parts = figure.subfigures(len(results), 1, squeeze=False)[:, 0]
    for part, (name, factors) in zip(parts, results.items(), strict=True):
        ablation = ABLATIONS[name]
        part.suptitle(ablation.title, fontsize=11, fontweight="bold")
        axes = part.subplots(1, columns, sharey=True, squeeze=False)[0]
        for ax in axes[len(factors) :]:
            ax.axis("off")
        for ax, (key, result) in zip(axes, factors.items(), strict=False):
            accuracy_axes(ax, result.sigmas[-1])
            chance_line(ax, result.data["classes"])
            variants = ablation.factors[key].variants
            for i, (variant, look) in enumerate(zip(variants, cycle(VARIANT_LOOKS), strict=False)):
                curve(ax, result.sigmas, result.curve(variant), look, variant, i)
            ax.set(title=f"({ablation.factors[key].panel}) {ablation.factors[key].title}", xlabel="drift level σ")
            ax.label_outer(remove_inner_ticks=False)
            handles, labels = ax.get_legend_handles_labels()
            ax.legend(
                handles[1:], labels[1:], fontsize=8, frameon=True, framealpha=0.75, edgecolor="none", borderpad=0.2,
                handlelength=2.6, labelspacing=0.3,
            )  # fmt: skip
    every = {(name, key): result for name, factors in results.items() for key, result in factors.items()}
    panels = {(name, key): ABLATIONS[name].factors[key].panel for name, key in every}
    save(figure, folder, "figure2", notes(every, panels, f"{note}; dotted grey: chance"))


def figure_3(results: Mapping[str, TaskResults], folder: Path, note: str) -> None:
    """Every method on every task: accuracy against σ, one panel a task, and one file a panel."""
    columns = min(3, len(results))
    lines = -(-len(results) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.35 * columns, 2.85 * lines + 0.8), sharey=True, squeeze=False, layout="constrained"
    )
    methods = {PARTS.get(row, row) for result in results.values() for row in result.rows()}
    for i, ax in enumerate(axes.flat):
        if i >= len(results):
            ax.axis("off")
            continue
        task, result = list(results.items())[i]
        _panel(ax, task, result)
        if i % columns:
            ax.set_ylabel("")
        if i + columns < len(results):
            ax.set_xlabel("")
        here = [row for row in result.rows() if row not in PARTS]
        if methods - set(here):
            text = "only " + ", ".join(ROWS.get(row, row) for row in here)
            ax.text(0.98, 0.98, text, transform=ax.transAxes, fontsize=7, color="0.45", ha="right", va="top")
    shown = _shown(axes.flat, results.values())
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=2 * columns, fontsize=8)
    save(figure, folder, "figure3", notes(results, {t: TASKS[t].panel for t in results}, note, min(160, 70 * columns)))
    for task, result in results.items():
        figure, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
        _panel(ax, task, result)
        shown = _shown([ax], [result])
        figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=8)
        save(figure, folder, f"figure3{TASKS[task].panel}", notes({task: result}, {task: ""}, note, 110))


def _panel(ax, task: str, result: TaskResults) -> None:
    accuracy_axes(ax, result.sigmas[-1])
    chance_line(ax, result.data["classes"])
    for row in result.rows():
        place = list(ROWS).index(row) if row in ROWS else 0
        curve(ax, result.sigmas, result.curve(row), LOOKS.get(row, OTHER_LOOK), ROWS.get(row, row), place)
    ax.set_title(f"({TASKS[task].panel}) {TASKS[task].title}")


def _shown(axes, results) -> dict:
    """What a legend for all of `axes` shows: each label once, in the order of the reports."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = [*ROWS.values(), *(row for result in results for row in result.rows() if row not in ROWS), "chance"]
    return {label: found[label] for label in dict.fromkeys(order) if label in found}


def figure_search(results: Mapping[str, TaskResults], folder: Path, note: str) -> None:
    """The searches, two tasks a line: the objective by trial with the best so far, and the rates that each chose.

    Raises ValueError when no task has a search.
    """
    results = {task: result for task, result in results.items() if result.searches()}
    if not results:
        raise ValueError("no task has a search: leave this figure out")
    columns = min(2, len(results))
    lines = -(-len(results) // columns)
    figure, axes = plt.subplots(
        lines, 2 * columns, figsize=(6.3 * columns, 2.9 * lines + 0.5), squeeze=False, layout="constrained",
        width_ratios=(3, 2) * columns,
    )  # fmt: skip
    pairs = axes.reshape(-1, 2)
    for left, right in pairs[len(results) :]:
        left.axis("off")
        right.axis("off")
    for (left, right), (task, result) in zip(pairs, results.items(), strict=False):
        _trials(left, result)
        _rates(right, result)
        left.set_title(f"({TASKS[task].panel}) {TASKS[task].title}")
    shown = _shown(pairs[:, 1], results.values())
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=len(shown), fontsize=8)
    more = "left: objective u on validation, points: trials ± standard error over draws, steps: best so far"
    if any(len(result.seeds) > 1 for result in results.values()):
        more += ", mean over seeds where there are several"
    more += "; right: rates of the final training, sites from input to output; random search is the control"
    if any(
        about["trials"][-1]["cumulative_epochs"] > about["trials"][0]["cumulative_epochs"]
        for result in results.values()
        for row in result.searches()
        for about in result.about[row]
    ):
        more += ". Weights are inherited, so later trials have trained longer, in every search alike"
    panels, width = {task: TASKS[task].panel for task in results}, min(150, 100 * columns)
    save(figure, folder, "search", notes(results, panels, note, width, mean=False) + "\n" + fill(more, width))


def _trials(ax, result: TaskResults) -> None:
    """The objective of every trial, and the best so far."""
    for i, row in enumerate(result.searches()):
        colour, dashes, marker = LOOKS.get(row, OTHER_LOOK)
        shift, best = 0.2 * i - 0.1 * (len(result.searches()) - 1), []
        for about in result.about[row]:
            values = [trial["objective"] for trial in about["trials"]]
            errors = [trial["standard_error"] for trial in about["trials"]]
            numbers = np.arange(1, len(values) + 1) + shift
            ax.errorbar(numbers, values, errors, color=colour, marker=marker, ls="", ms=4, lw=0.8, alpha=0.65)
            best.append(np.maximum.accumulate(values))
        ax.step(numbers, np.mean(best, 0), where="post", color=colour, ls=dashes, label=ROWS.get(row, row))
    ax.set(xlabel="trial", ylabel="objective u")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5))


def _rates(ax, result: TaskResults) -> None:
    """The rates of each row by site. Rows of other sites than the search's are spread over the same axis."""
    names = list(result.about[result.searches()[0]][0]["rates"])
    for row in (*result.searches(), "uniform"):
        for i, about in enumerate(result.about.get(row, [])):
            colour, dashes, marker = LOOKS.get(row, OTHER_LOOK)
            rates = list(about["rates"].values())
            places = np.linspace(1, len(names), len(rates)) if len(rates) > 1 else [(1 + len(names)) / 2]
            ax.plot(
                places, rates, color=colour, ls=dashes, marker=marker, lw=1, ms=5,
                alpha=0.9 if len(result.seeds) == 1 else 0.6, label=ROWS.get(row, row) if i == 0 else None,
            )  # fmt: skip
    ax.set(ylabel="dropout rate", ylim=(-0.03, 1), xlim=(0.6, len(names) + 0.4))
    every = -(-len(names) // 24)  # as many names as have room
    labels = short(names)[::every]
    flat, upright = sum(map(len, labels)) <= 24, len(labels) > 11
    ax.set_xticks(
        range(1, len(names) + 1, every), labels, fontsize=6 if upright else 7,
        rotation=0 if flat else 90 if upright else 60, ha="center" if flat or upright else "right",
        rotation_mode="default" if flat or upright else "anchor",
    )  # fmt: skip


def short(names: list[str], room: int = 14) -> list[str]:
    """The names of sites, short enough for an axis: without what all begin with, long ones with shorter words."""
    paths = [name.split(".") for name in names]
    same = 0
    while len(names) > 1 and min(map(len, paths)) > same + 1 and len({path[same] for path in paths}) == 1:
        same += 1
    found = [".".join(path[same:]) for path in paths]
    for letters in range(room, 1, -1):  # of each word, its first letters and its number
        cut = [re.sub(rf"([^\W\d]{{{letters}}})[^\W\d]+", r"\1", name) for name in found]
        found = [name if len(name) <= room else shorter for name, shorter in zip(found, cut, strict=True)]
    return [f"{i}: {name}" if found.count(name) > 1 else name for i, name in enumerate(found, 1)]
