"""params.yaml, checked against a schema. Light to import: no tensor library."""

import difflib
import os
import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from bayesft.settings import Recipe, SearchBudget, SearchRule, SearchSettings, Settings
from bayesft.tasks import ABLATIONS, CLASSIFICATION, DETECTION, FACTORS, TASKS


class ParameterError(ValueError):
    """params.yaml has a value or a key that is not allowed; the message names it and says what is."""


def _one_of(allowed) -> AfterValidator:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return AfterValidator(check)


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("an entry is listed twice")
    return values


Distinct = AfterValidator(_distinct)
Rate = Annotated[float, Field(ge=0, lt=1)]
TaskName = Annotated[str, _one_of(CLASSIFICATION)]
Tunable = Literal["awp", "drift_aware", "uniform", "drift_dropout", "bayesft"]
DataName = Literal["mnist", "cifar10", "gtsrb"]
AblationName = Annotated[str, _one_of(ABLATIONS)]
ONE_NUMBER = ("awp", "drift_aware", "uniform")  # methods that have a single number to tune
ONE_DIMENSION = 25  # trials that keep their distance from one another on a line, however badly they lie
TUNED = "-tuned"  # ends the name of a method variant: the same method, its numbers found by the search
NO_NORM = "-no-norm"  # ends the name of a method variant: the same method on the network without batch norm
WEIGHTS = [("none", "slim"), *((w, "resnet18") for w in ("none", "imagenet"))]  # what a detector can start from
WEIGHTS += [(w, "resnet50") for w in ("none", "imagenet", "coco")]
ORDER = ("erm", "ftna", "reram_v", "awp", "drift_aware", "uniform", "random", "bayesft", "drift_dropout")


class Methods(Settings):
    train: Annotated[tuple[Literal["erm", "awp", "uniform"], ...], Distinct]
    adapt: Annotated[tuple[Literal["ftna", "reram_v"], ...], Distinct]
    drift: Annotated[tuple[Literal["drift_aware", "drift_dropout"], ...], Distinct]
    search: Annotated[tuple[Literal["bayesft", "random"], ...], Distinct]


class FewMethods(Settings):
    train: Annotated[tuple[Literal["erm", "awp", "uniform"], ...], Distinct]
    search: Annotated[tuple[Literal["bayesft", "random"], ...], Distinct]


class Part(Settings):
    tasks: Annotated[tuple[TaskName, ...], Distinct]
    methods: FewMethods


class Tuned(Settings):
    tasks: Annotated[tuple[TaskName, ...], Distinct]
    methods: Annotated[tuple[Tunable, ...], Distinct]
    search: dict[str, Any]


class Searched(Settings):
    """One search of the study: of which method's numbers, and how `search` and its budget are changed for it."""

    method: Tunable = "bayesft"
    search: dict[str, Any]


