"""The chapter on fault-tolerant training: its results, claims with computed verdicts, figures, and section of the page.

A claim is one or more comparisons of accuracy under a fault, at the level of training, seed by seed, with Student's t
interval over training seeds and two-sided p, corrected by Holm for all comparisons of the chapter:

    greater     supported: d > 0;   contradicted: d < 0, each where the corrected p is below 0.05
    at least    supported: d > −m;  contradicted: d < −m, likewise, with the margin m of the paper's claims, 0.02
    size        supported: at most 10 % more multiply-accumulates; contradicted: more. They are counted: no p
    slope       supported: the slope of accuracy over the architectures is not 0;  contradicted never

A comparison is inconclusive otherwise, and with fewer than 3 seeds; it was not run where a side is missing.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from bayesft.evaluation.devices import CALIBRATIONS
from bayesft.evaluation.statistics import Estimate, estimate, p_value, paired
from bayesft.fault_tolerance import CHANNELS, COEFFICIENTS, ROWS
from bayesft.methods import Look
from bayesft.models.cells import KINDS, Architecture, CellPlan
from bayesft.report.claims import CONTRADICTED, LEVEL, MARGIN, MORE_COST, NOT_RUN, SUPPORTED, after_holm, by_sign, worst
from bayesft.report.details import capital, markdown
from bayesft.report.results import FEW, counted, measured, settled
from bayesft.report.style import COLUMN, PAGE, curve, save, titled
from bayesft.tasks import STAND_INS

CLEAN = 0.05  # of clean accuracy may be lost before a network counts as undertrained
MARKERS, DASHES = "osD^vPX*pdhH<>", ("-", "--", "-.", ":")
SEARCHED = ("found", "random-1", "random-2", "random-3", "largest")  # cells of equal size
NAMES = {"stuck": "stuck cells (adSAF)", "mibb": "bit flips of multipliers (MiBB)", "lognormal": "log-normal drift"}
SHORT = {"stuck": "stuck cells", "mibb": "bit flips", "lognormal": "drift"}
AXES = {"stuck": "share of stuck cells p", "mibb": "share of faulty products (log scale)", "lognormal": "drift level σ"}
SYMBOLS = {"stuck": "p", "mibb": "p_m", "lognormal": "σ"}
HOW = {"bn-device": "batch norm by device", "bn-pooled": "batch norm pooled", "channels": "calibrated"}  # in tables
CURVES = ("plain", "ftt", "found", "bayesft", "drift_dropout")  # rows with a curve; the gains have all
COLOURS = dict(zip(CURVES, ("#949494", "#0173b2", "#de8f05", "#d55e00", "#000000"), strict=True))
CALIBRATED = {  # what the gains show of a network, as it is and with each calibration: label, colour, marker
    None: ("as it is", "black", "o"), "bn-device": (CALIBRATIONS["bn-device"], "#0173b2", "s"),
    "bn-pooled": (CALIBRATIONS["bn-pooled"], "#de8f05", "D"), "channels": (CALIBRATIONS["channels"], "#029e73", "^"),
}  # fmt: skip


@dataclass(frozen=True)
class Chapter:
    """All results of the chapter.

    Args:
        plan: What the plan says of it: faults, networks, searches.
        networks: The measurements by (fault of training or "any", row), and by seed.
        searches: What each search found, by (fault, search).
    """

    plan: Mapping[str, Any]
    networks: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]
    searches: Mapping[tuple[str, str], Mapping[str, Any]]

    @classmethod
    def gather(cls, plan: Mapping[str, Any], read: Callable[[str], Any]) -> "Chapter":
        """Everything that the plan names. `read` gives the content of a JSON file below data/results."""
        networks: dict[tuple[str, str], dict[int, Any]] = {}
        for fault, row, seed in plan["networks"]:
            networks.setdefault((fault, row), {})[seed] = read(f"ftt/{fault}-{row}-{seed}.json")
        searches = {(fault, name): read(f"ftt-search/{fault}-{name}.json") for fault, name in plan["searches"]}
        return cls(plan, networks, searches)

    @classmethod
    def of(cls, networks: Sequence[Mapping[str, Any]]) -> "Chapter":
        """The networks of a file that `table` filled."""
        found: dict[tuple[str, str], dict[int, Any]] = {}
        for network in networks:
            found.setdefault((network["fault"], network["row"]), {})[network["seed"]] = network
        return cls({}, found, {})

    def key(self, row: str, trained: str) -> tuple[str, str]:
        """Where a row lies that was trained for a fault, or for any."""
        return ("any" if ROWS[row].alike else trained, row)

    def at(self, row: str, trained: str, under: str, how: str | None = None) -> np.ndarray | None:
        """The accuracy at the level of a fault, (seeds, devices): as it is, or calibrated. None: not measured."""
        found = self.networks.get(self.key(row, trained), {})
        values = []
        for seed in sorted(found):
            of = found[seed]["faults"].get(under)
            if of is None or (how is not None and how not in of["calibrated"]):
                return None
            level = next(i for i, each in enumerate(of["levels"]) if math.isclose(each, of["level"]))
            values.append(of["accuracy"][level] if how is None else of["calibrated"][how])
        return np.array(values) if values else None

    def clean(self, row: str, trained: str) -> np.ndarray:
        """The accuracy without any fault, (seeds, 1)."""
        found = self.networks[self.key(row, trained)]
        return np.array([[found[seed]["clean"]] for seed in sorted(found)])

    def size(self, row: str, trained: str) -> tuple[int, int] | None:
        """Parameters and multiply-accumulates of a row, or None where it was not run."""
        found = self.networks.get(self.key(row, trained), {})
        return next(((each["parameters"], each["macs"]) for each in found.values()), None)

    def under(self, fault: str) -> list[tuple[str, str]]:
        """The (fault of training, row) of all networks that were measured under a fault, in the order of `ROWS`."""
        order = list(ROWS)
        found = [key for key, seeds in self.networks.items() if all(fault in of["faults"] for of in seeds.values())]
        return sorted(found, key=lambda key: (order.index(key[1]), key[0]))

    def faults(self) -> list[str]:
        """The faults under which something was measured."""
        return [fault for fault in NAMES if self.under(fault)]

    def title(self, key: tuple[str, str]) -> str:
        """A row's name; with the fault of its training where there are several."""
        several = sum(row == key[1] for _, row in self.networks) > 1
        return ROWS[key[1]].title + (f" under {SHORT[key[0]]}" if several else "")

    def level(self, fault: str) -> float:
        """The level of a fault at which networks are compared."""
        return float(
            next(of["faults"][fault]["level"] for key in self.under(fault) for of in self.networks[key].values())
        )

    def data(self) -> Mapping[str, Any]:
        """Which images all of it is on."""
        return next(of["data"] for seeds in self.networks.values() for of in seeds.values())

    def seeds(self) -> list[int]:
        """All training seeds."""
        return sorted({seed for seeds in self.networks.values() for seed in seeds})

    def images(self) -> str:
        """The name of the images in titles."""
        return STAND_INS["CIFAR-10"] if self.data()["source"] == "embedded" else "CIFAR-10"


