"""Harden a network in one call: train it under faults and dropout, and measure what that gains over the network given.

It is `Hardening` in a plain loop (`training`), with `tune` around it where a search is asked for, and `compare` in the
end.
"""

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from bayesft.drift.faults import FaultModel, LogNormalDrift, traits_of
from bayesft.drift.features import FeatureFault
from bayesft.drift.scope import Where
from bayesft.hardening.batches import Batches, parted
from bayesft.hardening.checks import (
    check_fault,
    check_memory,
    check_model,
    check_names,
    check_no_nan,
    check_rereadable,
    checked_device,
    checked_level,
    checked_levels,
    first_pass,
    whole_number,
)  # fmt: skip
from bayesft.hardening.comparison import Comparison
from bayesft.hardening.measure import Forward, evaluate
from bayesft.hardening.probe import same
from bayesft.hardening.resume import fingerprint, opened
from bayesft.hardening.robustness import ARRAYS, Robustness
from bayesft.hardening.saved import load, save
from bayesft.hardening.scores import aligned, check_classes, cross_entropy
from bayesft.hardening.state import own_random
from bayesft.hardening.step import Hardening
from bayesft.hardening.training import Task, first_batch, trained
from bayesft.hardening.tuning import Study, TunedTrial, Values, space_of, tune
from bayesft.models.sites import Place, Sites
from bayesft.modes import eval_mode
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe

if TYPE_CHECKING:  # loaded where it is used: it takes longer than the rest
    import pandas as pd

SCRATCH = Recipe(epochs=20, batch_size=64)
FINE_TUNING = Recipe(epochs=20, batch_size=64, lr=1e-2)
RATES = (0.0, 0.8)  # of a search without a space
CALIBRATION = 128  # training examples that a device is calibrated with
CALIBRATED = ", calibrated"  # ends the name of a curve under the other contract
SHARE = 0.7  # of the loss under faults in fault-tolerant training, as its authors have it


@dataclass(frozen=True)
class Hardened:
    """A hardened network, and what it gains.

    Args:
        networks: all that there are, in eval mode: "given" as it came, "plain" where it was asked for, "hardened".
        comparison: their scores under the same faults, and the differences from "given"; those of calibrated copies
            have names that say so.
        settings: the rate at each site, the fault level and the recipe of the training.
        measured_on: the data that `comparison` is of: "test" or "validation".
        study: the trials of the search, or None without one.
        whole: whether all that the networks learnt is in their `state_dict`, as `save` needs it.
    """

    networks: dict[str, nn.Module]
    comparison: Comparison
    settings: dict[str, Any]
    measured_on: str
    study: Study | None = None
    whole: bool = True

    @property
    def model(self) -> nn.Module:
        """The hardened network."""
        return self.networks["hardened"]

    def table(self, confidence: float = 0.95) -> "pd.DataFrame":
        """A row for each network and fault level, with the gain over "given": `Comparison.table`."""
        return self.comparison.table(confidence)

    def plot(self, ax: Any = None) -> Any:
        """Draw the curves of all networks onto Matplotlib axes, and return the axes."""
        return self.comparison.plot(ax)

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate:.2f}" for name, rate in self.settings["rates"].items()) or "none"
        until = "at" if "alpha" in self.settings else "up to"
        head = f"dropout rates: {rates}; trained under faults {until} level {self.settings['level']:g}"
        return f"{head}\non {self.measured_on} data\n\n{self.comparison}"

    def save(self, path: str | Path) -> None:
        """Save weights, scores and settings as a safetensors file, which `load` reads.

        Raises:
            ValueError: a network keeps what it learnt outside of its state_dict.
        """
        if not self.whole:
            raise ValueError("a network keeps what it learnt outside of its state_dict, so a file can't hold it")
        content = {f"network/{n}/{k}": t for n, net in self.networks.items() for k, t in net.state_dict().items()}
        for name, curve in self.comparison.curves.items():
            content |= {f"curve/{name}/{array}": torch.from_numpy(getattr(curve, array)) for array in ARRAYS}
        about = {
            "networks": list(self.networks),
            "curves": {name: curve.about for name, curve in self.comparison.curves.items()},
            "settings": self.settings,
            "measured_on": self.measured_on,
            "trials": None if self.study is None else [asdict(trial) for trial in self.study.trials],
            "interrupted": self.study is not None and self.study.interrupted,
        }
        save(path, "Hardened", content, about)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> "Hardened":
        """What `save` saved.

        Args:
            path: the file.
            model: a network like the given one. It is copied.

        Raises:
            ValueError: the file is missing, damaged or none of these, or the weights do not fit the network.
        """
        check_model(model)
        content, about = load(path, "Hardened")
        networks = {}
        for name in about["networks"]:
            head = f"network/{name}/"
            state = {key.removeprefix(head): t for key, t in content.items() if key.startswith(head)}
            networks[name] = copy.deepcopy(model).eval()
            try:
                networks[name].load_state_dict(state)
            except RuntimeError as error:
                raise ValueError(f"model: the weights of {path} do not fit: {error}") from None
        curves = {
            name: Robustness(**{a: content[f"curve/{name}/{a}"].numpy() for a in ARRAYS}, about=of)
            for name, of in about["curves"].items()
        }
        trials = about["trials"]
        study = None if trials is None else Study([TunedTrial(**trial) for trial in trials], about["interrupted"])
        return cls(networks, Comparison(curves), about["settings"], about["measured_on"], study)


