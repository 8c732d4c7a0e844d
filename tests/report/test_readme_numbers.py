"""Numbers in pages are those of the csv files beside the reports, recomputed with pandas and scipy alone."""

import json
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bayesft.report.claims import CLAIMS, claims_table, judge
from bayesft.report.ftt import CLAIMS as CHAPTER
from bayesft.report.ftt import Measure
from bayesft.report.readme import BLOCK, PAGES, filled, gains_block, reports_page
from bayesft.report.results import accuracies_table, measures_table
from bayesft.tasks import TASKS

ROOT = Path(__file__).parents[2]
REPORTS = sorted(path.parent for path in (ROOT / "reports").glob("*/claims.csv"))
END = {"mnist": 1.5, "cifar10": 0.8, "gtsrb": 0.8, "pennfudan": 0.6}


@pytest.fixture
def report(tmp_path, results):
    """A report of two tasks, as `render` writes its csv files."""
    from dataclasses import replace

    tasks = {task: replace(results(seeds=(0, 1, 2)), end=0.6) for task in ("lenet-mnist", "stn-gtsrb")}
    rng = np.random.default_rng(0)
    for result in tasks.values():
        for values in result.accuracy.values():
            values += rng.normal(0, 0.02, (3, 1, 1))
    folder = tmp_path / "reports/mine"
    folder.mkdir(parents=True)
    judged = judge(CLAIMS, tasks)
    for name, table in (("claims", claims_table(judged)), ("accuracies", accuracies_table(tasks)),
                        ("measures", measures_table(tasks))):  # fmt: skip
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return folder


def areas(report: Path, end: float | None = None) -> pd.Series:
    """The area under the curve by task, row and seed, from the raw accuracies."""
    raw = pd.read_csv(report / "accuracies.csv")
    curves = raw.groupby(["task", "row", "seed", "sigma"]).accuracy.mean()

    def area(curve: pd.Series) -> float:
        sigma, value = curve.index.get_level_values("sigma").to_numpy(), curve.to_numpy()
        data = curve.index[0][0].removeprefix("ablation-").partition("/")[0].rpartition("-")[2]
        stop = end or END[data]
        if sigma[-1] < stop - 1e-9:
            return np.nan
        inside = sigma < stop - 1e-9
        x = np.append(sigma[inside], stop)
        return float(np.trapezoid(np.interp(x, sigma, value), x) / stop)

    return curves.groupby(["task", "row", "seed"]).apply(area)


def check(report: Path, end: float | None = None) -> int:
    """Recompute measures and claims of a report; how many numbers were compared."""
    by_seed, compared = areas(report, end), 0
    for line in pd.read_csv(report / "measures.csv").itertuples():
        values = by_seed[line.task, line.row]
        if np.isnan(line.area):
            assert values.isna().all()
            continue
        assert line.area == pytest.approx(values.mean(), abs=1e-5)
        compared += 1
        if not np.isnan(line.gain):
            assert line.gain == pytest.approx((values - by_seed[line.task, "erm"]).mean(), abs=1e-5)
    claims = pd.read_csv(report / "claims.csv", keep_default_na=False, na_values=[""])
    sides = {f"{a.title} {sign} {b.title}": (a.name, b.name) for a in titles() for b in titles() for sign in ">≈"}
    for line in claims[claims.kind.isin(["greater", "equal"]) & (claims.verdict != "not run")].itertuples():
        if line.comparison not in sides or " " in line.places:
            continue
        first, second = (by_seed[line.places, row] for row in sides[line.comparison])
        apart = (first - second).to_numpy()
        assert line.difference == pytest.approx(apart.mean(), abs=1e-5)
        if len(apart) > 2:
            test = stats.ttest_1samp(apart, 0)
            assert line.p == pytest.approx(test.pvalue if line.kind == "greater" else p_of_equality(apart), rel=1e-3)
            interval = test.confidence_interval(0.95)
            assert (line.low, line.high) == pytest.approx((interval.low, interval.high), abs=1e-5)
            compared += 1
    for line in claims[(claims.kind == "ratio") & (claims.verdict != "not run")].itertuples():
        ratio, p = greatest_ratio(report, line.places.split())
        assert line.difference == pytest.approx(ratio, rel=1e-4)
        assert np.isnan(line.p) or line.p == pytest.approx(p, rel=1e-3)
        compared += 1
    if len(tested := claims[claims.p.notna()]):
        order = tested.p.sort_values()
        rule = (order * np.arange(len(order), 0, -1)).cummax().clip(upper=1)
        assert rule[tested.index].to_numpy() == pytest.approx(tested.p_holm.to_numpy(), rel=1e-3)
    return compared