_SIGNS = {"greater": ">", "at least": "≥", "size": "costs no more than"}


@dataclass(frozen=True)
class Measure:
    """Accuracy of a row, trained for one fault, under a fault at its level; `how`: calibrated so.

    Its text names the fault of training where that is another one.
    """

    row: str
    trained: str
    under: str
    how: str | None = None

    def __str__(self) -> str:
        trained = f" under {SHORT[self.trained]}" if self.trained != self.under and not ROWS[self.row].alike else ""
        calibrated = f", {CALIBRATIONS[self.how]}" if self.how else ""
        return ROWS[self.row].title + trained + calibrated


@dataclass(frozen=True)
class Comparison:
    """`first` against `second`, see the top of the file. A slope has `first` alone, and what it is over."""

    first: Measure
    second: Measure | None = None
    kind: str = "greater"
    over: str = ""

    def __str__(self) -> str:
        where = f"{NAMES[self.first.under]}: "
        if self.kind == "slope":
            return f"{where}slope over {self.over}"
        return f"{where}{self.first} {_SIGNS[self.kind]} {self.second}"


@dataclass(frozen=True)
class Claim:
    """A claim: its number, what it says in short, the comparisons that decide it; `paper`: numbers of another scale."""

    number: str
    said: str
    comparisons: tuple[Comparison, ...]
    paper: str = ""

    def __str__(self) -> str:
        return self.said + (f"; {self.paper}" if self.paper else "")


def _greater(first: tuple[str, ...], *seconds: tuple[str, ...], kind: str = "greater") -> tuple[Comparison, ...]:
    return tuple(Comparison(Measure(*first), Measure(*second), kind) for second in seconds)


