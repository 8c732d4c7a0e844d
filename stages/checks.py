"""What the schema of params.yaml allows entry by entry, and is wrong all the same: one line each."""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from bayesft.drift import FaultModel, FeatureFault, any_fault
from bayesft.drift.faults import check_fault_level, traits_of
from bayesft.fault_tolerance import ROWS as FTT_ROWS
from bayesft.methods import load as load_method
from bayesft.models.networks import BACKBONES, NETWORKS
from bayesft.tasks import ABLATIONS, DETECTION, IMAGES, TASKS, range_of
from stages.schema import (
    CHANGES,
    DATA,
    FTT,
    FTT_TASK,
    MOST_POINTS,
    SCALES,
    UNSEARCHED,
    Budget,
    FttBudget,
    Grid,
    Row,
)  # fmt: skip

if TYPE_CHECKING:
    from stages.parameters import Parameters

PARTS = ("images", "pixels", "network", "rows", "train", "search", "evaluate")
DETECTOR = ("backbone", "size")  # what the detector takes, whose module is slow to import
NETWORK_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {  # what building a network alone would not find
    "width": (lambda value: type(value) in (int, float) and value > 0, "a number greater than 0"),
    "size": (lambda value: type(value) is int and value >= 32, "a whole number of at least 32"),
    "backbone": (lambda value: value in BACKBONES, f"one of {', '.join(BACKBONES)}"),
}
NO_CONVOLUTION = ("mlp-mnist",)
FTT_METHODS = {row.method for row in FTT_ROWS.values()}
TAKEN = ("ablation", "study", "ftt", "ftt-search")  # names of folders beside those of the rows


def wrong_mirror(p: "Parameters") -> list[str]:
    """What is wrong with the mirror. It may hold a password, so its value is not shown."""
    try:
        _ = p.mirror
    except ValueError as error:
        return [f"data.mirror, or BAYESFT_MIRROR: {error}"]
    return []


def wrong_layers(p: "Parameters") -> list[str]:
    """What is wrong with the budgets of every scale, by the key of the layer that says it."""
    if p.scale not in p.scales:
        return [f"scale = {p.scale!r}: must be one of {SCALES} ({', '.join(p.scales) or 'it has none'})"]
    wrong = []
    for scale, layers in p.scales.items():
        try:
            budget = p.ftt_budget(scale)
            wrong += _wrong_ftt(p, scale, budget)
        except ValidationError as error:
            for entry in error.errors():
                wrong.append(explain({**entry, "loc": ("scales", scale, FTT, *entry["loc"])}, None, FttBudget))
        for layer, parts in layers.items():
            if layer == FTT:
                continue
            for part, value in parts.items():
                where = f"scales.{scale}.{layer}.{part}"
                if part not in PARTS:
                    wrong.append(f"{where} = {value!r}: {_unknown(part, PARTS)}")
                elif part == "search" and isinstance(value, dict):
                    wrong += _wrong_change(where, value)
                elif part == "network" and isinstance(value, dict):
                    wrong += [f"{where}.{key} = {number!r}: must be finite" for key, number in value.items()
                              if isinstance(number, float) and not math.isfinite(number)]  # fmt: skip
        for task in (*TASKS, *(f"ablation-{name}" for name in ABLATIONS)):
            try:
                p.budget(task, scale)
            except ValidationError as error:
                for entry in error.errors():
                    wrong.append(explain({**entry, "loc": ("scales", scale, *_origin(p, scale, task, entry["loc"]))}))
    return wrong


def _origin(p: "Parameters", scale: str, task: str, loc: tuple) -> tuple:
    """The layer that a wrong entry of a merged budget comes from, before the entry's own path."""
    for layer in reversed(p.layers(task)):
        found: Any = p.scales[scale].get(layer, {})
        for part in loc[:2]:
            found = found.get(part, _NOTHING) if isinstance(found, dict) else found
        if found is not _NOTHING and found != {}:
            return (layer, *loc)
    return ("all", *loc)


_NOTHING = object()


