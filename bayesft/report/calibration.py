"""What calibration is worth: every row with calibrated copies beside the same without, and how little it takes.

A calibrated row ("+cal") is under another contract than the others: each device was accessed, it ran a few unlabelled
images, and it has a digital scale and offset a channel (docs/calibration.md). So these rows stand in figures and tables
of their own, each beside the row that it is paired with, and everything here says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bayesft.evaluation.statistics import Estimate
from bayesft.methods import Look
from bayesft.report.claims import NOT_RUN, UNDER_CALIBRATION, Finding, claims_table, judge, shown_difference, verdict
from bayesft.report.details import markdown
from bayesft.report.results import TaskResults, counted, known, measured, show
from bayesft.report.style import COLUMN, PAGE, VARIANT_LOOKS, accuracy_axes, curve, save, titled
from bayesft.tasks import TASKS

MARK = "+cal"
APART = 0.2  # of a row's height: how far its two marks lie above and below its middle
CONTRACT = (
    f"{MARK} is another contract: each device is accessed and runs a few unlabelled training images, and it has a "
    "digital scale and offset a channel (docs/calibration.md). Such rows are compared with the same row without, and "
    "not ranked among the others."
)
Judged = Mapping[str, Sequence[Finding]]
DETAILS = {"images": "{} images", "layers": "layers: {}", "calibrated_at": "calibrated at σ = {}"}  # names of settings


@dataclass(frozen=True)
class Calibrated:
    """The rows of a task without calibration and with it, on the same levels, seeds and draws.

    results: under each row's name the accuracies without calibration, under its name and MARK those with it; rows: the
    names; images: how many calibrated a device; details: for each row, kind of DETAILS and setting, (seeds, σ, draws).
    """

    results: TaskResults
    rows: tuple[str, ...]
    images: int
    details: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]

    @classmethod
    def gather(cls, result: TaskResults, files: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> "Calibrated | None":
        """From what the evaluation wrote: for each row and seed, the entry "calibrated". None where there is none.

        Raises:
            ValueError: σ or images differ, or a level was not measured without calibration.
        """
        files = {row: of_seed for row, of_seed in files.items() if len(of_seed) == len(result.seeds)}
        if not files:
            return None
        every = [entry for of_seed in files.values() for entry in of_seed.values()]
        first = every[0]
        for key in ("sigmas", "images"):
            if any(entry[key] != first[key] for entry in every):
                raise ValueError(f"calibrated rows differ in {key}: run dvc repro, which makes the outdated anew")
        places = [np.flatnonzero(np.isclose(result.sigmas, sigma)) for sigma in first["sigmas"]]
        if any(len(place) != 1 for place in places):
            raise ValueError(f"calibrated at σ = {first['sigmas']}, without calibration at {result.sigmas.tolist()}")
        accuracy: dict[str, np.ndarray] = {}
        about: dict[str, list[dict[str, Any]]] = {}
        details = {}
        for row, of_seed in files.items():
            with_it = np.array([of_seed[seed]["accuracy"] for seed in result.seeds])
            without = result.accuracy[row][:, np.concatenate(places), : with_it.shape[2]]
            accuracy |= {row: without, row + MARK: with_it}
            about |= {row: result.about[row], row + MARK: result.about[row]}
            if "details" in of_seed[result.seeds[0]]:
                details[row] = {
                    kind: {
                        name: np.array([of_seed[seed]["details"][kind][name] for seed in result.seeds])
                        for name in of_seed[result.seeds[0]]["details"][kind]
                    }
                    for kind in DETAILS
                }
        sigmas = np.array(first["sigmas"])
        shown = {row: result.shown[row] for row in files if row in result.shown}
        same = replace(result, sigmas=sigmas, accuracy=accuracy, about=about, metrics={}, shown=shown)
        return cls(same.so_far(), tuple(files), first["images"], details)

    def gain(self, row: str) -> Estimate:
        """The mean accuracy of a row's calibrated copies minus that of the same copies without, paired."""
        return known(self.results.difference(row + MARK, row))

    def clear(self, row: str) -> bool:
        """Whether the 95 % interval of a row's gain lies above 0."""
        return self.gain(row).low > 0

    def mean(self, values: np.ndarray) -> Estimate:
        """The mean accuracy over the range of σ of `values` (seeds, σ, draws)."""
        return known(replace(self.results, accuracy={"": values}, about={"": [{}]}).area(""))

    def contract(self, mark: str) -> TaskResults:
        """The rows under their own names: without calibration (`mark` is ""), or with it (MARK)."""
        accuracy = {row: self.results.accuracy[row + mark] for row in self.rows}
        return replace(self.results, accuracy=accuracy, about={row: self.results.about[row] for row in self.rows})

    @property
    def range(self) -> str:
        """What the mean is over."""
        return f"σ = 0 … {self.results.measured_to:g}"