_BOTH = ("stuck", "mibb")
CLAIMS = (
    Claim("F1", "Fault-tolerant training raises the accuracy under the fault of training",
          tuple(c for f in _BOTH for c in _greater(("ftt", f, f), ("plain", f, f)))),
    Claim("F2", "W-FTT-Net is above ResNet-20 under stuck cells, both with fault-tolerant training",
          _greater(("w-ftt-net", "stuck", "stuck"), ("ftt", "stuck", "stuck"), ("matched", "stuck", "stuck")),
          "69.6 against 60.8 (paper, other scale)"),
    Claim("F3", "The network found under MiBB is above MobileNet-V2",
          _greater(("found", "mibb", "mibb"), ("mobilenet", "mibb", "mibb"), ("mobilenet-matched", "mibb", "mibb")),
          "86.2 against 68.1 (paper, other scale)"),
    Claim("F4", "The found network is above random and largest ones of equal size",
          tuple(c for f in _BOTH for c in _greater(("found", f, f), *((row, f, f) for row in SEARCHED[1:])))),
    Claim("F5", "FTT-NAS is at least as good as FT-NAS, and that as NAS",
          tuple(c for f in _BOTH for c in (*_greater(("found", f, f), ("found-ft-nas", f, f), kind="at least"),
                                           *_greater(("found-ft-nas", f, f), ("found-nas", f, f), kind="at least")))),
    Claim("F6", "The found networks have comparable or fewer multiply-accumulates",
          (Comparison(Measure("found", "stuck", "stuck"), Measure("ftt", "stuck", "stuck"), "size"),
           Comparison(Measure("w-ftt-net", "stuck", "stuck"), Measure("ftt", "stuck", "stuck"), "size"),
           Comparison(Measure("found", "mibb", "mibb"), Measure("mobilenet", "mibb", "mibb"), "size"))),
    Claim("F7", "Capacity and operations matter for the accuracy under faults",
          (*(Comparison(Measure("found", f, f), None, "slope", "log₁₀ of the multiply-accumulates") for f in _BOTH),
           Comparison(Measure("found", "mibb", "mibb"), None, "slope", "the mean strike rate"))),
    Claim("C1", "Batch norm estimated again on each device raises the accuracy of a plain network",
          tuple(c for f in _BOTH for c in _greater(("plain", f, f, "bn-device"), ("plain", f, f)))),
    Claim("C2", "The remedies add up: fault-tolerant training with batch norm estimated again is above either",
          tuple(c for f in _BOTH for c in _greater(("ftt", f, f, "bn-device"), ("ftt", f, f),
                                                   ("plain", f, f, "bn-device")))),
    Claim("X1", "BayesFT carries over to the faults of FTT-NAS",
          tuple(c for f in _BOTH for c in _greater(("bayesft", f, f), ("plain", f, f)))),
    Claim("X2", "Drift-aware training with dropout carries over to the faults of FTT-NAS",
          tuple(c for f in _BOTH for c in _greater(("drift_dropout", f, f), ("plain", f, f)))),
    Claim("X3", "Fault-tolerant training carries over to log-normal drift",
          tuple(c for f in _BOTH for c in _greater(("ftt", f, "lognormal"), ("plain", f, "lognormal")))),
    Claim("X4", "Drift-aware training and fault-tolerant training together serve both faults",
          (*_greater(("drift_ftt", "stuck", "stuck"), ("plain", "stuck", "stuck"), ("ftt", "stuck", "stuck")),
           *_greater(("drift_ftt", "stuck", "lognormal"), ("plain", "stuck", "lognormal"),
                     ("drift_dropout", "stuck", "lognormal")),
           *_greater(("drift_ftt", "stuck", "stuck", "channels"), ("drift_ftt", "stuck", "stuck")))),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What the results say of one comparison.

    Args:
        verdict: supported, contradicted, inconclusive or not run.
        difference: Of the two sides with its 95 % interval; a ratio for "size"; a slope.
        p, corrected: Its p, and that by Holm over all comparisons of the chapter. NaN where there is none.
        seeds: On how many it rests.
        why: Why it was not run, or is not decided.
    """

    claim: Claim
    comparison: Comparison
    verdict: str
    difference: Estimate | None = None
    p: float = float("nan")
    corrected: float = float("nan")
    seeds: int = 0
    why: str = ""


def findings(chapter: Chapter) -> list[Finding]:
    """The verdict of every comparison of every claim."""
    found = [_look(chapter, claim, comparison) for claim in CLAIMS for comparison in claim.comparisons]
    judged = after_holm([(each.verdict, each.p) for each in found])
    return [replace(each, verdict=said, corrected=p) for each, (said, p) in zip(found, judged, strict=True)]


def by_claim(found: Sequence[Finding]) -> list[tuple[Claim, list[Finding]]]:
    """Each claim with its findings."""
    return [(claim, [each for each in found if each.claim is claim]) for claim in CLAIMS]


def verdict(of: Sequence[Finding]) -> str:
    """The verdict of a claim from those of its comparisons."""
    return worst(each.verdict for each in of)


def _look(chapter: Chapter, claim: Claim, comparison: Comparison) -> Finding:
    """The difference of a comparison, before any verdict."""
    first, second, kind = comparison.first, comparison.second, comparison.kind
    if second is None:  # a slope
        slopes = _slopes(chapter, first, comparison.over)
        if slopes is None:
            return Finding(claim, comparison, NOT_RUN, why="fewer than three cells were trained in this run")
        said, why = by_sign(True, len(slopes))
        return Finding(claim, comparison, said, estimate(slopes), _p(slopes), seeds=len(slopes), why=why)
    if kind == "size":
        one_size, other_size = (chapter.size(side.row, side.trained) for side in (first, second))
        if one_size is None or other_size is None:
            return Finding(claim, comparison, NOT_RUN, why="a row was not trained in this run")
        ratio = one_size[1] / other_size[1]
        verdict = SUPPORTED if ratio <= MORE_COST else CONTRADICTED
        return Finding(claim, comparison, verdict, Estimate(ratio, 0.0, "counted", 1))
    one, other = (chapter.at(side.row, side.trained, side.under, side.how) for side in (first, second))
    if one is None or other is None:
        return Finding(claim, comparison, NOT_RUN, why="a row was not trained in this run")
    seeds = min(len(one), len(other))
    one, other = one[:seeds], other[:seeds]
    above = MARGIN if kind == "at least" else 0.0
    d = paired(one, other)
    said, why = by_sign(d.mean + above > 0, seeds)
    return Finding(claim, comparison, said, d, _p(one - other + above), seeds=seeds, why=why)


def _p(values: np.ndarray) -> float:
    """The p of a mean over seeds (seeds, devices); NaN with few of them: draws of one network say nothing of others."""
    return p_value(values.mean(1)) if len(values) >= FEW else float("nan")


def _slopes(chapter: Chapter, measure: Measure, over: str) -> np.ndarray | None:
    """The slope of accuracy under the fault over the searched cells, for each seed: (seeds, 1)."""
    values, x = [], []
    for row in SEARCHED:
        accuracy = chapter.at(row, measure.trained, measure.under)
        if accuracy is None:
            continue
        of = next(iter(chapter.networks[chapter.key(row, measure.trained)].values()))
        x.append(math.log10(of["macs"]) if "log" in over else of["faults"][measure.under].get("strike_rate", 0.0))
        values.append(accuracy.mean(1))
    if len(values) < 3 or np.std(x) == 0:
        return None
    seeds = min(map(len, values))
    return np.array([[np.polyfit(x, [value[seed] for value in values], 1)[0]] for seed in range(seeds)])


def figure_faults(chapter: Chapter, folder: Path) -> None:
    """Accuracy against the fault level, a panel for each fault; calibrated networks as hollow marks at its level."""
    faults = chapter.faults()
    keys = [key for key in dict.fromkeys(key for f in faults for key in chapter.under(f)) if key[1] in CURVES]
    of_row = {row: [key for key in keys if key[1] == row] for row in CURVES}  # a colour a row, dashes by training
    looks = {key: Look(COLOURS[key[1]], DASHES[of_row[key[1]].index(key)], MARKERS[keys.index(key)]) for key in keys}
    figure, axes = plt.subplots(1, len(faults), figsize=(PAGE, 2.9), squeeze=False, layout="constrained", sharey=True)
    for place, fault in zip(axes[0], faults, strict=True):
        for number, key in enumerate(key for key in looks if key in chapter.under(fault)):
            _curve(place, chapter, key, fault, looks[key], number)
        again = {key: values for key in looks if (values := chapter.at(key[1], key[0], fault, "bn-device")) is not None}
        for number, (key, values) in enumerate(again.items()):
            aside = offset_copy(place.transData, figure, 3.5 * (number - (len(again) - 1) / 2), units="points")
            e = measured(values)
            place.errorbar(chapter.level(fault), e.mean, yerr=_bar(e), marker=looks[key].marker, mfc="white", ms=4.5,
                           lw=0.8, color=looks[key].colour, transform=aside, zorder=4, clip_on=False)  # fmt: skip
        place.set(ylim=(0, None), xlabel=AXES[fault])
        if fault == "mibb":
            levels = sorted({x for of in chapter.networks.values() for each in of.values() if fault in each["faults"]
                             for x in each["faults"][fault]["levels"]})  # fmt: skip
            place.set_xscale("symlog", linthresh=next(x for x in levels if x > 0))
            place.set_xlim(left=0)
            place.set_xticks(levels, [f"{x:.1e}".replace("e-0", "e-") if x else "0" for x in levels], fontsize=6)
            place.minorticks_off()
        if fault != "lognormal":
            place.axvline(chapter.plan["faults"][fault]["level"], color="0.5", lw=0.8, ls=":")
        alone = any(len(chapter.networks[key]) == 1 for key in looks if key in chapter.under(fault))
        single = f"; of 1 seed, {'over devices' if _devices(chapter, fault) >= FEW else 'none'}"
        bands = "95 % bands over seeds" + single * alone
        titled(place, NAMES[fault], f"{chapter.images()}, {_counts(chapter, fault)}", bands)
    axes[0, 0].set_ylabel("accuracy")
    handles = {h.get_label(): h for place in axes[0] for h in place.get_legend_handles_labels()[0]}
    hollow = CALIBRATIONS["bn-device"]
    handles |= {hollow: Line2D([], [], color="0.3", ls="", marker="o", mfc="none", label=hollow)}
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3, fontsize=7)
    save(figure, folder, "ftt_faults")


def _curve(place: Axes, chapter: Chapter, key: tuple[str, str], fault: str, look: Look, number: int) -> None:
    seeds = [chapter.networks[key][seed]["faults"][fault] for seed in sorted(chapter.networks[key])]
    levels = seeds[0]["levels"]
    estimates = [measured(np.array([of["accuracy"][i] for of in seeds])) for i in range(len(levels))]
    curve(place, levels, estimates, look, _counted_title(chapter, key), number)


def _bar(e: Estimate) -> float:
    return 0.0 if math.isnan(e.half_width) else e.half_width


def _counts(chapter: Chapter, fault: str) -> str:
    seeds = {len(chapter.networks[key]) for key in chapter.under(fault)}
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return f"{count} seed{'s' * (max(seeds) > 1)}, {counted(_devices(chapter, fault), 'device')}"


def _devices(chapter: Chapter, fault: str) -> int:
    """How many devices each network was measured on."""
    of = next(each for key in chapter.under(fault) for each in chapter.networks[key].values())
    return len(of["faults"][fault]["accuracy"][0])


def figure_cells(chapter: Chapter, folder: Path) -> None:
    """The cells that each search found, normal and reducing."""
    count = len(chapter.searches)
    figure, axes = plt.subplots(count, 2, figsize=(PAGE, 2.1 * count), squeeze=False, layout="constrained")
    for row, ((fault, search), content) in zip(axes, chapter.searches.items(), strict=True):
        architecture = Architecture.parse(content["best"])
        longest = max(n - source for plan in architecture for n, edges in enumerate(plan, 2) for source, _ in edges)
        for place, kind, plan in zip(row, KINDS, architecture, strict=True):
            _cell(place, plan, 0.3 + 0.25 * longest)
            titled(place, f"{_search(search)} under {SHORT[fault]}: {kind} cell")
    figure.suptitle(f"found on {_images_used(chapter)}", fontsize=7)
    save(figure, folder, "ftt_cells")


def _cell(place: Axes, plan: CellPlan, height: float) -> None:
    """Draw a cell: the inputs 0 and 1 and the nodes in a line, of each node one edge above it and one below.

    `height` is half of the panel's, in distances of two nodes.
    """
    for node, edges in enumerate(plan, 2):
        for (source, operation), bend in zip(edges, (-0.5, 0.5), strict=True):
            place.annotate("", (node, 0), (source, 0), arrowprops={
                "arrowstyle": "->", "connectionstyle": f"arc3,rad={bend}", "color": "0.45", "shrinkA": 8,
                "shrinkB": 8})  # fmt: skip
            top = bend / 2 * (source - node)  # of the arc; the text is on it, or in it where it is short
            inside = 0.4 if node - source == 1 else 1.0
            place.text((source + node) / 2, inside * top, operation, fontsize=6.5, ha="center", va="center",
                       bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3})  # fmt: skip
    for spot in range(len(plan) + 2):
        colour = "#dbe9f6" if spot < 2 else "#fde9c9"
        box = {"boxstyle": "circle", "facecolor": colour}
        place.text(spot, 0, str(spot), fontsize=8, ha="center", va="center", bbox=box)
    place.set(xlim=(-0.3, len(plan) + 1.3), ylim=(-height, height), aspect="equal")
    place.axis("off")


def _search(name: str) -> str:
    """A search in words."""
    return name.upper() if name in COEFFICIENTS else "each trained alone"


def _images_used(chapter: Chapter) -> str:
    """The images of titles, and how many of them training has."""
    return f"{chapter.images()}, {chapter.data()['images_used']['train']:,} images"


def _correlation(gate: Mapping[str, Any]) -> str:
    return f"Spearman's ρ = {gate['rho']:.2f}, p = {gate['p']:.2g}"


def _agreement(chapter: Chapter) -> list[str]:
    """How alike two shared networks of a search rank architectures, and what follows where they do not."""
    said = []
    for (fault, search), content in chapter.searches.items():
        if gate := content.get("gate"):
            alike = gate["rho"] > 0 and gate["p"] <= LEVEL
            apart = "" if alike else " Shared weights do not tell architectures apart here."
            said.append(f"**{_search(search)} under {NAMES[fault]}: two shared networks rank architectures with "
                        f"{_correlation(gate)}.{apart}**")  # fmt: skip
    return said


def figure_ranks(chapter: Chapter, folder: Path) -> bool:
    """Rewards of architectures under two shared networks, and one against training alone; whether there are any.

    The second needs at least three networks of cells.
    """
    gated = {key: content for key, content in chapter.searches.items() if content.get("gate")}
    if not gated:
        return False
    points = {(fault, name): [(content["rewards"][row], float(accuracy.mean()), row) for row in SEARCHED
                              if row in content["rewards"] and (accuracy := chapter.at(row, fault, fault)) is not None]
              for (fault, name), content in gated.items()}  # fmt: skip
    columns = 2 if any(len(of) >= FEW for of in points.values()) else 1
    size = (COLUMN * columns, 2.9 * len(gated))
    figure, axes = plt.subplots(len(gated), columns, figsize=size, squeeze=False, layout="constrained")
    for row, (key, content) in zip(axes, gated.items(), strict=True):
        row[0].scatter(*content["gate"]["rewards"][:2], color="0.3", s=18)
        row[0].set(xlabel="reward, first shared network", ylabel="reward, second shared network")
        count = len(content["gate"]["architectures"])
        titled(row[0], f"{SHORT[key[0]]}: {count} random architectures", f"{chapter.images()}, one search",
               _correlation(content["gate"]))  # fmt: skip
        if len(points[key]) >= FEW:
            for x, y, name in points[key]:
                row[1].scatter(x, y, s=22, color=COLOURS["ftt"])
                row[1].annotate(name, (x, y), (4, 3), textcoords="offset points", fontsize=7)
            row[1].set(xlabel="reward with shared weights", ylabel="accuracy, trained alone")
            titled(row[1], "shared weights against training alone", f"{chapter.images()}, {_counts(chapter, key[0])}",
                   _alone(points[key]))  # fmt: skip
        elif columns == 2:
            row[1].remove()
    save(figure, folder, "ftt_ranks")
    return True


def _alone(points: Sequence[tuple[float, float, str]]) -> str:
    """Spearman's correlation of the points (reward, accuracy, name), with the p of all their pairings."""
    from scipy.stats import permutation_test, spearmanr

    rewards, accuracies, _ = zip(*points, strict=True)
    found = permutation_test(
        (rewards,), lambda x: spearmanr(x, accuracies).statistic, permutation_type="pairings", n_resamples=math.inf
    )
    return f"Spearman's ρ = {found.statistic:.2f}, p = {found.pvalue:.2g} ({len(points)} networks)"


def figure_gains(chapter: Chapter, folder: Path) -> bool:
    """What each row gains over plain ResNet-20 at the level of each fault, with each calibration and without.

    Returns whether plain ResNet-20 is there.
    """
    plains = {fault: plain for fault in chapter.faults() if (plain := chapter.at("plain", fault, fault)) is not None}
    if not plains:
        return False
    keys = list(dict.fromkeys(key for fault in plains for key in chapter.under(fault)))
    size = (PAGE, 1.4 + 0.26 * len(keys))
    figure, axes = plt.subplots(1, len(plains), figsize=size, squeeze=False, layout="constrained", sharey=True)
    for ax, (fault, plain) in zip(axes[0], plains.items(), strict=True):
        for height, key in enumerate(reversed(keys)):
            found = {how: values for how in CALIBRATED if (key[1], how) != ("plain", None)
                     and (values := chapter.at(key[1], key[0], fault, how)) is not None}  # fmt: skip
            for place, (how, values) in enumerate(found.items()):
                label, colour, marker = CALIBRATED[how]
                e = settled(paired(values[: len(plain)], plain[: len(values)]))
                y = height + 0.2 * ((len(found) - 1) / 2 - place)
                ax.errorbar(e.mean, y, xerr=_bar(e), color=colour, fmt=marker, ms=3, lw=1, label=label)
        ax.axvline(0, color="0.5", lw=0.8)
        ax.set_yticks(range(len(keys)), [_counted_title(chapter, key) for key in reversed(keys)], fontsize=6.5)
        ax.set_ylim(-0.7, len(keys) - 0.3)
        ax.set_xlabel(f"gain in accuracy\nover {ROWS['plain'].title}")
        counts = f"{chapter.images()}, {_counts(chapter, fault)}"
        titled(ax, f"{SHORT[fault]}, {SYMBOLS[fault]} = {chapter.level(fault):.2g}", counts)
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=7)
    save(figure, folder, "ftt_gains")
    return True


