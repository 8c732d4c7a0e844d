"""The page that shows a run to someone who has not run it: pictures and tables in Markdown."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from bayesft.report.results import METRICS, TaskResults, letters, notes, show
from bayesft.report.rows import BASELINE, SUBJECT
from bayesft.report.worth import Study, landscape_text, study_table, tuned_table
from bayesft.tasks import ABLATIONS, TASKS

LEVELS = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5)
COARSE_LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.2)  # of a grid without 0.3
DETECTION_LEVELS = (0.0, 0.2, 0.4, 0.6)
TOO_WEAK = 0.5  # a detector below this clean box mAP@0.5 is no evidence
MISSING = "–"
LEARNED = 0.8  # of the baseline's clean accuracy: below it, a row learned too little


def page(
    title: str,
    note: str,
    tasks: Mapping[str, TaskResults],
    ablations: Mapping[str, Mapping[str, TaskResults]],
    pictures: list[str],
    studies: Mapping[str, Study] = MappingProxyType({}),
) -> str:
    """The report of a run. `pictures` names those beside the page, in order, without suffix."""
    parts = [f"# {title}", _list(notes(tasks, {task: TASKS[task].panel for task in tasks}, note, 10_000))]
    parts += ["## Summary", *_summary(tasks)]
    captions = {
        "figure1": "Figure 1. Drift moves the decision boundary of a small classifier.",
        "figure2": "Figure 2. The ablations: accuracy under drift of networks that differ in one factor.",
        "figure3": f"Figure 3. {_measured(tasks)} under drift of every method on every task.",
        "figure4": "Figure 4. What the detectors find in the same test images as their weights drift.",
        "search": "The search: objective by trial, best so far, and the rates found. Random search is its control.",
        "tuned": "Fair tuning: every method as in Figure 3, and tuned by the same search, objective and epochs.",
        "study": "What the search is worth: strategies by epochs spent, and options one by one.",
        "landscape": "Why: what there is to find, and how well one trial of the search can see it.",
    }
    for name in pictures:
        parts += [f"## {captions[name]}", f"![{captions[name]}](figures/{name}.png)", f"[PDF](figures/{name}.pdf)"]
        if name == "study":
            for task, study in studies.items():
                name = f"({TASKS[task].panel}) {study.heading(task)}"
                parts += [f"{name}, whole searches:", _markdown(study_table(study))]
        if name == "landscape":
            for task, study in studies.items():
                parts.append(f"({TASKS[task].panel}) {study.heading(task)}. {landscape_text(study)}")
    for task, result in tasks.items():
        parts += _task(task, result, "figure3" in pictures)
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
                f"({factor.panel}) {factor.title}; mean ± {result.band()}; last column: the row's mean over the grid "
                "minus the first row's, paired.",
                _accuracy_table(result, {v: v for v in factor.variants}, next(iter(factor.variants)), minus=True),
            ]
    parts.append(
        "Beside this page: [results.csv](results.csv) (every curve), [searches.csv](searches.csv) (every trial of the "
        "searches), [metrics.json](metrics.json), [provenance.json](provenance.json) (parameters, data, versions)."
    )
    return "\n\n".join(parts) + "\n"


def _summary(tasks: Mapping[str, TaskResults]) -> list[str]:
    """One table of all tasks and methods."""
    shown = [row for result in tasks.values() for row in result.shown or result.accuracy]
    rows = [row for row in dict.fromkeys(shown) if any(row in result.untuned() for result in tasks.values())]
    titles = {row: result.title(row) for result in tasks.values() for row in result.rows()}
    table, weak = {}, {_least(task, result) for task, result in tasks.items() if _weak(result)}
    for task, result in tasks.items():
        clean = result.at(BASELINE, 0.0) if BASELINE in result.accuracy else None
        cells = {"ERM, σ = 0": MISSING if clean is None else f"{clean.mean:.3f}{'†' if _weak(result) else ''}"}
        for row in rows:
            cells[titles[row]] = MISSING
            if row in result.accuracy:
                cells[titles[row]] = f"{show(result.area(row)).split(' ')[0]}{_mark(result, row)}"
        table[f"({TASKS[task].panel}) {result.heading(task)}"] = cells
    text = f"{_measured(tasks)}, mean over the grid of σ; first column: ERM without drift. The intervals are in the "
    text += "sections below."
    mark = f"† Less than {' or '.join(sorted(weak))}: the panel can't be read as evidence."
    return [text, _markdown(pd.DataFrame(table).T), *([mark] if weak else []), *_marked(tasks.values())]


def _measured(tasks: Mapping[str, TaskResults]) -> str:
    """What the numbers of all tasks are, in words that can begin a sentence."""
    panels: dict[str, list[str]] = {}
    for task in tasks:
        panels.setdefault(TASKS[task].metric, []).append(TASKS[task].panel)
    first, *others = panels
    said = "; ".join(f"{letters(panels[metric])}: {metric}" for metric in others)
    return _capital(first) + (f" ({said})" if said else "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _weak(result: TaskResults) -> bool:
    """Whether ERM learned too little for drift to have much to destroy."""
    clean = result.at(BASELINE, 0.0) if BASELINE in result.accuracy else None
    return clean is not None and clean.mean < (TOO_WEAK if result.chance is None else 3 * result.chance)


def _least(task: str, result: TaskResults) -> str:
    """What ERM has to reach, in words."""
    return f"{TOO_WEAK} {TASKS[task].metric}" if result.chance is None else "three times chance"


def _task(task: str, result: TaskResults, pictured: bool) -> list[str]:
    """The section of a task."""
    panel, pairs = TASKS[task].panel, "seed" if len(result.seeds) > 1 else "draw"
    parts = [f"## ({panel}) {result.heading(task)}"]
    if pictured:
        parts.append(f"This panel alone: [PNG](figures/figure3{panel}.png), [PDF](figures/figure3{panel}.pdf)")
    if _weak(result):
        clean = result.at(BASELINE, 0.0).mean
        parts.append(
            f"**This panel can't be read as evidence:** without drift, ERM reaches {clean:.3f}, "
            f"less than {_least(task, result)}" + ("." if result.chance is None else f" ({result.chance:.3f}).")
        )
    parts += [
        f"{_capital(TASKS[task].metric)} on {result.data['images_used']['test']:,} test images, mean ± "
        f"{result.band()}. Then the mean over the grid σ = 0 … {result.sigmas[-1]:g}"
        + (
            f", and a method's mean minus the row's, paired by {pairs} (draws are "
            "shared where networks have the same parameters)."
            if SUBJECT in result.accuracy
            else "."
        ),
        _accuracy_table(result, {row: result.title(row) for row in result.rows()}, SUBJECT),
        *_marked([result]),
    ]
    pairs_of_norm = [without_norm(result, row) for row in (BASELINE, SUBJECT) if row in result.shown]
    if len(pairs_of_norm) == 2 and all(row in result.accuracy for row in (BASELINE, SUBJECT, *pairs_of_norm)):
        parts += [
            "Normalisation as a control. The authors' code takes batch norm (BN) out of BayesFT alone, so there its "
            "gain and that of a network without BN can't be told apart. Here both methods are trained both ways. Mean "
            f"over the grid; differences paired by {pairs}:",
            _normalization_table(result),
        ]
    if result.metrics:
        parts += [f"All that was measured, mean ± {result.band()}:", _metrics_table(result)]
    parts += [
        "Epochs of training behind each row. Before or after the final training: the search; ERM, whose confusions "
        "FTNA's code needs; ReRAM-V's repair of each device, of which ERM is the final training here.",
        _epochs_table(result),
        *_rates(result),
    ]
    if result.tuned():
        parts += [
            "What the search found for each method, on validation data, and the mean accuracy over the grid as in "
            f"Figure 3 (hand-set; BayesFT by its own search) and with these; the difference is paired by {pairs}:",
            _markdown(tuned_table(result)),
        ]
    if result.beside():
        parts += [
            "ReRAM-V alone carries a programming error before any drift. Without new drift (σ = 0) and on average "
            "over the grid, beside the same devices without repair, and ERM on no device:",
            _device_table(result),
        ]
    return parts


def _mark(result: TaskResults, row: str) -> str:
    """The mark of a row that learned too little for its curve to say something of drift."""
    share = result.clean_share(row)
    return "‡" if share is not None and share < LEARNED else ""


def _marked(results: Iterable[TaskResults]) -> list[str]:
    """What the mark means, where a row has it."""
    if not any(_mark(result, row) for result in results for row in result.rows()):
        return []
    why = "the row learned too little, or lost too much on its device, to be evidence on drift"
    return [f"‡ Without drift below {LEARNED:g} of ERM: {why}."]


def without_norm(result: TaskResults, row: str) -> str:
    """The row of the same method on the network without normalisation, or ""."""
    for other in result.shown.values():
        if dict(other.network) == {"normalization": None} and other.method == result.shown[row].method:
            return other.name
    return ""


def metrics(tasks: Mapping[str, TaskResults]) -> dict[str, Any]:
    """For `dvc metrics`: clean accuracy, the area under the curve and σ50, for every task and row.

    What was not measured is left out. For detection, accuracy is box mAP@0.5.
    """

    def found(result: TaskResults, row: str) -> dict[str, float]:
        measured = {"clean": result.at(row, 0.0), "area": result.area(row), "sigma50": result.sigma50(row)}
        return {name: round(e.mean, 4) for name, e in measured.items() if e is not None}

    return {task: {row: found(result, row) for row in result.rows()} for task, result in tasks.items()}


def _accuracy_table(result: TaskResults, names: Mapping[str, str], reference: str, minus: bool = False) -> str:
    table = {}
    for row, name in names.items():
        levels = LEVELS if result.at(row, 0.3) else COARSE_LEVELS
        levels = DETECTION_LEVELS if result.chance is None else levels
        cells = {f"σ = {level:g}": show(result.at(row, level)) for level in levels}
        if not minus and (share := result.clean_share(row)) is not None:
            of = f"σ = 0, of {result.title(BASELINE)}"
            cells = {"σ = 0": cells.pop("σ = 0"), of: f"{share:.2f}{_mark(result, row)}", **cells}
        cells["mean"] = show(result.area(row))
        if reference in result.accuracy:
            column = "difference" if minus else f"{result.title(reference)} − row"
            pair = (row, reference) if minus else (reference, row)
            cells[column] = MISSING if row == reference else show(result.difference(*pair), sign="+")
        if BASELINE in result.accuracy and not minus:
            gain = MISSING if row == BASELINE else show(result.difference(row, BASELINE), sign="+")
            cells[f"row − {result.title(BASELINE)}"] = gain
        table[name] = cells
    return _markdown(pd.DataFrame(table).T)


def _metrics_table(result: TaskResults) -> str:
    """Every metric of every row, the rows of one metric together."""
    table = {}
    names = {name: METRICS.get(name, name) for name in next(iter(result.metrics.values()))}
    for name in sorted(names, key=lambda name: list(METRICS).index(name) if name in METRICS else len(METRICS)):
        for row in result.rows():
            cells = {f"σ = {level:g}": show(result.at(row, level, name)) for level in DETECTION_LEVELS}
            table[f"{names[name]}: {result.title(row)}"] = {**cells, "mean": show(result.area(row, name))}
    return _markdown(pd.DataFrame(table).T)


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
        cells = {"final training": f"{round(final, 1):g}", "before or after it": f"{round(extra, 1):g}"}
        cells["all"] = f"{round(final + extra, 1):g}"
        table[result.title(row)] = cells
    return _markdown(pd.DataFrame(table).T)


def _normalization_table(result: TaskResults) -> str:
    table = {}
    bare = {row: without_norm(result, row) for row in (BASELINE, SUBJECT)}
    for row, other in bare.items():
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
    return _markdown(pd.DataFrame(table).T)


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
    return [text, *(_markdown(pd.DataFrame(table)) for table in groups.values())]


def _list(lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines.splitlines())


def _device_table(result: TaskResults) -> str:
    devices = [row for row in result.rows() if any("epochs_repair_per_device" in about for about in result.about[row])]
    table = {
        result.title(row): {"σ = 0": show(result.at(row, 0.0)), "mean over the grid": show(result.area(row))}
        for row in (BASELINE, *result.beside(), *devices)
        if row in result.accuracy
    }
    return _markdown(pd.DataFrame(table).T)


def _markdown(table: pd.DataFrame) -> str:
    lines = ["| | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in zip(table.index, table.values, strict=True)]
    return "\n".join(lines)
