"""Numbers in Markdown files come from the reports: `make readme` writes what stands between their markers.

    <!-- claims: medium-official-mnist quick-embedded -->
    …
    <!-- end -->

holds the verdicts on the claims, each from the first of these reports that ran it. "gains" in the place of "claims"
holds area, gain and area of calibrated copies of every row; "faults" the accuracies of the chapter on fault-tolerant
training. `reports/README.md` lists all reports. A test holds that all are what the committed files say.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bayesft.evaluation.measures import weights
from bayesft.evaluation.statistics import estimate
from bayesft.files import write_text
from bayesft.report.claims import NOT_RUN, VERDICTS, shown_p
from bayesft.report.details import markdown
from bayesft.report.ftt import NAMES, SHORT, Chapter, shown
from bayesft.report.results import counted, letters, with_half
from bayesft.report.rows import called
from bayesft.tasks import TASKS, range_of

BLOCK = re.compile(r"(<!-- (claims|gains|faults): ([^>]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PAGES = ("README.md", "docs/findings.md", "docs/fault-tolerance.md")
SIDE_BY_SIDE = 2  # tasks of a table


def filled(text: str, root: Path) -> str:
    """A text with every block as the reports under `root` have it.

    Raises:
        ValueError: A block names a report that has no claims.csv.
    """
    blocks = {"claims": claims_block, "gains": gains_block, "faults": faults_block}

    def fill(found: re.Match[str]) -> str:
        reports = [root / "reports" / name for name in found[3].split()]
        return f"{found[1]}{blocks[found[2]](reports)}\n{found[5]}"

    return BLOCK.sub(fill, text)


def claims_block(reports: Sequence[Path]) -> str:
    """The verdicts: how many of each, and a short line a claim."""
    tables = {}
    for report in reports:
        file = report / "claims.csv"
        if not file.is_file():
            raise ValueError(f"{file} is missing: name reports that have one")
        table = pd.read_csv(file, dtype={"claim": str}, keep_default_na=False, na_values=[""])
        tables[report] = table[table.decides].drop_duplicates("claim").set_index("claim")
    first = next(iter(tables.values()))
    lines, verdicts = [], []
    for claim in first.index:
        ran = [report for report in reports if tables[report].loc[claim, "claim_verdict"] != NOT_RUN]
        report = (ran or list(reports))[0]
        line = tables[report].loc[claim]
        verdicts.append(line.claim_verdict)
        on = f"{line.data}; {counted(int(line.seeds), 'seed')}" if ran else "–"
        bold = "**" if line.claim_verdict in VERDICTS[:2] else ""
        lines.append(f"| {claim} | {line.said} | {bold}{line.claim_verdict}{bold} | {_difference(line)} | "
                     f"{shown_p(line.p_holm)} | {on} |")  # fmt: skip
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in VERDICTS)
    head = ["| | claim of the paper | verdict | difference | p | on |", "|---|---|---|---|---|---|"]
    names = ", ".join(report.name for report in reports)
    judges = "The first of [these reports](reports/README.md) that ran a claim judges it"
    said = f"Of {len(verdicts)} claims: {counts}. {judges}: {names}."
    return "\n".join([said, "", *head, *lines])


def _difference(line: pd.Series) -> str:
    if pd.isna(line.difference):
        return "–"
    if line.kind in ("ratio", "cost"):
        return f"× {line.difference:.2f}"
    return with_half(line.difference, (line.high - line.low) / 2, "+")


def gains_block(reports: Sequence[Path]) -> str:
    """Each task of the reports: area with clean accuracy, gain over the baseline, and area of calibrated copies."""
    columns: dict[str, dict[str, list[str]]] = {}
    for report in reports:
        measures = pd.read_csv(report / "measures.csv")
        calibrated = _calibrated_areas(report)
        for line in measures[measures.task.isin(list(TASKS))].to_dict("records"):
            columns.setdefault(line["task"], {})[line["row"]] = [
                f"{with_half(line['area'], line['area_half_width'])} ({line['clean']:.3f})",
                "–" if pd.isna(line["gain"]) else with_half(line["gain"], line["gain_half_width"], "+"),
                calibrated.get((line["task"], line["row"]), "–"),
            ]
    tables = []
    for first in range(0, len(columns), SIDE_BY_SIDE):
        some = dict(list(columns.items())[first : first + SIDE_BY_SIDE])
        heads = [f"{TASKS[task].title}: {name}" for task in some for name in ("area (clean)", "gain", "+cal")]
        rows = list(dict.fromkeys(row for of in some.values() for row in of))
        cells = [[cell for of in some.values() for cell in of.get(row, ["–"] * 3)] for row in rows]
        tables.append(markdown(pd.DataFrame(cells, [called(row) for row in rows], heads)))
    return "\n\n".join(tables)


def _calibrated_areas(report: Path) -> dict[tuple[str, str], str]:
    """The area of calibrated copies by task and row, with its interval over seeds."""
    images = json.loads((report / "provenance.json").read_text(encoding="utf-8"))["parameters"]["calibration"]["images"]
    table = pd.read_csv(report / "calibration.csv")
    counts = table.setting.str.extract(r"^(\d+) images$")[0].astype(float)
    table, counts = table[counts <= images], counts[counts <= images]
    table = table[counts == counts.groupby(table.task).transform("max")]  # a small data set has fewer images
    found = {}
    for task, row in table[["task", "row"]].drop_duplicates().itertuples(index=False, name=None):
        lines = table[(table.task == task) & (table.row == row)]
        curves = lines.pivot_table(index="seed", columns="sigma", values="accuracy")
        by_level = weights(curves.columns.to_numpy(), min(range_of(task), float(curves.columns[-1])))
        e = estimate((curves.to_numpy() @ np.asarray(by_level))[:, None])
        found[task, row] = with_half(e.mean, e.half_width)
    return found


def faults_block(reports: Sequence[Path]) -> str:
    """The rows of the chapter on fault-tolerant training that were measured under every fault."""
    (report,) = reports
    chapter = Chapter.of(json.loads((report / "figures/ftt.json").read_text(encoding="utf-8"))["networks"])
    table = {}
    for trained, row in chapter.under("lognormal"):
        cells = {"clean": shown(chapter.clean(row, trained))}
        for under in chapter.faults():
            cells[NAMES[under]] = shown(chapter.at(row, trained, under))
            cells[f"{SHORT[under]}, calibrated"] = shown(chapter.at(row, trained, under, "channels"))
        table[chapter.title((trained, row))] = cells
    return markdown(pd.DataFrame(table).T)


def reports_page(folder: Path) -> str:
    """What `reports/README.md` says: which report is on which data, with which seeds, by which code."""
    lines, listed = [], []
    for file in sorted(folder.glob("*/provenance.json")):
        about = json.loads(file.read_text(encoding="utf-8"))
        if "code" not in about or not (file.parent / "claims.csv").is_file():
            continue  # of an older state of the code
        name, parameters = file.parent.name, about["parameters"]
        listed.append(name)
        by_seeds: dict[str, list[str]] = {}
        for part, seeds in about["seeds"].items():
            by_seeds.setdefault(", ".join(map(str, seeds)), []).append(
                TASKS[part].panel if part in TASKS else "FTT-NAS"
            )
        parts = "; ".join(f"{letters(panels)}: {seeds}" for seeds, panels in by_seeds.items())
        lines.append(f"| [{name}]({name}/README.md) | {parameters['data']['source']} | {parameters['scale']} | "
                     f"{parts} | {about['machine']['processor']} | "
                     f"{about['code'][:8]} |")  # fmt: skip
    head = ["| report | data | scale | panels: seeds | processor | code |", "|---|---|---|---|---|---|"]
    said = (
        "Each is what `dvc repro` made of one state of the code. The last column is a fingerprint of the code that "
        "drew the report and of the methods that it has: equal values mean equal code, different ones may only mean "
        "other methods."
    )
    older = sorted({path.name for path in folder.iterdir() if path.is_dir()} - set(listed))
    text = ["# Reports", "", said, "", *head, *lines]
    if older:
        text += [
            "",
            f"Of older states of the code, with other measures: {', '.join(f'[{n}]({n}/README.md)' for n in older)}.",
        ]
    return "\n".join(text) + "\n"


def main(root: Path = Path(".")) -> None:
    """Write the blocks of every page, and the list of reports."""
    for name in PAGES:
        text = (root / name).read_text(encoding="utf-8")
        write_text(root / name, filled(text, root))
    write_text(root / "reports/README.md", reports_page(root / "reports"))


if __name__ == "__main__":
    main()
