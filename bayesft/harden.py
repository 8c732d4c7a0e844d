"""Tolerance to drift for anyone's network: what a search finds for it, and what that gains (docs/library.md).

The search, the training loop and the drifted copies are those of the study. Here is what stands between them and a
network that the study does not know: its data, its loss and metric, its sites, and a copy of it for every training.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bayesft.data import Split
from bayesft.drift import FaultModel, LogNormalDrift, drifted_parameters, monte_carlo
from bayesft.drift.montecarlo import in_every_place
from bayesft.evaluation.statistics import estimate, paired
from bayesft.methods import load
from bayesft.methods.drift_aware import drift_gradient
from bayesft.models import Site, dropout, find_sites
from bayesft.models.dropout import LAYERS
from bayesft.modes import eval_mode
from bayesft.search.algorithm1 import Trial, search
from bayesft.search.surrogate import MAX_DIMENSIONS, check_space
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe, SearchSettings
from bayesft.training import Checkpoint, Gradient, Problem, Trained, plain_gradient
from bayesft.training.trained import accuracy_score, neg_loss_score

RECIPE, DRIFT = Recipe(epochs=20, batch_size=64), LogNormalDrift()
METHODS = ("drift_dropout", "bayesft")
BATCH = 256  # examples in a pass of the evaluation
OUTPUT = "bayesft_output"  # the child of a module that returns a tuple, where dropout acts on the tuple's first

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], Tensor | float]


@dataclass(frozen=True)
class Hardened:
    """A hardened network, and how it came about.

    `networks` has all that were trained, in eval mode: "plain", "hardened" (which is `model`), after a search
    "search end" (the best trial's weights, as the paper's Algorithm 1 ends) and, if asked for, "uniform". `rates` are
    those of the hardened one by site, `sigma_train` the drift under which it was trained, if any. `table` has
    their metric under drift, a row for each network and σ, with half-widths of 95 % intervals over draws, and the
    gain over "plain", draw by draw; `measured_on` says on which data. `log` has a row for each trial.
    """

    model: nn.Module
    rates: dict[str, float]
    sigma_train: float | None
    sites: list[Site]
    log: pd.DataFrame
    table: pd.DataFrame
    networks: dict[str, nn.Module]
    measured_on: str

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate:.2f}" for name, rate in self.rates.items())
        metric = self.table.pivot(index="sigma", columns="network", values="metric")[list(self.networks)]
        drift = "" if self.sigma_train is None else f"; trained under drift up to σ = {self.sigma_train:.2f}"
        return f"dropout rates: {rates}{drift}\nmetric under drift, on {self.measured_on} data:\n{metric.round(4)}"


def harden(
    model: nn.Module | Callable[[], nn.Module],
    train: Sequence[Tensor] | Dataset | Iterable,
    validation: Sequence[Tensor] | Dataset | Iterable,
    test: Sequence[Tensor] | Dataset | Iterable | None = None,
    *,
    loss: Loss | None = None,
    metric: Metric | None = None,
    method: Literal["drift_dropout", "bayesft"] = "drift_dropout",
    recipe: Recipe = RECIPE,
    settings: SearchSettings | Mapping[str, Any] | None = None,
    fault: FaultModel = DRIFT,
    parameters: str = "all",
    sites: Sequence[Site | str] | None = None,
    rates: float | Sequence[float] | Mapping[str, float] | None = None,
    uniform: float | None = None,
    sigma_train: float | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    evaluate_sigmas: Sequence[float] = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5),
    draws: int = 20,
) -> Hardened:
    """Search what makes a network tolerate drift, train it under that, and measure what it gains.

    model: a module, every training of which begins with its weights as they stand; or a function that builds one,
    called once under `seed`. It is copied, never modified. Data: tensors (inputs..., targets), a dataset, or batches
    of such tensors, read once into memory. `loss(outputs, targets)` is a scalar, `metric(outputs, targets)` one
    number an example (B,) or one number for all the data, larger is better. Without a loss: cross entropy, with
    accuracy as metric. With a loss alone, the metric is −loss.

    `method`: what is searched. "drift_dropout", the study's own recipe, tunes one dropout rate and σ_train, the level
    of drift up to which the network trains; "bayesft", the paper's, a rate for each site. `settings`: how it is
    searched, or what to change of the default: eight trials from fresh weights, as long as the training. `sites`:
    where dropout goes (names of modules, or `Site`s whose modules share a rate). `rates`: no search, these rates (one
    a site, by the names of sites, or one for all). `uniform`: train a control under this one rate, too.
    `sigma_train`, with `rates` or "bayesft": train all but the plain network under drift up to this level, too.
    `n_jobs`: processes for the trials of a batch (settings.batch), as joblib takes it. `checkpoint`: a folder in which
    a killed call finds its work again.

    Raises ValueError for what it can't do, before any training.
    """
    if not isinstance(settings, SearchSettings):  # changes of the default, whose trials are as long as the training
        settings = SearchSettings(**{"trials": 8, "epochs": recipe.epochs, "weights": "scratch", **(settings or {})})
    evaluate_sigmas = tuple(dict.fromkeys(map(float, evaluate_sigmas)))
    if draws < 2 or not evaluate_sigmas or not all(sigma >= 0 for sigma in evaluate_sigmas):
        raise ValueError(f"draws = {draws}, evaluate_sigmas = {evaluate_sigmas}: need two draws and σ of at least 0")
    if sigma_train is not None and not sigma_train > 0:
        raise ValueError(f"sigma_train = {sigma_train}: must be greater than 0")
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: must be one of {', '.join(METHODS)}")
    if sigma_train is not None and rates is None and method == "drift_dropout":
        raise ValueError(
            f"sigma_train = {sigma_train}: the search finds it; give `rates` too, for no search, or method='bayesft'"
        )
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        start = _start(model, device)
        device = next(start.parameters()).device
        parts = {"train": _split(train, "training", device), "validation": _split(validation, "validation", device)}
        if test is not None:
            parts["test"] = _split(test, "test", device)
        if len({len(part.images.tensors) for part in parts.values()}) > 1:
            counts = ", ".join(f"{len(part.images.tensors)} for {name}" for name, part in parts.items())
            raise ValueError(f"the data differ in the number of inputs: {counts}")
        told = _told((loss, metric, fault)) if checkpoint else None
        loss, metric = _loss_and_metric(loss, metric, parts["train"].labels, settings)
        loss = partial(_in_float32, loss)
        if not drifted_parameters(start, fault, 1.0, (), 0, parameters):
            raise ValueError(f"parameters = {parameters!r}: the network has none that drift")
        start, sites = _prepare(start, parts["train"].images[:1], sites, settings.granularity)
        given = _rates(rates, "rates", sites)
        control = _rates(uniform, "uniform", sites)
        if given is None and method == "bayesft" and len(sites) > MAX_DIMENSIONS:
            stages = 'settings of granularity="stage" or ' if settings.granularity == "layer" else ""
            raise ValueError(
                f"{len(sites)} dropout sites, and a search can tell {MAX_DIMENSIONS} apart: group them, with {stages}"
                "your own `sites`, or give `rates`"
            )
        if given is None:
            check_space(2 if method == "drift_dropout" else len(sites), settings.trials)

        probes = _probe(start, parts, loss, metric, recipe.batch_size, sites, settings.bounds[1])
        about = (method, recipe, settings, parameters, sites, given, control, sigma_train, seed, probes, told)
        about += (torch.__version__, _code())
        folder = Path(checkpoint) / _digest(start, parts, *about) if checkpoint else None
        with Checkpoint(folder) if folder else nullcontext() as held:
            problem = _Problem(
                "harden", {}, 0, parts["train"], parts["validation"], recipe, seed, fault, parameters,
                bounds=settings.bounds, checkpoint=held, start=start, places=sites, of_loss=loss, metric=metric,
            )  # fmt: skip

            def final(name: str, of: str, values: Mapping[str, float]) -> Trained:
                return load(of).train(replace(problem, task=f"harden {name}"), values, {})[of]

            trained, trials = {"plain": final("plain", "erm", {})}, []
            problem = replace(problem, sigma_train=sigma_train)
            tuned = load("bayesft" if given is not None else method)
            if given is None:
                found = search(problem, tuned, settings, n_jobs=n_jobs)
                values, trials, trained["search end"] = found.values, found.trials, found.best_model
            else:
                values = dict(zip((site.name for site in sites), given, strict=True))
            trained["hardened"] = final("hardened", tuned.name, values)
            if control is not None:
                same = dict(zip((site.name for site in sites), control, strict=True))
                trained["uniform"] = final("uniform", "bayesft", same)
            networks = {name: problem.network(weights) for name, weights in trained.items()}
        part = "test" if test is not None else "validation"
        key = ("harden", seed, "evaluation")
        table = _table(
            {name: weights.about["epochs"] for name, weights in trained.items()},
            lambda name, sigma: _under_drift(networks[name], parts[part], metric, fault, sigma, draws, key, parameters),
            evaluate_sigmas,
        )
    chosen = trained["hardened"].about
    shown = [Site(site.name, tuple(m.removesuffix(f".{OUTPUT}") for m in site.modules)) for site in sites]
    log, drift = _log(trials, list(values), sites), chosen.get("sigma_train", sigma_train)
    return Hardened(networks["hardened"], chosen["rates"], drift, shown, log, table, networks, part)


@dataclass(frozen=True)
class _Problem(Problem):
    """A problem whose networks are copies of one.

    places: its sites. of_loss, metric: the caller's. sigma_train: the drift under which all train, if any.
    """

    start: nn.Module | None = None
    places: list[Site] | None = None
    of_loss: Loss | None = None
    metric: Metric | None = None
    sigma_train: float | None = None

    @property
    def loss(self) -> Loss:
        return self.of_loss

    @property
    def gradient(self) -> Gradient:
        if self.sigma_train is None:
            return plain_gradient
        return drift_gradient(self.fault, self.sigma_train, self.parameters, load("drift_dropout").rise)

    @property
    def sites(self) -> list[Site]:
        return self.places

    def scores(
        self, model: nn.Module, sigmas: Sequence[float], draws: Sequence[int], key: tuple, objective: str = "accuracy"
    ) -> Tensor:
        of = self.validation, self.metric, self.fault
        return torch.stack([_under_drift(model, *of, sigma, len(draws), key, self.parameters) for sigma in sigmas])

    def fresh(self, **_) -> nn.Module:
        return deepcopy(self.start)

    def network(self, trained: Trained) -> nn.Module:
        """What was trained, in eval mode and without the children that `_prepare` added."""
        network = self.fresh()
        network.load_state_dict(trained.members[0])
        for module in network.modules():
            if OUTPUT in module._modules:
                module._modules.pop(OUTPUT)
                hooks = [number for number, hook in module._forward_hooks.items() if hook is _drop_first]
                for number in hooks:
                    del module._forward_hooks[number]
        return network.eval()


class _Columns:
    """The inputs, indexed by the numbers of a batch as one tensor is."""

    def __init__(self, tensors: Sequence[Tensor]):
        self.tensors = tuple(tensors)

    def __getitem__(self, batch: Tensor | slice) -> tuple[Tensor, ...]:
        return tuple(tensor[batch] for tensor in self.tensors)


def _start(model: nn.Module | Callable[[], nn.Module], device: str | torch.device | None) -> nn.Module:
    """The network that every training begins with, a copy of the caller's."""
    built = model if isinstance(model, nn.Module) else model()
    if not isinstance(built, nn.Module):
        raise ValueError(f"the function gives a {type(built).__name__}: need a torch.nn.Module")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in built.parameters()):
        raise ValueError("the network has lazy parameters: run it once on an example first")
    if not any(p.requires_grad for p in built.parameters()):
        raise ValueError("the network has no parameters to train")
    if not all(isinstance(value, Tensor) for value in built.state_dict().values()):
        raise ValueError("the network's state_dict holds more than tensors, which can't be kept between trials")
    try:
        copy = deepcopy(built)
    except Exception as error:
        raise ValueError(f"the network can't be copied: {error}") from error
    return copy.to(device) if device is not None else copy