class Study(Settings):
    tasks: Annotated[tuple[TaskName, ...], Distinct]
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), Distinct]
    jobs: PositiveInt
    sigma_max: PositiveFloat
    landscape: int = Field(ge=3, le=ONE_DIMENSION)
    reference: str
    strategies: dict[str, Searched]
    options: dict[str, dict[str, Any]]

    @property
    def searches(self) -> dict[str, Searched]:
        """All searches of the study, the strategies and the changes of the reference, by name."""
        reference = self.strategies[self.reference]
        changed = {
            name: reference.model_copy(update={"search": {**reference.search, **option}})
            for name, option in self.options.items()
        }
        return {**self.strategies, **changed}

    def lengths(self, name: str, settings: SearchSettings | None) -> tuple[int, ...]:
        """After how many trials a search of the study is looked at: thirds for strategies, but for a grid, which is
        none in pieces; the end for options, and 0 for no search."""
        if settings is None:
            return (0,)
        if name not in self.strategies or settings.strategy == "grid" or settings.batch > 1:
            return (settings.trials,)
        return tuple(dict.fromkeys(max(1, settings.trials * part // 3) for part in (1, 2, 3)))


class Ablated(Settings):
    data: Annotated[tuple[AblationName, ...], Distinct]
    factors: Annotated[tuple[Annotated[str, _one_of(FACTORS)], ...], Field(min_length=1), Distinct]


class Pictured(Settings):
    images: PositiveInt
    sigmas: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)


class Detection(Settings):
    tasks: Annotated[tuple[Annotated[str, _one_of((DETECTION,))], ...], Distinct]
    methods: Annotated[tuple[Literal["erm", "bayesft"], ...], Field(min_length=1), Distinct]
    weights: Literal["none", "imagenet", "coco"]
    sigmas: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    pictures: Pictured


class Data(Settings):
    source: Literal["embedded", "official"]
    mirror: str | None


class Drift(Settings):
    model: Literal["lognormal"]
    parameters: Literal["all", "weights"]


class Steps(Settings):
    weight_decay: float = Field(ge=0)
    clip_norm: PositiveFloat


class Nothing(Settings):
    pass


class Awp(Settings):
    gamma: PositiveFloat


class Uniform(Settings):
    rate: dict[DataName, Rate]


class ReramV(Settings):
    sigma_device: PositiveFloat
    rounds: int = Field(ge=1, le=9)


class DriftAware(Settings):
    sigma_train: dict[DataName, PositiveFloat]


class DriftDropout(Uniform, DriftAware):
    pass


class Training(Settings):
    recipe: Steps
    erm: Nothing
    awp: Awp
    uniform: Uniform
    ftna: Nothing
    reram_v: ReramV
    drift_aware: DriftAware
    drift_dropout: DriftDropout


class Search(SearchRule):
    sigmas: dict[DataName, Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]]


class Boundary(Settings):
    sigmas: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    epochs: PositiveInt
    lr: PositiveFloat
    points: int = Field(ge=20)
    draws: int = Field(ge=2)


class Counts(Settings):
    train: PositiveInt | None
    validation: PositiveInt | None
    test: PositiveInt | None


class Length(Settings):
    width: float = Field(gt=0, le=4)
    epochs: PositiveInt
    batch_size: int = Field(ge=2)
    lr: PositiveFloat


class Grid(Settings):
    sigma_step: PositiveFloat
    draws: int = Field(ge=2)


class AblationBudget(Settings):
    data: Counts
    train: Length
    evaluate: Grid


class Budget(AblationBudget):
    search: SearchBudget


class Detector(Settings):
    backbone: Literal["slim", "resnet18", "resnet50"]
    size: int = Field(ge=32)


class DetectorLength(Settings):
    epochs: PositiveInt
    batch_size: PositiveInt
    lr: PositiveFloat
    clip_norm: PositiveFloat


class DetectorSearch(SearchBudget):
    granularity: Literal["stage"] = "stage"  # a detector's sites are its parts


class DetectionBudget(Settings):
    data: Counts
    network: Detector
    train: DetectorLength
    search: DetectorSearch
    evaluate: Grid


class Scale(Settings):
    devices: PositiveInt
    detection: DetectionBudget
    tasks: dict[TaskName, Budget]
    ablation: dict[AblationName, AblationBudget]


class Scales(Settings):
    smoke: Scale
    quick: Scale
    medium: Scale
    paper: Scale


class Parameters(Settings):
    """All of params.yaml."""

    scale: Literal["smoke", "quick", "medium", "paper"]
    sigma_max: PositiveFloat
    tasks: Annotated[tuple[TaskName, ...], Distinct]
    methods: Methods
    deep: Part
    no_norm: Part
    tuned: Tuned
    study: Study
    ablation: Ablated
    detection: Detection
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), Distinct]
    data: Data
    device: Literal["auto", "cpu", "cuda"]
    threads: PositiveInt
    drift: Drift
    training: Training
    search: Search
    boundary: Boundary
    scales: Scales

    @property
    def chosen_scale(self) -> Scale:
        """The block of the chosen scale."""
        return getattr(self.scales, self.scale)

    @property
    def all_tasks(self) -> list[str]:
        """The tasks of the run, by panel."""
        return [task for task in TASKS if task in self.tasks + self.deep.tasks + self.detection.tasks]

    def budget(self, task: str) -> Budget | AblationBudget:
        """The budget of a task, or of an ablation ("ablation-mnist"), at the chosen scale."""
        name = task.removeprefix("ablation-")
        return self.chosen_scale.tasks[task] if name == task else self.chosen_scale.ablation[name]

    def recipe(self, task: str) -> Recipe:
        """The recipe that every method is trained with on a task."""
        length = self.budget(task).train
        return Recipe(**self.training.recipe.model_dump(), **length.model_dump(exclude={"width"}))

    def specification(self, task: str, method: str = "erm") -> dict:
        """The network of a task at the scale's width; without batch norm where the method's variant says so."""
        norm = {"normalization": None} if method.endswith(NO_NORM) else {}
        return {**TASKS[task].specification, "width": self.budget(task).train.width, **norm}

    def method_settings(self, task: str, method: str) -> dict:
        """The arguments of a method on a task: a value that depends on the data set is looked up."""
        values = getattr(self.training, base_method(method)).model_dump()
        return {key: v[TASKS[task].data] if isinstance(v, dict) else v for key, v in values.items()}

    @property
    def detector(self) -> dict:
        """The detector's specification."""
        return {**TASKS[DETECTION].specification, **self.chosen_scale.detection.network.model_dump(),
                "weights": self.detection.weights}  # fmt: skip

    @property
    def detection_recipe(self) -> Recipe:
        """The recipe of a detector's training, which clips at another norm than that of a classifier."""
        steps = {**self.training.recipe.model_dump(), **self.chosen_scale.detection.train.model_dump()}
        return Recipe(**steps)

    @property
    def detection_search(self) -> SearchSettings:
        """The rule and the budget of the search on a detector."""
        rule = {**self.search.model_dump(), "sigmas": self.detection.sigmas}
        return SearchSettings(**rule, **self.chosen_scale.detection.search.model_dump())

    def search_settings(self, task: str, method: str = "bayesft", **changes) -> SearchSettings:
        """The rule and the budget of the search on a task, with changes."""
        rule = {**self.search.model_dump(), "sigmas": self.search.sigmas[TASKS[task].data]}
        if base_method(method) == "random":
            rule["strategy"] = "random"
        return SearchSettings(**{**rule, **self.budget(task).search.model_dump(), **changes})

    def tuning_settings(self, task: str) -> SearchSettings:
        """The search that tunes any method on a task: of the same budget as BayesFT's, by the rule of `tuned`."""
        return self.search_settings(task, **self.tuned.search)

    def study_settings(self, task: str) -> dict[str, tuple[str, SearchSettings]]:
        """The searches of the study on a task by name: of which method's numbers, and how."""
        return {name: (of.method, self.search_settings(task, **of.search)) for name, of in self.study.searches.items()}

    def methods_of(self, task: str) -> list[str]:
        """The methods of a task, variants included, in the order in which reports show them."""
        groups = (self.deep.methods if task in self.deep.tasks else self.methods).model_dump().values()
        chosen = {m for group in groups for m in group}
        methods = [m for m in ORDER if m in chosen] + sorted(chosen - set(ORDER))
        if task in self.no_norm.tasks:
            controls = {m for group in self.no_norm.methods.model_dump().values() for m in group}
            methods += [m + NO_NORM for m in ORDER if m in controls]
        if task in self.tuned.tasks:
            methods += [m + TUNED for m in ORDER if m in self.tuned.methods]
        return methods

    @property
    def mirror(self) -> str | None:
        """Where published files are looked for first."""
        return self.data.mirror or os.environ.get("BAYESFT_MIRROR") or None


