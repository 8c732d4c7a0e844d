"""params.yaml, checked against a schema, and what it means for each task."""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
    create_model,
)
from ruamel.yaml import YAML, YAMLError

from bayesft.data.fetch import checked_mirror
from bayesft.drift import FaultModel, FeatureFault, any_fault
from bayesft.drift.faults import check_fault_level, traits_of
from bayesft.fault_tolerance import ROWS as FTT_ROWS
from bayesft.methods import load as load_method
from bayesft.models.networks import NETWORKS
from bayesft.settings import Recipe, SearchSettings, Settings
from bayesft.tasks import ABLATIONS, DETECTION, FACTORS, IMAGES, TASKS, range_of

PARAMETERS = Path("params.yaml")
SCALES = "scales.yaml"  # beside it: the budgets
MOST_POINTS = 1000  # of a grid of σ
DATA = tuple(dict.fromkeys(task.data for task in TASKS.values()))
LAYERS = ("all", *DATA, *dict.fromkeys(t.family for t in TASKS.values() if t.family), "ablation",
          *(f"ablation-{name}" for name in ABLATIONS), *TASKS)  # fmt: skip
PARTS = ("images", "pixels", "network", "rows", "train", "search", "evaluate")
DETECTOR = ("backbone", "size")  # what the detector takes, whose module is slow to import
NETWORK_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {  # what building a network alone would not find
    "width": (lambda value: type(value) in (int, float) and value > 0, "a number greater than 0"),
    "size": (lambda value: type(value) is int and value >= 32, "a whole number of at least 32"),
    "backbone": (lambda value: value in ("slim", "resnet18", "resnet50"), "slim, resnet18 or resnet50"),
}
NO_CONVOLUTION = ("mlp-mnist",)
FTT_TASK = "resnet18-cifar10"  # whose settings other chapters' methods have in that on fault-tolerant training
FTT_METHODS = {row.method for row in FTT_ROWS.values()}
FTT = "ftt"  # beside the layers of a scale: the budget of the chapter on fault-tolerant training
UNSEARCHED = ("uniform", "drift_dropout")  # what the study compares searches with: methods with given hyperparameters
TAKEN = ("ablation", "study", "ftt", "ftt-search")  # names of folders beside those of the rows


class ParameterError(ValueError):
    """params.yaml has a value or a key that is not allowed; the message names it and says what is."""


def _one_of(allowed: Iterable[str]) -> AfterValidator:
    allowed = tuple(allowed)

    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return AfterValidator(check)


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("an entry is listed twice")
    return values


def _suffix(value: str) -> str:
    if value and not re.fullmatch(r"(-[a-z0-9]+)+", value):
        raise ValueError('must be "", or words of small letters and digits, each after a hyphen: "-mnist"')
    return value


Distinct = AfterValidator(_distinct)
Positive = Annotated[StrictInt, Field(gt=0)]
Seeds = Annotated[tuple[Annotated[StrictInt, Field(ge=0, lt=2**31)], ...], Distinct]
Sigma = Annotated[NonNegativeFloat, Field(le=10)]
SomeSigma = Annotated[PositiveFloat, Field(le=10)]
Sigmas = Annotated[tuple[Sigma, ...], Field(min_length=1, max_length=MOST_POINTS), Distinct]
Draws = Annotated[StrictInt, Field(ge=2, le=100_000)]
DataName = Annotated[str, _one_of(DATA)]
TaskName = Annotated[str, _one_of(TASKS)]


class Row(Settings):
    """A row of the report. The method's settings stand beside these keys."""

    method: str
    network: dict[str, Any] = {}
    search: dict[str, Any] | None = None
    tasks: Annotated[tuple[TaskName, ...], Distinct] | None = None
    settings: dict[str, Any] = {}


class Ablated(Settings):
    """The data sets and factors of Figure 2."""

    data: Annotated[tuple[Annotated[str, _one_of(ABLATIONS)], ...], Distinct]
    factors: Annotated[tuple[Annotated[str, _one_of(FACTORS)], ...], Field(min_length=1), Distinct]


class Pictured(Settings):
    """The pictures of Figure 4."""

    images: Annotated[StrictInt, Field(gt=0, le=20)]
    sigmas: Annotated[tuple[Sigma, ...], Field(min_length=1, max_length=8), Distinct]


class Boundary(Settings):
    """Figure 1."""

    sigmas: Annotated[tuple[Sigma, ...], Field(min_length=1, max_length=8), Distinct]
    epochs: Positive
    lr: PositiveFloat
    points: Annotated[StrictInt, Field(ge=20, le=100_000)]
    draws: Draws