def _wrong_ftt(p: "Parameters", scale: str, budget: FttBudget) -> list[str]:
    """What is wrong with the chapter on fault-tolerant training at a scale."""
    wrong, where = [], f"scales.{scale}.{FTT}"
    for name, given in p.ftt.faults.items():
        try:
            any_fault(name, given.settings).check_level(given.level)
        except ValueError as error:
            wrong.append(f"ftt.faults.{name}: {error}")
        for key, block in (("seeds", budget.seeds), ("evaluate.levels", budget.evaluate.levels)):
            if name not in block:
                wrong.append(f"{where}.{key}.{name}: missing; ftt.faults has it")
        if name in budget.evaluate.levels and not {0.0, 1.0} <= set(budget.evaluate.levels[name]):
            wrong.append(f"{where}.evaluate.levels.{name}: must have 0 and 1, the fault's own level")
        for row in budget.seeds.get(name, {}):
            method = FTT_ROWS[row].method
            if scale == p.scale and method not in (*p.methods, "ftt", "drift_ftt"):
                wrong.append(f"{where}.seeds.{name}.{row}: needs the row {FTT_ROWS[row].method} of methods")
    if "lognormal" not in budget.evaluate.levels:
        wrong.append(f"{where}.evaluate.levels.lognormal: missing; rows are measured under it too")
    return wrong


def contradictions(p: "Parameters") -> list[str]:
    """What is allowed entry by entry, and not together: one line each."""
    wrong = []
    try:
        fault = any_fault(p.drift.model, p.drift.settings)
        if isinstance(fault, FeatureFault) or p.drift.parameters == "convolutions":
            key = f"drift.model = {p.drift.model!r}, drift.parameters = {p.drift.parameters!r}"
            wrong += [
                f"{key}: {task} has no convolution: leave it out of tasks" for task in p.tasks if task in NO_CONVOLUTION
            ]
            wrong += [f"{key}: the networks of {data} have no convolution: leave it out of ablation.data"
                      for data in p.ablation.data if data == "mnist"]  # fmt: skip
        if isinstance(fault, FeatureFault) and DETECTION in p.tasks:
            wrong.append(
                f"drift.model = {p.drift.model!r}: it strikes classifiers alone; leave {DETECTION} out of tasks"
            )
    except ValueError as error:
        wrong.append(f"drift: {error}")
    for name in p.methods:
        wrong += _wrong_row(p, name)
    if wrong:
        return wrong
    rows = {task: p.rows_of(task) for task in p.tasks}
    for task, names in rows.items():
        for unknown in set(p.budget(task).rows or ()) - set(p.methods):
            wrong.append(f"scales.{p.scale}: rows of {task} name {unknown}: must be one of {', '.join(p.methods)}")
        if not names:
            wrong.append(f"methods, or rows in scales.{p.scale}: {task} needs at least one row")
        for name in names:
            for need in load_method(p.row(name).method).needs:
                if need not in names:
                    wrong.append(f"methods.{name}: needs the row {need} on {task}, since it starts from it")
        budget = p.budget(task)
        wrong += _wrong_calibrated(f"scales.{p.scale}: evaluate.calibrated of {task}", budget.evaluate)
        side = IMAGES.get(TASKS[task].data, (0, 0))[1]
        if budget.pixels is not None and (not side or side % budget.pixels):
            said = f"must divide {side}" if side else "a detector has network.size instead"
            wrong.append(f"scales.{p.scale}: pixels = {budget.pixels} of {task}: {said}")
        for name in names:
            wrong += _wrong_network(p, task, name)
        wrong += _wrong_searches(p, task, names)
    wrong += _wrong_calibration(p)
    if not wrong:
        wrong += _wrong_levels(p, fault)
    wrong += _wrong_grids(p) + _wrong_studies(p)
    return wrong or _wrong_study_tasks(p)


def _wrong_grids(p: "Parameters") -> list[str]:
    """Which grids of σ have too many points: those of tasks, of ablations, and of the study."""
    wrong = []
    grids = {task: p.sigma_max for task in (*p.tasks, *(f"ablation-{data}" for data in p.ablation.data))}
    grids |= {task: max(p.sigma_max, p.studies.sigma_max) for task in p.studies.tasks if p.study != "none"}
    for task, end in grids.items():
        step = p.budget(task).evaluate.sigma_step
        if end / step > MOST_POINTS:
            wrong.append(f"scales.{p.scale}: sigma_step = {step} of {task}: more than {MOST_POINTS} points up to {end}")
    return wrong


