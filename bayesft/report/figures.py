"""The paper's four figures, and one that it lacks: the search."""

import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from bayesft.data.scenes import Scene
from bayesft.evaluation.boundary import Boundaries
from bayesft.evaluation.pictures import CROWD, THRESHOLD, Pictures
from bayesft.evaluation.statistics import estimate
from bayesft.report.results import TaskResults, notes
from bayesft.report.style import VARIANT_LOOKS, accuracy_axes, chance_line, curve, save, titled
from bayesft.tasks import ABLATIONS, TASKS


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
        part.suptitle(next(iter(factors.values())).heading(name), fontsize=11, fontweight="bold")
        axes = part.subplots(1, columns, sharey=True, squeeze=False)[0]
        for ax in axes[len(factors) :]:
            ax.axis("off")
        for ax, (key, result) in zip(axes, factors.items(), strict=False):
            accuracy_axes(ax, result.sigmas[-1])
            chance_line(ax, result.data["classes"])
            variants = ablation.factors[key].variants
            for i, (variant, look) in enumerate(zip(variants, cycle(VARIANT_LOOKS), strict=False)):
                curve(ax, result.sigmas, result.curve(variant), look, variant, i)
            ax.set_xlabel("drift level σ")
            titled(ax, f"({ablation.factors[key].panel}) {ablation.factors[key].title}", result.intervals())
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
        lines, columns, figsize=(3.35 * columns, 3.1 * lines + 0.8), sharey=True, squeeze=False, layout="constrained"
    )
    most = max(len(result.untuned()) for result in results.values())
    for i, (ax, (task, result)) in enumerate(zip(axes.flat, results.items(), strict=False)):
        _panel(ax, task, result, few=len(result.untuned()) < most / 2)
        if i % columns and ax.get_ylabel() == axes.flat[i - i % columns].get_ylabel():
            ax.set_ylabel("")
        if i + columns < len(results):
            ax.set_xlabel("")
    shown = _shown(axes.flat[: len(results)], results.values())
    if empty := axes.size - len(results):  # the legend has room beside the last panels
        for ax in axes.flat[-empty:]:
            ax.remove()
        room = figure.add_subplot(axes[0, 0].get_gridspec()[-1, -empty:])
        room.axis("off")
        room.legend(
            shown.values(), shown.keys(), loc="center", ncols=empty, fontsize=10 if empty > 1 else 8, handlelength=3
        )
    else:
        figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=2 * columns, fontsize=8)
    save(figure, folder, "figure3", notes(results, {t: TASKS[t].panel for t in results}, note, min(160, 70 * columns)))
    for task, result in results.items():
        figure, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
        _panel(ax, task, result, few=False)
        shown = _shown([ax], [result])
        figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=8)
        save(figure, folder, f"figure3{TASKS[task].panel}", notes({task: result}, {task: ""}, note, 110))


def _panel(ax, task: str, result: TaskResults, few: bool) -> None:
    """One task. `few`: others have many more rows, so the panel names those that it has."""
    accuracy_axes(ax, result.sigmas[-1], TASKS[task].metric)
    if result.chance is not None:
        chance_line(ax, result.data["classes"])
    for row in result.untuned():
        place = list(result.shown or result.accuracy).index(row)
        curve(ax, result.sigmas, result.curve(row), result.look(row), result.title(row), place)
    only = "only " + " · ".join(map(result.title, result.untuned())) if few else ""
    titled(ax, f"({TASKS[task].panel}) {result.heading(task)}", result.intervals(), result.searched(), only)