class Details(Settings):
    """What else is asked of calibration, of some rows on some tasks: other numbers of images, layers and levels."""

    tasks: Annotated[tuple[TaskName, ...], Distinct]
    methods: Annotated[tuple[str, ...], Distinct]
    images: Annotated[tuple[Annotated[StrictInt, Field(ge=2)], ...], Distinct]
    sigmas: Annotated[tuple[Sigma, ...], Distinct, Field(max_length=5)]  # a curve each, and two more


class Calibration(Settings):
    """Which rows are evaluated with calibrated copies too, and how. `evaluate` alone reads it."""

    images: Annotated[StrictInt, Field(ge=2)]
    layers: Literal["all", "weights"]
    methods: Literal["all"] | Annotated[tuple[str, ...], Distinct]
    details: Details


class Data(Settings):
    """Where data sets come from."""

    source: Literal["embedded", "official"]
    mirror: str | None


class Drift(Settings):
    """The fault model of the whole run."""

    model: str
    settings: dict[str, Any] = {}
    parameters: Literal["all", "weights", "convolutions"]


class Steps(Settings):
    """What all trainings share."""

    weight_decay: NonNegativeFloat
    clip_norm: PositiveFloat


class Parallel(Settings):
    """How the items of a stage are spread over processes. It decides no result."""

    backend: Literal["fork", "loky", "ray"]
    jobs: Annotated[StrictInt, Field(ge=0, le=1024)]


class Compared(Settings):
    """One search of the study: of which method's hyperparameters, and how `search` is changed for it."""

    title: str
    method: str = "bayesft"
    search: dict[str, Any]


class Studies(Settings):
    """The study of the search."""

    tasks: Annotated[tuple[TaskName, ...], Distinct]
    seeds: Annotated[Seeds, Field(min_length=1)]
    sigma_max: SomeSigma
    landscape: Annotated[StrictInt, Field(ge=3, le=25)]
    reference: str
    small: Annotated[tuple[str, ...], Distinct]
    strategies: dict[str, Compared]
    options: dict[str, Compared]


class Fault(Settings):
    """A fault of the chapter on fault-tolerant training.

    level: of training and test. It is that of networks of 20 channels, where it depends on the channels (mibb).
    alpha_reward: α_r of a search. settings: of the fault.
    """

    level: PositiveFloat
    alpha_reward: Annotated[float, Field(ge=0, le=1)]
    settings: dict[str, Any] = {}


class FaultTolerance(Settings):
    """The chapter on fault-tolerant training and architecture search."""

    faults: dict[Annotated[str, _one_of(("stuck", "mibb"))], Fault]
    alpha_loss: Annotated[float, Field(ge=0, le=1)]
    bits: Annotated[StrictInt, Field(ge=2, le=16)]


class Counts(Settings):
    """How many images of each part are used; null for all."""

    train: Positive | None
    validation: Positive | None
    test: Positive | None


class Length(Settings):
    """How long a training is."""

    epochs: Positive
    batch_size: Annotated[StrictInt, Field(ge=2, le=1_000_000)]
    lr: PositiveFloat
    clip_norm: PositiveFloat | None = None


class CalibratedGrid(Settings):
    """The levels and draws of an evaluation with calibration."""

    sigma_step: SomeSigma
    draws: Draws


class Grid(Settings):
    """The levels and draws of an evaluation."""

    sigma_step: SomeSigma
    draws: Draws
    calibrated: CalibratedGrid | None = None  # of calibrated copies; None: the same


class Budget(Settings):
    """What a task costs at a scale."""

    images: Counts
    pixels: Annotated[StrictInt, Field(ge=8)] | None
    network: dict[str, Any]
    rows: Annotated[tuple[str, ...], Distinct] | None
    train: Length
    search: dict[str, Any]
    evaluate: Grid


class FttNetworks(Settings):
    """channels, cells, nodes of the searched networks; resnet, mobile: channels of ResNet-20, width of MobileNet-V2."""

    channels: Positive
    cells: Annotated[StrictInt, Field(ge=2, le=100)]
    nodes: Annotated[StrictInt, Field(ge=1, le=8)]
    stem_stride: Literal[1, 2]
    resnet: Positive
    mobile: PositiveFloat


