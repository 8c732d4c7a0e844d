"""Stage `render`: every figure and table, from the results that params.yaml names."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

from bayesft.evaluation.boundary import Boundaries
from bayesft.files import write_text
from bayesft.report import figures
from bayesft.report.page import metrics, page
from bayesft.report.results import TaskResults, curves_table, trials_table
from stages.common import code_digest, results_file, run, timings_folder
from stages.parameters import Parameters, load

VERSIONS = ("torch", "numpy", "scipy", "scikit-learn", "scikit-optimize", "pandas", "matplotlib", "seaborn", "dvc")


def main(what: str = "all") -> None:
    """Render the report of the run: "all" of it, or what is "there" of a run that has not ended."""
    p = load()
    folder = Path("reports") / p.scale
    if what == "all":
        wanted = {(t, m, s) for t in p.tasks for m in p.all_methods for s in p.seeds}
        wanted |= {("ablation", factor, s) for factor in p.ablations for s in p.seeds}
        _drop_others(wanted)
    tasks = {task: _gather(p, what, task, p.all_methods) for task in p.tasks}
    ablation = {factor: _gather(p, what, "ablation", [factor]) for factor in p.ablations}
    tasks, ablation = ({name: r for name, r in group.items() if r is not None} for group in (tasks, ablation))
    if not tasks:
        raise ValueError("no task has results of every method yet: run dvc repro")
    note = _note(p, next(iter(tasks.values())).data)
    maps = Boundaries.load(Path("data/boundary.safetensors"))
    pictures = ["figure1", "figure2", "figure3", "search"]
    figures.figure_1(maps, folder / "figures", f"two noisy half-moons (scikit-learn), {len(maps.points)} test points")
    if ablation:
        figures.figure_2(ablation, folder / "figures", note)
    else:
        pictures.remove("figure2")
    figures.figure_3(tasks, folder / "figures", note)
    if p.methods.search:
        figures.figure_search(tasks, folder / "figures", note)
    else:
        pictures.remove("search")
    curves = curves_table({**tasks, **{f"ablation-{factor}": result for factor, result in ablation.items()}})
    write_text(folder / "results.csv", curves.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    trials = trials_table(tasks).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    write_text(folder / "trials.csv", trials)
    write_text(folder / "metrics.json", json.dumps(metrics(tasks), indent=1) + "\n")
    write_text(folder / "README.md", page(f"BayesFT, reproduced at scale {p.scale}", note, tasks, ablation, pictures))
    write_text(folder / "provenance.json", json.dumps(_provenance(p, tasks), indent=1, sort_keys=True) + "\n")
    _collect_timings(p, folder)
    print(f"render: {len(pictures)} figures for {len(tasks)} tasks in {folder}")


def _gather(p: Parameters, what: str, task: str, methods: list[str]) -> TaskResults | None:
    """The results of the run's seeds; of a run that has not ended, of those seeds that every method has."""
    seeds = [s for s in p.seeds if what == "all" or all(results_file(task, m, s).exists() for m in methods)]
    if not seeds:
        return None
    files = {(m, s): json.loads(results_file(task, m, s).read_text(encoding="utf-8")) for m in methods for s in seeds}
    return TaskResults.gather(files)


def _drop_others(wanted: set[tuple[str, str, int]]) -> None:
    """Remove results that params.yaml no longer names (the run cache has them, should they be wanted again).

    This stage depends on the folder; with leftovers in it, the folder would read as changed.
    """
    keep = {results_file(*entry) for entry in wanted}
    for path in sorted(Path("data/results").rglob("*"), reverse=True):
        if path.is_file() and path not in keep:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _note(p: Parameters, data: dict) -> str:
    used = data["images_used"]
    counts = f"{used['train']:,} train / {used['validation']:,} validation / {used['test']:,} test images"
    draws = f"{p.budget.evaluate.draws} drift draws a point"
    return f"data: {data['name']} ({data['source']}), {counts}; scale: {p.scale}; {draws}"


def _provenance(p: Parameters, tasks: dict[str, TaskResults]) -> dict:
    """What the numbers were made from. A commit can't name itself, so the code is named by its digest."""
    parameters = p.model_dump(mode="json", exclude={"scales", "data", "seeds"})
    return {
        "parameters": {**parameters, "data_source": p.data.source, "budget": p.budget.model_dump(mode="json")},
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
