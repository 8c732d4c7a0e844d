"""The claims of the paper as data, and what the results say of each: the verdicts are computed, never written.

A claim is one or more comparisons. Each is a difference of two measures, taken seed by seed, with Student's t interval
over training seeds. Let d be the mean difference (first − second), m the margin, 0.02:

    greater     supported: d > 0;    contradicted: d < 0;     p of the hypothesis d = 0, two-sided
    equal       supported: |d| < m;  contradicted: |d| > m;   p of the hypothesis |d| = m (two one-sided tests inside)
    ratio       supported: r ≥ 10 at one point of the curves;  contradicted: r < 10 at each;  p of the hypothesis
                r = 10 there, of ln r over seeds: the least p times the number of points, or the greatest p of all
    cost        supported: at most 10 % more; contradicted: more. Epochs are counted, not estimated: no p

each where p, corrected by Holm for all comparisons of the report, is below 0.05; else the comparison is inconclusive,
as it is with fewer than 3 seeds. A claim is supported when all its comparisons are, contradicted when one is, else
inconclusive; it was not run when a comparison is missing and none contradicts it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr

from bayesft.evaluation.statistics import Estimate, estimate, holm, p_value
from bayesft.report.results import FEW, TaskResults, counted, show
from bayesft.report.rows import PUBLISHED, called
from bayesft.tasks import CLASSIFICATION, TASKS, heading

MARGIN = 0.02  # what counts as equal
TIMES = 10.0  # the paper's factor
MORE_COST = 1.1  # of the baseline's epochs: more is not negligible
LEVEL = 0.05
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_RUN = "supported", "contradicted", "inconclusive", "not run"
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_RUN)
SIGNS = {"greater": ">", "equal": "≈", "ratio": "≥ 10 ×", "cost": "costs as little as"}


@dataclass(frozen=True)
class Side:
    """One side of a comparison: what is measured of a row.

    Args:
        row: The row of the report, or a variant of an ablation's factor.
        places: Tasks, or factors of an ablation ("ablation-mnist/depth"). Those that were run are averaged.
        at: A σ, or None for the area under the curve.
        share: Whether it is taken as a share of the row's clean accuracy.
        times: A factor of it.
    """

    row: str
    places: tuple[str, ...]
    at: float | None = None
    share: bool = False
    times: float = 1.0

    def __str__(self) -> str:
        return (
            {0.5: "half of "}.get(self.times, "")
            + called(self.row)
            + ("" if self.at is None else f" at σ = {self.at:g}")
        )


@dataclass(frozen=True)
class Comparison:
    """`first` against `second`: of which `kind`, see above."""

    first: Side
    second: Side
    kind: str = "greater"

    def __str__(self) -> str:
        """What the paper says, in signs: "BayesFT > ERM"; with their places where the two sides differ in them."""
        sides = [f"{side} on {_names(side.places)}" if self.first.places != self.second.places else str(side)
                 for side in (self.first, self.second)]  # fmt: skip
        return f" {SIGNS[self.kind]} ".join(sides)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: its number, what it says in short, what decides it, and the figure to look at."""

    number: str
    said: str
    comparisons: tuple[Comparison, ...]
    figure: str = "figure3"


@dataclass(frozen=True)
class Finding:
    """What the results say of one comparison, or of a claim by its most telling one.

    Args:
        verdict: One of VERDICTS.
        difference: Of the two sides, with its 95 % interval; None where it was not run. Of "ratio", of the logarithms;
            of "cost", the ratio.
        p: The p of the comparison, NaN where there is none; `corrected`: by Holm, over the comparisons of the report.
        places: The tasks or factors that it was measured on; data, seeds, draws: their images, seeds and drift draws.
        why: Why it was not run, or what else a reader must know.
    """

    claim: Claim
    comparison: Comparison
    verdict: str
    difference: Estimate | None = None
    p: float = float("nan")
    corrected: float = float("nan")
    places: tuple[str, ...] = ()
    data: str = ""
    seeds: int = 0
    draws: int = 0
    why: str = ""

    def interval(self) -> tuple[float, float, float] | None:
        """The difference, or the ratio, and the ends of its 95 % interval."""
        if self.difference is None:
            return None
        mean, low, high = self.difference.mean, self.difference.low, self.difference.high
        return (mean, low, high) if self.comparison.kind != "ratio" else (math.exp(mean), math.exp(low), math.exp(high))