def _shown(axes, results) -> dict[str, Any]:
    """What a legend for all of `axes` shows: each label once, in the order of the reports."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = [*(result.title(row) for result in results for row in result.shown or result.accuracy), "chance"]
    return {label: found[label] for label in dict.fromkeys(order) if label in found}


def figure_4(pictures: Pictures, result: TaskResults, folder: Path, note: str) -> None:
    """What each network finds in the same images at rising σ: a block of rows for each image, a column for each σ.

    `result` says what the rows are called.
    """
    rows = [row for row in result.rows() if row in pictures.detections]
    sizes = [truth.image.shape[1:] for truth in pictures.truths]
    columns, width = len(pictures.sigmas), 2.4
    heights = [len(rows) * width * h / w + 0.35 for h, w in sizes]
    figure = plt.figure(figsize=(width * columns + 0.3, sum(heights)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    blocks = figure.subfigures(len(sizes), 1, height_ratios=heights, squeeze=False)[:, 0]
    for i, block in enumerate(blocks):
        axes = block.subplots(len(rows), columns, squeeze=False)
        for j, row in enumerate(rows):
            for ax, sigma, found in zip(axes[j], pictures.sigmas, pictures.detections[row], strict=True):
                colour = result.look(row).colour
                _found(ax, pictures.truths[i], found[i], colour, sizes[i][1] / width)
                if j == 0:
                    ax.set_title(f"σ = {sigma:g}")
            axes[j, 0].set_ylabel(result.title(row), fontsize=11, fontweight="bold", color=colour)
    crowded = all(len(truth.masks) >= CROWD for truth in pictures.truths)
    more = (
        f"colour: boxes, masks and scores of the detections whose score is at least {THRESHOLD:g}; black and white: "
        "the annotated pedestrians; every σ > 0 is draw 0 of the drift that the mAP is measured with, the same for all "
        "networks; a seed picked the images"
        + (f" among the test scenes with at least {CROWD} pedestrians" if crowded else " among the test scenes")
        + ", nobody chose them"
    )
    save(figure, folder, "figure4", "\n".join(fill(part, 40 * columns) for part in (note, more)))


def _found(ax, truth: Scene, found: Mapping[str, Any], colour, scale: float) -> None:
    """An image with what is in it and what was found; `scale`: pixels of the image per inch of the figure."""
    height, width = truth.image.shape[1:]
    ax.imshow(truth.image.permute(1, 2, 0).numpy(), interpolation="none")  # a PDF keeps its pixels
    shade = np.zeros((height, width, 4))
    shade[found["masks"].numpy().any(0)] = to_rgba(colour, 0.5)
    ax.imshow(shade, interpolation="none")
    for mask in truth.masks.numpy():
        edges = np.pad(mask, 1).astype(float)  # so that the outline closes at the border of the image
        x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
        ax.contour(x, y, edges, levels=[0.5], colors="black", linewidths=0.9)
        ax.contour(x, y, edges, levels=[0.5], colors="white", linewidths=0.9, linestyles=[(0, (2.5, 2.5))])
    size = (24 / 72 * scale, 11 / 72 * scale)  # of a score, in pixels
    taken: list[tuple[float, float]] = []
    for (x1, y1, x2, y2), score in zip(found["boxes"].tolist(), found["scores"].tolist(), strict=True):
        ax.add_patch(
            Rectangle(
                (x1 - 0.5, y1 - 0.5),
                x2 - x1,
                y2 - y1,
                fill=False,
                edgecolor=colour,
                linewidth=1.8,
                path_effects=[withStroke(linewidth=2.6, foreground="black")],
            )  # fmt: skip
        )
        x, y = _place(x1, y1, x2, y2, size, (width, height), taken)
        taken.append((x, y))
        ax.text(
            x + size[0] / 2, y + size[1] / 2, f"{score:.2f}", fontsize=7.5, color="white", ha="center", va="center",
            fontweight="bold", zorder=5, bbox={"facecolor": colour, "edgecolor": "black", "lw": 0.5, "pad": 0.9},
        )  # fmt: skip
    if not len(found["scores"]):
        ax.text(
            0.5, 0.03, "nothing found", transform=ax.transAxes, fontsize=8, ha="center", va="bottom",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip
    ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _place(x1: float, y1: float, x2: float, y2: float, size: tuple[Any, ...], room: tuple[Any, ...], taken: list[Any]) -> tuple[float, float]:
    """The corner of a box's score: inside the image, and at the first end of the box where no other score is."""
    (w, h), (width, height) = size, room
    ends = [(x, y) for y in (y1 - h, y2, y1, y2 - h, (y1 + y2 - h) / 2) for x in (x1, x2 - w)]
    ends = [(min(max(x, 0), width - w), min(max(y, 0), height - h)) for x, y in ends]
    free = [(x, y) for x, y in ends if all(abs(x - a) >= w or abs(y - b) >= h for a, b in taken)]
    return (free or ends)[0]


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
        lines, 2 * columns, figsize=(6.3 * columns, 3.0 * lines + 0.5), squeeze=False, layout="constrained",
        width_ratios=(3, 2) * columns,
    )  # fmt: skip
    pairs = axes.reshape(-1, 2)
    for left, right in pairs[len(results) :]:
        left.axis("off")
        right.axis("off")
    for (left, right), (task, result) in zip(pairs, results.items(), strict=False):
        metric = TASKS[task].metric
        _objectives(left, result, "objective u" if metric == "accuracy" else f"objective u ({metric})")
        _rates(right, result)
        seeds = result.intervals() if len(result.seeds) > 1 else "1 seed"
        titled(left, f"({TASKS[task].panel}) {result.heading(task)}", seeds, result.searched())
    shown = _shown(pairs[:, 1], results.values())
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=len(shown), fontsize=8)
    counts = {len(result.seeds) > 1 for result in results.values()}
    more = [
        "left: objective u on validation images, the best so far; rows of one search share the curve of the last",
        "with 1 seed, points: trials ± standard error over draws" * (False in counts),
        "with several, mean and 95 % interval over seeds" * (True in counts),
        "right: dropout rates of the row's network, sites from input to output"
        + "; with several seeds, mean and range" * (True in counts),
        "random search is the control; where weights are inherited, later trials have trained longer",
    ]
    said = "; ".join(filter(None, more))
    panels, width = {task: TASKS[task].panel for task in results}, min(150, 100 * columns)
    save(figure, folder, "search", notes(results, panels, note, width, mean=False) + "\n" + fill(said, width))