def _wrong_studies(p: "Parameters") -> list[str]:
    """What is wrong with the names and searches of `studies`, whether it runs or not."""
    wrong, studies = [], p.studies
    if studies.reference not in studies.strategies:
        known = ", ".join(studies.strategies)
        wrong.append(f"studies.reference = {studies.reference!r}: must be one of studies.strategies ({known})")
    elif p.study != "none" and studies.reference not in p.study_names():
        wrong.append(
            f"studies.small: must have studies.reference, {studies.reference!r}, that the others are compared with"
        )
    for name in studies.small:
        if name not in (*studies.strategies, *studies.options):
            wrong.append(f"studies.small: {name!r} is no name of studies.strategies or studies.options")
    for name in set(studies.strategies) & set(studies.options):
        wrong.append(f"studies.options.{name}: the name is taken by a strategy")
    titles = [of.title for of in (*studies.strategies.values(), *studies.options.values())]
    wrong += [f"studies: the title {title!r} stands twice" for title in sorted(set(titles)) if titles.count(title) > 1]
    for group in ("strategies", "options"):
        for name, of in getattr(studies, group).items():
            key = f"studies.{group}.{name}"
            if not _is_name(name.replace(".", "")):
                wrong.append(f"{key}: a name has letters, digits, _, - and . alone")
            if name in (*UNSEARCHED, "landscape"):
                wrong.append(f"{key}: the study has something else of this name")
            wrong += _wrong_change(f"{key}.search", of.search)
            try:
                if load_method(of.method).searched_as == "method":
                    wrong.append(f"{key}.method = {of.method!r}: it has no hyperparameters to search")
            except ValueError as error:
                wrong.append(f"{key}: {error}")
    return wrong


def _wrong_study_tasks(p: "Parameters") -> list[str]:
    """What is wrong with the tasks of a study that runs."""
    wrong, studies = [], p.studies
    for task in studies.tasks if p.study != "none" else ():
        if TASKS[task].metric != "accuracy":
            wrong.append(f"studies.tasks = {list(studies.tasks)}: {task} has no accuracy to study")
            continue
        if task not in p.tasks:
            wrong.append(f"studies.tasks = {list(studies.tasks)}: {task} must be in tasks too, or set study: none")
        if studies.sigma_max < range_of(task):
            wrong.append(f"studies.sigma_max = {studies.sigma_max:g}: must be >= {range_of(task):g} for {task}")
        for name in (*studies.strategies, *studies.options):
            key = f"studies.{'strategies' if name in studies.strategies else 'options'}.{name}"
            wrong += _wrong_search(key, lambda task=task, name=name: p.study_search(task, name)[1])
    return wrong


def _wrong_levels(p: "Parameters", fault: FaultModel | FeatureFault) -> list[str]:
    """What `drift.model` does not allow of the levels of the run, and the rows that it has no gradient for."""
    wrong = []
    for key, level in _levels(p, fault):
        try:
            check_fault_level(fault, level)
        except ValueError as error:
            wrong.append(f"{key} = {level:g}, drift.model = {p.drift.model!r}: {error}")
    trained = {name for task in p.tasks for name in p.rows_of(task) if "sigma_train" in p.values(task, p.row(name))}
    if not traits_of(fault).differentiable:
        wrong += [f"methods.{name}: drift.model = {p.drift.model!r} has no gradient to train with; leave the row out"
                  for name in sorted(trained)]  # fmt: skip
    return wrong


