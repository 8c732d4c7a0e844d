"""Stage `render`: every figure and table, from the results that params.yaml names."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

from bayesft.evaluation.boundary import Boundaries
from bayesft.evaluation.pictures import Pictures
from bayesft.files import write_text
from bayesft.report import figures, worth
from bayesft.report.page import metrics, page
from bayesft.report.results import TaskResults, curves_table, trials_table
from bayesft.report.worth import Study
from bayesft.tasks import ABLATIONS, DETECTION
from stages.common import code_digest, pictures_file, results_file, run, study_file, timings_folder
from stages.parameters import Parameters, load

VERSIONS = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-optimize",
    "pandas",
    "matplotlib",
    "seaborn",
    "dvc",
)


def main(what: str = "all") -> None:
    """Render the report of the run: "all" of it, or what is "there" of a run that has not ended."""
    p = load()
    folder = Path("reports") / p.scale
    ablated = [f"ablation-{data}" for data in p.ablation.data]
    if what == "all":
        keep = {results_file(name, seed) for name in [*p.all_tasks, *ablated] for seed in p.seeds}
        keep |= {study_file(task, seed) for task in p.study.tasks for seed in p.study.seeds}
        _drop_others(keep | {pictures_file(task, seed) for task in p.detection.tasks for seed in p.seeds})
    tasks = {task: result for task in p.all_tasks if (result := _gather(p, what, task))}
    if not tasks:
        raise ValueError("no task has results yet: run dvc repro")
    ablations = {}
    for data in p.ablation.data:
        if result := _gather(p, what, f"ablation-{data}"):
            study = ABLATIONS[data]
            ablations[data] = {
                factor: result.only({v: study.row(factor, v) for v in study.factors[factor].variants})
                for factor in p.ablation.factors
            }
    maps = Boundaries.load(Path("data/boundary.safetensors"))
    note, pictures = f"scale: {p.scale}", ["figure1"]
    figures.figure_1(maps, folder / "figures", f"two noisy half-moons (scikit-learn), {len(maps.points)} test points")
    if ablations:
        figures.figure_2(ablations, folder / "figures", note)
        pictures.append("figure2")
    figures.figure_3(tasks, folder / "figures", note)
    pictures.append("figure3")
    if DETECTION in tasks:
        result = tasks[DETECTION]
        # Real photographs may not be passed on, so their picture stays out of the report, which git holds.
        drawn = result.data["source"] == "embedded"
        where = folder / "figures" if drawn else Path("data/figures") / p.scale
        shown = f"data: {result.data['name']} ({result.data['source']}); seed {result.seeds[0]}; {note}"
        figures.figure_4(Pictures.load(pictures_file(DETECTION, result.seeds[0])), where, shown)
        if drawn:
            pictures.append("figure4")
        else:
            print(f"render: figure 4 shows photographs that may not be passed on; it is in {where}, outside git")
    searched = {task: result for task, result in tasks.items() if result.searches()}
    if searched:
        figures.figure_search(searched, folder / "figures", note)
        pictures.append("search")
    tuned = {task: result for task, result in tasks.items() if result.tuned()}
    if tuned:
        worth.figure_tuned(tuned, folder / "figures", note)
        pictures.append("tuned")
    studies = {task: study for task in p.study.tasks if (study := _gather_study(p, what, task))}
    if studies:
        worth.figure_study(studies, folder / "figures", note)
        worth.figure_landscape(studies, folder / "figures", note)
        pictures += ["study", "landscape"]
    studied = {task: {str(s): _read(study_file(task, s)) for s in study.seeds} for task, study in studies.items()}
    write_text(folder / "study.json", json.dumps(studied) + "\n")
    factors = {f"ablation-{data}/{factor}": r for data, found in ablations.items() for factor, r in found.items()}
    curves = curves_table({**tasks, **factors})
    write_text(folder / "results.csv", curves.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    trials = trials_table(tasks).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    write_text(folder / "trials.csv", trials)
    title = f"BayesFT, reproduced at scale {p.scale}"
    write_text(folder / "metrics.json", json.dumps(metrics(tasks), indent=1) + "\n")
    write_text(folder / "README.md", page(title, note, tasks, ablations, pictures, studies))
    write_text(folder / "provenance.json", json.dumps(_provenance(p, tasks), indent=1, sort_keys=True) + "\n")
    _collect_timings(p, folder)
    print(f"render: {len(pictures)} figures for {len(tasks)} tasks in {folder}")


def _gather(p: Parameters, what: str, name: str) -> TaskResults | None:
    """The results of the run's seeds; of a run that has not ended, of those seeds that are there."""
    seeds = [s for s in p.seeds if what == "all" or results_file(name, s).exists()]
    if not seeds:
        return None
    return TaskResults.gather({s: _read(results_file(name, s)) for s in seeds})


def _gather_study(p: Parameters, what: str, task: str) -> Study | None:
    """The same for the study of the search."""
    seeds = [s for s in p.study.seeds if what == "all" or study_file(task, s).exists()]
    if not seeds:
        return None
    files = {s: _read(study_file(task, s)) for s in seeds}
    return Study.gather(files, p.study.strategies, p.study.options, p.study.reference)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _drop_others(keep: set[Path]) -> None:
    """Remove results that params.yaml no longer names (DVC's cache has them, should they be wanted again).

    This stage depends on the folder; with leftovers in it, the folder would read as changed.
    """
    for path in sorted(Path("data/results").rglob("*"), reverse=True):
        if path.is_file() and path not in keep:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _provenance(p: Parameters, tasks: dict[str, TaskResults]) -> dict:
    """What the numbers were made from. A commit can't name itself, so the code is named by its digest."""
    parameters = p.model_dump(mode="json", exclude={"scales", "data", "seeds"})
    return {
        "parameters": {**parameters, "data_source": p.data.source, "budget": p.chosen_scale.model_dump(mode="json")},
        "data": {task: result.data for task, result in tasks.items()},
        "seeds": {task: list(result.seeds) for task, result in tasks.items()},
        "code_sha256": code_digest(),
        "versions": {name: version(name) for name in VERSIONS},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _collect_timings(p: Parameters, folder: Path) -> None:
    """The seconds of each stage: beside the report, but no output of the pipeline, since they never repeat."""
    lines = ["stage,seconds"]
    for path in sorted(timings_folder(p.scale).glob("*.json")):
        lines.append(f"{path.stem},{json.loads(path.read_text(encoding='utf-8'))}")
    write_text(folder / "timings.csv", "\n".join(lines) + "\n")


if __name__ == "__main__":
    run(main, "what")