def p_of_equality(apart: np.ndarray, margin: float = 0.02) -> float:
    """Two one-sided tests inside the margin, a two-sided one at its nearer end outside."""
    if abs(apart.mean()) < margin:
        return max(stats.ttest_1samp(apart, margin, alternative="less").pvalue,
                   stats.ttest_1samp(apart, -margin, alternative="greater").pvalue)  # fmt: skip
    return stats.ttest_1samp(apart, np.copysign(margin, apart.mean())).pvalue


def greatest_ratio(report: Path, tasks: list[str]) -> tuple[float, float]:
    """The greatest ratio of BayesFT's accuracy to ERM's, and the greatest p that one is 10."""
    raw = pd.read_csv(report / "accuracies.csv")
    mean = raw[raw.task.isin(tasks)].groupby(["task", "sigma", "row", "seed"]).accuracy.mean().unstack("row")
    chance = mean.index.get_level_values("task").map(lambda task: 1 / (43 if "gtsrb" in task else 10))
    logs = np.log(mean.bayesft.clip(lower=chance) / mean.erm.clip(lower=chance)).groupby(["task", "sigma"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of points at which all seeds are alike, or of one seed
        return float(np.exp(logs.mean().max())), logs.apply(lambda by: stats.ttest_1samp(by, np.log(10)).pvalue).max()


def titles():
    from bayesft.methods import load

    return [load(name) for name in ("erm", "ftna", "reram_v", "awp", "bayesft")]


def test_measures_and_claims_follow_from_the_raw_accuracies(report):
    assert check(report, end=0.6) > 20


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_the_same_of_every_committed_report(folder):
    panels, chapter = (folder / "figures/figure3.png").exists(), (folder / "figures/ftt.json").exists()
    assert panels or chapter
    assert not panels or check(folder) > 0
    assert not chapter or check_chapter(folder) > 0


def check_chapter(report: Path) -> int:
    """Recompute differences and p of the chapter on FTT-NAS from its networks; how many numbers were compared."""
    content = json.loads((report / "figures/ftt.json").read_text(encoding="utf-8"))
    lines = []
    for network in content["networks"]:
        for fault, of in network["faults"].items():
            level = int(np.argmin(np.abs(np.array(of["levels"]) - of["level"])))
            each = {None: of["accuracy"][level], **of["calibrated"]}
            about = network["fault"], network["row"], network["seed"], fault
            lines += [(*about, how, np.mean(values)) for how, values in each.items()]
    mean = pd.DataFrame(lines, columns=["trained", "row", "seed", "under", "how", "accuracy"])

    def by_seed(side: Measure) -> np.ndarray:
        of = mean[(mean.row == side.row) & (mean.under == side.under) & mean.trained.isin(["any", side.trained])]
        of = of[of.how.isna() if side.how is None else of.how == side.how]
        return of.sort_values("seed").accuracy.to_numpy()

    compared = 0
    for claim in CHAPTER:
        for comparison, found in zip(claim.comparisons, content["claims"][claim.number]["comparisons"], strict=True):
            if comparison.kind not in ("greater", "at least") or found["verdict"] == "not run":
                continue
            one, other = by_seed(comparison.first), by_seed(comparison.second)
            seeds = min(len(one), len(other))
            apart = one[:seeds] - other[:seeds]
            assert found["seeds"] == seeds and found["difference"][0] == pytest.approx(apart.mean(), abs=1e-9)
            if seeds > 2:
                null = -0.02 if comparison.kind == "at least" else 0
                assert found["p"] == pytest.approx(stats.ttest_1samp(apart, null).pvalue, rel=1e-6)
            compared += 1
    return compared


def test_a_block_is_filled_with_the_verdicts_of_the_first_report_that_ran(report, tmp_path):
    text = "before\n<!-- claims: mine -->\nold\n<!-- end -->\nafter\n"
    found = filled(text, tmp_path)
    assert filled(found, tmp_path) == found and found.startswith("before\n") and found.endswith("<!-- end -->\nafter\n")
    claims = pd.read_csv(report / "claims.csv", dtype={"claim": str})
    line = claims[(claims.claim == "6") & claims.decides].iloc[0]
    assert "\nold\n" not in found and f"| {line.claim_verdict} | {line.difference:+.3f} ± " in found.replace("**", "")
    assert "| 12 | Detection: BayesFT's mAP is above ERM's | not run | – | – | – |" in found
    with pytest.raises(ValueError, match="claims.csv is missing"):
        filled(text.replace("claims: mine", "claims: none"), tmp_path)


def made_anew() -> bool:
    """Whether a run here has changed the reports since they were committed: its numbers are its own."""
    known = ["git", "status", "--porcelain", "--untracked-files=no", "reports"]
    done = subprocess.run(known, cwd=ROOT, capture_output=True, text=True, check=False)
    return any(not line.endswith("reports/README.md") for line in done.stdout.splitlines())


@pytest.mark.skipif(made_anew(), reason="a run has made reports anew: make readme, and commit both")
@pytest.mark.parametrize("name", PAGES)
def test_pages_say_what_the_reports_say(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == filled(text, ROOT), "run make readme"
    assert len(BLOCK.findall(text)) == text.count("<!-- end -->"), "a block has no end"


@pytest.mark.parametrize("folder", [f for f in REPORTS if (f / "figures/figure3.png").exists()], ids=lambda f: f.name)
def test_a_block_of_gains_has_the_area_of_calibrated_copies(folder):
    table = [line.split("|")[1:-1] for line in gains_block([folder]).splitlines() if line.startswith("|")]
    column = next(i for i, name in enumerate(table[0]) if name.endswith("+cal "))
    task = next(name for name, of in TASKS.items() if of.title in table[0][column])
    raw = pd.read_csv(folder / "calibration.csv")
    if raw.empty:  # the run calibrated nothing
        assert {line[column].strip() for line in table if line[0].strip() == "ERM"} == {"–"}
        return
    raw = raw[
        (raw.task == task) & (raw.row == "erm") & (raw.setting == ("110 images" if "penn" in task else "128 images"))
    ]
    curves = raw.groupby(["seed", "sigma"]).accuracy.mean().unstack()
    end = min(END[task.rpartition("-")[2]], curves.columns[-1])
    inside = curves.loc[:, curves.columns <= end + 1e-9]
    areas = np.trapezoid(inside, inside.columns, axis=1) / end
    cell = next(line[column] for line in table if line[0].strip() == "ERM")
    assert cell.split()[0] == f"{areas.mean():.3f}"
    if len(areas) > 1:
        half = stats.t.ppf(0.975, len(areas) - 1) * areas.std(ddof=1) / len(areas) ** 0.5
        assert cell.split()[2] == f"{half:.3f}"


@pytest.mark.skipif(made_anew(), reason="a run has made reports anew: make readme, and commit both")
def test_the_list_of_reports_is_current():
    page = ROOT / "reports/README.md"
    assert not REPORTS or page.read_text(encoding="utf-8") == reports_page(ROOT / "reports"), "run make readme"