def _split(data, name: str, device: torch.device) -> Split:
    """The data in memory, on the device."""
    columns = data.tensors if isinstance(data, TensorDataset) else data
    if not isinstance(columns, (tuple, list)) or not all(isinstance(tensor, Tensor) for tensor in columns):
        batches = list(DataLoader(data, batch_size=BATCH) if isinstance(data, Dataset) else data)
        for batch in batches:
            if not isinstance(batch, (tuple, list)) or not all(isinstance(tensor, Tensor) for tensor in batch):
                raise ValueError(f"a batch of the {name} data is no tuple of tensors (inputs..., targets)")
        try:
            columns = [torch.cat(column) for column in zip(*batches, strict=True)]
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"the batches of the {name} data do not fit together: {error}") from error
    lengths = [len(column) if column.dim() else 0 for column in columns]
    if not lengths or 0 in lengths:
        raise ValueError(f"the {name} data are empty")
    if len(lengths) < 2 or len(set(lengths)) > 1:
        raise ValueError(f"the {name} data are tensors of lengths {lengths}: need (inputs..., targets) of one length")
    return Split(_Columns([column.to(device) for column in columns[:-1]]), columns[-1].to(device))


def _loss_and_metric(
    loss: Loss | None, metric: Metric | None, targets: Tensor, settings: SearchSettings
) -> tuple[Loss, Metric]:
    if loss is None:
        if targets.dim() != 1 or targets.dtype != torch.int64:
            raise ValueError(f"targets {tuple(targets.shape)} of {targets.dtype} are no class labels: give a `loss`")
        classes = accuracy_score if settings.objective == "accuracy" else neg_loss_score
        return F.cross_entropy, metric or classes
    return loss, metric or (lambda outputs, targets: -loss(outputs, targets))


