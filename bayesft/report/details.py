"""The second page of a report: every table of every panel, in Markdown."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from bayesft.report.results import METRICS, NOT_MEASURED, TaskResults, known, letters, notes, show, shown_half
from bayesft.report.rows import BASELINE, SUBJECT
from bayesft.report.worth import Study, landscape_text, study_table, tuned_table
from bayesft.tasks import ABLATIONS, TASKS

TOO_WEAK = 0.5  # a detector below this clean box mAP@0.5 is no evidence
MISSING = "–"
LEARNED = 0.8  # of the baseline's clean accuracy: below it, a row learned too little


def details(
    title: str,
    note: str,
    tasks: Mapping[str, TaskResults],
    ablations: Mapping[str, Mapping[str, TaskResults]],
    studies: Mapping[str, Study] = MappingProxyType({}),
    pictured: bool = True,
) -> str:
    """The second page of a report: every table of every panel."""
    parts = [f"# {title}: all tables", data_list(tasks, note), *_explained(tasks.values())]
    for task, result in tasks.items():
        parts += _task(task, result, pictured)
    if any(ablations.values()):
        parts.append("## The ablations in numbers")
    for name, factors in ablations.items():
        if factors:
            parts.append(f"### {next(iter(factors.values())).heading(name)}")
            panels = {key: ABLATIONS[name].factors[key].panel for key in factors}
            parts.append(_list(notes(factors, panels, "", 10_000)))
        for key, result in factors.items():
            factor = ABLATIONS[name].factors[key]
            parts += [
                f"({factor.panel}) {factor.title}; {result.means()}; last column: the row's area minus the first "
                "row's, paired.",
                _accuracy_table(result, {v: v for v in factor.variants}, next(iter(factor.variants)), minus=True),
            ]
    for task, study in studies.items():
        name = f"({TASKS[task].panel}) {study.heading(task)}"
        parts += [f"## The study of the search, {name}", "Whole searches:", markdown(study_table(study)),
                  landscape_text(study)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _explained(results: Iterable[TaskResults]) -> list[str]:
    """What the tables of all panels have in common, of the rows that are there."""
    about = {row: each for result in results for row, each in result.about.items()}
    if not about:
        return []
    others = {
        "the search": any("epochs_search" in each for of in about.values() for each in of),
        "a trained ERM (FTNA, for its codewords)": "ftna" in about,
        "the repair of each device (ReRAM-V, which starts from ERM)": "reram_v" in about,
    }
    named = "; ".join(what for what, there in others.items() if there)
    said = [
        f"Other epochs: {named}. " * bool(named) + "Passes: forward and backward passes over the training images, of "
        "which some methods make two an epoch. Seconds: timings.csv."
    ]
    if {BASELINE, SUBJECT} & set(about):
        said.insert(0, "The last columns of a panel's first table are differences of areas, paired by seed, or by draw "
                    "where there is 1 seed (draws are shared where networks have the same parameters).")  # fmt: skip
    return said


def data_list(tasks: Mapping[str, TaskResults], note: str) -> str:
    """Which images each panel has, how many seeds and draws, and what the intervals are over."""
    return _list(notes(tasks, {task: TASKS[task].panel for task in tasks}, note, 10_000, mean=False))


def measured_as(tasks: Mapping[str, TaskResults]) -> str:
    """What the numbers of all tasks are, in words that can begin a sentence."""
    panels: dict[str, list[str]] = {}
    for task in tasks:
        panels.setdefault(TASKS[task].metric, []).append(TASKS[task].panel)
    first, *others = panels
    said = "; ".join(f"{letters(panels[metric])}: {metric}" for metric in others)
    return capital(first) + (f" ({said})" if said else "")


def capital(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def weak(result: TaskResults) -> bool:
    """Whether ERM learned too little for drift to have much to destroy."""
    clean = result.at(BASELINE, 0.0) if BASELINE in result.accuracy else None
    return clean is not None and clean.mean < (TOO_WEAK if result.chance is None else 3 * result.chance)


def least(task: str, result: TaskResults) -> str:
    """What ERM has to reach, in words."""
    return f"{TOO_WEAK} {TASKS[task].metric}" if result.chance is None else "three times chance"


def _task(task: str, result: TaskResults, pictured: bool) -> list[str]:
    """The section of a task."""
    panel, pairs = TASKS[task].panel, "seed" if len(result.seeds) > 1 else "draw"
    parts = [f"## ({panel}) {result.heading(task)}"]
    if pictured:
        parts.append(f"This panel alone: [PNG](figures/figure3{panel}.png), [PDF](figures/figure3{panel}.pdf)")
    if weak(result):
        clean = known(result.at(BASELINE, 0.0)).mean
        parts.append(
            f"**This panel can't be read as evidence:** without drift, ERM reaches {clean:.3f}, "
            f"less than {least(task, result)}" + ("." if result.chance is None else f" ({result.chance:.3f}).")
        )
    parts += [
        f"{capital(TASKS[task].metric)} on {result.data['images_used']['test']:,} test images, {result.means()}. "
        f"Area: of the curve, σ = 0 … {result.measured_to:g}.",
        _accuracy_table(result, {row: result.title(row) for row in result.rows()}, SUBJECT),
        *marked([result]),
        *_lost(result),
    ]
    if {BASELINE, SUBJECT} <= set(result.without_norm()):
        parts += [
            "Normalisation as a control. The authors' code takes batch norm (BN) out of BayesFT alone, so there its "
            "gain and that of a network without BN can't be told apart. Here both methods are trained both ways. "
            f"Accuracy under drift; differences paired by {pairs}:",
            _normalization_table(result),
        ]
    if result.metrics:
        parts += [f"All that was measured, {result.means()}:", _metrics_table(result)]
    parts += [
        "Epochs of training behind each row:",
        _epochs_table(result),
        *_rates(result),
    ]
    if result.tuned():
        parts += [
            "What the search found for each method, on validation data, and the accuracy under drift as in "
            f"Figure 3 (given; BayesFT by its own search) and with these; the difference is paired by {pairs}:",
            markdown(tuned_table(result)),
        ]
    if result.beside():
        parts += [
            "ReRAM-V alone carries a programming error before any drift. Without new drift (σ = 0) and under drift, "
            "beside the same devices without repair, and ERM on no device:",
            _device_table(result),
        ]
    return parts


def mark(result: TaskResults, row: str) -> str:
    """The mark of a row that learned too little for its curve to say something of drift."""
    share = result.clean_share(row)
    return "‡" if share is not None and share < LEARNED else ""


def marked(results: Iterable[TaskResults]) -> list[str]:
    """What the mark means, where a row has it."""
    if not any(mark(result, row) for result in results for row in result.rows()):
        return []
    why = "the row learned too little, or lost too much on its device, to be evidence on drift"
    return [f"‡ Without drift below {LEARNED:g} of ERM: {why}."]


def _accuracy_table(result: TaskResults, names: Mapping[str, str], reference: str, minus: bool = False) -> str:
    table = {}
    for row, name in names.items():
        cells = {f"σ = {level:g}": show(result.at(row, level)) for level in result.levels()}
        if not minus and (share := result.clean_share(row)) is not None:
            of = f"σ = 0, of {result.title(BASELINE)}"
            cells = {"σ = 0": cells.pop("σ = 0"), of: f"{share:.2f}{mark(result, row)}", **cells}
        cells["σ50"] = shown_half(result, row)
        cells["area"] = show(result.area(row), missing=NOT_MEASURED)
        if reference in result.accuracy:
            column = "difference" if minus else f"{result.title(reference)} − row"
            pair = (row, reference) if minus else (reference, row)
            cells[column] = MISSING if row == reference else show(result.difference(*pair), sign="+")
        if BASELINE in result.accuracy and not minus:
            gain = MISSING if row == BASELINE else show(result.difference(row, BASELINE), sign="+")
            cells[f"row − {result.title(BASELINE)}"] = gain
        table[name] = cells
    return markdown(pd.DataFrame(table).T)


def _metrics_table(result: TaskResults) -> str:
    """Every metric of every row, the rows of one metric together."""
    table = {}
    names = {name: METRICS.get(name, name) for name in next(iter(result.metrics.values()))}
    for name in sorted(names, key=lambda name: list(METRICS).index(name) if name in METRICS else len(METRICS)):
        for row in result.rows():
            cells = {f"σ = {level:g}": show(result.at(row, level, name)) for level in result.levels(4)}
            cells["area"] = show(result.area(row, name), missing=NOT_MEASURED)
            table[f"{names[name]}: {result.title(row)}"] = cells
    return markdown(pd.DataFrame(table).T)


def _epochs_table(result: TaskResults) -> str:
    table = {}
    for row in result.rows():
        about = result.about[row]
        final = sum(a["epochs"] for a in about) / len(about)
        extra = sum(a.get("epochs_search", 0) + a.get("epochs_repair_per_device", 0) for a in about) / len(about)
        method = result.shown[row].of if row in result.shown else None
        repaired = any("epochs_repair_per_device" in a for a in about)  # its final training is that of the network
        for need in method.needs if method and not repaired else ():
            extra += sum(a["epochs"] for a in result.about.get(need, [])) / len(about)
        if method and not method.final_training:  # its weights come out of the search itself
            final, extra = 0.0, sum(a["epochs_search"] for a in about) / len(about)
        cells = {"final training": f"{round(final, 1):g}", "other epochs": f"{round(extra, 1):g}"}
        cells["all"] = f"{round(final + extra, 1):g}"
        passes = final + extra + result.epochs(row) * ((method.passes if method else 1) - 1)
        cells["passes"] = f"{round(passes, 1):g}"
        table[result.title(row)] = cells
    return markdown(pd.DataFrame(table).T)


def _normalization_table(result: TaskResults) -> str:
    table = {}
    bare = result.without_norm()
    for row in (BASELINE, SUBJECT):
        other = bare[row]
        table[result.title(row)] = {
            "with BN": show(result.area(row)),
            "without BN": show(result.area(other)),
            "without − with": show(result.difference(other, row), sign="+"),
        }
    table["BayesFT − ERM"] = {
        "with BN": show(result.difference(SUBJECT, BASELINE), sign="+"),
        "without BN": show(result.difference(bare[SUBJECT], bare[BASELINE]), sign="+"),
        "without − with": MISSING,
    }
    return markdown(pd.DataFrame(table).T)


def _rates(result: TaskResults) -> list[str]:
    """The dropout sites from input to output with their rates: one table for all rows that have the same sites."""
    groups: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in result.untuned():
        rates = [about["rates"] for about in result.about[row] if "rates" in about]
        if rates:
            cells = {site: "; ".join(f"{seed[site]:.2f}" for seed in rates) for site in rates[0]}
            groups.setdefault(tuple(rates[0]), {})[result.title(row)] = cells
    if not groups:
        return []
    text = "Dropout rates by site, from input to output"
    text += ", one for each seed:" if len(result.seeds) > 1 else ":"
    return [text, *(markdown(pd.DataFrame(table)) for table in groups.values())]


def _list(lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines.splitlines())


def _lost(result: TaskResults) -> list[str]:
    """Which rows have outputs that are not finite, from which σ, and how many at the last."""
    said = [
        f"{result.title(row)} from σ = {result.sigmas[np.flatnonzero(share)[0]]:g} (at most {share.max():.0%})"
        for row, share in result.not_finite.items()
    ]
    return [f"Outputs that are not finite count as wrong: {', '.join(said)}."] if said else []


def _range(result: TaskResults, row: str) -> str:
    """The least and the greatest device of a row without drift."""
    if result.devices_of(row) == 1:
        return MISSING
    clean = result.devices(row)[:, 0]
    return f"{clean.min():.3f} … {clean.max():.3f} at σ = 0"


def _device_table(result: TaskResults) -> str:
    devices = [row for row in result.rows() if any("epochs_repair_per_device" in about for about in result.about[row])]
    table = {
        result.title(row): {
            "σ = 0": show(result.at(row, 0.0)),
            "area": show(result.area(row), missing=NOT_MEASURED),
            "devices": _range(result, row),
        }
        for row in (BASELINE, *result.beside(), *devices)
        if row in result.accuracy
    }
    return markdown(pd.DataFrame(table).T)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown: the index is its first column."""
    lines = ["| | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in zip(table.index, table.values, strict=True)]
    return "\n".join(lines)
