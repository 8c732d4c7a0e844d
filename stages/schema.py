"""The schema of params.yaml and of scales.yaml: which keys there are, and which values each may have."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    StrictInt,
    TypeAdapter,
    create_model,
)

from bayesft.fault_tolerance import ROWS as FTT_ROWS
from bayesft.settings import SearchSettings, Settings
from bayesft.tasks import ABLATIONS, FACTORS, TASKS

PARAMETERS = Path("params.yaml")
SCALES = "scales.yaml"  # beside it: the budgets
MOST_POINTS = 1000  # of a grid of σ
DATA = tuple(dict.fromkeys(task.data for task in TASKS.values()))
LAYERS = ("all", *DATA, *dict.fromkeys(t.family for t in TASKS.values() if t.family), "ablation",
          *(f"ablation-{name}" for name in ABLATIONS), *TASKS)  # fmt: skip
FTT_TASK = "resnet18-cifar10"  # whose settings other chapters' methods have in that on fault-tolerant training
FTT = "ftt"  # beside the layers of a scale: the budget of the chapter on fault-tolerant training
UNSEARCHED = ("uniform", "drift_dropout")  # what the study compares searches with: methods with given hyperparameters


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

    Args:
        level: That of training and test. Where it depends on the channels (mibb), it is that of networks of 20
            channels.
        alpha_reward: α_r of a search.
        settings: Those of the fault.
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
    """The networks of the chapter on fault-tolerant training.

    Args:
        channels: Those of a node of the first cells.
        cells: The number of cells.
        nodes: The number of nodes of a cell.
        stem_stride: The stride of the first convolution of every network.
        resnet: The channels of ResNet-20's first stage.
        mobile: The channels of MobileNet-V2, relative to the published ones.
    """

    channels: Positive
    cells: Annotated[StrictInt, Field(ge=2, le=100)]
    nodes: Annotated[StrictInt, Field(ge=1, le=8)]
    stem_stride: Literal[1, 2]
    resnet: Positive
    mobile: PositiveFloat


class FttSearch(Settings):
    """How architectures are searched.

    Args:
        strategy, candidates, batch, top: As for `ArchitectureSearch`.
        images: The number of validation images of a reward.
        draws: D, the number of faulty copies of a reward.
        gate: The number of random architectures that two shared networks rank.
        networks: The number of shared networks of FTT-NAS, whose rewards are averaged.
        alpha_loss: α_l, the share of the loss under the fault in a shared training.
        shared: The training of a shared network.
        alone: For each round of successive halving, how many architectures train for how many epochs.
    """

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
    """How networks of the chapter are measured.

    Args:
        levels: By fault, relative to the fault's own level; those of lognormal are σ itself, and the last one is its
            own.
        devices: T, the number of devices.
        examples: The number of unlabelled training images of a calibration.
    """

    levels: dict[Annotated[str, _one_of(("stuck", "mibb", "lognormal"))], Sigmas]
    devices: Draws
    examples: Annotated[StrictInt, Field(ge=2)]


class FttBudget(Settings):
    """What the chapter on fault-tolerant training costs at a scale.

    Args:
        images: How many images of each part are used.
        network: The sizes of the networks.
        train: The training of every row.
        search: The search of architectures.
        seeds: By fault, with how many seeds each row is trained.
        carried: Rows that are measured under every fault.
        calibrated: Rows that are measured with each calibration too.
        evaluate: The levels and devices.
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


class Knobs(Settings):
    """All of params.yaml, and of scales.yaml under `scales`."""

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