class FttSearch(Settings):
    """How architectures are searched: `shared` is the training of a shared network with α_l = `alpha_loss`."""

    strategy: Literal["random", "evolution", "reinforce"]
    candidates: Positive
    batch: Positive
    top: Positive
    images: Positive
    draws: Positive
    gate: Annotated[StrictInt, Field(ge=3)]
    networks: Annotated[StrictInt, Field(ge=1, le=8)]
    alpha_loss: Annotated[float, Field(ge=0, le=1)]
    shared: Length
    alone: Annotated[tuple[tuple[Positive, Positive], ...], Field(min_length=1)]


class FttGrid(Settings):
    """levels: by fault, relative to the fault's own level; of lognormal as they are, up to the last one."""

    levels: dict[Annotated[str, _one_of(("stuck", "mibb", "lognormal"))], Sigmas]
    devices: Draws
    examples: Annotated[StrictInt, Field(ge=2)]


class FttBudget(Settings):
    """What the chapter on fault-tolerant training costs at a scale.

    seeds: how many seeds each row of a fault is trained with. carried: rows that are measured under every fault.
    calibrated: rows that are measured with each calibration too.
    """

    images: Counts
    network: FttNetworks
    train: Length
    search: FttSearch
    seeds: dict[Annotated[str, _one_of(("stuck", "mibb"))], dict[Annotated[str, _one_of(FTT_ROWS)], Positive]]
    carried: Annotated[tuple[Annotated[str, _one_of(FTT_ROWS)], ...], Distinct]
    calibrated: Annotated[tuple[Annotated[str, _one_of(FTT_ROWS)], ...], Distinct]
    evaluate: FttGrid


# What a change of `search` may have: that of a layer, of a row, or of the study.
FINITE = ConfigDict(allow_inf_nan=False)
CHANGES = {
    name: TypeAdapter(field.rebuild_annotation(), config=FINITE) for name, field in SearchSettings.model_fields.items()
}
CHANGES |= {"epochs": TypeAdapter(Positive | None), "inherited_epochs": TypeAdapter(Positive)}
CHANGES["sigmas"] = TypeAdapter(Sigmas, config=FINITE)
Rule = create_model(
    "Rule",
    __base__=Settings,
    inherited_epochs=(Positive, ...),
    epochs=(Positive | None, ...),
    sigmas=(dict[DataName, Sigmas], ...),
    **{
        name: (field.rebuild_annotation(), ...)
        for name, field in SearchSettings.model_fields.items()
        if name not in ("epochs", "sigmas")
    },
)