@torch.inference_mode(False)
@torch.enable_grad()
def harden(
    model: nn.Module | Callable[[], nn.Module],
    train: Any,
    validation: Any,
    test: Any = None,
    *,
    method: Literal["drift_dropout", "ftt"] = "drift_dropout",
    rate: float | Mapping[str, float] = 0.3,
    level: float | None = None,
    alpha: float = SHARE,
    calibrated: bool = False,
    search: Mapping[str, Any] | None = None,
    plain: bool = False,
    recipe: Recipe | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    forward: Forward | None = None,
    fault: FaultModel | FeatureFault = LogNormalDrift(),  # noqa: B008, frozen
    where: Where = "all",
    sites: Sites | Sequence[Place | str] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    key: str = "",
    progress: bool = True,
    **measure: Any,
) -> Hardened:
    """Train a network under faults and dropout, and measure what that gains over the network given.

    One network is trained; with `search`, one for each trial; with `plain`, one more.

    Args:
        model: a trained network, which is fine-tuned; or a function that builds one, which is trained from scratch. The
            caller's network is copied, never modified. Of a compiled one, the network that was compiled is taken.
        train: the training data: tensors (inputs..., targets), a Dataset, or an iterable of batches.
        validation: data that a search measures on, as for `evaluate`.
        test: data that the table is of; without them, it is of `validation`, which is too favourable after a search.
        method: "drift_dropout" trains under faults, at levels up to `level`, and under dropout. "ftt" is fault-tolerant
            training: (1 − alpha) · loss without faults + alpha · loss under faults at `level`, without dropout.
        rate: of dropout, in [0, 1): one for all sites, or one for each by its name.
        level: the highest fault level in training, in the fault's unit; without it, that of `Hardening`.
        alpha: of "ftt".
        calibrated: train for copies that are calibrated in use (docs/calibration.md), and measure every network both
            ways: as it is, and calibrated. That is another contract, and the names of its curves say so. The examples
            for it are `calibrate`; without it, those of the first training batch of 128.
        search: arguments of `tune`, such as {"trials": 8}; {} for its defaults; None for no search. Names of its
            `space` can be rate, level, lr and the names of sites, and with "ftt" alpha, level and lr; without a space,
            rate and level up to twice its default, or alpha and level from 1/4 to twice `level`, are searched. The
            best trial's network is the hardened one.
        plain: also train a network without faults and dropout: the control.
        recipe: epochs, batch size, step size. Without it, `FINE_TUNING` for a network, `SCRATCH` for a function.
        loss: (outputs, targets) to a scalar. Without it: cross entropy of logits.
        forward: (model, batch) to (outputs, targets), for batches and networks of another kind.
        fault, where, sites: as for `Hardening`.
        seed: of all that is random.
        device: where to compute; without it, where the network is.
        checkpoint: a folder in which a killed call finds its work again. It belongs to one call: data, weights and
            settings are compared; functions can't be. It is removed when the call is complete.
        key: names what can't be compared (loss, score, forward), so that a change of it is noticed.
        progress: show bars.
        measure: the other arguments of `evaluate`: score, levels, draws, calibrate. With a loss and no score, the score
            is −loss.

    Returns:
        The networks and their comparison.

    Raises:
        ValueError: an argument is not allowed, or a check fails. All before any training.
        Diverged: a loss or its gradient is not finite.
    """
    measured_on, data = ("validation", validation) if test is None else ("test", test)
    check_rereadable(measured_on, data)
    if search is not None or checkpoint is not None:
        check_rereadable("validation", validation)
    seed = whole_number("seed", seed, None)
    check_fault(fault)
    level = checked_level(fault, level)
    if method not in ("drift_dropout", "ftt"):
        raise ValueError(f"method = {method!r}: must be drift_dropout or ftt")
    scratch = not isinstance(model, nn.Module)
    recipe = recipe or (SCRATCH if scratch else FINE_TUNING)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"recipe = {recipe!r}: must be a bayesft.settings.Recipe")
    if search is not None and not isinstance(search, Mapping):
        raise ValueError(f"search = {search!r}: must be a dictionary of arguments of tune, or None")
    if calibrated and (method == "ftt" or isinstance(fault, FeatureFault)):
        raise ValueError("calibrated = True: needs the method drift_dropout and a fault of parameters")
    if calibrated and forward is not None and measure.get("calibrate") is None:
        raise ValueError(
            "calibrated = True: with a forward of your own, give `calibrate` in the form the network takes"
        )
    own = set(inspect.signature(harden).parameters) | {"model", "data"}
    check_names(search or {}, (tune, evaluate), own | {"same"}, "search: it can't have")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss = {loss!r}: must be a function of (outputs, targets)")
    if loss is not None and "score" not in measure:
        measure["score"] = _Negative(loss)
    examples = measure.pop("calibrate", None)
    if calibrated and examples is None:
        examples = _inputs(first_batch(train, CALIBRATION, seed))
    contracts = {"": None, CALIBRATED: examples} if calibrated else {"": examples}
    same_for_all: dict[str, Any] = {**measure, "fault": fault, "where": where, "forward": forward, "seed": seed}
    with own_random(derive_seed("harden", seed, "initialisation")):
        built, start = _start(model, device)
    plan = _Plan(
        Task(start, train, loss or cross_entropy, forward, next(start.parameters()).device, seed),
        recipe, rate, level, fault, where, () if method == "ftt" else sites, alpha if method == "ftt" else None,
        calibrated,
    )  # fmt: skip
    usual, most = checked_level(fault, None), traits_of(fault).maximum
    space: dict[str, Any] = {"rate": RATES, "level": (usual / 20, min(2 * usual, most))}
    if method == "ftt":
        space = {"alpha": (0.0, 1.0), "level": (level / 4, min(2 * level, most), "log")}
    searched = None if search is None else {
        **same_for_all, "calibrate": examples, "draws": 10, "space": space, **search
    }  # fmt: skip
    plan, value = plan.checked(built, searched, whole=checkpoint is not None)
    networks, curves, study = {"given": start}, {}, None
    for contract, given in contracts.items():
        curves["given" + contract] = evaluate(start, data, progress=progress, calibrate=given, **same_for_all)
        if curves["given" + contract].about["interrupted"]:
            raise KeyboardInterrupt
    if searched is not None and test is not None:
        lowest = checked_levels(fault, measure.get("levels"))[:1]
        evaluate(start, validation, progress=False, **{**same_for_all, "levels": lowest, "draws": 1})
    about = plan.about(validation, value, key) if checkpoint is not None else {}
    with opened(checkpoint, "checkpoint", about) if checkpoint is not None else nullcontext() as store:
        values: Values = {}
        hardened: nn.Module | None = None
        if searched is not None:
            if checkpoint is not None:
                searched["storage"] = Path(checkpoint) / "search"
            study = tune(plan.trial, validation, progress=progress, **searched)
            values, hardened = study.best.values, study.network
        if plain:
            networks["plain"] = trained(plan.task, recipe, None, label="plain", checkpoint=store, progress=progress)
        if hardened is None:
            hardened = plan.train(values, "hardened", store, progress)
        networks["hardened"] = hardened
        for name, contract in product(list(networks)[1:], contracts):
            given = contracts[contract]
            curve = evaluate(networks[name], data, progress=progress, calibrate=given, **same_for_all)
            if curve.about["interrupted"]:
                warnings.warn(f"interrupted: the network {name + contract!r} is not measured", stacklevel=2)
                break
            curves[name + contract] = curve
        if store and not (study and study.interrupted):
            store.clear()
    run = plan.pass_of(first_batch(train, recipe.batch_size, seed, forward is not None))
    whole = all(_rebuilds(network, start, run) for network in networks.values())
    for network in networks.values():
        network.eval()
    return Hardened(networks, Comparison(curves), plan.settings(values), measured_on, study, whole)