def load(path: Path = Path("params.yaml")) -> Parameters:
    """Read and check the parameters. Raises ParameterError with one line for everything that is wrong."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: need a mapping of keys, got {content!r}")
    try:
        parameters = Parameters.model_validate(content)
    except ValidationError as error:
        lines = [_explain(entry, content) for entry in error.errors()]
        raise ParameterError(f"{path}:\n  " + "\n  ".join(lines)) from None
    wrong = _contradictions(parameters)
    if wrong:
        raise ParameterError(f"{path}:\n  " + "\n  ".join(wrong))
    return parameters


def file_name(name: str) -> str:
    """The name of a search of the study, for files."""
    return re.sub(r"\W+", "-", name)


def base_method(method: str) -> str:
    """The method of a variant: "erm" of "erm-no-norm", "awp" of "awp-tuned"."""
    return method.removesuffix(NO_NORM).removesuffix(TUNED)


def _contradictions(p: Parameters) -> list[str]:
    """What is allowed entry by entry, and not together: one line each."""
    wrong = []
    if not p.all_tasks:
        wrong.append("tasks = []: need at least one task, here, in deep.tasks or in detection.tasks")
    backbone = p.chosen_scale.detection.network.backbone
    if p.detection.tasks and (p.detection.weights, backbone) not in WEIGHTS:
        allowed = ", ".join(w for w, b in WEIGHTS if b == backbone)
        wrong.append(f"detection.weights = {p.detection.weights!r}: the backbone {backbone} has only {allowed}")
    if p.methods.adapt and p.tasks and "erm" not in p.methods.train:
        wrong.append(
            f"methods.train = {list(p.methods.train)}: must have erm, since {', '.join(p.methods.adapt)} "
            "(methods.adapt) start from it"
        )
    for key, tasks, groups in (("methods", p.tasks, p.methods), ("deep.methods", p.deep.tasks, p.deep.methods)):
        if tasks and not any(groups.model_dump().values()):
            wrong.append(f"{key}: {', '.join(tasks)} need at least one method")
    budgets = {f"tasks.{t}": p.chosen_scale.tasks.get(t) for t in (*p.tasks, *p.deep.tasks)}
    for name, budget in {**budgets, "detection": p.chosen_scale.detection}.items():
        if budget and budget.search.initial >= budget.search.trials:
            search = budget.search
            wrong.append(
                f"scales.{p.scale}.{name}.search.initial = {search.initial}: must be less than trials = "
                f"{search.trials}, or every trial is random"
            )
    for task in p.deep.tasks:
        if task in p.tasks:
            wrong.append(f"deep.tasks = {list(p.deep.tasks)}: {task} is in tasks already; it can be in one of them")
    for task in p.no_norm.tasks:
        if task not in p.all_tasks:
            wrong.append(f"no_norm.tasks = {list(p.no_norm.tasks)}: {task} must be in tasks or deep.tasks too")
        if not TASKS[task].normalized:
            having = ", ".join(name for name, t in TASKS.items() if t.normalized)
            wrong.append(f"no_norm.tasks: {task} has no batch norm to drop; allowed: {having}")
    for key, tasks in (("tuned", p.tuned.tasks), ("study", p.study.tasks)):
        for task in tasks:
            if task not in p.tasks:
                wrong.append(f"{key}.tasks = {list(tasks)}: {task} must be in tasks too")
    for task in p.tasks + p.deep.tasks:
        if task not in p.chosen_scale.tasks:
            wrong.append(f"scales.{p.scale}.tasks.{task}: missing; the run's tasks need a budget each")
            continue
        for key, values in (
            ("training.uniform.rate", p.training.uniform.rate),
            ("training.drift_aware.sigma_train", p.training.drift_aware.sigma_train),
            ("training.drift_dropout.rate", p.training.drift_dropout.rate),
            ("training.drift_dropout.sigma_train", p.training.drift_dropout.sigma_train),
            ("search.sigmas", p.search.sigmas),
        ):
            if TASKS[task].data not in values:
                wrong.append(f"{key}.{TASKS[task].data}: missing; {task} needs it")
    names = [*p.study.strategies, *p.study.options, "uniform", "drift_dropout"]
    for name in names:
        if sum(file_name(other) == file_name(name) for other in names) > 1:
            wrong.append(
                f"study: the name {name!r} is taken: strategies and options need names that differ in letters or "
                "digits, and are no method"
            )
    if p.study.reference not in p.study.strategies:
        known = ", ".join(p.study.strategies)
        wrong.append(f"study.reference = {p.study.reference!r}: must be one of study.strategies ({known})")
    if not wrong:
        wrong += _wrong_searches(p)
    for name in p.ablation.data:
        if name not in p.chosen_scale.ablation:
            wrong.append(f"scales.{p.scale}.ablation.{name}: missing; ablation.data needs it")
    return list(dict.fromkeys(wrong))


def _wrong_searches(p: Parameters) -> list[str]:
    """Where changes of the search's settings, by themselves or together with the rest, are not allowed."""
    searches = [("search", {}, partial(p.search_settings, task), False) for task in (*p.tasks, *p.deep.tasks)]
    searches += [("search", {}, lambda: p.detection_search, False) for _ in p.detection.tasks]
    alone = any(method in ONE_NUMBER for method in p.tuned.methods)
    searches += [("tuned.search", p.tuned.search, partial(p.tuning_settings, task), alone) for task in p.tuned.tasks]
    for name, of in p.study.searches.items():
        key = f"study.strategies.{name}.search" if name in p.study.strategies else f"study.options.{name}"
        alone = of.method in ONE_NUMBER or name == p.study.reference  # with which equal trials are made, too
        searches += [(key, of.search, partial(p.search_settings, task, **of.search), alone) for task in p.study.tasks]
    wrong = []
    for key, change, settings, one_dimension in searches:
        try:
            found = settings()
        except ValidationError as errors:
            wrong += [_wrong_search(error, key, change) for error in errors.errors()]
            continue
        if one_dimension and found.trials > ONE_DIMENSION:
            wrong.append(f"{key}: trials = {found.trials}: where a single number is searched, at most {ONE_DIMENSION}")
        if found.strategy == "gp" and found.initial >= found.trials and change:
            wrong.append(
                f"{key} = {change!r}: initial = {found.initial} must be less than trials = {found.trials}, or every "
                "trial is random"
            )
    return wrong


def _wrong_search(error: dict, key: str, change: dict) -> str:
    where, message = ".".join(map(str, (key, *error["loc"]))), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key; allowed here: {', '.join(SearchSettings.model_fields)}"
    value = error["input"] if error["loc"] else change  # what no single key is to blame for: all that was changed
    return f"{where}: {message}" if value == {} else f"{where} = {value!r}: {message}"


def _explain(error: dict, content: dict) -> str:
    """One line: the key, its value, what is allowed."""
    where = [part for part in error["loc"] if part != "[key]"]
    key = ".".join(map(str, where))
    if error["type"] == "extra_forbidden":
        known = _keys(where[:-1])
        close = difflib.get_close_matches(str(where[-1]), known, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{key} = {error['input']!r}: unknown key; {hint}Allowed here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _keys(where: list) -> list[str]:
    """The keys that the schema has at a place."""
    model: object = Parameters
    for part in where:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[part].annotation
        else:  # a mapping by name: every entry has the same keys
            model = get_args(model)[1]
    return list(model.model_fields)