def _counted_title(chapter: Chapter, key: tuple[str, str]) -> str:
    """A row's name, with the number of its seeds where they are few."""
    count = len(chapter.networks[key])
    return chapter.title(key) + (f" ({counted(count, 'seed')})" if count < FEW else "")


def draw(chapter: Chapter, folder: Path) -> list[str]:
    """All figures of the chapter; their names in order."""
    figure_faults(chapter, folder)
    drawn = ["ftt_faults"]
    if chapter.searches:
        figure_cells(chapter, folder)
        drawn.append("ftt_cells")
        if figure_ranks(chapter, folder):
            drawn.append("ftt_ranks")
    if figure_gains(chapter, folder):
        drawn.append("ftt_gains")
    return drawn


CAPTIONS = {
    "ftt_faults": "Accuracy against the fault level, a panel a fault. Dotted: the level of training. Hollow: batch "
    "norm estimated again on each device.",
    "ftt_cells": "The cells that were found. 0 and 1 are the outputs of the two cells before, the others add up what "
    "their two edges give. sep, dil, rcb: separable, dilated and plain convolutions of a size; conv1: 1 × 1 "
    "convolution; max, avg: pooling; skip: identity; none: nothing.",
    "ftt_ranks": "Whether shared weights rank architectures: two shared networks, and shared against alone.",
    "ftt_gains": "Accuracy at the level above each panel minus that of plain ResNet-20, as it is; 95 % intervals over "
    "seeds, over devices in a row with 1 seed. No mark: not measured.",
}


