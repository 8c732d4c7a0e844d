"""The page that shows a run to someone who has not run it: pictures and tables in Markdown."""

from collections.abc import Mapping

import pandas as pd

from bayesft.evaluation.statistics import Estimate
from bayesft.report.results import DEVICE_ROW, ROWS, TaskResults
from bayesft.tasks import ABLATION, TASKS

LEVELS = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5)
MISSING = "–"


def page(
    title: str, note: str, tasks: Mapping[str, TaskResults], ablation: Mapping[str, TaskResults], panels: list[str]
) -> str:
    """The report of a run. `panels` names the pictures beside the page, in order, without suffix."""
    parts = [f"# {title}", note + "."]
    captions = {
        "figure1": "Figure 1. Drift moves the decision boundary of a small classifier.",
        "figure2": "Figure 2. The ablation: accuracy under drift of networks that differ in one factor.",
        "figure3": "Figure 3. Accuracy under drift of every method.",
        "search": "The search: objective by trial, best so far, and the rates found. Random search is its control.",
    }
    for name in panels:
        parts += [f"## {captions[name]}", f"![{captions[name]}](figures/{name}.png)", f"[PDF](figures/{name}.pdf)"]
    for task, result in tasks.items():
        panel, pairs = TASKS[task].panel, "seed" if len(result.seeds) > 1 else "draw"
        parts += [
            f"## ({panel}) {TASKS[task].title}",
            f"Accuracy on {result.data['images_used']['test']:,} test images, mean ± {result.band()}. Then the mean "
            f"over the grid σ = 0 … {result.sigmas[-1]:g}"
            + (f", and BayesFT's mean minus the row's, paired by {pairs}." if "bayesft" in result.accuracy else "."),
            _accuracy_table(result, {row: ROWS.get(row, row) for row in result.rows()}, "bayesft"),
            "Epochs of training behind each row. Before or after the final training: the search; ERM, whose confusions "
            "FTNA's code needs; ReRAM-V's repair of each device, of which ERM is the final training here.",
            _epochs_table(result),
        ]
        if DEVICE_ROW in result.accuracy:
            parts += [
                "ReRAM-V alone carries a programming error before any drift. Without new drift (σ = 0) and on average "
                "over the grid, on the same devices:",
                _device_table(result),
            ]
    if ablation:
        parts.append("## The ablation in numbers")
        for factor, result in ablation.items():
            names = {variant: variant for variant in ABLATION[factor].variants}
            parts += [
                f"({ABLATION[factor].panel}) {ABLATION[factor].title}; mean ± {result.band()}; last column: the row's "
                "mean over the grid minus the first row's, paired.",
                _accuracy_table(result, names, next(iter(names)), minus=True),
            ]
    parts.append(
        "Beside this page: [results.csv](results.csv) (every curve), [trials.csv](trials.csv) (every trial of the "
        "searches), [metrics.json](metrics.json), [provenance.json](provenance.json) (parameters, data, versions)."
    )
    return "\n\n".join(parts) + "\n"


def metrics(tasks: Mapping[str, TaskResults]) -> dict:
    """For `dvc metrics`: accuracy without drift and on average over the grid, for every task and row."""
    return {
        task: {
            row: {
                "clean": round(float(result.accuracy[row][:, 0].mean()), 6),
                "mean_over_grid": round(result.over_grid(row).mean, 6),
            }
            for row in result.rows()
        }
        for task, result in tasks.items()
    }


def _show(e: Estimate | None, sign: bool = False) -> str:
    if e is None:
        return MISSING
    return f"{e.mean:{'+' if sign else ''}.3f} ± {e.half_width:.3f}"


def _accuracy_table(result: TaskResults, names: Mapping[str, str], reference: str, minus: bool = False) -> str:
    table = {}
    for row, name in names.items():
        cells = {f"σ = {level:g}": _show(result.at(row, level)) for level in LEVELS}
        cells["mean"] = _show(result.over_grid(row))
        if reference in result.accuracy:
            column = "difference" if minus else "BayesFT − row"
            pair = (row, reference) if minus else (reference, row)
            cells[column] = MISSING if row == reference else _show(result.difference(*pair), sign=True)
        table[name] = cells
    return _markdown(pd.DataFrame(table).T)


def _epochs_table(result: TaskResults) -> str:
    table = {}
    for row in result.rows():
        about = result.about[row]
        final = sum(a["epochs"] for a in about) / len(about)
        extra = sum(a.get("epochs_search", 0) + a.get("epochs_repair_per_device", 0) for a in about) / len(about)
        if row == "ftna":  # its code needs the confusions of a trained ERM network
            extra += sum(a["epochs"] for a in result.about["erm"]) / len(about)
        if row == "bayesft-alg1":  # its weights come out of the search itself
            final, extra = 0.0, sum(a["epochs_search"] for a in about) / len(about)
        cells = {"final training": f"{round(final, 1):g}", "before or after it": f"{round(extra, 1):g}"}
        cells["all"] = f"{round(final + extra, 1):g}"
        rates = [list(a["rates"].values()) for a in about if "rates" in a]
        cells["dropout rates"] = "; ".join(", ".join(f"{r:.2f}" for r in seed) for seed in rates) or MISSING
        table[ROWS.get(row, row)] = cells
    return _markdown(pd.DataFrame(table).T)


def _device_table(result: TaskResults) -> str:
    rows = {"erm": "ERM, no device", DEVICE_ROW: "ERM, programmed and not repaired", "reram_v": "ReRAM-V, repaired"}
    table = {
        name: {"σ = 0": _show(result.at(row, 0.0)), "mean over the grid": _show(result.over_grid(row))}
        for row, name in rows.items()
        if row in result.accuracy
    }
    return _markdown(pd.DataFrame(table).T)


def _markdown(table: pd.DataFrame) -> str:
    lines = ["| | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in zip(table.index, table.values, strict=True)]
    return "\n".join(lines)