def contracts(found: Mapping[str, Calibrated], budgets: Mapping[str, Mapping[str, Any]]) -> list[Judged]:
    """The claims that calibration may change, judged without it and with it, on the same copies."""
    each = ({task: of.contract(mark) for task, of in found.items()} for mark in ("", MARK))
    return [judge(UNDER_CALIBRATION, results, budgets) for results in each]


def contracts_table(judged: Sequence[Judged]) -> pd.DataFrame:
    """Every comparison in both contracts, one line each: what `contracts.csv` has."""
    tables = [claims_table(of) for of in judged]
    for table, contract in zip(tables, ("uncalibrated", "calibrated"), strict=True):
        table.insert(0, "contract", contract)
    return pd.concat(tables, ignore_index=True)


def _contracts(judged: Sequence[Judged]) -> list[str]:
    """What the page says of the claims in both contracts."""
    lines, differ = {}, 0
    for number, findings in judged[0].items():
        one, other = verdict(findings), verdict(judged[1][number])
        if NOT_RUN in (one.verdict, other.verdict):
            continue
        differ += one.verdict != other.verdict
        same = next(finding for finding in judged[1][number] if finding.comparison == one.comparison)
        lines[number] = {
            "the paper's claim": one.claim.said,
            "comparison": str(one.comparison),
            "without calibration": shown_difference(one),
            "verdict": one.verdict,
            "calibrated": shown_difference(same),
            "verdict then": other.verdict,
        }
    if not lines:
        return []
    said = f"With every device calibrated, {differ} of these {len(lines)} verdicts differ"
    return [
        f"{said}. Both are judged on the copies that were calibrated too, over their σ, so a verdict may differ from "
        "the first table's ([contracts.csv](contracts.csv)):",
        markdown(pd.DataFrame(lines).T),
    ]


def section(found: Mapping[str, Calibrated], judged: Sequence[Judged], folder: Path) -> str:
    """Draw what the results allow into `folder`; the section of the page, "" where there is nothing."""
    if not found:
        return ""
    gains = [of.gain(row) for of in found.values() for row in of.rows]
    better = sum(of.clear(row) for of in found.values() for row in of.rows)
    parts = [
        "## Another contract: every device calibrated",
        "![Calibration](figures/calibration.png)",
        f"Calibration adds {np.mean([e.mean for e in gains]):+.3f} on average over {counted(len(gains), 'row')} of "
        f"{counted(len(found), 'panel')}; {better} of the paired 95 % intervals lie above 0. "
        f"{figure_calibration(found, folder)}",
        *_contracts(judged),
    ]
    if asked := {task: of for task, of in found.items() if of.details}:
        parts += ["![How much calibration takes](figures/calibration-details.png)", figure_details(asked, folder)]
    return "\n\n".join(parts)