def section(chapter: Chapter, folder: Path, alone: bool = False) -> str:
    """Draw the chapter's figures into `folder`; its section of the page, with the verdicts where it is `alone`."""
    pictures = draw(chapter, folder)
    data = chapter.data()
    found = findings(chapter)
    of = [verdict(own) for _, own in by_claim(found)]
    counts = ", ".join(f"{of.count(name)} {name}" for name in dict.fromkeys(of))
    return "\n\n".join([
        "## Fault-tolerant training and architecture search (FTT-NAS)",
        f"![{CAPTIONS['ftt_faults']}](figures/ftt_faults.png)",
        f"Ning et al., arXiv 2003.10375, on {data['name']} ({data['source']}; {data['images_used']['train']:,} used "
        f"for training). {CAPTIONS['ftt_faults']} Of {len(of)} claims: {counts}. Tables, every comparison and "
        f"{len(pictures) - 1} more figures: [details.md](details.md).",
        *([_verdicts(found)] if alone else []),
        *_agreement(chapter),
        *_undertrained(chapter),
    ])  # fmt: skip


def _verdicts(found: Sequence[Finding]) -> str:
    """A line a claim: its verdict, and how many of its comparisons came out how."""
    lines = {}
    for claim, own in by_claim(found):
        each = Counter(finding.verdict for finding in own)
        parts = ", ".join(f"{count} {name}" for name, count in each.items())
        lines[claim.number] = {"claim": str(claim), "verdict": _said(own), "comparisons": parts}
    return markdown(pd.DataFrame(lines).T)