def _in_float32(loss: Loss, outputs: object, targets: Tensor) -> Tensor:
    """The loss of outputs in float32, also where a GPU trains in bfloat16, which some losses refuse."""

    def whole(value):
        if isinstance(value, Tensor):
            return value.float() if value.dtype == torch.bfloat16 else value
        if isinstance(value, dict):
            changed = copy(value)  # of a class of its own, perhaps
            for name, each in value.items():
                changed[name] = whole(each)
            return changed
        if isinstance(value, (tuple, list)):
            values = map(whole, value)
            return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
        return value

    outputs = whole(outputs) if torch.is_autocast_enabled("cuda") else outputs
    with torch.autocast("cuda", enabled=False):
        return loss(outputs, targets)


@torch.no_grad()
def _prepare(
    model: nn.Module, example: tuple[Tensor, ...], sites: Sequence[Site | str] | None, granularity: str
) -> tuple[nn.Module, list[Site]]:
    """The network in which dropout can act at every site, and the sites: the caller's, or all that are found.

    A module that returns a tuple (an LSTM) gets a child that its first output passes, and dropout acts there.
    """
    probe, called = deepcopy(model).eval(), []
    for name, module in probe.named_modules(remove_duplicate=False):
        module.register_forward_hook(lambda module, _, output, name=name: called.append((name, module, output)))
    probe(*example)
    if sites is None:
        layers = [(name, module) for name, module, _ in called if isinstance(module, (*LAYERS, nn.RNNBase))]
        recurrent = [name for name, m in layers if isinstance(m, nn.RNNBase) and m is not layers[-1][1]]
        sites = [Site(name, (name,)) for name in dict.fromkeys(recurrent)]
        probe = deepcopy(model)
        probe.register_forward_pre_hook(lambda _, inputs: inputs[0], prepend=True)  # from one tuple to several inputs
        try:
            sites += find_sites(probe, example, granularity)
        except ValueError:
            if not sites:
                raise
    sites = [Site(site, (site,)) if isinstance(site, str) else site for site in sites]
    if not sites or len({site.name for site in sites}) < len(sites):
        raise ValueError(f"sites {[site.name for site in sites]}: need at least one, each with a name of its own")
    outputs = {name: output for name, _, output in called}
    for name in dict.fromkeys(name for site in sites for name in site.modules):
        if name not in outputs:
            raise ValueError(f"site {name!r} is no module that a forward pass of the network calls")
        first = outputs[name]
        while isinstance(first, (tuple, list)) and first:
            first = first[0]
        if not isinstance(first, Tensor) or not first.is_floating_point():
            kind = type(outputs[name]).__name__
            raise ValueError(f"site {name!r} gives {kind}: need a tensor, or one that comes first")
        module = model.get_submodule(name)
        if not isinstance(outputs[name], Tensor) and OUTPUT not in module._modules:
            module.add_module(OUTPUT, nn.Identity().train(module.training))
            module.register_forward_hook(_drop_first)
    tapped = [
        tuple(name if isinstance(outputs[name], Tensor) else f"{name}.{OUTPUT}" for name in site.modules)
        for site in sites
    ]
    return model, [Site(site.name, modules) for site, modules in zip(sites, tapped, strict=True)]


