"""Faults and dropout around forward and backward of anyone's own training loop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from bayesft.drift.copies import learning_through, owners, perturbed, select
from bayesft.drift.faults import FaultModel, LogNormalDrift, check_fault_level, check_trains
from bayesft.drift.features import FeatureFault, struck
from bayesft.drift.passes import risen
from bayesft.drift.scope import Where
from bayesft.hardening.batches import mapped
from bayesft.hardening.checks import (
    check_fault,
    check_gradients,
    check_hooks,
    check_memory,
    check_model,
    check_where,
    checked_level,
    is_compiled,
    is_number,
    whole_number,
)
from bayesft.hardening.probe import check_gradient, check_reach, check_sites
from bayesft.hardening.sites import call_with, sites_of
from bayesft.hardening.state import own_random, seed_all
from bayesft.models.sites import Place, Sites, dropping, find_places, places_of
from bayesft.modes import eval_mode, unchanged
from bayesft.seeds import derive_seed


class Hardening:
    """Training under faults and dropout, for a loop of one's own.

    ```
    h = Hardening(model)
    for step, (x, y) in enumerate(batches):
        optimizer.zero_grad()
        with h.step(step / steps):
            loss_function(model(x), y).backward()
        optimizer.step()
    ```

    In `step`, the network is a faulty copy, at a level drawn anew from 0 to a bound, which rises to `level` over the
    first share `rise` of the training; and dropout acts at its sites. The gradients that arrive in the network's
    parameters are those of the parameters without faults, through the fault (the chain rule).

    Args:
        model: the network that the loop trains.
        rate: of dropout, in [0, 1): one for all sites, or one for each by its name.
        level: the highest fault level, in the fault's unit. Without it: 1 for log-normal drift and for a fault without
            traits; for others the last but one of their default levels.
        fault: what happens to a parameter or to an activation; it must have a gradient.
        sites: where dropout acts: what `find_sites` gives, a part of it, or names of modules; () for none. Without
            it, all that are found.
        where: the faulty parameters: "all", "weights", "convolutions", or a function of (name, module, parameter) to
            bool.
        rise: over which share of the training the bound of the level rises.
        alpha: for `backward`, the share of the loss under faults.
        fixed: whether the faults are at the bound of the level itself, in place of at a level up to it. With rise = 0
            that is always `level`, as a fault needs that allows few levels (`ReramWan2022`).
        calibrated: whether `backward` trains for copies that are calibrated in use (docs/calibration.md).
        example: what the network is called with: a tensor, a tuple of arguments, or a dictionary of named ones.
            Sites are found and checks are made with it at once; without it, when the network is first called in a
            step.
        seed: of faults and dropout, and of whatever else is random inside of a step. The caller's random streams are
            left alone.

    Raises:
        ValueError: an argument is not allowed; or a check fails, before any training: a parameter whose fault, or a
            site whose dropout, does not act; a fault without a gradient; a compiled network with sites.
    """

    def __init__(
        self,
        model: nn.Module,
        rate: float | Mapping[str, float] = 0.3,
        level: float | None = None,
        fault: FaultModel | FeatureFault = LogNormalDrift(),  # noqa: B008, frozen
        sites: Sites | Sequence[Place | str] | None = None,
        where: Where = "all",
        rise: float = 0.5,
        *,
        alpha: float = 1.0,
        fixed: bool = False,
        calibrated: bool = False,
        example: Any = None,
        seed: int = 0,
    ):
        check_model(model)
        check_gradients(model)
        check_fault(fault)
        check_where(fault, where)
        check_hooks(fault, model)
        level = checked_level(fault, level)
        check_trains(fault, level)
        if not is_number(rise) or not 0 <= rise <= 1:
            raise ValueError(f"rise = {rise!r}: must be a number from 0 to 1")
        if not is_number(alpha) or not 0 <= alpha <= 1:
            raise ValueError(f"alpha = {alpha!r}: must be a number from 0 to 1")
        self._tried = level if fixed else level / 2  # the level at which the fault's gradient is looked at
        if not (fixed and rise == 0):
            try:
                check_fault_level(fault, level / 2)
            except ValueError as error:
                raise ValueError(f"levels up to {level:g}: {error}; give fixed=True and rise=0") from error
        if calibrated and (alpha != 1 or isinstance(fault, FeatureFault)):
            raise ValueError("calibrated = True: needs alpha = 1 and a fault of parameters")
        self.alpha, self.fixed, self.calibrated = alpha, fixed, calibrated
        for value in rate.values() if isinstance(rate, Mapping) else [rate]:
            if not is_number(value) or not 0 <= value < 1:
                raise ValueError(f"rate = {value!r}: must be a number from 0 to less than 1")
        if isinstance(sites, str):
            raise ValueError(f"sites = {sites!r}: must be a list of names of modules")
        if sites is not None and not isinstance(sites, Sequence):
            sites = tuple(sites)
        self.model, self.level, self.fault, self.where, self.rise = model, level, fault, where, rise
        self.seed, self.steps = whole_number("seed", seed, None), 0
        self.sites: Sequence[Place] | None = None
        self._rate, self._wanted = rate, sites
        self._rates: list[float] = []
        check_memory(self._parameters())
        if sites is not None and _are_places(sites):
            self._place(sites)
        if example is not None:
            self._prepare(call_with(example), evaluating=True)
        self._ready = example is not None

    @contextmanager
    def step(self, progress: float = 1.0) -> Iterator["Hardening"]:
        """Faults and dropout for the forward and backward pass of one step. The optimizer's step comes after it.

        Args:
            progress: how much of the training is done, from 0 to 1.

        Raises:
            ValueError: a parameter was changed inside of the step; the network was not called in the first step; or
                training is for calibrated copies, which `backward` alone does.
        """
        if self.calibrated:
            raise ValueError("calibrated = True: a step alone calibrates nothing; call `backward`")
        with self._step(progress):
            yield self

    @contextmanager
    def _step(self, progress: float) -> Iterator[None]:
        """What `step` says, also as a part of `backward`."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress = {progress!r}: must be from 0 to 1, the share of the training that is done")
        number, self.steps = self.steps, self.steps + 1
        with own_random(derive_seed("hardening", self.seed, number)), ExitStack() as stack:
            if self._ready:
                stack.enter_context(self._acting(progress, number))
            else:

                def first_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                    handle.remove()
                    self._prepare(lambda model: model(*_cloned(args), **_cloned(kwargs)), evaluating=False)
                    self._ready = True
                    stack.enter_context(self._acting(progress, number))

                handle = self.model.register_forward_pre_hook(first_call, with_kwargs=True)
                stack.callback(handle.remove)
            yield
            if not self._ready:
                raise ValueError("the network was not called in the step, so its sites are not known: give `example`")

    def backward(self, loss: Callable[[], Tensor], progress: float = 1.0) -> Tensor:
        """Fault-tolerant training: leave the gradient of (1 − α) · loss + α · loss under faults, as one step does.

        With `calibrated`, it is the gradient of the loss of a faulty copy that is calibrated on the batch.

        Args:
            loss: calls the network and gives the loss, a scalar. It is called twice: without faults, and in `step`;
                where α (`alpha`) is 0 or 1 and nothing is calibrated, once. With `calibrated` and without an
                `example`, the first `backward` calls it once more, to find the sites.
            progress: how much of the training is done, from 0 to 1.

        Returns:
            The sum of the two losses, or that of the calibrated copy.
        """
        if self.calibrated:
            return self._calibrated(loss, progress)
        value: Tensor | float = 0.0
        if self.alpha < 1:
            clean = (1 - self.alpha) * loss()
            clean.backward()
            value = clean.detach()
        if self.alpha > 0:
            with self.step(progress):
                faulty = self.alpha * loss()
                faulty.backward()
            value = value + faulty.detach()
        assert isinstance(value, Tensor)  # α is less than 1 or greater than 0
        return value

    def _calibrated(self, loss: Callable[[], Tensor], progress: float) -> Tensor:
        """The gradient of a copy that is calibrated to a clean pass of the same batch, under dropout like the copy."""
        from bayesft.calibration import calibration_layers
        from bayesft.calibration.gradient import calibrated_backward, clean_moments

        if not self._ready:  # the first pass finds the sites
            with unchanged(self.model), self._step(progress):
                loss()
            self.steps -= 1
        assert self.sites is not None
        seed = derive_seed("hardening", self.seed, self.steps, "clean")
        with own_random(seed), dropping(self.model, self.sites, self._rates):
            layers = calibration_layers(self.model)
            clean = clean_moments(self.model, layers, loss)
        return calibrated_backward(self.model, layers, clean, loss, self._step(progress))

    @contextmanager
    def _acting(self, progress: float, number: int) -> Iterator[None]:
        generator = torch.Generator().manual_seed(derive_seed("hardening", self.seed, number, "level"))
        bound = risen(self.level, self.rise, progress)
        level = bound if self.fixed else float(torch.rand((), generator=generator)) * bound
        assert self.sites is not None  # they are found before a step acts
        with dropping(self.model, self.sites, self._rates) as called, self._faulty(level, number):
            yield
            if self.sites and not called():
                raise ValueError(
                    "dropout did not act in the step: the network was not called, or a compiled form of it was; train "
                    "the network itself, or give sites=() for faults alone"
                )

    @contextmanager
    def _faulty(self, level: float, number: int) -> Iterator[None]:
        """A faulty copy in the parameters' place. Gradients that arrive go on through the fault."""
        fault = self.fault
        if isinstance(fault, FeatureFault):
            with struck(self.model, fault, level, ("hardening", self.seed), number):
                yield
            return
        module_of, thetas = owners(self.model), self._parameters()

        def perturb(name: str, theta: Tensor) -> Tensor:
            seed = derive_seed("hardening", self.seed, number, name, tuple(theta.shape))
            return perturbed(fault, theta, seed, name, module_of[name][0])(level)

        try:
            with learning_through(thetas, perturb):
                versions = {name: theta._version for name, theta in thetas.items()}
                yield
                changed = [name for name, theta in thetas.items() if theta._version != versions[name]]
        finally:
            if not self.calibrated:  # a backward pass that comes too late must not go unnoticed
                for theta in thetas.values():
                    torch.autograd.graph.increment_version(theta)
        if changed:
            raise ValueError(
                f"parameter {changed[0]!r} was changed inside of the step: call optimizer.step() after the `with` block"
            )

    def _parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the fault meets: none for a fault of activations."""
        return {} if isinstance(self.fault, FeatureFault) else select(self.model, self.where)

    def _place(self, sites: Sequence[Place]) -> None:
        """Take these sites, each with its rate."""
        if sites and any(map(is_compiled, self.model.modules())):
            raise ValueError(
                "dropout does not act in a compiled network: give the network that was compiled, and train that; or "
                "sites=() for faults alone"
            )
        names = [place.name for place in sites]
        if isinstance(self._rate, Mapping):
            if sorted(self._rate) != sorted(names):
                raise ValueError(f"rate has {sorted(self._rate)}: need one for each of the sites {sorted(names)}")
            self._rates = [self._rate[name] for name in names]
        else:
            self._rates = [self._rate] * len(names)
        self.sites = sites

    def _prepare(self, call: Callable[[nn.Module], Any], evaluating: bool) -> None:
        """Find the sites, and check that faults and dropout act, with one pass as it will be trained."""
        if self.sites is None:
            if self._wanted is None:
                found = sites_of(self.model, call, find_places, evaluating)
            else:
                names = [site.name if isinstance(site, Place) else site for site in self._wanted]
                found = sites_of(self.model, call, lambda model, run: places_of(model, run, names), evaluating)
            self._place(found)
        assert self.sites is not None
        parameters = self._parameters()
        learnt = [name for name, theta in parameters.items() if theta.requires_grad]
        with ExitStack() as stack:
            stack.enter_context(own_random(self.seed))
            snapshot = stack.enter_context(unchanged(self.model))
            if evaluating:
                stack.enter_context(eval_mode(self.model))

            def run() -> Any:
                seed_all(derive_seed("hardening", self.seed, "check"))
                return call(self.model)

            stack.enter_context(torch.no_grad())
            if not isinstance(self.fault, FeatureFault):
                check_gradient(self.fault, self._tried, self.model, learnt)
            check_reach(self.model, run, parameters, snapshot, "in training")
            check_sites(self.model, run, self.sites, snapshot)


def _are_places(sites: Sequence[Place | str]) -> TypeGuard[Sequence[Place]]:
    return all(isinstance(site, Place) for site in sites)


def _cloned(value: Any) -> Any:
    return mapped(lambda tensor: tensor.detach().clone(), value)
