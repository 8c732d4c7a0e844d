"""Numbers in Markdown files come from the reports: `make readme` writes what stands between their markers.

    <!-- claims: reports/medium-official-mnist reports/quick-embedded -->
    …
    <!-- end -->

holds the verdicts on the claims, each from the first of these reports that ran it. `reports/README.md` lists all
reports. A test holds that both are what the committed csv files say.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bayesft.files import write_text
from bayesft.report.claims import NOT_RUN, VERDICTS, shown_p
from bayesft.report.results import counted, letters
from bayesft.tasks import TASKS

BLOCK = re.compile(r"(<!-- claims: ([^>]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PAGES = ("README.md", "docs/findings.md")


def filled(text: str, root: Path) -> str:
    """A text with every block as the reports under `root` have it.

    Raises:
        ValueError: A block names a report that has no claims.csv.
    """

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}{claims_block([root / name for name in found[2].split()], root)}\n{found[4]}"

    return BLOCK.sub(fill, text)


def claims_block(reports: Sequence[Path], root: Path) -> str:
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
    links = ", ".join(f"[{report.name}]({report.relative_to(root)}/README.md)" for report in reports)
    said = f"Of {len(verdicts)} claims: {counts}. The first of these reports that ran a claim judges it: {links}."
    return "\n".join([said, "", *head, *lines])


def _difference(line: pd.Series) -> str:
    if pd.isna(line.difference):
        return "–"
    if line.kind in ("ratio", "cost"):
        return f"× {line.difference:.2f}"
    half = (line.high - line.low) / 2
    return f"{line.difference:+.3f}" + ("" if pd.isna(half) or half < 1e-9 else f" ± {max(half, 0.001):.3f}")


def reports_page(folder: Path) -> str:
    """What `reports/README.md` says: which report is on which data, with which seeds, by which code."""
    lines = []
    for file in sorted(folder.glob("*/provenance.json")):
        about = json.loads(file.read_text(encoding="utf-8"))
        if "code" not in about or not (file.parent / "claims.csv").is_file():
            continue  # of an older state of the code
        name, parameters = file.parent.name, about["parameters"]
        seeds = sorted({seed for of in about["seeds"].values() for seed in of})
        panels = letters(TASKS[task].panel for task in about["seeds"] if task in TASKS)
        parts = ", ".join(filter(None, (panels, "FTT-NAS" * ("ftt" in about["seeds"]))))
        lines.append(f"| [{name}]({name}/README.md) | {parameters['data']['source']} | {parameters['scale']} | "
                     f"{parts} | {', '.join(map(str, seeds))} | {about['machine']['processor']} | "
                     f"{about['code'][:8]} |")  # fmt: skip
    head = ["| report | data | scale | panels | seeds | processor | code |", "|---|---|---|---|---|---|---|"]
    text = ["# Reports", "", "Each is what `dvc repro` made of one state of the code.", "", *head, *lines]
    return "\n".join(text) + "\n"


def main(root: Path = Path(".")) -> None:
    """Write the blocks of every page, and the list of reports."""
    for name in PAGES:
        text = (root / name).read_text(encoding="utf-8")
        write_text(root / name, filled(text, root))
    write_text(root / "reports/README.md", reports_page(root / "reports"))


if __name__ == "__main__":
    main()