def _beats(first: str, others: Iterable[str], *places: str) -> tuple[Comparison, ...]:
    return tuple(Comparison(Side(first, places), Side(other, places)) for other in others)


def _equals(first: str, others: Iterable[str], *places: str) -> tuple[Comparison, ...]:
    return tuple(Comparison(Side(first, places), Side(other, places), "equal") for other in others)


def _falls(rows: Sequence[str], *places: str) -> tuple[Comparison, ...]:
    """Each row is above the next one: a measure that falls along them."""
    return tuple(
        Comparison(Side(one, places), Side(next_one, places)) for one, next_one in zip(rows, rows[1:], strict=False)
    )


_CIFAR = tuple(name for name, task in TASKS.items() if task.data == "cifar10" and not task.family)
_DEPTHS = ("preact18-cifar10", "preact50-cifar10", "preact152-cifar10")


def _ablation(data: str, depths: Sequence[str], norms: Sequence[str]) -> dict[str, tuple[Comparison, ...]]:
    """The claims of Figure 2 on one data set, by factor."""
    at = f"ablation-{data}"
    return {
        "dropout": (
            *_beats("dropout 0.2", ["none"], f"{at}/dropout"),
            *_equals("alpha dropout 0.2", ["dropout 0.2"], f"{at}/dropout"),
        ),
        "normalization": tuple(c for norm in norms for c in _beats("none", [norm], f"{at}/normalization")),
        "depth": _falls(depths, f"{at}/depth"),
        "activation": tuple(c for other in ("ELU", "GELU", "leaky ReLU")
                            for c in _equals(other, ["ReLU"], f"{at}/activation")),
    }  # fmt: skip


_MNIST = _ablation("mnist", ("3 layers", "6 layers", "9 layers"), ("batch", "layer", "group"))
_AGAIN = _ablation("cifar10", ("6 layers", "9 layers", "13 layers"), ("batch", "layer", "group"))

CLAIMS = (
    Claim("1", "Dropout greatly improves robustness; alpha dropout about equals it", _MNIST["dropout"], "figure2"),
    Claim("2", "Normalisation worsens robustness", _MNIST["normalization"], "figure2"),
    Claim("3", "Depth worsens robustness", _MNIST["depth"], "figure2"),
    Claim("4", "The activation function makes no difference", _MNIST["activation"], "figure2"),
    Claim("5", "MLP on MNIST: BayesFT is best, and flat up to σ = 0.9", (
        *_beats("bayesft", PUBLISHED, "mlp-mnist"),
        Comparison(Side("bayesft", ("mlp-mnist",), 0.9), Side("bayesft", ("mlp-mnist",), 0.0), "equal"),
    ), "figure3a"),
    Claim("6", "LeNet on MNIST: BayesFT is best", _beats("bayesft", PUBLISHED, "lenet-mnist"), "figure3b"),
    Claim("7", "MNIST: AWP equals ERM, ReRAM-V is poor, FTNA is slightly above ERM", tuple(
        c for task in ("mlp-mnist", "lenet-mnist")
        for c in (*_equals("awp", ["erm"], task), *_beats("erm", ["reram_v"], task), *_beats("ftna", ["erm"], task))
    )),
    Claim("8", "AlexNet on CIFAR-10: BayesFT is almost level at small σ", (
        Comparison(Side("bayesft", ("alexnet-cifar10",), 0.2), Side("bayesft", ("alexnet-cifar10",), 0.0), "equal"),
    ), "figure3c"),
    Claim("9", "ERM falls faster from PreAct-ResNet-18 to -50 to -152", tuple(
        Comparison(Side("erm", (one,), share=True), Side("erm", (deeper,), share=True))
        for one, deeper in zip(_DEPTHS, _DEPTHS[1:], strict=False)
    )),
    Claim("10", "CIFAR-10: AWP is the worst of the five methods", tuple(
        Comparison(Side(other, _CIFAR), Side("awp", _CIFAR)) for other in ("erm", "ftna", "reram_v", "bayesft")
    )),
    Claim("11", "GTSRB: ERM falls quickly, BayesFT stays tolerable", (
        *_beats("bayesft", ["erm"], "stn-gtsrb"),
        Comparison(Side("erm", ("stn-gtsrb",), 0.0, times=0.5), Side("erm", ("stn-gtsrb",), 0.4)),
        Comparison(Side("bayesft", ("stn-gtsrb",), 0.4), Side("bayesft", ("stn-gtsrb",), 0.0, times=0.5)),
    ), "figure3i"),
    Claim("12", "Detection: BayesFT's mAP is above ERM's", _beats("bayesft", ["erm"], "maskrcnn-pennfudan"),
          "figure3j"),
    Claim("13", "BayesFT is “up to 10 times” better than ERM", (
        Comparison(Side("bayesft", CLASSIFICATION), Side("erm", CLASSIFICATION), "ratio"),
    )),
    Claim("14", "The ablation repeats on CIFAR-10", tuple(c for part in _AGAIN.values() for c in part), "figure2"),
    Claim("15", "The cost of BayesFT is negligible", (
        Comparison(Side("bayesft", CLASSIFICATION), Side("erm", CLASSIFICATION), "cost"),
    )),
)  # fmt: skip

