"""The paper's four figures, and those that it lacks: paired gains, the control without norm, the search.

Every function writes a PNG and a PDF, and gives the caption: what a reader must know of the numbers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from bayesft.data.scenes import Scene
from bayesft.evaluation.boundary import Boundaries
from bayesft.evaluation.pictures import CROWD, THRESHOLD, Pictures
from bayesft.evaluation.statistics import Estimate, estimate
from bayesft.report.results import TaskResults, counted, letters
from bayesft.report.rows import BASELINE, SUBJECT
from bayesft.report.style import COLUMN, PAGE, VARIANT_LOOKS, accuracy_axes, chance_line, curve, save, titled
from bayesft.tasks import ABLATIONS, TASKS

Results = Mapping[str, TaskResults]
AT_CHANCE = 0.03  # a curve that is no further above a guess is at chance


def figure_1(maps: Boundaries, folder: Path, note: str) -> str:
    """The decision boundary of a small classifier at rising σ: one line for each of a few drifted copies."""
    count = len(maps.sigmas)
    figure, axes = plt.subplots(1, count, figsize=(PAGE, PAGE / count + 0.75), sharey=True, layout="constrained")
    x, y = maps.horizontal.numpy(), maps.vertical.numpy()
    for i, ax in enumerate(np.atleast_1d(axes)):
        for probability in maps.probability[i].numpy():
            ax.contour(x, y, probability, levels=[0.5], colors="black", linewidths=0.6, alpha=0.7)
        for label, marker, colour in ((0, "o", "#2166ac"), (1, "^", "#b2182b")):
            points = maps.points[maps.labels == label].numpy()
            ax.scatter(*points.T, s=5, marker=marker, color=colour, alpha=0.5, linewidth=0, label=f"class {label}")
        e = estimate(maps.accuracy[i : i + 1].numpy())
        ax.set_title(f"σ = {float(maps.sigmas[i]):g}\naccuracy {e.mean:.2f}")
        ax.set(xlabel="first feature", aspect="equal", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        ax.grid(False)
    first = np.atleast_1d(axes)[0]
    first.set_ylabel("second feature")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=2)
    save(figure, folder, "figure1")
    copies, draws = maps.probability.shape[1], maps.accuracy.shape[1]
    return f"{note}: the boundaries of {copies} drifted copies; accuracy: mean over {draws} copies, 1 seed."


def figure_2(results: Mapping[str, Results], folder: Path) -> str:
    """The ablations: accuracy against σ, one row of panels a data set, one panel a factor, one curve a variant."""
    columns = max(map(len, results.values()))
    figure = plt.figure(figsize=(PAGE, 2.9 * len(results)), layout="constrained")
    parts = figure.subfigures(len(results), 1, squeeze=False)[:, 0]
    for part, (name, factors) in zip(parts, results.items(), strict=True):
        ablation, first = ABLATIONS[name], next(iter(factors.values()))
        part.suptitle(f"{first.heading(name)}: {first.intervals()}", fontsize=8)
        axes = part.subplots(1, columns, sharey=True, squeeze=False)[0]
        for ax in axes[len(factors) :]:
            ax.axis("off")
        end = _shown_to([result for result in factors.values()], [list(r.accuracy) for r in factors.values()])
        for ax, (key, result) in zip(axes, factors.items(), strict=False):
            accuracy_axes(ax, end)
            chance_line(ax, result.data["classes"])
            variants = ablation.factors[key].variants
            for i, (variant, look) in enumerate(zip(variants, cycle(VARIANT_LOOKS), strict=False)):
                curve(ax, result.sigmas, result.curve(variant), look, variant, i)
            ax.set_title(f"({ablation.factors[key].panel}) {ablation.factors[key].title}")
            ax.label_outer(remove_inner_ticks=False)
            handles, labels = ax.get_legend_handles_labels()
            ax.legend(
                handles[1:], labels[1:], loc="upper center", bbox_to_anchor=(0.5, -0.26), fontsize=6.5, borderpad=0.2,
                handlelength=2.6, labelspacing=0.3,
            )  # fmt: skip
    save(figure, folder, "figure2")
    return "One line a variant; dotted grey: chance."


def figure_3(results: Results, folder: Path) -> str:
    """The methods of the paper and the own one on every task: accuracy against σ, also one file a panel."""
    _panels(results, folder, "figure3", _accuracies)
    for task, result in results.items():
        figure, ax = plt.subplots(figsize=(COLUMN, 3.0), layout="constrained")
        _accuracies(ax, task, result)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=3)
        save(figure, folder, f"figure3{TASKS[task].panel}")
    searched: dict[str, list[str]] = {}
    for task, result in results.items():
        searched.setdefault(result.searched(), []).append(TASKS[task].panel)
    how = [f"{said} ({letters(of)})." for said, of in searched.items() if said]
    devices = "ReRAM-V: a thin line a device, and dashed, ERM on the same devices, not repaired."
    repaired = any(result.devices_of(row) > 1 for result in results.values() for row in result.main())
    ftna = any("ftna" in result.accuracy for result in results.values())
    code = "FTNA: its error-correcting code alone, without the logistic classifier that its paper trains beside it."
    return " ".join(filter(None, [*how, devices * repaired, code * ftna]))


def figure_gains(results: Results, folder: Path) -> str:
    """What BayesFT, the own method and the controls gain over ERM at each σ, paired."""
    _panels(results, folder, "gains", _gains)
    return "Accuracy minus that of ERM at the same σ, paired by seed, or by draw where there is 1 seed."


def figure_norm(results: Results, folder: Path) -> str:
    """The control without batch norm, beside the same methods with it."""
    results = {task: result for task, result in results.items() if result.without_norm()}

    def panel(ax: Axes, task: str, result: TaskResults) -> None:
        _headed(ax, task, result)
        _curves(ax, result, [*result.without_norm(), *result.without_norm().values()])

    _panels(results, folder, "norm", panel)
    return "The authors' code takes batch norm out of BayesFT alone; here both methods are trained both ways."


def _panels(results: Results, folder: Path, name: str, draw: Callable[[Axes, str, TaskResults], None]) -> None:
    """A figure with a panel a task, `draw` in each, and one legend for all."""
    columns = min(3, len(results))
    lines = -(-len(results) // columns)
    empty = lines * columns - len(results)
    figure, axes = plt.subplots(
        lines, columns, figsize=(max(COLUMN, PAGE * columns / 3), 2.1 * lines + (0.3 if empty else 0.9)),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    used = axes.flat[: len(results)]
    alike: dict[str, list[Axes]] = {}  # panels of one metric, which have one scale
    for i, (ax, (task, result)) in enumerate(zip(used, results.items(), strict=True)):
        draw(ax, task, result)
        alike.setdefault(ax.get_ylabel(), []).append(ax)
        if i % columns and ax.get_ylabel() == axes.flat[i - i % columns].get_ylabel():
            ax.set_ylabel("")
        if i + columns < len(results):
            ax.set_xlabel("")
    for same in alike.values():
        low, high = zip(*(ax.get_ylim() for ax in same), strict=True)
        for ax in same:
            ax.set_ylim(min(low), max(high))
    shown = _shown(used, results.values())
    if empty:  # the legend has room beside the last panels
        for ax in axes.flat[-empty:]:
            ax.remove()
        room = figure.add_subplot(axes[0, 0].get_gridspec()[-1, -empty:])
        room.axis("off")
        room.legend(shown.values(), shown.keys(), loc="center", ncols=empty, handlelength=3)
    else:
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns, handlelength=3)
    save(figure, folder, name)


def _headed(ax: Axes, task: str, result: TaskResults) -> None:
    titled(ax, f"({TASKS[task].panel}) {result.heading(task)}", result.intervals())
    ax.set(xlabel="drift level σ", ylabel=TASKS[task].metric)


def _accuracies(ax: Axes, task: str, result: TaskResults) -> None:
    """The curves of the methods of the paper and of the own one."""
    _headed(ax, task, result)
    _curves(ax, result, result.main())
    for row in result.beside():
        mean = [e.mean for e in result.curve(row)]
        label = f"{result.title(BASELINE)} on the devices, not repaired"
        ax.plot(result.sigmas, mean, color="0.3", ls=(0, (5, 3)), lw=0.8, label=label, zorder=1.5)


def _curves(ax: Axes, result: TaskResults, rows: Sequence[str]) -> None:
    """Rows with their intervals. A row that was programmed on devices has a thin line for each device instead."""
    ax.set(xlim=(0, _shown_to([result], [rows])), ylim=(0, 1))
    if result.chance is not None:
        chance_line(ax, result.data["classes"])
    for place, row in enumerate(rows):
        look = result.look(row)
        curve(ax, result.sigmas, result.curve(row), look, result.title(row), place)
        for device in result.devices(row) if result.devices_of(row) > 1 else ():
            ax.plot(result.sigmas, device, color=look.colour, lw=0.4, alpha=0.7, zorder=1)


def _gains(ax: Axes, task: str, result: TaskResults) -> None:
    rows = result.controls()
    ends = _shown_to([result], [rows + [BASELINE]])
    _headed(ax, task, result)
    ax.axhline(0, color=result.look(BASELINE).colour, lw=1, zorder=1)
    for place, row in enumerate(rows):
        curve(ax, result.sigmas, result.differences(row, BASELINE), result.look(row), result.title(row), place)
    ax.set(xlim=(0, ends), ylabel=f"gain in {TASKS[task].metric} over ERM")


def _shown_to(results: Sequence[TaskResults], rows: Sequence[Sequence[str]]) -> float:
    """The σ to which curves are shown: the end of the range that is judged, or further while any is above chance."""
    ends = []
    for result, of in zip(results, rows, strict=True):
        best = np.max([result.accuracy[row].mean((0, 2)) for row in of], axis=0)
        above = np.flatnonzero(best > (result.chance or 0) + AT_CHANCE)
        last = result.sigmas[min(len(result.sigmas) - 1, above[-1] + 1)] if len(above) else result.sigmas[0]
        ends.append(min(float(result.sigmas[-1]), max(float(last), result.measured_to)))
    return max(ends)


def _shown(axes: Iterable[Axes], results: Iterable[TaskResults]) -> dict[str, Artist]:
    """What a legend for all of `axes` shows: each label once, in the order of the reports."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = [*(result.title(row) for result in results for row in result.shown or result.accuracy), *sorted(found)]
    return {label: found[label] for label in dict.fromkeys(order) if label in found}


