"""Stage `plan`: params.yaml is checked, and what it means for every stage is written down.

data/plan/<stage>.json says all that decides a stage's results: its items with every setting resolved, the code that
each runs, the machine's settings. data/plan.json has a fingerprint of each, on which the stage depends. So a stage
runs again when something that decides its results has changed, and only then.
"""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bayesft.drift import FEATURE_FAULTS, any_fault
from bayesft.drift.faults import Composite, traits_of
from bayesft.evaluation.devices import CALIBRATIONS
from bayesft.evaluation.grid import sigma_grid
from bayesft.fault_tolerance import COEFFICIENTS, ROWS, SEARCHES, level_at, specification
from bayesft.files import write_json
from bayesft.methods import load as load_method
from bayesft.models import build
from bayesft.models.operations import FEATURE_OPERATIONS, WEIGHT_OPERATIONS
from bayesft.settings import Recipe
from bayesft.store import LIST, Store
from bayesft.tasks import ABLATIONS, DETECTION, IMAGES, TASKS
from stages.code import code_of, digest
from stages.parameters import Parameters, load
from stages.schema import FTT_TASK, PARAMETERS, SCALES, UNSEARCHED, ParameterError, Row

PLAN = Path("data/plan")
PLANNED = Path("data/plan.json")
FTT_DATA = TASKS[FTT_TASK].data

# Packages that decide results.
DECIDING = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "scikit-optimize", "torchmetrics", "pycocotools",
            "pillow")  # fmt: skip

Plan = dict[str, list[dict[str, Any]]]


def main() -> None:
    """Check params.yaml and write the plan."""
    p = load()
    machine = {"device": device(p), "kernels": p.kernels, "threads": p.threads, "architecture": platform.machine(),
               "versions": {name: version(name) for name in DECIDING}}  # fmt: skip
    plan = Planner(p).plan()
    check_networks(plan)
    fingerprints: dict[str, dict[str, str]] = {}
    for name, items in plan.items():
        content = {"items": items, "machine": machine}
        write_json(PLAN / f"{name}.json", content)
        stage, _, of = name.partition("-")
        fingerprints.setdefault(stage, {})[of or "all"] = digest(content)
    write_json(PLANNED, fingerprints)
    adopted = adopt()
    trained = sum(len(items) for name, items in plan.items() if name.startswith("train-"))
    print(f"plan: {len(p.tasks)} tasks, {len(p.methods)} rows, {trained} networks to train, scale {p.scale}")
    if adopted:
        print(f"plan: {adopted} networks that were pulled are in the store")


def device(p: Parameters) -> str:
    """The device that the run computes on."""
    if p.device != "auto":
        return p.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_networks(plan: Plan) -> None:
    """Build each network of the plan without any memory, and pass two images through it.

    Raises:
        ParameterError: A network can't be built as scales.yaml and params.yaml say, or takes no such images.
    """
    wrong, seen = [], set()
    for name, items in plan.items():
        for item in items if name == "ablate" or name.startswith("train-") else ():
            shape = IMAGES.get(item["data"])
            of = digest([item["specification"], item["pixels"], item["data"]])
            if shape is None or of in seen:
                continue
            seen.add(of)
            channels, side = shape[0], item["pixels"] or shape[1]
            # The sampling of a spatial transformer has no form without memory.
            device = "cpu" if item["specification"]["network"] == "spatial_transformer" else "meta"
            try:
                with torch.device(device), torch.inference_mode():
                    build(item["specification"]).eval()(torch.zeros(2, channels, side, side))
            except (TypeError, ValueError, KeyError, RuntimeError, ZeroDivisionError) as error:
                said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                wrong.append(f"{item['label'].rpartition(' seed')[0]}: its network, {item['specification']}, does not "
                             f"take images of {channels} × {side} × {side}: {said}")  # fmt: skip
    if wrong:
        raise ParameterError(f"{PARAMETERS}, {SCALES}:\n  " + "\n  ".join(wrong))


def adopt() -> int:
    """Fill the store with finished networks that lie in data/models, from `dvc pull` say."""
    from stages.common import MODELS, ROOT

    store = Store(ROOT / "data/store")
    return sum(store.adopt(path) for path in sorted(MODELS.rglob(f"*{LIST}")))