@dataclass(frozen=True)
class _Plan:
    """How the networks of a call are trained."""

    task: Task
    recipe: Recipe
    rate: float | Mapping[str, float]
    level: float
    fault: FaultModel | FeatureFault
    where: Where
    sites: Sites | Sequence[Place | str] | None
    alpha: float | None
    calibrated: bool

    def hardening(self, network: nn.Module, values: Values) -> Hardening:
        """Faults and dropout for a training of `network` with these values."""
        made = partial(
            Hardening, network, self.rates(values), values.get("level", self.level), self.fault, self.sites, self.where,
            seed=self.task.seed,
        )  # fmt: skip
        if self.alpha is None:
            return made(calibrated=self.calibrated)
        return made(rise=0.0, alpha=values.get("alpha", self.alpha), fixed=True)

    def rates(self, values: Values) -> float | Mapping[str, float]:
        """One rate for all sites, or one for each."""
        of_sites = {name: value for name, value in values.items() if name not in ("rate", "level", "lr", "alpha")}
        rates = values.get("rate", self.rate)
        if not of_sites:
            return rates
        return {**(rates if isinstance(rates, Mapping) else dict.fromkeys(self.names, rates)), **of_sites}

    @property
    def names(self) -> list[str]:
        """The names of the sites."""
        return [site.name if isinstance(site, Place) else site for site in self.sites or ()]

    def trial(self, values: Values) -> nn.Module:
        """A network trained with these values, as `tune` asks for it."""
        return self.train(values, "trial", None, False)

    def train(self, values: Values, label: str, checkpoint: Any, progress: bool) -> nn.Module:
        """A network trained with these values."""
        recipe = self.recipe.model_copy(update={"lr": values["lr"]}) if "lr" in values else self.recipe
        make = partial(self.hardening, values=values)
        return trained(self.task, recipe, make, label=label, checkpoint=checkpoint, progress=progress)

    def settings(self, values: Values) -> dict[str, Any]:
        """What a training with these values is described by."""
        rates = self.rates(values)
        recipe = self.recipe.model_dump() | {name: value for name, value in values.items() if name == "lr"}
        by_site = dict(rates) if isinstance(rates, Mapping) else dict.fromkeys(self.names, rates)
        share: dict[str, Any] = {"calibrated": True} if self.calibrated else {}
        if self.alpha is not None:
            share["alpha"] = values.get("alpha", self.alpha)
        return {"rates": by_site, "level": values.get("level", self.level), "recipe": recipe, **share}

    def checked(self, built: nn.Module, searched: Mapping[str, Any] | None, whole: bool) -> tuple["_Plan", float]:
        """This plan with the sites found, and the loss of the first batch, after one step of a copy.

        Args:
            built: the caller's network.
            searched: the arguments of the search.
            whole: whether the network's state must be in its state_dict.
        """
        batch = first_batch(self.task.data, self.recipe.batch_size, self.task.seed, self.task.forward is not None)
        network = copy.deepcopy(self.task.start).train()
        with own_random(derive_seed("harden", self.task.seed, "check")):
            with first_pass("train"):
                value = self.task.value(network, batch)
            theirs = [theta for theta in built.parameters() if theta.requires_grad]
            reached = torch.autograd.grad(value, theirs, allow_unused=True)
        names = [name for name, theta in built.named_parameters() if theta.requires_grad]
        outside = [name for name, gradient in zip(names, reached, strict=True) if gradient is not None]
        if outside:
            raise ValueError(
                f"model: a copy of it computes with the parameter {outside[0]!r} of the original (a function in it "
                "closes over the network): write the network so that it can be copied"
            )
        if not math.isfinite(value.detach()):
            raise ValueError(f"loss: that of the first batch is {float(value.detach())}: must be finite")
        with own_random(derive_seed("harden", self.task.seed, "check")):
            hardening = self.hardening(network, {})
            hardening.backward(partial(self.task.value, network, batch), 0.5)
        self._check_labels(network, batch)
        plan = replace(self, sites=hardening.sites)
        allowed = ["rate", "level", "lr", *plan.names] if self.alpha is None else ["alpha", "level", "lr"]
        unknown = [name for name in (searched["space"] if searched else ()) if name not in allowed]
        if unknown:
            raise ValueError(f"search: the space has {unknown[0]!r}: must be one of {', '.join(allowed)}")
        for each in space_of(searched["space"]) if searched else ():
            if each.name == "level":
                for level in (each.low, each.high, (each.low + each.high) / 2):
                    checked_level(self.fault, level)
        if whole and not _rebuilds(network, self.task.start, self.pass_of(batch)):
            raise ValueError("checkpoint: the network keeps state outside of its state_dict, so it can't be saved")
        return plan, float(value.detach())

    def _check_labels(self, network: nn.Module, batch: Any) -> None:
        """All labels in memory are classes of the outputs, and no number is NaN, before they are trained on."""
        data = self.task.data
        if not isinstance(data, (tuple, list)) or not all(isinstance(tensor, Tensor) for tensor in data):
            return
        check_no_nan(data)
        if self.task.loss is cross_entropy and self.task.forward is None:
            with own_random(0), eval_mode(network), torch.no_grad():
                classes = aligned(self.pass_of(batch)(network), batch[-1].to(self.task.device))[0].shape[-1]
            check_classes(data[-1], classes)

    def pass_of(self, batch: Any) -> Callable[[nn.Module], Any]:
        """A pass of a batch: from a network to its outputs."""
        return lambda network: self.task.run(network, batch)[0]

    def about(self, validation: Any, value: float, key: str) -> dict[str, Any]:
        """What a checkpoint is compared by."""
        rate = {name: float(r) for name, r in self.rate.items()} if isinstance(self.rate, Mapping) else float(self.rate)
        seed, own = self.task.seed, self.task.forward is not None
        return {
            "data": fingerprint(*(Batches(data, seed, own) for data in (self.task.data, validation))),
            "weights": fingerprint(self.task.start.state_dict()),
            "settings": [
                self.recipe.model_dump(),
                rate,
                float(self.level),
                repr(self.fault),
                self.names,
                seed,
                self.alpha,
                self.calibrated,
            ],
            "where": self.where if isinstance(self.where, str) else "chosen",
            "loss of the first batch": f"{value:.3g}",
            "key": key,
        }