def _said(own: Sequence[Finding]) -> str:
    """A claim's verdict; where it was not run, how many of its comparisons were."""
    ran = sum(finding.verdict != NOT_RUN for finding in own)
    some = f" ({ran} of {len(own)} comparisons {'was' if ran == 1 else 'were'})" if ran else ""
    return f"**{verdict(own)}**" + some * (verdict(own) == NOT_RUN)


def tables(chapter: Chapter, folder: Path) -> str:
    """The chapter in full, for the page of details; the figures lie in `folder`."""
    data = chapter.data()
    used = data["images_used"]
    channels, levels = chapter.plan["channels"], chapter.plan["faults"]
    parts = [
        "## Fault-tolerant training and architecture search (FTT-NAS)",
        f"Ning et al., arXiv 2003.10375, on {data['name']}: {used['train']:,} training images, {used['test']:,} test "
        "images. Weights are quantised; a device has one draw of the fault for all test images; means are over devices "
        "and training seeds, ± half a 95 % interval over seeds (with one seed: over devices, marked °).",
    ]
    if "mibb" in levels:
        parts.append(
            f"MiBB strikes a sum the more often the more products it has. Its level is p_m = "
            f"{levels['mibb']['at_20_channels']:g} at {CHANNELS} channels, as published, and "
            f"{levels['mibb']['level']:g} at the {channels} channels of this run. Depthwise and 1 × 1 convolutions sum "
            "few products: they win under this fault by its definition."
        )
    for name in (name for name in CAPTIONS if (folder / f"{name}.png").exists()):
        parts += [f"![{CAPTIONS[name]}](figures/{name}.png)", f"*{CAPTIONS[name]}* [PDF](figures/{name}.pdf)"]
    parts += [
        "### Accuracy under faults",
        _accuracy_table(chapter),
        *_undertrained(chapter),
        "### Claims",
        _claims_table(chapter),
    ]
    parts += [
        "F: claims of FTT-NAS. C: calibration as a control. X: whether one remedy carries over to the other fault."
    ]
    parts += [f"{capital(_search(search))} under {NAMES[fault]} found `{content['best']}`."
              for (fault, search), content in chapter.searches.items()]  # fmt: skip
    parts += _agreement(chapter)
    return "\n\n".join(parts) + "\n"


