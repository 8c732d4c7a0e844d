"""The first page of a report: the claims, the figures with what one sees in each, a small table a panel."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from bayesft.evaluation.boundary import Boundaries
from bayesft.evaluation.statistics import Estimate, estimate
from bayesft.report.claims import (
    LEVEL,
    MARGIN,
    NOT_RUN,
    Finding,
    divided,
    measured_on,
    remarks,
    shown_difference,
    shown_p,
    summary,
)
from bayesft.report.details import capital, data_list, least, mark, markdown, marked, measured_as, weak
from bayesft.report.figures import best_apart
from bayesft.report.results import FEW, NOT_MEASURED, TaskResults, counted, known, letters, seeds, show, shown_half
from bayesft.report.rows import BASELINE, SUBJECT
from bayesft.report.worth import Study
from bayesft.tasks import ABLATIONS, TASKS

MOST = 12_000  # bytes of the page
HEADINGS = {
    "figure1": "Figure 1. Drift moves the decision boundary of a small classifier",
    "figure2": "Figure 2. Networks that differ in one factor",
    "figure3": "Figure 3. {metric} under drift",
    "figure4": "Figure 4. What the detectors find as their weights drift",
    "gains": "What BayesFT and the controls gain over ERM",
    "norm": "The control without batch norm",
    "search": "The search against random search",
    "tuned": "Every method, as given and tuned by the same search",
    "study": "What the search is worth, by epochs spent and option by option",
    "landscape": "What there is to find, and how well a trial of the search can see it",
}


def page(title: str, sections: Sequence[str], spare: str = "") -> str:
    """A page of sections, those that are not empty.

    Args:
        title: Its title.
        sections: In their order.
        spare: The one of them that is left to the second page, which has it too, where the page would exceed MOST.
    """
    text = "\n\n".join([f"# {title}", *filter(None, sections)]) + "\n"
    if spare and len(text.encode()) > MOST:
        return text.replace(spare, "The panels in numbers: [details.md](details.md).")
    return text


def claims_section(judged: Mapping[str, Sequence[Finding]], chapter: bool = False) -> str:
    """The verdicts: how many of each, and a line a claim, where one was run.

    Args:
        judged: The findings of the claims, by number.
        chapter: Whether the page has the chapter on FTT-NAS, with claims of its own.
    """
    ran, missing = divided(judged)
    if not ran:
        return f"**This run tests no claim of the BayesFT paper.{' The claims of FTT-NAS stand below.' * chapter}**"
    lines = {}
    for number, found in ran.items():
        lines[number] = {
            "the paper's claim": found.claim.said,
            "verdict": f"**{found.verdict}**" if found.verdict in ("supported", "contradicted") else found.verdict,
            "difference": shown_difference(found),
            "p": shown_p(found.corrected),
            "measured on": _where(found),
        }
    more = "`dvc exp run -S sigma_max=1.5` evaluates every range to its end, and runs more of them."
    short = any("is needed" in found.why for findings in judged.values() for found in findings)
    return "\n\n".join([
        f"**{summary(judged)}**" + f" {more}" * short,
        markdown(pd.DataFrame(lines).T),
        *([f"{missing} [claims.csv](claims.csv) says what each lacks."] if missing else []),
        "Accuracy under drift is the area under the curve over a fixed range of σ. Differences are paired by training "
        f"seed, ± 95 % intervals (Student's t), p corrected by Holm over all comparisons; equal: within ± {MARGIN:g}. "
        "A claim of several comparisons shows the one that decides. All of them: [claims.csv](claims.csv).",
    ])  # fmt: skip


def _where(found: Finding) -> str:
    on = measured_on(found)
    return "; ".join(filter(None, (f"[{on}](figures/{found.claim.figure}.png)" if on else "", remarks(found))))


def figures_section(captions: Mapping[str, str], seen: Mapping[str, str], tasks: Mapping[str, TaskResults]) -> str:
    """The figures: heading, picture, what one sees, what one must know; "" where there are none."""
    if not captions:
        return ""
    parts = []
    for name, caption in captions.items():
        heading = HEADINGS[name].format(metric=measured_as(tasks) if tasks else "")
        parts.append(f"## {heading}\n\n![{heading.partition('.')[0]}](figures/{name}.png)")
        parts.append(f"{seen.get(name, '')} {caption}".strip())
    parts.append("Every figure, and every panel of Figure 3, is a PDF for papers too: [figures](figures).")
    return "\n\n".join(parts)


def tables_section(tasks: Mapping[str, TaskResults], note: str) -> str:
    """A table of five columns a panel, and what the panels are measured on."""
    if not tasks:
        return ""
    parts = ["## Panels in numbers", data_list(tasks, note)]
    for task, result in tasks.items():
        panel = TASKS[task].panel
        parts.append(f"**({panel}) {result.heading(task)}**, {_seeds(result)}")
        if weak(result):
            clean = known(result.at(BASELINE, 0.0)).mean
            parts.append(f"This panel can't be read as evidence: clean, ERM reaches {clean:.3f}, less than "
                         f"{least(task, result)}.")  # fmt: skip
        parts.append(markdown(_small_table(result)))
    parts += marked(tasks.values())
    return "\n\n".join(parts)


def middle(result: TaskResults) -> float:
    """The level of the grid nearest to half of the range that is judged."""
    return result.nearest(result.measured_to / 2)


def _small_table(result: TaskResults) -> pd.DataFrame:
    """Clean accuracy, at the middle of the range, σ50, area, gain over ERM."""
    at, table = middle(result), {}
    gain = "gain over ERM" + f" ({_seeds(result)})" * (len(result.seeds) < FEW)
    rows = result.main() if len(result.main()) > 1 else result.untuned()
    for row in rows:
        cells = {
            "clean": f"{known(result.at(row, 0.0)).mean:.3f}{mark(result, row)}",
            f"σ = {at:g}": f"{known(result.at(row, at)).mean:.3f}",
            "σ50": shown_half(result, row, interval=False),
            "area": show(result.area(row), missing=NOT_MEASURED),
        }
        if BASELINE in result.accuracy:
            apart = None if row == BASELINE else show(result.difference(row, BASELINE), "+")
            cells[gain] = apart.partition(" (")[0] if apart else "–"
        table[result.title(row)] = cells
    return pd.DataFrame(table).T


def _seeds(result: TaskResults) -> str:
    return counted(len(result.seeds), "seed")


def tells(table: pd.DataFrame) -> bool:
    """Whether a table has a line that says something: a comparison that was not run says nothing."""
    return len(table) > 0 and ("verdict" not in table or bool((table.verdict != NOT_RUN).any()))


def more_section(names: Iterable[str]) -> str:
    """What lies beside the page."""
    what = {
        "details.md": "all tables",
        "report.html": "claims and panels, with curves that answer; open it in a browser",
        "accuracies.csv": "every accuracy by seed, draw and σ", "measures.csv": "clean, area, σ50, gain of every row",
        "results.csv": "every curve", "searches.csv": "every trial", "claims.csv": "every comparison",
        "calibration.csv": "every accuracy of calibrated copies, another contract",
        "contracts.csv": "claims with every device calibrated and without",
        "figures/ftt.json": "every accuracy, comparison and candidate of FTT-NAS",
        "provenance.json": "parameters, data, code, processor, versions",
    }  # fmt: skip
    return "Beside this page: " + "; ".join(f"[{name}]({name}) ({what[name]})" for name in names) + "."


def what_one_sees(
    tasks: Mapping[str, TaskResults],
    ablations: Mapping[str, Mapping[str, TaskResults]] = MappingProxyType({}),
    studies: Mapping[str, Study] = MappingProxyType({}),
    maps: Boundaries | None = None,
) -> dict[str, str]:
    """A sentence a figure, computed from what it shows."""
    seen = {}
    if maps is not None:
        first, last = maps.accuracy[0].mean(), maps.accuracy[-1].mean()
        seen["figure1"] = (f"Mean accuracy falls from {float(first):.2f} to {float(last):.2f} at "
                           f"σ = {float(maps.sigmas[-1]):g}.")  # fmt: skip
    both = {task: r for task, r in tasks.items() if {BASELINE, SUBJECT} <= set(r.accuracy) and r.measured}
    if both:
        gains = {TASKS[task].panel: known(r.difference(SUBJECT, BASELINE)) for task, r in both.items()}
        seen["figure3"] = _above("BayesFT", "ERM", gains)
        seen["gains"] = _best(both)
        if any(r.without_norm() for r in both.values()):
            seen["norm"] = _without(both)
    if found := [text for name, factors in ablations.items() for text in _factors(name, factors)]:
        seen["figure2"] = " ".join(found)
    if tuned := [(task, r) for task, r in tasks.items() if r.tuned() and r.measured]:
        seen["tuned"] = _tuned(tuned)
    searched = {TASKS[task].panel: estimate(apart[:, -1:]) for task, r in tasks.items()
                if (apart := best_apart(r)) is not None}  # fmt: skip
    if searched:
        each = ", ".join(f"({panel}) {show(e, '+')}" for panel, e in searched.items())
        seen["search"] = f"{_above('the surrogate', 'random search', searched)} At the last trial: {each}."
    if studies:
        seen["study"] = " ".join(_study(task, study) for task, study in studies.items())
        seen["landscape"] = " ".join(_landscape(task, study) for task, study in studies.items())
    return seen


def _study(task: str, study: Study) -> str:
    """Which runs differ from the reference."""
    count = counted(len(study.seeds), "seed")
    if len(study.seeds) < FEW:
        return f"({TASKS[task].panel}) {count} can't tell the runs apart."
    clear = [name for name, p in study.corrected().items() if p < LEVEL]
    said = " and ".join(clear) if clear else "none"
    return (f"({TASKS[task].panel}) Of {len(study.others())} runs, {said} differ{'s' * (len(clear) == 1)} from "
            f"“{study.reference}” after Holm's correction ({count}).")  # fmt: skip


def _landscape(task: str, study: Study) -> str:
    """Over which rates the final training is flat, and how trials spread."""
    space = study.landscape
    low, high = space.good
    return (f"({TASKS[task].panel}) One rate at all sites: from {low:.2f} to {high:.2f} within {MARGIN:g} of the best. "
            f"Objectives of trials with random rates spread by {space.spread:.3f}, of trials repeated with the same "
            f"rates by {space.chance:.3f} ({counted(len(study.seeds), 'seed')}).")  # fmt: skip


def _above(first: str, second: str, apart: Mapping[str, Estimate]) -> str:
    """In which panels one is clearly above another; panels of few seeds are counted apart.

    Args:
        first, second: Their names.
        apart: The difference by panel.
    """
    many = {panel: e for panel, e in apart.items() if not seeds(e)}
    few = [e.mean for e in apart.values() if seeds(e)]
    parts = []
    if many:
        above, below = [p for p, e in many.items() if e.low > 0], [p for p, e in many.items() if e.high < 0]
        parts.append(f"Of {counted(len(many), 'panel')} with {FEW} seeds or more, {first} is above {second} in "
                     f"{_count(above)} and below in {_count(below)} (the interval excludes 0).")  # fmt: skip
    if few:
        parts.append(f"{capital(first)} is above {second} in {sum(gain > 0 for gain in few)} of the "
                     f"{counted(len(few), 'panel')} with fewer than {FEW} seeds, which proves nothing.")  # fmt: skip
    return " ".join(parts)


def _count(panels: Sequence[str]) -> str:
    return f"{len(panels)} ({letters(panels)})" if panels else "none"


def _best(tasks: Mapping[str, TaskResults]) -> str:
    """Which row has the greatest area in how many panels, of those of the published contract."""
    many = _tops({task: r for task, r in tasks.items() if len(r.seeds) >= FEW})
    few = _tops({task: r for task, r in tasks.items() if len(r.seeds) < FEW})
    return f"The greatest area: {'; '.join(filter(None, (many, few and f'with 1 seed or 2, {few}')))}."


def _tops(tasks: Mapping[str, TaskResults]) -> str:
    """The row with the greatest area of each panel, the panels of one row together."""
    best: dict[str, list[str]] = {}
    for task, result in tasks.items():
        top = max(_rankable(result), key=lambda row: known(result.area(row)).mean)
        best.setdefault(result.title(top), []).append(TASKS[task].panel)
    return "; ".join(f"{title} in {_count(panels)}" for title, panels in best.items())


def _rankable(result: TaskResults) -> list[str]:
    """The rows that are meant to be used as they are: not for calibrated copies."""
    return [row for row in result.untuned() if row not in result.shown or not result.shown[row].of.for_calibrated]


def _without(tasks: Mapping[str, TaskResults]) -> str:
    """What taking batch norm out does to the area."""
    said = [f"({TASKS[task].panel}) {result.title(bare)} {show(result.difference(bare, row), '+')}"
            for task, result in tasks.items() for row, bare in result.without_norm().items()]  # fmt: skip
    return f"Area against the same method with batch norm: {'; '.join(said)}."


def _factors(name: str, factors: Mapping[str, TaskResults]) -> list[str]:
    """What each variant gains over the first, by factor."""
    said = []
    for key, result in factors.items():
        reference, *others = ABLATIONS[name].factors[key].variants
        if result.measured:
            gains = ", ".join(f"{other} {known(result.difference(other, reference)).mean:+.3f}" for other in others)
            said.append(f"({ABLATIONS[name].factors[key].panel}) {gains}")
    if not said:
        return []
    first = next(iter(factors.values()))
    return [f"{first.heading(name)}, area against the first variant, {_seeds(first)}: {'; '.join(said)}."]


def _tuned(tasks: Sequence[tuple[str, TaskResults]]) -> str:
    gains = [(abs((e := known(r.difference(tuned, row))).mean), e, r.title(row), task)
             for task, r in tasks for row, tuned in r.tuned() if row != tuned]  # fmt: skip
    if not gains:
        return ""
    _, e, title, task = max(gains, key=lambda gain: gain[0])
    return f"Tuning changes most for {title} on ({TASKS[task].panel}): {show(e, '+')}."


def metrics(tasks: Mapping[str, TaskResults]) -> dict[str, Any]:
    """For `dvc metrics`: clean accuracy, the area under the curve and σ50, for every task and row.

    What was not measured is left out. For detection, accuracy is box mAP@0.5.
    """

    def found(result: TaskResults, row: str) -> dict[str, float]:
        measured = {"clean": result.at(row, 0.0), "area": result.area(row), "sigma50": result.sigma50(row)}
        return {name: round(e.mean, 4) for name, e in measured.items() if e is not None}

    return {task: {row: found(result, row) for row in result.rows()} for task, result in tasks.items()}