@dataclass(frozen=True)
class _Negative:
    """−loss as a score."""

    loss: Callable[[Any, Any], Tensor]
    __name__ = "minus loss"

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        return -self.loss(outputs, targets)


def _start(model: nn.Module | Callable[[], nn.Module], device: Any) -> tuple[nn.Module, nn.Module]:
    """The caller's network, and the copy that every training begins with."""
    built = model if isinstance(model, nn.Module) else model() if callable(model) else model
    check_model(built)
    if not any(theta.requires_grad for theta in built.parameters()):
        raise ValueError("model has no parameter that learns")
    check_memory({**dict(built.named_parameters()), **dict(built.named_buffers())})  # a copy would not share it
    device = checked_device(built, device)
    try:
        start = copy.deepcopy(getattr(built, "_orig_mod", built))
    except Exception as error:
        raise ValueError(f"model can't be copied: {error}") from error
    return built, start.to(device)


def _inputs(batch: Any) -> Any:
    """The inputs of a batch, in the form that the network takes."""
    inputs, named, _ = parted(batch)
    return named if named else inputs[0] if len(inputs) == 1 else tuple(inputs)


def _rebuilds(network: nn.Module, start: nn.Module, run: Callable[[nn.Module], Any]) -> bool:
    """Whether a copy of `start` with the state_dict of `network` gives the same outputs, in eval mode."""
    state = network.state_dict()
    if not all(isinstance(value, Tensor) for value in state.values()):
        return False
    rebuilt = copy.deepcopy(start)
    rebuilt.load_state_dict(state)
    found = []
    for each in (network, rebuilt):
        with own_random(0), eval_mode(each), torch.no_grad():
            found.append(run(each))
    return same(*found)