def _drop_first(module: nn.Module, _: tuple, output: tuple) -> tuple:
    """Pass the first tensor of the output, also of a packed sequence, through the child where dropout acts."""

    def act(value):
        if isinstance(value, Tensor):
            return module._modules[OUTPUT](value)
        values = (act(value[0]), *value[1:])
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)

    return act(output)


def _rates(
    rates: float | Sequence[float] | Mapping[str, float] | None, name: str, sites: list[Site]
) -> tuple[float, ...] | None:
    if rates is None:
        return None
    if isinstance(rates, Mapping):
        if sorted(rates) != sorted(site.name for site in sites):
            raise ValueError(f"{name} of {sorted(rates)}: need one for each of {[site.name for site in sites]}")
        rates = [rates[site.name] for site in sites]
    values = (float(rates),) * len(sites) if np.ndim(rates) == 0 else tuple(map(float, rates))
    if len(values) != len(sites) or not all(0 <= rate < 1 for rate in values):
        raise ValueError(f"{name} = {rates}: need one rate in [0, 1), or one for each of {len(sites)} sites")
    return values


def _probe(
    model: nn.Module, parts: dict[str, Split], loss: Loss, metric: Metric, size: int, sites: list[Site], rate: float
) -> list[float]:
    """Loss of a first batch under dropout, and metric without drift, before any training: they must be numbers."""
    model, train = deepcopy(model).train(), parts["train"]
    with dropout(model, sites, [rate] * len(sites)):
        value = loss(model(*train.images[:size]), train.labels[:size])
    if not isinstance(value, Tensor) or value.dim() or not value.requires_grad or not value.isfinite():
        raise ValueError(f"the loss of the first batch is {value}: need a finite scalar with a gradient")
    found = [float(value.detach())]
    for name in [name for name in parts if name != "train"]:
        found.append(float(_under_drift(model, parts[name], metric, DRIFT, 0.0, 1, (), "all")[0]))
        if not math.isfinite(found[-1]):
            raise ValueError(f"the metric on the {name} data is {found[-1]}: need a finite number")
    return found[:2]