def figure_4(pictures: Pictures, result: TaskResults, folder: Path, note: str) -> str:
    """What each network finds in the same images at rising σ: a block of rows for each image, a column for each σ.

    `result` says what the rows are called.
    """
    rows = [row for row in result.rows() if row in pictures.detections]
    sizes = [truth.image.shape[1:] for truth in pictures.truths]
    columns = len(pictures.sigmas)
    width = PAGE / columns
    heights = [len(rows) * width * h / w + 0.35 for h, w in sizes]
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = plt.figure(figsize=(PAGE, sum(heights)), layout=layout)
    blocks = figure.subfigures(len(sizes), 1, height_ratios=heights, squeeze=False)[:, 0]
    for i, block in enumerate(blocks):
        axes = block.subplots(len(rows), columns, squeeze=False)
        for j, row in enumerate(rows):
            for ax, sigma, found in zip(axes[j], pictures.sigmas, pictures.detections[row], strict=True):
                colour = result.look(row).colour
                _found(ax, pictures.truths[i], found[i], colour, sizes[i][1] / width)
                if j == 0:
                    ax.set_title(f"σ = {sigma:g}")
            axes[j, 0].set_ylabel(result.title(row), fontweight="bold", color=colour)
    crowded = all(len(truth.masks) >= CROWD for truth in pictures.truths)
    more = (
        f"colour: boxes, masks and scores of the detections whose score is at least {THRESHOLD:g}; black and white: "
        "the annotated pedestrians; every σ > 0 is draw 0 of the drift that the mAP is measured with, the same for all "
        "networks; a seed picked the images"
        + (f" among the test scenes with at least {CROWD} pedestrians" if crowded else " among the test scenes")
        + ", nobody chose them"
    )
    save(figure, folder, "figure4")
    return f"{note}; {more}."