class Parameters(Settings):
    """All of params.yaml."""

    scale: Literal["smoke", "quick", "medium", "paper"]
    sigma_max: SomeSigma
    report: Annotated[str, AfterValidator(_suffix)]
    tasks: Annotated[tuple[TaskName, ...], Distinct]
    seeds: Annotated[Seeds, Field(min_length=1)]
    more_seeds: dict[DataName, Seeds]
    methods: dict[str, dict[str, Any]]
    ablation: Ablated
    study: Literal["none", "small", "full"]
    pictures: Pictured
    boundary: Boundary
    calibration: Calibration
    data: Data
    drift: Drift
    recipe: Steps
    device: Literal["auto", "cpu", "cuda"]
    kernels: Literal["avx2", "native"]
    threads: Annotated[StrictInt, Field(gt=0, le=1024)]
    parallel: Parallel
    search: Rule
    studies: Studies
    ftt: FaultTolerance
    scales: dict[
        Literal["smoke", "quick", "medium", "paper"], dict[Annotated[str, _one_of((*LAYERS, FTT))], dict[str, Any]]
    ]

    @property
    def mirror(self) -> str | None:
        """Where published files are looked for first. Raises ValueError for an address that is not allowed."""
        return checked_mirror(self.data.mirror or os.environ.get("BAYESFT_MIRROR"))

    def row(self, name: str) -> Row:
        """A row of the report."""
        given = self.methods[name]
        own = {key: value for key, value in given.items() if key in Row.model_fields}
        rest = {key: value for key, value in given.items() if key not in own}
        return Row.model_validate({"method": name, **own, "settings": rest}, strict=True)

    def layers(self, task: str) -> tuple[str, ...]:
        """The layers of a task's budget, in the order in which they change one another."""
        if task in TASKS:
            family = (TASKS[task].family,) if TASKS[task].family else ()
            return ("all", TASKS[task].data, *family, task)
        return ("all", task.removeprefix("ablation-"), "ablation", task)

    def budget(self, task: str, scale: str | None = None) -> Budget:
        """The budget of a task, or of an ablation ("ablation-mnist"), at a scale."""
        merged: dict[str, Any] = {}
        for layer in self.layers(task):
            for part, value in self.scales[scale or self.scale].get(layer, {}).items():
                # A network's change replaces the one before it: networks have no keys in common.
                joined = isinstance(value, dict) and isinstance(merged.get(part), dict) and part != "network"
                merged[part] = {**merged[part], **value} if joined else value
        return Budget.model_validate(merged, strict=True)

    def seeds_of(self, task: str) -> tuple[int, ...]:
        """The training seeds of a task."""
        data = TASKS[task].data if task in TASKS else task.removeprefix("ablation-")
        return tuple(sorted({*self.seeds, *self.more_seeds.get(data, ())}))

    def rows_of(self, task: str) -> list[str]:
        """The rows of a task, in the order of params.yaml."""
        afforded = self.budget(task).rows
        rows = []
        for name in self.methods:
            row = self.row(name)
            fits = load_method(row.method).detects or TASKS[task].metric == "accuracy"
            if fits and (row.tasks is None or task in row.tasks) and (afforded is None or name in afforded):
                rows.append(name)
        return rows

    def calibrated(self, task: str, name: str) -> dict[str, Any] | None:
        """How copies of a row are calibrated on a task, or None where they are not."""
        c, grid = self.calibration, self.budget(task).evaluate
        if c.methods != "all" and name not in c.methods:
            return None
        of, details = grid.calibrated or grid, c.details
        asked = task in details.tasks and name in details.methods
        return {
            "images": c.images,
            "layers": c.layers,
            "sigma_step": of.sigma_step,
            "draws": of.draws,
            "details": {"images": details.images, "sigmas": details.sigmas} if asked else None,
        }

    def recipe_of(self, task: str) -> Recipe:
        """The recipe that every row is trained with on a task."""
        length = self.budget(task).train.model_dump(exclude_none=True)
        return Recipe(**{**self.recipe.model_dump(), **length})

    def specification(self, task: str, network: Mapping[str, Any] = {}) -> dict:
        """What `build` makes the task's network of, with the changes of a row."""
        return {**TASKS[task].specification, **self.budget(task).network, **network}

    def values(self, task: str, row: Row) -> dict[str, Any]:
        """The settings of a row's method on a task, checked: a value by data set is looked up."""
        settings, data = {}, TASKS[task].data
        for key, value in row.settings.items():
            if isinstance(value, dict):
                if data not in value:
                    raise ValueError(f"{key}.{data}: missing; {task} needs it")
                value = value[data]
            settings[key] = value
        return load_method(row.method).Settings.model_validate(settings, strict=True).model_dump()

    def search_settings(self, task: str, *changes: Mapping[str, Any]) -> SearchSettings:
        """The rule and the budget of a search on a task: `search`, changed by the budget and then by each change."""
        rule = self.search.model_dump()
        rule["sigmas"] = rule["sigmas"].get(TASKS[task].data, (1.0,))
        for change in (self.budget(task).search, *changes):
            rule |= change
        inherited = rule.pop("inherited_epochs")
        if rule["weights"] == "inherit":
            rule["epochs"] = inherited
        elif rule["epochs"] is None:
            rule["epochs"] = self.budget(task).train.epochs
        return SearchSettings.model_validate(rule, strict=True)

    def ftt_budget(self, scale: str | None = None) -> FttBudget:
        """The budget of the chapter on fault-tolerant training at a scale."""
        return FttBudget.model_validate(self.scales[scale or self.scale].get(FTT), strict=True)

    def row_search(self, task: str, row: Row) -> SearchSettings | None:
        """The search of a row's hyperparameters on a task, or None where they are given."""
        own = load_method(row.method).search
        if own is None and row.search is None:
            return None
        return self.search_settings(task, own or {}, row.search or {})

    def study_names(self) -> list[str]:
        """The searches that the study runs."""
        if self.study == "none":
            return []
        every = [*self.studies.strategies, *self.studies.options]
        return every if self.study == "full" else [name for name in every if name in self.studies.small]

    def study_methods(self) -> set[str]:
        """The methods that the study trains, whose settings are those of the row of the same name."""
        groups = (self.studies.strategies, self.studies.options)
        return {*UNSEARCHED, "bayesft", *(of.method for group in groups for of in group.values())}

    def study_search(self, task: str, name: str) -> tuple[str, SearchSettings]:
        """One search of the study: the method, and the settings. An option is a change of the reference."""
        studies = self.studies
        if name in studies.strategies:
            of = studies.strategies[name]
            return of.method, self.search_settings(task, of.search)
        reference = studies.strategies[studies.reference]
        return reference.method, self.search_settings(task, reference.search, studies.options[name].search)