# Claims on methods and on batch norm, which calibration of every device may change: they are judged with it as well.
UNDER_CALIBRATION = (
    Claim("2", "Normalisation worsens robustness (batch norm taken out)",
          _beats("erm-no-norm", ["erm"], "vgg11-cifar10", "preact18-cifar10"), "norm"),
    *(claim for claim in CLAIMS if claim.number in ("5", "6", "8", "10", "11", "12")),
)  # fmt: skip


def judge(
    claims: Sequence[Claim], results: Mapping[str, TaskResults], budgets: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, list[Finding]]:
    """The findings of every comparison of every claim, by the claim's number.

    Args:
        claims: One family: Holm's correction is for all their comparisons that could be tested.
        results: The tasks, and the factors of the ablations ("ablation-mnist/depth").
        budgets: What each task was given. Tasks that are compared with one another must have the same.
    """
    found = [_compare(claim, of, results, budgets or {}) for claim in claims for of in claim.comparisons]
    judged: dict[str, list[Finding]] = {claim.number: [] for claim in claims}
    for finding, (verdict, p) in zip(found, after_holm([(f.verdict, f.p) for f in found]), strict=True):
        judged[finding.claim.number].append(replace(finding, verdict=verdict, corrected=p))
    return judged


def by_sign(supported: bool, seeds: int) -> tuple[str, str]:
    """What a comparison says were its sign certain: the verdict, and why there is none with fewer than 3 seeds."""
    return (SUPPORTED if supported else CONTRADICTED, "") if seeds >= FEW else (INCONCLUSIVE, counted(seeds, "seed"))