@torch.inference_mode()
def _under_drift(
    model: nn.Module, data: Split, metric: Metric, fault: FaultModel, sigma: float, draws: int, key: tuple, which: str
) -> Tensor:
    """The metric of drifted copies, one number a copy, (draws,) float64, with the draws of `monte_carlo`."""
    with eval_mode(model):
        if sigma == 0:
            return torch.full((draws,), _number(_metric(model, {}, data, metric), len(data)), dtype=torch.float64)
        first = Split(_Columns(data.images[:BATCH]), data.labels[:BATCH])
        value = _metric(model, {}, first, metric)
        one_an_example = isinstance(value, Tensor) and value.shape == (len(first),)
        # `monte_carlo` is faster, but its channels-last tensors break a `view` in code that is unknown here.
        known = all(type(module).__module__.split(".")[0] in ("torch", "torchvision") for module in model.modules())
        if one_an_example and known and len(data.images.tensors) == 1:
            images = data.images.tensors[0]
            return monte_carlo(model, images, data.labels, metric, fault, sigma, range(draws), key, which)
        values = []
        for draw in range(draws):
            drifted = drifted_parameters(model, fault, sigma, key, draw, which)
            copies = in_every_place(model, {name: theta.contiguous() for name, theta in drifted.items()})
            values.append(_number(_metric(model, copies, data, metric), len(data)))
        return torch.tensor(values, dtype=torch.float64)


def _metric(model: nn.Module, copies: dict[str, Tensor], data: Split, metric: Metric) -> Tensor | float:
    """The metric over all outputs of a copy of the network, each parameter of which is named once a module."""
    batches = [data.images[start : start + BATCH] for start in range(0, len(data), BATCH)]
    outputs = [functional_call(model, copies, batch, tie_weights=False) for batch in batches]
    return metric(_joined(outputs), data.labels)