def _found(ax: Axes, truth: Scene, found: Mapping[str, Tensor], colour: str, scale: float) -> None:
    """An image with what is in it and what was found; `scale`: pixels of the image per inch of the figure."""
    height, width = truth.image.shape[1:]
    ax.imshow(truth.image.permute(1, 2, 0).numpy(), interpolation="none")  # a PDF keeps its pixels
    shade = np.zeros((height, width, 4))
    shade[found["masks"].numpy().any(0)] = to_rgba(colour, 0.5)
    ax.imshow(shade, interpolation="none")
    for mask in truth.masks.numpy():
        edges = np.pad(mask, 1).astype(float)  # so that the outline closes at the border of the image
        columns, rows = np.arange(-1, width + 1), np.arange(-1, height + 1)
        ax.contour(columns, rows, edges, levels=[0.5], colors="black", linewidths=0.9)
        ax.contour(columns, rows, edges, levels=[0.5], colors="white", linewidths=0.9, linestyles=[(0, (2.5, 2.5))])
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


def _place(
    x1: float, y1: float, x2: float, y2: float, size: tuple[Any, ...], room: tuple[Any, ...], taken: list[Any]
) -> tuple[float, float]:
    """The corner of a box's score: inside the image, and at the first end of the box where no other score is."""
    (w, h), (width, height) = size, room
    ends = [(x, y) for y in (y1 - h, y2, y1, y2 - h, (y1 + y2 - h) / 2) for x in (x1, x2 - w)]
    ends = [(min(max(x, 0), width - w), min(max(y, 0), height - h)) for x, y in ends]
    free = [(x, y) for x, y in ends if all(abs(x - a) >= w or abs(y - b) >= h for a, b in taken)]
    return (free or ends)[0]


