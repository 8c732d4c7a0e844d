"""params.yaml, checked against a schema. Light to import: no tensor library."""

import difflib
import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from bayesft.settings import Recipe, SearchBudget, SearchRule, SearchSettings, Settings
from bayesft.tasks import ABLATION, TASKS


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


class Methods(Settings):
    train: Annotated[tuple[Literal["erm", "awp", "uniform"], ...], Distinct]
    adapt: Annotated[tuple[Literal["ftna", "reram_v"], ...], Distinct]
    drift: Annotated[tuple[Literal["drift_aware"], ...], Distinct]
    search: Annotated[tuple[Literal["bayesft", "random"], ...], Distinct]


class Data(Settings):
    source: Literal["embedded", "official"]
    mirror: str | None


class Drift(Settings):
    model: Literal["lognormal"]
    parameters: Literal["all", "weights"]


class Steps(Settings):
    lr: PositiveFloat
    weight_decay: float = Field(ge=0)
    clip_norm: PositiveFloat


class Nothing(Settings):
    pass


class Awp(Settings):
    gamma: PositiveFloat


class Uniform(Settings):
    rate: Rate


class ReramV(Settings):
    sigma_device: PositiveFloat
    rounds: int = Field(ge=1, le=9)


class DriftAware(Settings):
    sigma_train: PositiveFloat


class Training(Settings):
    recipe: Steps
    erm: Nothing
    awp: Awp
    uniform: Uniform
    ftna: Nothing
    reram_v: ReramV
    drift_aware: DriftAware


class Boundary(Settings):
    sigmas: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    epochs: PositiveInt
    points: int = Field(ge=20)
    draws: int = Field(ge=2)


class Counts(Settings):
    train: PositiveInt | None
    validation: PositiveInt | None
    test: PositiveInt | None


class Length(Settings):
    epochs: PositiveInt
    batch_size: int = Field(ge=2)


class Grid(Settings):
    sigma_step: PositiveFloat
    draws: int = Field(ge=2)


class Scale(Settings):
    data: Counts
    train: Length
    devices: PositiveInt
    search: SearchBudget
    evaluate: Grid


class Scales(Settings):
    smoke: Scale
    quick: Scale
    paper: Scale


class Parameters(Settings):
    """All of params.yaml."""

    scale: Literal["smoke", "quick", "paper"]
    sigma_max: PositiveFloat
    tasks: Annotated[tuple[Annotated[str, _one_of(TASKS)], ...], Field(min_length=1), Distinct]
    ablations: Annotated[tuple[Annotated[str, _one_of(ABLATION)], ...], Distinct]
    methods: Methods
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), Distinct]
    data: Data
    device: Literal["auto", "cpu", "cuda"]
    threads: PositiveInt
    drift: Drift
    training: Training
    search: SearchRule
    boundary: Boundary
    scales: Scales

    @property
    def budget(self) -> Scale:
        """The block of the chosen scale."""
        return getattr(self.scales, self.scale)

    @property
    def recipe(self) -> Recipe:
        """The recipe that every method is trained with."""
        return Recipe(**self.training.recipe.model_dump(), **self.budget.train.model_dump())

    @property
    def search_settings(self) -> SearchSettings:
        """The rule and the budget of the search."""
        return SearchSettings(**self.search.model_dump(), **self.budget.search.model_dump())

    @property
    def all_methods(self) -> list[str]:
        """Every method of the run, in the order in which reports show them."""
        order = ("erm", "ftna", "reram_v", "awp", "drift_aware", "uniform", "random", "bayesft")
        chosen = {m for group in self.methods.model_dump().values() for m in group}
        return [method for method in order if method in chosen]

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
    if parameters.methods.adapt and "erm" not in parameters.methods.train:
        raise ParameterError(
            f"{path}:\n  methods.train = {list(parameters.methods.train)}: must have erm, since "
            f"{', '.join(parameters.methods.adapt)} (methods.adapt) start from it"
        )
    return parameters


def _explain(error: dict, content: dict) -> str:
    """One line: the key, its value, what is allowed."""
    where = [part for part in error["loc"]]
    key = ".".join(map(str, where))
    if error["type"] == "extra_forbidden":
        model = Parameters
        for part in where[:-1]:
            model = model.model_fields[part].annotation
        known = list(model.model_fields)
        close = difflib.get_close_matches(str(where[-1]), known, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{key} = {error['input']!r}: unknown key; {hint}Allowed here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"