def read(path: Path = PARAMETERS) -> dict:
    """The content of a file of parameters, by the rules of YAML 1.2, which DVC uses too.

    Raises:
        ParameterError: The file is no YAML, or no mapping.
    """
    try:
        content = YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ParameterError(f"{path} can't be read: {error}") from None
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: need a mapping of keys, got {content!r}")
    return content


def read_all(path: Path = PARAMETERS) -> dict:
    """The content of params.yaml, and under `scales` that of scales.yaml beside it.

    Raises:
        ParameterError: One of them can't be read, or params.yaml has budgets too.
    """
    content = read(path)
    if "scales" in content:
        raise ParameterError(f"{path}: scales: unknown key; budgets stand in {SCALES}")
    return {**content, "scales": read(Path(path).with_name(SCALES))}


def load(path: Path = PARAMETERS) -> Parameters:
    """Read and check the parameters.

    Raises:
        ParameterError: Something is wrong. The message has a line for everything that is.
    """
    content = read_all(path)
    try:
        parameters = Parameters.model_validate(_tuples(content), strict=True)
        wrong = _layers(parameters) or _contradictions(parameters) + _wrong_mirror(parameters)
    except ValidationError as error:
        wrong = [explain(entry, Parameters) for entry in error.errors()]
    if wrong:
        raise ParameterError(f"{path}, {SCALES}:\n  " + "\n  ".join(dict.fromkeys(wrong)))
    return parameters


def load_part(key: str, path: Path = PARAMETERS) -> Any:
    """One checked entry of params.yaml, such as `sigma_max`, for a stage that reads nothing else of it."""
    field = Parameters.model_fields[key]
    try:
        return TypeAdapter(field.rebuild_annotation()).validate_python(_tuples(read(path).get(key)), strict=True)
    except ValidationError as error:
        lines = [explain({**entry, "loc": (key, *entry["loc"])}, Parameters) for entry in error.errors()]
        raise ParameterError(f"{path}:\n  " + "\n  ".join(lines)) from None


def _tuples(value: Any) -> Any:
    """Tuples for the lists of a file. The schema is strict: it makes no number of a text, nor of yes or no."""
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _wrong_mirror(p: Parameters) -> list[str]:
    """What is wrong with the mirror. It may hold a password, so its value is not shown."""
    try:
        _ = p.mirror
    except ValueError as error:
        return [f"data.mirror, or BAYESFT_MIRROR: {error}"]
    return []


def _layers(p: Parameters) -> list[str]:
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


def _origin(p: Parameters, scale: str, task: str, loc: tuple) -> tuple:
    """The layer that a wrong entry of a merged budget comes from, before the entry's own path."""
    for layer in reversed(p.layers(task)):
        found: Any = p.scales[scale].get(layer, {})
        for part in loc[:2]:
            found = found.get(part, _NOTHING) if isinstance(found, dict) else found
        if found is not _NOTHING and found != {}:
            return (layer, *loc)
    return ("all", *loc)


_NOTHING = object()


def _wrong_ftt(p: Parameters, scale: str, budget: FttBudget) -> list[str]:
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


def _contradictions(p: Parameters) -> list[str]:
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
    grids = {task: p.sigma_max for task in (*p.tasks, *(f"ablation-{data}" for data in p.ablation.data))}
    grids |= {task: max(p.sigma_max, p.studies.sigma_max) for task in p.studies.tasks if p.study != "none"}
    for task, end in grids.items():
        step = p.budget(task).evaluate.sigma_step
        if end / step > MOST_POINTS:
            wrong.append(f"scales.{p.scale}: sigma_step = {step} of {task}: more than {MOST_POINTS} points up to {end}")
    studies = p.studies
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
    wrong += [f"studies: the title {title!r} stands twice" for title in set(titles) if titles.count(title) > 1]
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
    if p.study != "none" and not wrong:
        for task in studies.tasks:
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


def _wrong_levels(p: Parameters, fault: FaultModel | FeatureFault) -> list[str]:
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


def _levels(p: Parameters, fault: FaultModel | FeatureFault) -> Iterator[tuple[str, float]]:
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


def _wrong_calibration(p: Parameters) -> list[str]:
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


def _wrong_row(p: Parameters, name: str) -> list[str]:
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


def _wrong_network(p: Parameters, task: str, name: str) -> list[str]:
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


def _wrong_searches(p: Parameters, task: str, names: list[str]) -> list[str]:
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
    """One line of a validation error: the key, its value, what is allowed."""
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