def _levels(p: "Parameters", fault: FaultModel | FeatureFault) -> Iterator[tuple[str, float]]:
    """Every level at which the run uses `drift.model`, with its key."""
    yield "sigma_max", p.sigma_max
    blocks = {"pictures.sigmas": p.pictures.sigmas if DETECTION in p.tasks else (),
              "boundary.sigmas": () if isinstance(fault, FeatureFault) else p.boundary.sigmas,
              "calibration.details.sigmas": p.calibration.details.sigmas}  # fmt: skip
    for task in p.tasks:
        blocks[f"scales.{p.scale}: the grid of {task}"] = (0.0, p.budget(task).evaluate.sigma_step)
        for row in map(p.row, p.rows_of(task)):
            sigma_train = p.values(task, row).get("sigma_train")
            blocks[f"methods: sigma_train of {row.method} on {task}"] = () if sigma_train is None else (sigma_train,)
            found = p.row_search(task, row)
            blocks[f"search.sigmas of {task}"] = found.sigmas if found else blocks.get(f"search.sigmas of {task}", ())
    if p.study != "none":
        blocks["studies.sigma_max"] = (p.studies.sigma_max,)
    for key, levels in blocks.items():
        yield from ((key, level) for level in levels)


def _wrong_calibration(p: "Parameters") -> list[str]:
    """What is wrong with `calibration`: its rows must be there, and details need an accuracy."""
    c, rows = p.calibration, ", ".join(p.methods)
    named = {"methods": c.methods if c.methods != "all" else (), "details.methods": c.details.methods}
    wrong = [f"calibration.{key}: {name!r} is no row: must be among {rows}"
             for key, names in named.items() for name in names if name not in p.methods]  # fmt: skip
    wrong += [f"calibration.details.tasks: {task} has no accuracy: leave it out"
              for task in c.details.tasks if TASKS[task].metric != "accuracy"]  # fmt: skip
    return wrong


def _wrong_calibrated(key: str, grid: Grid) -> list[str]:
    """What is wrong with the grid of calibrated copies: they must be among those without calibration."""
    if grid.calibrated is None:
        return []
    wrong, steps = [], grid.calibrated.sigma_step / grid.sigma_step
    if abs(steps - round(steps)) > 1e-6:
        wrong.append(f"{key}: sigma_step = {grid.calibrated.sigma_step}: must be a multiple of {grid.sigma_step}")
    if grid.calibrated.draws > grid.draws:
        wrong.append(f"{key}: draws = {grid.calibrated.draws}: must be at most {grid.draws}")
    return wrong


def _wrong_row(p: "Parameters", name: str) -> list[str]:
    """What is wrong with one row of `methods`."""
    key = f"methods.{name}"
    try:
        row = p.row(name)
        method = load_method(row.method)
    except ValidationError as error:
        return [explain({**entry, "loc": ("methods", name, *entry["loc"])}) for entry in error.errors()]
    except ValueError as error:
        return [f"{key}: {error}"]
    if not _is_name(name):
        return [f"{key}: a row's name has letters, digits, _ and - alone"]
    wrong = []
    fields = tuple(method.Settings.model_fields)
    wrong += [f"{key}.{k} = {v!r}: {_unknown(k, fields + tuple(Row.model_fields)[:-1])}"
              for k, v in row.settings.items() if k not in fields]  # fmt: skip
    for task in row.tasks or ():
        if row.network.get("normalization", "") is None and not TASKS[task].normalized:
            having = ", ".join(name for name, t in TASKS.items() if t.normalized)
            wrong.append(f"{key}.tasks: {task} has no batch norm to leave out; allowed: {having}")
    if name in TAKEN:
        wrong.append(f"{key}: data/models or data/results has a folder of this name for something else")
    wrong += _wrong_change(f"{key}.search", row.search or {})
    if row.search is not None and method.searched_as == "method":  # the base class, which has none
        wrong.append(f"{key}.search: {row.method} has no hyperparameters to search")
    for key_of, value in row.settings.items():
        surplus = [data for data in value if data not in DATA] if isinstance(value, dict) else []
        wrong += [f"{key}.{key_of}.{data}: must be one of {', '.join(DATA)}" for data in surplus]
    elsewhere = [task for task in p.studies.tasks if p.study != "none" and name in p.study_methods()]
    elsewhere += [FTT_TASK] if p.ftt.faults and name in FTT_METHODS else []
    for task in dict.fromkeys((*p.tasks, *elsewhere)):
        if wrong or not (row.tasks is None or task in row.tasks or task in elsewhere):
            continue
        try:
            p.values(task, row)
        except ValidationError as error:
            wrong += [explain({**entry, "loc": ("methods", name, *entry["loc"])}) for entry in error.errors()]
        except ValueError as error:
            if TASKS[task].metric == "accuracy" or method.detects:
                wrong.append(f"{key}.{error}")
    return wrong