def _objectives(ax, result: TaskResults, label: str) -> None:
    """The best objective so far of every search; with one seed, also its trials."""
    every = {row: [about["trials"] for about in result.about[row]] for row in result.searches()}
    rows = list(every)  # those that share a search are drawn as the last of them
    searches = {row: every[row] for i, row in enumerate(rows) if every[row] not in [every[r] for r in rows[i + 1 :]]}
    for i, (row, trials) in enumerate(searches.items()):
        look, best = result.look(row), np.array([_best_so_far(of_seed) for of_seed in trials])
        numbers = np.arange(1, best.shape[1] + 1) + 0.2 * i - 0.1 * (len(searches) - 1)
        if len(best) == 1:
            u = np.array([(trial["objective"], trial["standard_error"]) for trial in trials[0]], float)  # NaN: failed
            ax.errorbar(numbers, *u.T, color=look.colour, marker=look.marker, ls="", ms=4, lw=0.8, alpha=0.65)
        else:
            e = [estimate(best[:, n : n + 1]) for n in range(best.shape[1])]
            bounds = [one.low for one in e], [one.high for one in e]
            ax.fill_between(numbers, *bounds, step="post", color=look.colour, alpha=0.15, lw=0)
        ax.step(numbers, best.mean(0), where="post", color=look.colour, ls=look.dashes, label=result.title(row))
    ax.set(xlabel="trial", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5))


def _best_so_far(trials: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The best objective of the trials so far. One that failed has none, and that of a stopped one is a prediction."""
    ended = [np.nan if trial.get("failed") or trial.get("stopped") else trial["objective"] for trial in trials]
    return np.fmax.accumulate(np.array(ended, float))


def _rates(ax, result: TaskResults) -> None:
    """The rates of each searched row by site; of several seeds their mean and range.

    Rows of other sites than the first one's are spread over the same axis.
    """
    rows = [row for row in result.searches() if "rates" in result.about[row][0]]
    names = list(result.about[rows[0]][0]["rates"]) if rows else []
    for i, row in enumerate(rows):
        look, rates = result.look(row), np.array([list(about["rates"].values()) for about in result.about[row]])
        mean, count = rates.mean(0), rates.shape[1]
        places = np.linspace(1, len(names), count) if count > 1 else np.array([(1 + len(names)) / 2])
        if len(rates) > 1:
            places = places + 0.08 * (i - (len(rows) - 1) / 2)
            ax.vlines(places, rates.min(0), rates.max(0), color=look.colour, lw=0.8)
        ax.plot(
            places, mean, color=look.colour, ls=look.dashes, marker=look.marker, lw=1, ms=5, label=result.title(row)
        )
    ax.set(ylabel="dropout rate", ylim=(-0.03, 1), xlim=(0.6, len(names) + 0.4))
    every = max(1, -(-len(names) // 24))  # as many names as have room
    labels = short(names, 16)[::every]
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