def figure_search(results: Results, folder: Path) -> str:
    """What the surrogate is worth in a search: its best objective so far minus that of random search, by trial.

    Raises:
        ValueError: No task has both searches.
    """
    gains = {task: apart for task, result in results.items() if (apart := best_apart(result)) is not None}
    if not gains:
        raise ValueError("no task has both searches: leave this figure out")

    def panel(ax: Axes, task: str, result: TaskResults) -> None:
        apart = gains[task]
        ax.axhline(0, color="0.3", lw=1, zorder=1)
        e = [_over_seeds(apart[:, n]) for n in range(apart.shape[1])]
        curve(ax, np.arange(1, len(e) + 1), e, result.look(SUBJECT), "surrogate minus random search")
        titled(ax, f"({TASKS[task].panel}) {result.heading(task)}", counted(len(result.seeds), "seed"))
        ax.set(xlabel="trial", ylabel="gain in objective")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    _panels({task: results[task] for task in gains}, folder, "search", panel)
    return (
        "The best objective so far, on validation images, of the surrogate's search minus that of random search with "
        "as many trials, paired by seed; band: 95 % interval over seeds, where there are several."
    )


def _over_seeds(values: np.ndarray) -> Estimate:
    found = np.isfinite(values)
    return estimate(values[found][:, None]) if found.any() else Estimate(float("nan"), float("nan"), "seeds", 0)


def best_apart(result: TaskResults) -> np.ndarray | None:
    """The best objective so far of BayesFT's search minus random search's (seeds, trials), or None without both."""
    rows = [row for row in (SUBJECT, "random") if row in result.searches()]
    if len(rows) < 2:
        return None
    one, other = ([_best_so_far(about["trials"]) for about in result.about[row]] for row in rows)
    length = min(map(len, (*one, *other)))
    return np.array([a[:length] - b[:length] for a, b in zip(one, other, strict=True)])


def _best_so_far(trials: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The best objective of the trials so far. One that failed has none, and that of a stopped one is a prediction."""
    ended = [np.nan if trial.get("failed") or trial.get("stopped") else trial["objective"] for trial in trials]
    return np.fmax.accumulate(np.array(ended, float))