def after_holm(family: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The verdicts of a family of comparisons, with p after Holm's correction: an uncertain sign decides nothing.

    Args:
        family: The verdict by sign, and p, of each. NaN: it was not tested, or is counted; the verdict stays.
    """
    corrected = holm([p for _, p in family]).tolist()
    return [(INCONCLUSIVE if p >= LEVEL else said, p) for (said, _), p in zip(family, corrected, strict=True)]


def worst(verdicts: Iterable[str]) -> str:
    """The verdict of a claim whose comparisons have these: supported where all are."""
    found = set(verdicts)
    return next((each for each in (CONTRADICTED, NOT_RUN, INCONCLUSIVE) if each in found), SUPPORTED)


def verdict(findings: Sequence[Finding]) -> Finding:
    """The finding of a claim: its verdict, with the numbers of the comparison that tells most of it.

    That is the least certain one of a supported claim, else the most certain one of those that have its verdict.
    """
    said = worst(finding.verdict for finding in findings)
    alike = [finding for finding in findings if finding.verdict == said]
    certain = [np.nan_to_num(finding.corrected, nan=2.0) for finding in alike]
    telling = alike[int(np.argmax(certain) if said == SUPPORTED else np.argmin(certain))]
    parts = f"{len(alike)} of {len(findings)} comparisons" if len(alike) < len(findings) else ""
    return replace(telling, why="; ".join(filter(None, (parts, telling.why))))


def summary(judged: Mapping[str, Sequence[Finding]]) -> str:
    """One sentence: how many claims have which verdict."""
    verdicts = [verdict(findings).verdict for findings in judged.values()]
    counts = [f"{verdicts.count(name)} {name}" for name in VERDICTS]
    return f"Of {len(verdicts)} claims: {', '.join(counts)}."


def divided(judged: Mapping[str, Sequence[Finding]]) -> tuple[dict[str, Finding], str]:
    """The verdicts of the claims that were run, by number, and the numbers of the others as a sentence, or ""."""
    found = {number: verdict(findings) for number, findings in judged.items()}
    ran = {number: each for number, each in found.items() if each.verdict != NOT_RUN}
    missing = ", ".join(number for number in found if number not in ran)
    return ran, f"Not run here: {missing}." if missing else ""


def claims_table(judged: Mapping[str, Sequence[Finding]]) -> pd.DataFrame:
    """Every comparison of every claim, one line each: what `claims.csv` has."""
    lines = []
    for number, findings in judged.items():
        whole = verdict(findings)
        for finding in findings:
            of = finding.comparison
            mean, low, high = finding.interval() or (None, None, None)
            lines.append(
                {
                    "claim": number,
                    "said": finding.claim.said,
                    "claim_verdict": whole.verdict,
                    "comparison": str(of),
                    "places": " ".join(finding.places or dict.fromkeys((*of.first.places, *of.second.places))),
                    "kind": of.kind,
                    "verdict": finding.verdict,
                    "difference": mean,
                    "low": low,
                    "high": high,
                    "p": finding.p,
                    "p_holm": finding.corrected,
                    "data": finding.data,
                    "seeds": finding.seeds,
                    "draws": finding.draws,
                    "figure": finding.claim.figure,
                    "why": finding.why,
                    "decides": finding.comparison == whole.comparison,
                }
            )
    return pd.DataFrame(lines)


def shown_difference(finding: Finding) -> str:
    """The difference of a finding with its interval, or the ratio."""
    if finding.difference is None or (found := finding.interval()) is None:
        return "–"
    if finding.comparison.kind in ("ratio", "cost"):
        few = f" ({counted(finding.seeds, 'seed')})" if 0 < finding.seeds < FEW else ""
        return f"× {found[0]:.2f}{few if finding.comparison.kind == 'ratio' else ''}"
    return show(finding.difference, "+")


def measured_on(finding: Finding) -> str:
    """The data of a finding, its seeds and its draws; "" where it was not run."""
    if not finding.data:
        return ""
    return f"{finding.data}; {counted(finding.seeds, 'seed')} × {finding.draws} draws"


def remarks(finding: Finding) -> str:
    """Which comparison of the claim the finding is, and what else a reader must know."""
    shown = f"shown: {finding.comparison}" if len(finding.claim.comparisons) > 1 and finding.data else ""
    return "; ".join(filter(None, (shown, finding.why if finding.why not in measured_on(finding) else "")))


def shown_p(p: float) -> str:
    """A p for reading."""
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def _compare(
    claim: Claim, comparison: Comparison, results: Mapping[str, TaskResults], budgets: Mapping[str, Mapping[str, Any]]
) -> Finding:
    """The finding of a comparison before correction: "supported" or "contradicted" stands for the sign alone."""
    sides = comparison.first, comparison.second
    missing = Finding(claim, comparison, NOT_RUN)
    places = [[place for place in side.places if _has(results, place, side.row)] for side in sides]
    if sides[0].places == sides[1].places:
        places = [[place for place in places[0] if place in places[1]]] * 2
    if not all(places):
        lacking = next(side for side, found in zip(sides, places, strict=True) if not found)
        return replace(missing, why=f"no results of {lacking.row} on {_names(lacking.places)}")
    if why := _incomparable(places[0], places[1], budgets):
        return replace(missing, why=why)
    used = [results[place] for place in dict.fromkeys((*places[0], *places[1]))]
    common = sorted(set.intersection(*(set(result.seeds) for result in used)))
    if not common:
        return replace(missing, why="no seed in common")
    draws = min(results[place].accuracy[sides[0].row].shape[2] for place in places[0])
    both = tuple(dict.fromkeys((*places[0], *places[1])))
    found = replace(missing, places=both, data=_data(both, results), seeds=len(common), draws=draws)
    if comparison.kind == "cost":
        return _cost(found, places[0], results)
    if comparison.kind == "ratio":
        return _ratio(found, places[0], results)
    first, second = (_measured(side, found, results, common) for side, found in zip(sides, places, strict=True))
    if first is None or second is None:
        asked = [(results[place].measured_to if side.at is None else side.at, results[place].sigmas[-1])
                 for side, found in zip(sides, places, strict=True) for place in found]  # fmt: skip
        need, last = next((need, last) for need, last in asked if need > last + 1e-9)
        return replace(missing, why=f"σ was evaluated to {last:g}, {need:g} is needed")
    apart = first - second  # by seed
    e = estimate(apart[:, None])
    if len(apart) == 1:
        e = Estimate(e.mean, float("nan"), "seeds", 1)
    if comparison.kind == "equal":
        supported, p = abs(e.mean) < MARGIN, _p_of_margin(apart)
    else:
        supported, p = e.mean > 0, p_value(apart)
    verdict, why = by_sign(supported, len(common))
    return replace(found, verdict=verdict, difference=e, p=np.nan if why else p, why=why)


def _p_of_margin(apart: np.ndarray) -> float:
    """The p of the hypothesis that the mean of `apart` (seeds,) is the margin, on the side on which it is.

    One-sided inside of it, which is the greater of two one-sided tests; two-sided outside.
    """
    if len(apart) < 2:
        return float("nan")
    mean, error = apart.mean(), max(apart.std(ddof=1) / len(apart) ** 0.5, 1e-12)
    tail = float(stdtr(len(apart) - 1, -abs(MARGIN - abs(mean)) / error))
    return tail if abs(mean) < MARGIN else min(1.0, 2 * tail)


def _measured(
    side: Side, places: Sequence[str], results: Mapping[str, TaskResults], common: Sequence[int]
) -> np.ndarray | None:
    """What is measured of a side, by seed: (seeds,). None where σ was not evaluated so far."""
    each = []
    for place in places:
        result = results[place]
        kept = [result.seeds.index(seed) for seed in common]
        clean = result.accuracy[side.row][kept, 0].mean(1)
        values = result.areas(side.row) if side.at is None else _at(result, side.row, side.at)
        if values is None:
            return None
        each.append(side.times * values[kept].mean(1) / (clean if side.share else 1.0))
    return np.mean(each, axis=0)


def _at(result: TaskResults, row: str, sigma: float) -> np.ndarray | None:
    """The accuracy of a row at σ, on a straight line between two levels: (seeds, draws)."""
    if sigma > result.sigmas[-1] + 1e-9:
        return None
    above = int(np.searchsorted(result.sigmas, sigma - 1e-9))
    if above == 0 or np.isclose(result.sigmas[above], sigma):
        return result.accuracy[row][:, above]
    low, high = result.sigmas[above - 1 : above + 1]
    share = (sigma - low) / (high - low)
    return (1 - share) * result.accuracy[row][:, above - 1] + share * result.accuracy[row][:, above]


def _ratio(missing: Finding, places: Sequence[str], results: Mapping[str, TaskResults]) -> Finding:
    """The greatest ratio of accuracies over tasks and σ: the interval and the p are those of its logarithm.

    An accuracy below that of a guess counts as a guess. That no ratio reaches the paper's is said of every point, so
    the greatest p counts. That one does is said of the best of many, so its p is multiplied by their number.
    """
    first, second = missing.comparison.first.row, missing.comparison.second.row
    points: list[tuple[np.ndarray, str, int]] = []
    for place in places:
        floor = results[place].chance or 1e-3
        logs = [np.log(np.maximum(results[place].accuracy[row].mean(2), floor)) for row in (first, second)]
        points += [(apart, place, level) for level, apart in enumerate((logs[0] - logs[1]).T)]  # `apart` by seed
    gains, place, level = max(points, key=lambda point: point[0].mean())
    each = [p_value(apart, math.log(TIMES)) for apart, *_ in points]
    result, e = results[place], estimate(gains[:, None])
    if len(gains) == 1:
        e = Estimate(e.mean, float("nan"), "seeds", 1)
    reached = e.mean >= math.log(TIMES)
    p = min(1.0, p_value(gains, math.log(TIMES)) * len(points)) if reached else float(np.max(each))
    errors = [1 - result.accuracy[row][:, level].mean() for row in (first, second)]
    fewer = errors[1] / errors[0] if errors[0] else math.inf
    why = f"greatest ratio: {_name(place)} at σ = {result.sigmas[level]:g}; there {fewer:.2f} times fewer errors"
    count = len(gains) if reached else min(len(apart) for apart, *_ in points)
    verdict, few = by_sign(reached, count)
    return replace(missing, verdict=verdict, difference=e, p=np.nan if few else p, seeds=count, why=why)


def _cost(missing: Finding, places: Sequence[str], results: Mapping[str, TaskResults]) -> Finding:
    """The epochs of training and search, as a multiple of the baseline's. In use, both networks cost the same."""
    first, second = missing.comparison.first.row, missing.comparison.second.row
    ratios = [results[place].epochs(first) / results[place].epochs(second) for place in places]
    ratio = float(np.mean(ratios))
    return replace(
        missing,
        verdict=SUPPORTED if ratio <= MORE_COST else CONTRADICTED,
        difference=Estimate(ratio, float("nan"), "tasks", len(ratios)),
        why="epochs of training, search included; in use it costs nothing: dropout is off",
    )


def _incomparable(first: Sequence[str], second: Sequence[str], budgets: Mapping[str, Mapping[str, Any]]) -> str:
    """Why two tasks can't be compared, or "": width, images, epochs and draws must be the same."""
    if list(first) == list(second):
        return ""
    for part, of in _BUDGET.items():
        each = [of(budgets[place]) for place in (*first, *second) if place in budgets]
        if any(one != each[0] for one in each):
            return f"{_name(first[0])} and {_name(second[0])} have different {part}"
    return ""


_BUDGET: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "widths": lambda budget: budget.get("network"),
    "images": lambda budget: (budget.get("images"), budget.get("pixels")),
    "epochs": lambda budget: budget.get("train"),
    "drift draws": lambda budget: budget.get("evaluate", {}).get("draws"),
}


def _has(results: Mapping[str, TaskResults], place: str, row: str) -> bool:
    return place in results and row in results[place].accuracy


def _name(place: str) -> str:
    """A task or a factor in short."""
    return f"({TASKS[place].panel})" if place in TASKS else place


def _names(places: Sequence[str]) -> str:
    return ", ".join(map(_name, places))


def _data(places: Sequence[str], results: Mapping[str, TaskResults]) -> str:
    """The data sets, stand-ins by their own name, and how many training images there were."""
    said: dict[str, None] = {}
    for place in places:
        data = results[place].data
        name = heading(place.removeprefix("ablation-").partition("/")[0], data["source"]).rpartition(", ")[2]
        said[f"{name}, {data['images_used']['train']:,} images"] = None
    return "; ".join(said)