def figure_calibration(found: Mapping[str, Calibrated], folder: Path) -> str:
    """A panel a task: the mean accuracy of every row without and with calibration, joined by a line.

    Returns the caption.
    """
    columns = min(5, len(found))
    lines = -(-len(found) // columns)
    titles = {of.results.title(row): of.results.look(row).colour for of in found.values() for row in of.rows}
    places = {title: -place for place, title in enumerate(titles)}
    means = [known(of.results.area(row)).mean for of in found.values() for row in of.rows]
    least = max(0.0, np.floor(10 * min(means) - 0.5) / 10)
    width = PAGE if columns > 1 else COLUMN
    figure, axes = plt.subplots(
        lines, columns, figsize=(width, 0.7 + lines * (1.1 + 0.14 * len(titles))), squeeze=False, sharex=True,
        sharey=True, layout="constrained",
    )  # fmt: skip
    for ax in axes.flat[len(found) :]:
        ax.remove()
    for ax, (task, of) in zip(axes.flat, found.items(), strict=False):
        result = of.results
        for row in of.rows:
            place, colour = places[result.title(row)], result.look(row).colour
            without, with_it = known(result.area(row)), known(result.area(row + MARK))
            points = ((without, place + APART, "white"), (with_it, place - APART, colour))
            ends = [e.mean for e, *_ in points], [height for _, height, _ in points]
            ax.plot(*ends, color=colour, lw=1.2, ls="-" if of.clear(row) else ":")
            for e, height, face in points:
                ax.errorbar(e.mean, height, xerr=_half(e), color=colour, marker="o", mfc=face, ls="", ms=3.5, lw=0.8)
        ax.set(yticks=list(places.values()), ylim=(0.3 - len(places), 0.6), xlim=(least, 1))
        ax.set_xlabel(f"{TASKS[task].metric},\nmean over σ")
        ax.set_yticklabels(list(places), fontsize=6.5)
        ax.xaxis.set_tick_params(labelbottom=True)
        name, _, data = result.heading(task).partition(", ")
        titled(ax, f"({TASKS[task].panel})", name, data, of.range, counted(len(result.seeds), "seed"))
    handles = [
        Line2D([], [], color="black", ls="", marker="o", ms=3.5, mfc="white", label="without calibration"),
        Line2D([], [], color="black", ls="", marker="o", ms=3.5, label=f"each device calibrated ({MARK})"),
        Line2D([], [], color="black", lw=1.5, label="the interval of the gain is above 0"),
        Line2D([], [], color="black", lw=1.5, ls=":", label="it holds 0, or there is none"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if columns > 1 else 1, fontsize=7)
    save(figure, folder, "calibration")
    images = ", ".join(dict.fromkeys(str(of.images) for of in found.values()))
    return f"Mean over σ, bars: 95 % intervals; {images} images calibrate a device. {CONTRACT}"


def figure_details(found: Mapping[str, Calibrated], folder: Path) -> str:
    """How many images; which layers; and a device that was calibrated once and has drifted on. Returns the caption."""
    figure, axes = plt.subplots(
        len(found), 3, figsize=(PAGE, 3.1 * len(found)), squeeze=False, layout="constrained",
        width_ratios=(3, 3, 4),
    )  # fmt: skip
    for (left, middle, right), (task, of) in zip(axes, found.items(), strict=True):
        result, rows = of.results, list(of.details)
        for i, row in enumerate(rows):
            look = result.look(row)
            counts = {**of.details[row]["images"], str(of.images): result.accuracy[row + MARK]}
            counts = dict(sorted(counts.items(), key=lambda entry: int(entry[0])))
            means = [of.mean(values) for values in counts.values()]
            curve(left, list(map(int, counts)), means, look, result.title(row), i)
            left.axhline(known(result.area(row)).mean, color=look.colour, ls=":", lw=1)
            layers = {"none": result.accuracy[row], **of.details[row]["layers"], "all": result.accuracy[row + MARK]}
            for place, values in enumerate(reversed(layers.values())):
                e = of.mean(values)
                shift = 0.12 * (i - (len(rows) - 1) / 2)
                middle.errorbar(
                    e.mean, place - shift, xerr=_half(e), color=look.colour, marker=look.marker, ls="", capsize=2
                )
            middle.set_yticks(range(len(layers)), list(reversed(layers)), fontsize=7)
        left.set(xscale="log", xlabel="calibration images", ylabel=f"mean {TASKS[task].metric}, {of.range}")
        left.set_xticks(list(map(int, counts)), list(counts), fontsize=6)
        left.minorticks_off()
        titled(left, f"({TASKS[task].panel}) {result.heading(task)}", result.intervals())
        middle.set_xlabel(f"mean {TASKS[task].metric}, {of.range}")
        titled(middle, "which layers are calibrated")
        _further(right, of, rows[0])
        for ax, columns, title in ((left, 1, "calibrated; dotted: without"), (right, 2, "calibrated")):
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=columns, fontsize=7, title=title,
                      title_fontsize=7)  # fmt: skip
    save(figure, folder, "calibration-details")
    return (
        "Left: how many images. Middle: which layers. Right: a device that is calibrated once, and drifts on; dotted "
        "line: chance."
    )


def _further(ax: Axes, of: Calibrated, row: str) -> None:
    """Accuracy of a row's copies that were calibrated at one σ and are used at each."""
    result = of.results
    accuracy_axes(ax, result.sigmas[-1])
    ax.axhline(1 / result.data["classes"], color="0.45", ls=":", lw=1.2, zorder=1)  # chance
    curves = {"never": result.accuracy[row]}
    curves |= {f"at σ = {at}": values for at, values in of.details[row]["calibrated_at"].items()}
    curves["at each σ"] = result.accuracy[row + MARK]
    looks = [result.look(row), *VARIANT_LOOKS[: len(curves) - 2], Look("black", (0, (5, 1)), "x")]
    for i, ((label, values), look) in enumerate(zip(curves.items(), looks, strict=True)):
        curve(ax, result.sigmas, [measured(values[:, j]) for j in range(len(result.sigmas))], look, label, i)
    titled(ax, f"{result.title(row)}: used at σ", "a device that drifts on after its calibration")


def _half(e: Estimate) -> float:
    return e.half_width if np.isfinite(e.half_width) else 0.0


def tables(found: Mapping[str, Calibrated]) -> str:
    """A table for each task, a line a row, in Markdown; "" where there is nothing."""
    parts = ["## Calibration, another contract", CONTRACT] if found else []
    for task, of in found.items():
        result = of.results
        table = {}
        for row in of.rows:
            cells = {"σ = 0": show(result.at(row, 0.0)), f"σ = 0, {MARK}": show(result.at(row + MARK, 0.0))}
            cells |= {"mean": show(result.area(row)), f"mean, {MARK}": show(result.area(row + MARK))}
            table[result.title(row)] = {**cells, "gain, paired": show(of.gain(row), "+")}
        head = f"({TASKS[task].panel}) {result.heading(task)}, {TASKS[task].metric}; mean over {of.range}; {of.images} "
        parts += [f"{head}images calibrate a device; {result.band()}:", markdown(pd.DataFrame(table).T)]
    return "\n" + "\n\n".join(parts) + "\n" if parts else ""


def lines(found: Mapping[str, Calibrated]) -> pd.DataFrame:
    """Every number behind it: a line for each task, row, setting, seed, draw and σ. "none": without calibration."""
    columns = ["task", "row", "setting", "seed", "draw", "sigma", "accuracy"]
    rows: list[tuple[object, ...]] = []
    for task, of in found.items():
        for row in of.rows:
            settings = {"none": of.results.accuracy[row], f"{of.images} images": of.results.accuracy[row + MARK]}
            for kind, each in of.details.get(row, {}).items():
                settings |= {DETAILS[kind].format(name): values for name, values in each.items()}
            for setting, values in settings.items():
                for (s, i, d), value in np.ndenumerate(values):
                    rows.append((task, row, setting, of.results.seeds[s], d, of.results.sigmas[i], value))
    return pd.DataFrame(rows, columns=columns)