def _joined(outputs: list) -> Tensor | tuple | dict:
    """The outputs of all batches as those of one."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)
    if isinstance(first, dict):
        return {name: _joined([output[name] for output in outputs]) for name in first}
    if isinstance(first, (tuple, list)):
        return tuple(map(_joined, map(list, zip(*outputs, strict=True))))
    raise ValueError(f"the network gives {type(first).__name__}: need tensors, or tuples or dictionaries of them")


def _number(value: object, count: int) -> float:
    if isinstance(value, (Tensor, np.ndarray)) and value.shape == (count,):
        value = value.astype(float).mean() if isinstance(value, np.ndarray) else value.double().mean()
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise ValueError(
            f"the metric gives a {type(value).__name__}{shape}: need one number, or one for each of {count} examples"
        ) from None


def _table(epochs: dict[str, int], scores: Callable[[str, float], Tensor], sigmas: Sequence[float]) -> pd.DataFrame:
    rows, plain = [], {}
    for name, trained in epochs.items():
        for sigma in map(float, sigmas):
            values = scores(name, sigma).numpy()[None]
            plain.setdefault(sigma, values)
            own, gain = estimate(values), paired(values, plain[sigma])
            rows.append((name, trained, sigma, own.mean, own.half_width, gain.mean, gain.half_width))
    return pd.DataFrame(rows, columns=["network", "epochs", "sigma", "metric", "half_width", "gain", "gain_half_width"])


def _log(trials: list[Trial], names: list[str], sites: list[Site]) -> pd.DataFrame:
    names = [f"rate {name}" if name in {site.name for site in sites} else name for name in names]
    rows = [dict(zip(names, trial.values, strict=True)) | asdict(trial) for trial in trials]
    columns = [field for field in Trial.__dataclass_fields__ if field != "values"]
    return pd.DataFrame(rows, columns=["number", *names, *columns[1:]])


def _told(value: object, within: tuple[int, ...] = ()) -> object:
    """What tells a loss, a metric or a fault model from another one, the same in every process.

    For a function its name, code, and what it is bound to and closes over; for an object its class and attributes.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        array = value.detach().cpu().contiguous().view(-1) if isinstance(value, Tensor) else np.ascontiguousarray(value)
        content = array.view(torch.uint8).numpy() if isinstance(value, Tensor) else array
        return str(value.dtype), tuple(value.shape), hashlib.sha256(content.tobytes()).hexdigest()
    if isinstance(value, (type, ModuleType)):
        return getattr(value, "__module__", ""), value.__name__
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if id(value) in within:
        return "itself"

    def inner(each: object) -> object:
        return _told(each, (*within, id(value)))

    if isinstance(value, (set, frozenset)):
        return sorted(repr(inner(each)) for each in value)
    if isinstance(value, (tuple, list)):
        return [inner(each) for each in value]
    if isinstance(value, Mapping):
        return [(inner(key), inner(each)) for key, each in value.items()]
    if isinstance(value, partial):
        return inner(value.func), inner(value.args), inner(value.keywords)
    if isinstance(value, CodeType):
        return value.co_code.hex(), value.co_names, inner(value.co_consts)
    if isinstance(value, MethodType):
        return inner(value.__func__), inner(value.__self__)
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        read = {name: value.__globals__.get(name) for name in value.__code__.co_names}
        plain = {name: each for name, each in read.items() if isinstance(each, (bool, int, float, str))}
        rest = value.__code__, value.__defaults__, value.__kwdefaults__, cells, plain
        return value.__module__, value.__qualname__, inner(rest)
    if isinstance(value, nn.Module):
        return repr(value), inner(value.state_dict())
    if hasattr(value, "__dict__"):
        return inner(type(value)), inner(vars(value))
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _code() -> str:
    """SHA-256 over this library's code, so that a checkpoint is never resumed by other code."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _digest(model: nn.Module, parts: dict[str, Split], *about: object) -> str:
    """A name for all that the trainings depend on, so a checkpoint is always one of the same call."""
    found = hashlib.sha256(repr((model, about)).encode())
    tensors = [t for name in ("train", "validation") for t in (*parts[name].images.tensors, parts[name].labels)]
    for tensor in [*model.state_dict().values(), *tensors]:
        found.update(repr((tensor.shape, tensor.dtype)).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]
