"""Stage `render`: every figure and table of the rows and tasks that the plan names."""

import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bayesft.evaluation.boundary import Boundaries
from bayesft.evaluation.pictures import Pictures
from bayesft.files import read_json, write_json, write_text
from bayesft.methods import load
from bayesft.report import calibration, figures, ftt, worth
from bayesft.report.calibration import Calibrated
from bayesft.report.claims import CLAIMS, claims_table, judge, summary
from bayesft.report.details import data_list, details
from bayesft.report.offline import offline_page
from bayesft.report.page import (
    claims_section,
    figures_section,
    metrics,
    more_section,
    page,
    tables_section,
    tells,
    what_one_sees,
)
from bayesft.report.results import TaskResults, accuracies_table, curves_table, measures_table, searches_table
from bayesft.report.rows import BASELINE, Row, rows_of
from bayesft.report.worth import Study
from bayesft.tasks import ABLATIONS, DETECTION, range_of
from stages.common import RESULTS, Item, Stage, run
from stages.parameters import load_part
from stages.timings import times

Files = dict[str, dict[int, dict[str, Any]]]  # what an evaluation wrote, by row and seed
DRAWING = ("pandas", "matplotlib", "seaborn", "altair", "dvc")  # packages, beside those that decide results


def main() -> None:
    """Render the report of the run."""
    stage = Stage("render")
    (plan,) = stage.items
    folder, note = Path("reports") / plan["report"], f"scale: {plan['scale']}"
    rows = rows_of(plan["rows"])
    files = {task: _files(of, task) for task, of in plan["tasks"].items()}
    tasks = {task: _task(of, task, rows) for task, of in files.items()}
    ablations = {data: _ablation(plan, data) for data in plan["ablation"]}
    factors = {f"ablation-{data}/{factor}": r for data, found in ablations.items() for factor, r in found.items()}
    studied = {task: _study_files(plan, task) for task in plan["study"]["tasks"]}
    studies = {task: _study(plan, task, of, tasks[task].data) for task, of in studied.items()}
    maps = Boundaries.load(Path("data/boundary.safetensors"))
    judged = judge(CLAIMS, {**tasks, **factors}, plan["budgets"])
    captions = _draw(plan, tasks, ablations, studies, maps, folder / "figures")
    calibrated, chapter = _calibrated(tasks, files), _fault_tolerance(plan)
    write_text(folder / "study.json", json.dumps(studied) + "\n")
    contracts = calibration.contracts(calibrated, plan["budgets"])
    tables = {"claims": claims_table(judged), "results": curves_table({**tasks, **factors}),
              "measures": measures_table({**tasks, **factors}), "accuracies": accuracies_table({**tasks, **factors}),
              "searches": searches_table(tasks), "calibration": calibration.lines(calibrated),
              "contracts": calibration.contracts_table(contracts)}  # fmt: skip
    for of, table in tables.items():
        write_text(folder / f"{of}.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_json(folder / "metrics.json", metrics(tasks))
    title = f"BayesFT, reproduced: {plan['report']}"
    beside = ["details.md", "provenance.json", *(f"{of}.csv" for of, table in tables.items() if tells(table))]
    seen = what_one_sees(tasks, ablations, studies, maps)
    numbers = tables_section(tasks, note)
    sections = [
        claims_section(judged, chapter is not None),
        figures_section(captions, seen, tasks),
        calibration.section(calibrated, contracts, folder / "figures"),
        ftt.section(chapter, folder / "figures", alone=not tasks) if chapter else "",
        numbers,
        more_section(["report.html"] * bool(tasks) + beside + ["figures/ftt.json"] * bool(chapter)),
    ]
    write_text(folder / "README.md", page(title, sections, numbers))
    notes = [line.removeprefix("- ") for line in data_list(tasks, note).splitlines()]
    write_text(folder / "report.html", offline_page(title, tasks, judged, notes))
    more = details(title, note, tasks, ablations, studies) + calibration.tables(calibrated)
    if chapter:
        more += "\n" + ftt.tables(chapter, folder / "figures")
        write_json(folder / "figures" / "ftt.json", ftt.table(chapter))
    write_text(folder / "details.md", more)
    about = _provenance(stage, plan, tasks, chapter)
    write_text(folder / "provenance.json", json.dumps(about, indent=1, sort_keys=True) + "\n")
    _timings(folder / "timings.csv")
    print(f"render: {summary(judged)} See {folder}/README.md")


def _draw(
    plan: Item,
    tasks: Mapping[str, TaskResults],
    ablations: Mapping[str, Mapping[str, TaskResults]],
    studies: Mapping[str, Study],
    maps: Boundaries,
    folder: Path,
) -> dict[str, str]:
    """Draw every figure that the results allow; their captions, by name, in the order of the page."""
    captions = {"figure3": figures.figure_3(tasks, folder)} if tasks else {}
    gains = {task: result for task, result in tasks.items() if BASELINE in result.accuracy and result.controls()}
    if gains:
        captions["gains"] = figures.figure_gains(gains, folder)
    if any(result.without_norm() for result in tasks.values()):
        captions["norm"] = figures.figure_norm(tasks, folder)
    if ablations:
        captions["figure2"] = figures.figure_2(ablations, folder)
    if tasks or ablations:
        moons = f"Two noisy half-moons (scikit-learn), {len(maps.points)} test points"
        captions["figure1"] = figures.figure_1(maps, folder, moons)
    if DETECTION in tasks and (of_pictures := _detections(plan, tasks[DETECTION], folder)):
        captions["figure4"] = of_pictures
    if tuned := {task: result for task, result in tasks.items() if result.tuned()}:
        captions["tuned"] = worth.figure_tuned(tuned, folder)
    if any(figures.best_apart(result) is not None for result in tasks.values()):
        captions["search"] = figures.figure_search(tasks, folder)
    if studies:
        captions["study"] = worth.figure_study(studies, folder)
        captions["landscape"] = worth.figure_landscape(studies, folder)
    return captions


def _fault_tolerance(plan: Item) -> ftt.Chapter | None:
    """The chapter on fault-tolerant training, None without one."""
    if not plan["ftt"]["networks"]:
        return None
    return ftt.Chapter.gather(plan["ftt"], lambda name: read_json(RESULTS / name))


def _detections(plan: Item, result: TaskResults, folder: Path) -> str:
    """Draw Figure 4; its caption, "" where it is no part of the report.

    Real photographs may not be passed on, so their picture stays out of the report, which git holds.
    """
    seed = result.seeds[0]
    shown = [row for row in result.rows() if result.shown[row].of.final_training]
    if not shown:
        return ""
    files = [RESULTS / row / f"{DETECTION}-{seed}.pictures.safetensors" for row in shown]
    each = [Pictures.load(file) for file in files]
    found = {row: levels for pictures in each for row, levels in pictures.detections.items()}
    pictures = Pictures(each[0].images, each[0].truths, each[0].sigmas, found)
    part_of_report = result.data["source"] == "embedded"
    where = folder if part_of_report else Path("data/figures") / plan["report"]
    data = f"Data: {result.data['name']} ({result.data['source']}); 1 seed ({seed})"
    caption = figures.figure_4(pictures, result, where, data)
    if not part_of_report:
        print(f"render: figure 4 shows photographs that may not be passed on; it is in {where}, outside git")
    return caption if part_of_report else ""


def _files(named: Mapping[str, Any], task: str) -> Files:
    """What the evaluation wrote of every row of a task that the plan names, by row and seed."""
    return {
        row: {seed: read_json(RESULTS / row / f"{task}-{seed}.json") for seed in named["seeds"]}
        for row in named["rows"]
    }


def _task(files: Files, task: str, rows: Mapping[str, Row]) -> TaskResults:
    """The results of every row of a task, over its seeds."""
    seeds = next(iter(files.values()))
    joined = {seed: _joined((of_seed[seed] for of_seed in files.values()), task) for seed in seeds}
    return TaskResults.gather(joined, {row: rows[row] for row in files}, range_of(task))


def _calibrated(tasks: Mapping[str, TaskResults], files: Mapping[str, Files]) -> dict[str, Calibrated]:
    """The calibrated copies of the tasks that have some."""
    found = {}
    for task, result in tasks.items():
        entries = {row: {seed: content["calibrated"] for seed, content in files[task][row].items()
                         if "calibrated" in content} for row in result.rows()}  # fmt: skip
        found[task] = Calibrated.gather(result, entries)
    return {task: of for task, of in found.items() if of is not None}


def _joined(contents: Iterable[dict[str, Any]], task: str) -> dict[str, Any]:
    """The results of several rows on one task with one seed as one."""
    contents = list(contents)
    first = contents[0]
    for content in contents:
        for key in ("sigmas", "data", "device"):
            if content[key] != first[key]:
                raise ValueError(f"the rows of {task} differ in {key}: run dvc repro, which makes the outdated anew")
    return {**first, "rows": {name: row for content in contents for name, row in content["rows"].items()}}


def _ablation(plan: Item, data: str) -> dict[str, TaskResults]:
    """The results of the ablation on one data set, by factor."""
    task = f"ablation-{data}"
    files = {seed: _joined([read_json(RESULTS / "ablation" / f"{task}-{seed}.json")], task)
             for seed in plan["ablation"][data]}  # fmt: skip
    result, of = TaskResults.gather(files, end=range_of(task)), ABLATIONS[data]
    return {
        factor: result.only({v: of.row(factor, v) for v in of.factors[factor].variants}) for factor in plan["factors"]
    }


def _study_files(plan: Item, task: str) -> dict[str, dict]:
    """What the study found on a task, by seed: the points of every run under its title, and the landscape."""
    study = plan["study"]
    titles = {**study["strategies"], **study["options"], **{m: _given(m) for m in study["unsearched"]}}
    return {
        str(seed): {
            "runs": {t: read_json(RESULTS / "study" / f"{task}-{seed}-{n}.json")["points"] for n, t in titles.items()},
            "landscape": read_json(RESULTS / "study" / f"{task}-{seed}-landscape.json"),
        }
        for seed in study["seeds"]
    }


def _given(method: str) -> str:
    return f"{load(method).title}, no search"


def _study(plan: Item, task: str, found: Mapping[str, dict], data: dict[str, Any]) -> Study:
    """The study of the search on a task, from what was found by seed."""
    study = plan["study"]
    files = {int(seed): {**content, "sigmas": study["sigmas"][task], "data": data} for seed, content in found.items()}
    titles = list(study["strategies"].values()), list(study["options"].values())
    looks = {_given(method): load(method).look for method in study["unsearched"]}
    return Study.gather(files, *titles, study["strategies"][study["reference"]], looks, range_of(task))


def _provenance(
    stage: Stage, plan: Item, tasks: Mapping[str, TaskResults], chapter: ftt.Chapter | None
) -> dict[str, Any]:
    """What the numbers were made from. A commit can't name itself, so the code is named by its fingerprint."""
    machine = dict(stage.machine)
    versions = machine.pop("versions") | {name: version(name) for name in DRAWING}
    data = {task: result.data for task, result in tasks.items()}
    seeds = {task: list(result.seeds) for task, result in tasks.items()}
    if chapter:
        data["ftt"], seeds["ftt"] = dict(chapter.data()), chapter.seeds()
    return {
        "parameters": {**plan["parameters"], "sigma_max": load_part("sigma_max")},
        "budgets": plan["budgets"],
        "data": data,
        "seeds": seeds,
        "code": plan["code"],
        "machine": {**machine, "processor": _processor()},
        "versions": versions,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's model and the instructions that torch uses: numbers differ between processors."""
    cpuinfo = Path("/proc/cpuinfo")  # of Linux
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(models or [platform.processor()])[0]}, {torch.backends.cpu.get_cpu_capability()}"


def _timings(path: Path) -> None:
    """The seconds of each item, beside the report: no output of the pipeline, since they never repeat.

    A table that has more lines stays: a partial run does not replace a whole one's.
    """
    lines = ["stage,item,seconds", *(f"{stage},{item},{seconds}" for stage, item, seconds in times())]
    if not path.exists() or path.read_text(encoding="utf-8").count("\n") <= len(lines):
        write_text(path, "\n".join(lines) + "\n")


if __name__ == "__main__":
    run(main)