def _accuracy_table(chapter: Chapter) -> str:
    """A line a row: its size, and its accuracy under each fault, as it is and with each calibration."""
    faults, order, table = chapter.faults(), list(ROWS), {}
    for trained, row in sorted(chapter.networks, key=lambda key: (order.index(key[1]), key[0])):
        size = chapter.size(row, trained)
        assert size is not None  # it is one of the networks
        parameters, macs = size
        cells = {"parameters": f"{parameters:,}", "MACs (M)": f"{macs / 1e6:.2f}"}
        cells |= {"seeds": str(len(chapter.networks[trained, row])), "clean": shown(chapter.clean(row, trained))}
        cells |= {NAMES[under]: shown(chapter.at(row, trained, under)) for under in faults}
        cells |= {f"{SHORT[under]}, {HOW[how]}": shown(chapter.at(row, trained, under, how))
                  for under in faults for how in CALIBRATIONS}  # fmt: skip
        table[chapter.title((trained, row))] = cells
    whole = pd.DataFrame(table).T
    return markdown(whole.loc[:, (whole != "–").any()])


def _undertrained(chapter: Chapter) -> list[str]:
    """Which trainings under a fault learned too little to be judged: clean accuracy far below the plain network's."""
    said = []
    for trained, row in chapter.networks:
        if row == "ftt" and ("any", "plain") in chapter.networks:
            lost = float(chapter.clean("plain", trained).mean() - chapter.clean(row, trained).mean())
            if lost > CLEAN:
                said.append(
                    f"**{chapter.title((trained, row))} loses {lost:.3f} of clean accuracy against the plain network, "
                    f"more than {CLEAN:g}: it is trained too briefly to be judged.**"
                )
    return said