class Planner:
    """What the parameters mean for every stage."""

    def __init__(self, p: Parameters):
        self.p = p
        self._code: dict[tuple[str, ...], str] = {}

    def plan(self) -> Plan:
        """The items of every stage, by the stage's name."""
        p = self.p
        plan: Plan = {"download": self.downloads(), "boundary": [self.boundary()], "ablate": self.ablated()}
        for name in p.methods:
            tasks = [task for task in p.tasks if name in p.rows_of(task)]
            items = [self.trained(task, name, seed) for task in tasks for seed in p.seeds_of(task)]
            plan[f"train-{name}"] = items
            plan[f"evaluate-{name}"] = [
                {**self.evaluated(item), "calibration": p.calibrated(item["task"], name)} for item in items
            ]
        networks = {(item["task"], item["seed"]): item for item in plan["ablate"]}
        plan["evaluate-ablation"] = [
            {**self.evaluated(item), "row": "ablation", "calibration": None} for item in networks.values()
        ]
        plan["study"] = self.studied()
        plan |= self.fault_tolerance()
        plan["render"] = [self.rendered(plan)]
        return plan

    def code(self, *starts: str) -> str:
        """A fingerprint of the code that `starts` run, the fault model's among it, also of one that is composed."""
        fault = any_fault(self.p.drift.model, self.p.drift.settings)
        kinds = [fault, *(part for part, _ in fault.parts)] if isinstance(fault, Composite) else [fault]
        starts = (*starts, *(f"{type(kind).__module__.replace('.', '/')}.py" for kind in kinds))
        if starts not in self._code:
            self._code[starts] = digest(code_of(starts))
        return self._code[starts]

    def downloads(self) -> list[dict]:
        """Every data set of the run."""
        p = self.p
        names = {TASKS[task].data for task in p.tasks} | set(p.ablation.data) | ({FTT_DATA} if p.ftt.faults else set())
        items = []
        for name in sorted(names):
            mirror = p.mirror if p.data.source == "official" else None
            item = {"label": name, "data": name, "source": p.data.source, "mirror": mirror,
                    "code": self.code("stages/download.py")}  # fmt: skip
            if name == "pennfudan":
                item["size"] = p.specification(DETECTION).get("size", 128)
            items.append(item)
        return items

    def boundary(self) -> dict:
        """Figure 1."""
        p = self.p
        boundary = p.boundary.model_dump()
        recipe = {**p.recipe.model_dump(), "epochs": boundary["epochs"], "batch_size": 64, "lr": boundary["lr"]}
        drift = p.drift.model_dump()
        if p.drift.model in FEATURE_FAULTS or p.drift.parameters == "convolutions":  # this classifier has none
            drift = {"model": "lognormal", "settings": {}, "parameters": "all"}
        return {"label": "moons", "boundary": boundary, "recipe": recipe, "drift": drift,
                "code": self.code("stages/boundary.py")}  # fmt: skip

    def problem(self, task: str, seed: int, network: dict[str, Any]) -> dict:
        """What decides the problem that a method is given.

        Args:
            task: The task, or an ablation ("ablation-mnist").
            seed: The training seed.
            network: What `build` makes the network of.

        Returns:
            Entries of an item that `load_problem` reads.
        """
        p, budget = self.p, self.p.budget(task)
        return {
            "task": task,
            "seed": seed,
            "data": TASKS[task].data if task in TASKS else task.removeprefix("ablation-"),
            "images": budget.images.model_dump(),
            "pixels": budget.pixels,
            "specification": network,
            "recipe": p.recipe_of(task).model_dump(),
            "drift": p.drift.model_dump(),
        }

    def trained(self, task: str, name: str, seed: int) -> dict:
        """The item of one network of a row.

        Args:
            task: The task.
            name: The row.
            seed: The training seed.

        Returns:
            The item, those of the networks that it needs included.
        """
        p, row = self.p, self.p.row(name)
        method, settings = load_method(row.method), self.p.row_search(task, row)
        anyhow = p.search_settings(task, method.search or {})  # dropout sites, of rows without a search too
        problem = self.problem(task, seed, p.specification(task, row.network))
        problem |= {"granularity": anyhow.granularity, "bounds": anyhow.bounds}
        values, train = p.values(task, row), "stages/train.py"
        searched = None
        if settings is not None:
            of, search = method.searched_as, settings.model_dump()
            problem |= {"granularity": settings.granularity, "bounds": settings.bounds}
            searched = {**problem, "method": of, "values": values, "search": search,
                        "code": self.code(train, f"bayesft/methods/{of}.py")}  # fmt: skip
        return {
            **problem,
            "label": f"{name} {task} seed {seed}",
            "row": name,
            "method": row.method,
            "values": values,
            "searched": searched,
            "needs": [self.trained(task, need, seed) for need in method.needs],
            "code": self.code(train, f"bayesft/methods/{row.method}.py"),
            "cost": self.cost(task, settings),
        }

    def cost(self, task: str, search: Any) -> float:
        """About how long an item takes, relative to others: the longest are begun first."""
        epochs = self.p.recipe_of(task).epochs
        if search is not None:
            epochs += search.trials * search.epochs
        return round(epochs * TASKS[task].cost, 3)

    def evaluated(self, item: dict) -> dict:
        """The item of the evaluation of one network."""
        p = self.p
        grid = p.budget(item["task"]).evaluate
        kept = ("label", "task", "seed", "row", "data", "images", "pixels", "drift", "cost")
        shown = {"pictures": p.pictures.model_dump()} if item["data"] == "pennfudan" else {}
        return {**{k: item[k] for k in kept}, **shown, "sigma_step": grid.sigma_step, "draws": grid.draws,
                "code": self.code("stages/evaluate.py")}  # fmt: skip

    def ablated(self) -> list[dict]:
        """The networks of Figure 2."""
        p, items = self.p, []
        for data in p.ablation.data:
            task = f"ablation-{data}"
            for seed in p.seeds_of(task):
                for row, change in ABLATIONS[data].networks(p.ablation.factors).items():
                    network = {**change, **p.budget(task).network}
                    items.append({
                        **self.problem(task, seed, network),
                        "label": f"{row} {task} seed {seed}",
                        "row": row,
                        "granularity": "layer",
                        "bounds": [0.0, 0.8],
                        "code": self.code("stages/ablate.py", "bayesft/methods/erm.py"),
                        "cost": p.recipe_of(task).epochs * (0.2 if data == "mnist" else 2.0),
                    })  # fmt: skip
        return items

    def studied(self) -> list[dict]:
        """The strategies and options of the study, the methods that they are compared with, and the landscape."""
        p, items = self.p, []
        for task in p.studies.tasks if p.study != "none" else ():
            reference = p.study_search(task, p.studies.reference)[1]
            grid = p.budget(task).evaluate
            for seed in p.studies.seeds:
                common = {
                    **self.problem(task, seed, p.specification(task)),
                    "sigma_max": p.studies.sigma_max,
                    "sigma_step": grid.sigma_step,
                    "draws": grid.draws,
                }

                def add(name: str, method: str, like: Any, common: dict = common, **rest: Any) -> None:
                    row = next((p.row(r) for r in p.methods if r == method), Row(method=method))
                    items.append({
                        **common,
                        "label": f"{name} {common['task']} seed {common['seed']}",
                        "name": name,
                        "method": method,
                        "values": p.values(common["task"], row),
                        "granularity": like.granularity,
                        "bounds": like.bounds,
                        "cost": like.trials * like.epochs,
                        "code": self.code("stages/study.py", f"bayesft/methods/{method}.py"),
                        **rest,
                    })  # fmt: skip

                for name in p.study_names():
                    method, search = p.study_search(task, name)
                    add(name, method, search, kind="search", search=search.model_dump(),
                        lengths=lengths(name in p.studies.strategies, search))  # fmt: skip
                for method in UNSEARCHED:
                    add(method, method, reference, kind="given", search=None)
                add("landscape", "bayesft", reference, kind="landscape", search=reference.model_dump(),
                    landscape=p.studies.landscape,
                    code=self.code("stages/study.py", "bayesft/methods/uniform.py"))  # fmt: skip
        return items

    def fault_tolerance(self) -> Plan:
        """The chapter on fault-tolerant training: its searches, networks and measurements."""
        p, plan = self.p, {"ftt-search": [], "ftt-train": [], "ftt-evaluate": []}
        budget = p.ftt_budget()
        for fault in p.ftt.faults:
            rows = budget.seeds[fault]
            named = [search for search in SEARCHES if any(ROWS[row].search == search for row in rows)]
            plan["ftt-search"] += [self.searched_architecture(fault, search) for search in named]
            for row, count in rows.items():
                if ROWS[row].alike and any(item["row"] == row for item in plan["ftt-train"]):
                    continue  # trained alike, and measured, under another fault already
                for seed in range(count):
                    item = self.fault_tolerant(fault, row, seed)
                    plan["ftt-train"].append(item)
                    plan["ftt-evaluate"].append(self.measured(item))
        return plan

    def ftt_problem(self, fault: str) -> dict:
        """What decides a problem of the chapter, but the network and the seed."""
        p, budget, given = self.p, self.p.ftt_budget(), self.p.ftt.faults[fault]
        of = any_fault(fault, given.settings)
        train = budget.train.model_dump(exclude_none=True)
        return {
            "task": "ftt",
            "fault": fault,
            "data": FTT_DATA,
            "images": budget.images.model_dump(),
            "pixels": None,
            "recipe": Recipe(**{**p.recipe.model_dump(), **train}).model_dump(),
            "drift": {"model": fault, "settings": given.settings, "parameters": traits_of(of).scope},
            "level": level_at(fault, given.level, budget.network.channels),
            "bits": p.ftt.bits,
        }

    def searched_architecture(self, fault: str, search: str) -> dict:
        """The item of one search of architectures."""
        p, budget = self.p, self.p.ftt_budget()
        settings, network, given = budget.search, budget.network.model_dump(), p.ftt.faults[fault]
        by_loss, by_reward = COEFFICIENTS.get(search, (True, True))
        common = {
            **self.ftt_problem(fault),
            "nodes": network["nodes"],
            "operations": FEATURE_OPERATIONS if fault == "mibb" else WEIGHT_OPERATIONS,
            "alpha": settings.alpha_loss if by_loss else 0.0,
            "reward_images": settings.images,
            "code": self.code("stages/ftt_search.py", "bayesft/methods/ftt.py"),
        }
        preprocess, alpha_reward = 1 if fault == "mibb" else 3, given.alpha_reward if by_reward else 0.0
        shape = {"channels": network["channels"], "cells": network["cells"], "stem_stride": network["stem_stride"],
                 "preprocess": preprocess}  # fmt: skip
        recipe = Recipe(**{**p.recipe.model_dump(), **settings.shared.model_dump(exclude_none=True)}).model_dump()
        count = 0 if search == "alone" else settings.networks if search == "ftt-nas" else 1
        shared = [
            {**common, "label": f"shared network {seed} {fault} alpha {common['alpha']}", "seed": seed,
             "recipe": recipe, "network": shape,
             "controller": alpha_reward if settings.strategy == "reinforce" else None}
            for seed in range(count)
        ]  # fmt: skip
        strategy = {"strategy": settings.strategy, "candidates": settings.candidates, "batch": settings.batch,
                    "alpha": alpha_reward, "top": settings.top}  # fmt: skip
        own = {"rounds": settings.alone, "granularity": "layer", "bounds": (0.0, 0.8)} if search == "alone" else {}
        return {**common, **own, "label": f"{search} {fault}", "search": search, "seed": 0, "settings": network,
                "preprocess": preprocess, "strategy": strategy, "draws": settings.draws, "gate": settings.gate,
                "samples": 200 if "largest" in budget.seeds[fault] else 24, "shared": shared, "cost": 1}  # fmt: skip

    def fault_tolerant(self, fault: str, name: str, seed: int) -> dict:
        """The item of one network of the chapter.

        Args:
            fault: The fault.
            name: The row, of `ROWS`.
            seed: The training seed.

        Returns:
            The item. Its network is None where a search names it.
        """
        p, budget, row = self.p, self.p.ftt_budget(), ROWS[name]
        problem = {**self.ftt_problem(fault), "seed": seed}
        preprocess = 1 if fault == "mibb" else 3
        network = specification(row.network, budget.network.model_dump(), preprocess) if row.search is None else None
        anyhow = p.search_settings(FTT_TASK)
        problem |= {"specification": network, "granularity": anyhow.granularity, "bounds": anyhow.bounds}
        ours, searched = row.method in ("ftt", "drift_ftt"), None
        if row.alike:
            problem |= {"fault": "any", "level": None, "drift": p.drift.model_dump()}
        if ours:
            given = {"alpha": p.ftt.alpha_loss, "bits": p.ftt.bits, **(row.values or {})}
            values = load_method(row.method).Settings.model_validate(given, strict=True).model_dump()
        else:
            of = p.row(row.method)
            values, search = p.values(FTT_TASK, of), p.row_search(FTT_TASK, of)
            if search is not None:
                problem |= {"granularity": search.granularity, "bounds": search.bounds}
                method = load_method(row.method).searched_as
                searched = {**problem, "method": method, "values": values, "search": search.model_dump(),
                            "code": self.code("stages/train.py", f"bayesft/methods/{method}.py")}  # fmt: skip
        passes = 1 if values.get("alpha", 1.0) in (0.0, 1.0) else 2
        return {
            **problem,
            "label": f"{name} {problem['fault']} seed {seed}",
            "row": name,
            "method": row.method,
            "values": values,
            "searched": searched,
            "needs": [],
            "code": self.code("stages/ftt_train.py", f"bayesft/methods/{row.method}.py"),
            "cost": passes + (5 if searched else 0),
        }

    def measured(self, item: dict) -> dict:
        """The item of the measurements of one network of the chapter."""
        p, budget, row = self.p, self.p.ftt_budget(), item["row"]
        faults = {}
        for name in (*p.ftt.faults, "lognormal"):
            if not (name == item["fault"] or (item["fault"] == "any" and name != "lognormal") or row in budget.carried):
                continue
            relative = budget.evaluate.levels[name]
            if name == "lognormal":
                level, levels, given = relative[-1], relative, {"settings": {}, "parameters": "all"}
            else:
                level, problem = self.ftt_problem(name)["level"], self.ftt_problem(name)
                levels, given = [factor * level for factor in relative], problem["drift"]
            most = traits_of(any_fault(name, given["settings"])).maximum
            faults[name] = {
                "model": name, "settings": given["settings"], "parameters": given["parameters"], "level": level,
                "levels": [min(each, most) for each in levels],
                "calibrations": list(CALIBRATIONS) if row in budget.calibrated else [],
            }  # fmt: skip
        kept = ("label", "seed", "fault", "row", "data", "images", "pixels", "bits", "cost")
        return {**{key: item[key] for key in kept}, "faults": faults, "devices": budget.evaluate.devices,
                "examples": budget.evaluate.examples, "code": self.code("stages/ftt_evaluate.py")}  # fmt: skip

    def rendered(self, plan: Plan) -> dict:
        """What the report shows."""
        p = self.p
        rows = {}
        for name in p.methods:
            row = p.row(name)
            rows[name] = {"method": row.method, "network": row.network, "tuned": row.search is not None}
        titles = {name: of.title for group in (p.studies.strategies, p.studies.options) for name, of in group.items()}
        return {
            "scale": p.scale,
            "source": p.data.source,
            "report": f"{p.scale}-{p.data.source}{p.report}",
            "rows": rows,
            "tasks": {task: {"rows": p.rows_of(task), "seeds": p.seeds_of(task)} for task in p.tasks},
            "ablation": {data: p.seeds_of(f"ablation-{data}") for data in p.ablation.data},
            "factors": p.ablation.factors,
            "study": {
                "tasks": p.studies.tasks if p.study != "none" else [],
                "seeds": p.studies.seeds,
                "reference": p.studies.reference,
                "strategies": {name: titles[name] for name in p.study_names() if name in p.studies.strategies},
                "options": {name: titles[name] for name in p.study_names() if name in p.studies.options},
                "unsearched": UNSEARCHED,
                "sigmas": {
                    task: sigma_grid(p.studies.sigma_max, p.budget(task).evaluate.sigma_step)
                    for task in p.studies.tasks
                },
            },
            "ftt": self.rendered_ftt(plan),
            "parameters": p.model_dump(mode="json", exclude={"scales", "parallel", "sigma_max"}),
            "budgets": {task: p.budget(task).model_dump(mode="json") for task in p.tasks},
            "code": self.code("stages/render.py", *(f"bayesft/methods/{p.row(name).method}.py" for name in p.methods)),
        }  # fmt: skip

    def rendered_ftt(self, plan: Plan) -> dict:
        """What the chapter on fault-tolerant training shows."""
        p, budget = self.p, self.p.ftt_budget()
        return {
            "faults": {fault: {"level": self.ftt_problem(fault)["level"], "at_20_channels": given.level}
                       for fault, given in p.ftt.faults.items()},
            "channels": budget.network.channels,
            "searches": [[item["fault"], item["search"]] for item in plan["ftt-search"]],
            "networks": [[item["fault"], item["row"], item["seed"]] for item in plan["ftt-train"]],
            "budget": budget.model_dump(mode="json"),
        }  # fmt: skip


def lengths(strategy: bool, search: Any) -> list[int]:
    """After how many trials a search of the study is looked at: thirds for strategies, else the end.

    A grid is none in pieces, and a batch is proposed as a whole.
    """
    if not strategy or search.strategy == "grid" or search.batch > 1:
        return [search.trials]
    return list(dict.fromkeys(max(1, search.trials * part // 3) for part in (1, 2, 3)))


if __name__ == "__main__":
    from stages.common import run

    run(main)