def _is_name(name: str) -> bool:
    return all(part.replace("_", "").isalnum() for part in name.split("-"))


def _wrong_network(p: "Parameters", task: str, name: str) -> list[str]:
    """What a task's network, with a row's changes, is given and does not take."""
    wrong, change = [], p.row(name).network
    specification = p.specification(task, change)
    kind = specification.pop("network")
    known = DETECTOR if kind == "detector" else tuple(signature(NETWORKS[kind]).parameters)
    for key, value in specification.items():
        where = f"methods.{name}.network.{key}" if key in change else f"scales.{p.scale}: network.{key}"
        if key not in known:
            wrong.append(f"{where} = {value!r}, of {task}: {_unknown(key, known)}")
        elif key in NETWORK_VALUES:
            allowed, said = NETWORK_VALUES[key]
            if not allowed(value):
                wrong.append(f"{where} = {value!r}, of {task}: must be {said}")
    return wrong


def _wrong_searches(p: "Parameters", task: str, names: list[str]) -> list[str]:
    wrong = []
    for name in names:
        row = p.row(name)
        if load_method(row.method).search is None and row.search is None:
            continue
        if TASKS[task].data not in p.search.sigmas:
            wrong.append(f"search.sigmas.{TASKS[task].data}: missing; {task} needs it")
        key = f"methods.{name}.search" if row.search else f"scales.{p.scale} or search, for {name} on {task}"
        wrong += _wrong_search(key, lambda row=row: p.row_search(task, row))
    return wrong


def _wrong_change(key: str, change: Mapping[str, Any]) -> list[str]:
    """What is wrong with the entries of a change of `search`, each by itself."""
    wrong = []
    for name, value in change.items():
        if name not in CHANGES:
            wrong.append(f"{key}.{name} = {value!r}: {_unknown(name, CHANGES)}")
            continue
        try:
            CHANGES[name].validate_python(value, strict=True)
        except ValidationError as error:
            wrong += [explain({**entry, "loc": (key, name, *entry["loc"])}) for entry in error.errors()]
    return wrong


def _wrong_search(key: str, settings: Any) -> list[str]:
    """What is wrong with a search, all of its changes together."""
    try:
        found = settings()
    except ValidationError as errors:
        lines = []
        for error in errors.errors():
            where, message = ".".join(map(str, (key, *error["loc"]))), error["msg"].removeprefix("Value error, ")
            value = f" = {error['input']!r}" if error["loc"] else ""
            lines.append(f"{where}{value}: {message[0].lower()}{message[1:]}")
        return lines
    if found.strategy == "gp" and found.initial >= found.trials:
        return [
            f"{key}: initial = {found.initial}: must be less than trials = {found.trials}, or every trial is random"
        ]
    return []


def _unknown(key: object, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(str(key), known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}Allowed here: {', '.join(known)}"


def explain(error: Mapping[str, Any], schema: Any = None, budget: Any = Budget) -> str:
    """One line of a validation error: the key, its value, what is allowed.

    Args:
        error: An entry of pydantic's `errors()`.
        schema: The model that the key's path starts in; None: it starts with `scales`, a scale and a layer.
        budget: Without a schema, the model of a layer.

    Returns:
        The line.
    """
    where = [part for part in error["loc"] if part != "[key]"]
    key = ".".join(map(str, where))
    if error["type"] == "extra_forbidden":
        model: Any = schema or budget
        for part in where[:-1] if schema else where[3:-1]:
            if isinstance(model, type) and issubclass(model, BaseModel):
                model = model.model_fields[part].annotation
            elif get_origin(model) is dict:
                model = get_args(model)[1]
        known = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else ()
        return f"{key} = {error['input']!r}: {_unknown(str(where[-1]), known)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    if isinstance(value, float) and math.isnan(value):
        value = "nan"
    if isinstance(value, tuple):
        value = list(value)
    return f"{key} = {value!r}: {message[0].lower()}{message[1:]}"