def shown(values: np.ndarray | None) -> str:
    """The mean of accuracies (seeds, devices) with its interval; "–" where there are none."""
    return "–" if values is None else _text(measured(values))


def _text(e: Estimate, sign: str = "") -> str:
    """A mean with its interval. The mark says that it is over the devices of one seed."""
    width = "" if math.isnan(e.half_width) else f" ± {e.half_width:.3f}" + "°" * (e.over == "draws")
    return f"{e.mean:{sign}.3f}{width}"


def _claims_table(chapter: Chapter) -> str:
    """A line a claim, and one for each of its comparisons; those that were not run have one together."""
    lines: list[tuple[str, ...]] = []
    for claim, own in by_claim(findings(chapter)):
        lines.append((f"**{claim.number}**", str(claim), _said(own), "", "", "", ""))
        for each in (each for each in own if each.verdict != NOT_RUN):
            d = each.difference
            found = "–" if d is None else f"{d.mean:.2f} ×" if each.comparison.kind == "size" else _text(d, "+")
            p = "–" if math.isnan(each.corrected) else f"{each.corrected:.2g}"
            why = f" ({each.why})" if each.why else ""
            lines.append(("", "", each.verdict + why, str(each.comparison), found, p, str(each.seeds or "–")))
        missing = [each.why for each in own if each.verdict == NOT_RUN]
        if missing:
            lines.append(("", "", NOT_RUN, f"{len(missing)} of {len(own)} comparisons: {missing[0]}", "–", "–", "–"))
    columns = ["", "claim", "verdict", "comparison", "difference", "p (Holm)", "seeds"]
    return markdown(pd.DataFrame(lines, columns=columns).set_index(""))


def table(chapter: Chapter) -> dict[str, Any]:
    """What the chapter found, for a file: every finding, and what every search found."""
    return {
        "claims": {claim.number: {
            "said": claim.said,
            "verdict": verdict(own),
            "comparisons": [
                {"comparison": str(each.comparison), "verdict": each.verdict, "why": each.why, "seeds": each.seeds,
                 "difference": each.difference and [each.difference.mean, _number(each.difference.half_width)],
                 "p": _number(each.p), "corrected": _number(each.corrected)}
                for each in own
            ],
        } for claim, own in by_claim(findings(chapter))},
        "searches": {f"{fault}-{search}": dict(content) for (fault, search), content in chapter.searches.items()},
        "networks": [dict(of) for seeds in chapter.networks.values() for of in seeds.values()],
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
