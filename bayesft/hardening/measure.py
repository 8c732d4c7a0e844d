"""The score of any network under faults: faulty copies of it, on streamed data."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayesft.calibration import calibrator
from bayesft.calibration.reference import example_tensors
from bayesft.drift.copies import faulty, owners, perturbed, select, write
from bayesft.drift.faults import FaultModel, LogNormalDrift, traits_of
from bayesft.drift.features import FeatureFault, NotStruck, struck
from bayesft.drift.montecarlo import GROUP_MIB, SharedStart, batch_size
from bayesft.drift.scope import Where
from bayesft.hardening.batches import Batches, joined, mapped, mark, outputs_of, part, tensors
from bayesft.hardening.checks import (
    check_fault,
    check_gradients,
    check_hooks,
    check_memory,
    check_model,
    check_no_nan,
    check_where,
    checked_device,
    checked_levels,
    first_pass,
    whole_number,
)  # fmt: skip
from bayesft.hardening.probe import check_reach, same
from bayesft.hardening.progress import tqdm
from bayesft.hardening.robustness import Robustness
from bayesft.hardening.scores import Score, Scorer, count_of
from bayesft.hardening.state import own_random, seed_all
from bayesft.memory_format import is_known, memory_format
from bayesft.modes import Snapshot, eval_mode, unchanged
from bayesft.seeds import derive_seed

FEW = 8  # examples on which it is tried whether faults act, before the whole batch is
MEMORY = 512 * 2**20  # bytes for the faulty parameters of a group of copies, and as many for their outputs
COPIES = 8  # of a group, where outputs are kept

Forward = Callable[[nn.Module, Any], tuple[Any, Any]]
Calibrate = Callable[[nn.Module], AbstractContextManager[Any] | None]


def evaluate(
    model: nn.Module,
    data: Any,
    *,
    score: str | Score = "accuracy",
    forward: Forward | None = None,
    fault: FaultModel | FeatureFault = LogNormalDrift(),  # noqa: B008, frozen
    levels: Sequence[float] | None = None,
    draws: int = 20,
    seed: int = 0,
    where: Where = "all",
    device: str | torch.device | None = None,
    calibrate: Any | Calibrate | None = None,
    progress: bool = True,
) -> Robustness:
    """Measure a network under faults. The network, the data and all random streams come back as they were.

    Args:
        model: any trained module. It is measured in eval mode.
        data: tensors (inputs..., targets), a Dataset, or any iterable of batches, which are streamed. A batch is a
            tuple whose last part is the targets, a dictionary or dataclass with labels, label, y, targets or target, or
            anything that `forward` takes. An iterator that can be read once is enough where all copies fit into memory.
        score: "accuracy", or a function of (outputs, targets) to one number an example (B,), or one for all of them;
            more is better. What compares examples with one another, and what is one number, is computed over all
            outputs at once. An example whose outputs are not finite gets at most 0. Where your score is NaN there, it
            stays NaN: what such an example is worth is yours to say.
        forward: a function of (model, batch) to (outputs, targets), for batches and networks of another kind. A list of
            tensors is then a list of batches.
        fault: what happens to a parameter, or to an activation (`bayesft.drift.features`).
        levels: fault levels of at least 0, in the fault's unit; without them, those of the fault.
        draws: number of faulty copies, at each level; equal numbers are the same devices at every level.
        seed: of the faults, and of whatever is random in the network or the data.
        where: the faulty parameters: "all", "weights", "convolutions", or a function of (name, module, parameter) to
            bool.
        device: where to compute; without it, where the network is.
        calibrate: unlabelled examples, one batch in the form that the network takes (a tensor, a tuple of several
            inputs, a dict): each copy is calibrated with them before it is scored, to a reference from the same
            examples (docs/calibration.md). Or a function that is called with each copy. It may change the network;
            what it changes is undone after the copy. If it returns a context manager, that is entered for the scoring.
        progress: show a bar.

    Returns:
        The scores, with intervals. After Ctrl-C, those of the draws that were complete.

    Raises:
        ValueError: an argument is not allowed; or a check on the first batch fails: a parameter whose fault does not
            act, a fault that draws from elsewhere, inputs with NaN, labels that are no classes, a score of a wrong
            shape. All before the measurement. In a later batch: inputs with NaN, or a batch of another kind.
    """
    work = _Work(model, data, score, forward, fault, levels, draws, seed, where, device, calibrate)
    with torch.inference_mode(False), own_random(derive_seed("evaluate", seed)), unchanged(model), torch.no_grad():
        if device is not None:
            _move(model, work.device)
        with eval_mode(model):
            work.check()
            tally = _Tally(len(work.levels), work.draws)
            with tqdm(total=tally.known.size, disable=not progress, unit="copy") as bar:
                try:
                    for _ in work.measure(tally):
                        bar.update(int(tally.known.sum()) - bar.n)
                except KeyboardInterrupt:
                    if not tally.complete():
                        raise
                    warnings.warn(f"interrupted: {tally.complete()} of {work.draws} draws are complete", stacklevel=2)
    return tally.result(work)


def _move(model: nn.Module, device: torch.device) -> None:
    """Move the network without its gradients; a snapshot of it moves it back, and gives it them again."""
    if any(tensor.device != device for tensor in (*model.parameters(), *model.buffers())):
        for theta in model.parameters():
            theta.grad = None
        model.to(device)


class _Work:
    """The arguments of a measurement, checked, and what is done with them."""

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        score: str | Score,
        forward: Forward | None,
        fault: FaultModel | FeatureFault,
        levels: Sequence[float] | None,
        draws: int,
        seed: int,
        where: Where,
        device: str | torch.device | None,
        calibrate: Any,
    ):
        check_model(model)
        check_gradients(model)
        check_fault(fault)
        check_where(fault, where)
        if isinstance(fault, FeatureFault) or not (calibrate is None or callable(calibrate)):
            model = getattr(model, "_orig_mod", model)  # a compiled network calls no hooks
        check_hooks(fault, model)
        self.model, self.where = model, where
        self.fault, self.levels = fault, checked_levels(fault, levels)
        self.draws = whole_number("draws", draws, 1)
        self.seed = whole_number("seed", seed, None)
        if forward is not None and not callable(forward):
            raise ValueError(f"forward = {forward!r}: must be a function")
        if not (calibrate is None or callable(calibrate) or isinstance(calibrate, (Tensor, tuple, Mapping))):
            kind = type(calibrate).__name__
            raise ValueError(f"calibrate = {kind}: must be examples (a tensor, a tuple, a dict) or a function")
        self.forward, self.calibrate = forward, calibrate
        self.scorer = Scorer(score)
        self.device = checked_device(model, device)
        self.parameters = {} if isinstance(fault, FeatureFault) else select(model, where)
        check_memory(self.parameters)
        self.batches = Batches(data, self.seed, forward is not None)
        self.fixed = self.batches.columns if forward is None else None  # what is always read alike is checked once
        self.steady, self.format = False, torch.preserve_format
        self.shared: SharedStart | None = None

    def check(self) -> None:
        """One pass over the first batch, before any measurement."""
        batch = self.batches.first()
        if batch is None:
            raise ValueError("data: there is no batch")
        self.start = snapshot = Snapshot(self.model)
        if self.fixed:
            check_no_nan(self.fixed.tensors)
            self.batches.check_order(mark(self.fixed.tensors[-1]))
        else:
            check_no_nan(batch)
        seed = derive_seed("evaluate", self.seed, "check")
        with first_pass("data"):
            outputs, targets = self.run(batch, seed)
        snapshot.restore()
        few = part(batch, slice(0, FEW), count_of(outputs, targets))
        self.scorer.learn(outputs, targets)
        again = self.run(batch, seed + 1)[0]
        snapshot.restore()
        self.random = not same(outputs, again)
        del outputs, again
        self.calibration = "by a function" if callable(self.calibrate) else ""
        if self.calibrate is not None and not self.calibration:
            self._make_reference()
        self._choose_way(batch)
        self._check_draws()
        try:  # gradients take memory, and a few examples mostly tell
            self._check_reach(few, seed)
        except Exception:
            snapshot.restore()
            self._check_reach(batch, seed)

    def _check_draws(self) -> None:
        """A fault draws from its generator alone, and leaves the parameter as it is: tried on a few small ones.

        Whether it is `constant` there, the same at every draw, tells whether it is worth looking for equal copies.
        """
        self.constant = False
        if isinstance(self.fault, FeatureFault):
            return
        self.constant, module_of = True, owners(self.model)
        by_size = sorted(self.parameters.items(), key=lambda item: -item[1].numel())
        for name, theta in {theta.dim(): (name, theta) for name, theta in by_size}.values():
            given, found = theta.detach().clone(), []
            for seed in (0, 1):
                seed_all(seed)
                copy_at = perturbed(self.fault, given, 0, name, module_of[name][0])
                found += [copy_at(self.levels[-1]), copy_at(self.levels[-1])]
            other = perturbed(self.fault, given, 1, name, module_of[name][0])(self.levels[-1])
            self.constant &= same(found[0], other)
            if not same(given, theta) or not all(same(found[0], each) for each in found):
                raise ValueError(
                    f"fault = {self.fault}: two calls with equal generators gave other copies of parameter {name!r}, "
                    "or changed it; a fault must draw from its generator alone, and leave its arguments as they are"
                )

    def _choose_way(self, batch: Any) -> None:
        """How copies pass, with equal results: what is known of a network's structure spares work.

        A network of PyTorch's own modules, in eval mode and without hooks, is the same after a pass as before
        (`steady`): it needs no restoring, and its input the memory format and the size of batches that suit it. A
        sequential one shares its first convolution with other copies (`SharedStart`).
        """
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())
        known = is_known(self.model) and not hooked and self.forward is None and not self.random
        by_function = self.calibrate is not None and not self.calibration.startswith("with")
        steady = known and not (by_function or isinstance(self.fault, FeatureFault))
        self.steady, self.shared, self.format = steady, None, torch.preserve_format
        self.clean = {name: theta.detach().clone() for name, theta in self.parameters.items()} if self.steady else {}
        if not self.steady or not isinstance(batch, (tuple, list)) or len(batch) != 2:
            return
        if not all(isinstance(tensor, Tensor) for tensor in batch) or not batch[0].is_floating_point():
            return
        images = batch[0].detach()[:2].to(self.device)
        if images.dim() == 4:
            self.format = memory_format(self.model)
        if self.batches.columns:
            self.batches.columns.size = batch_size(self.model, images)
            self.shared = None if self.calibrate else SharedStart.of(self.model, self.parameters, images, GROUP_MIB)
        self.start.restore()

    def _make_reference(self) -> None:
        """The clean network on the examples that all copies are calibrated with."""
        examples = mapped(lambda tensor: tensor.detach().to(self.device), self.calibrate)
        try:
            self.calibrate = calibrator(self.model, examples)
        except Exception as error:
            raise ValueError(f"calibrate: {error}") from error
        finally:
            self.start.restore()
        self.calibration = f"with {len(example_tensors(examples)[0])} examples"

    def _check_reach(self, batch: Any, seed: int) -> None:
        check_reach(self.model, lambda: self.run(batch, seed)[0], self.parameters, self.start, "in eval mode")

    def run(self, batch: Any, seed: int) -> tuple[Any, Any]:
        """Outputs and targets of a pass of a copy of the batch."""
        batch = mapped(self._copied, batch)
        if not self.steady:
            seed_all(seed)
        return outputs_of(self.model, batch, self.forward)

    def _copied(self, tensor: Tensor) -> Tensor:
        suits = self.format if tensor.dim() == 4 else torch.preserve_format
        return tensor.detach().clone(memory_format=suits).to(self.device)

    def measure(self, tally: "_Tally") -> Iterator[None]:
        """Score all copies, a group at a time, into the tally."""
        for group in self._groups(tally):
            self._score(group)
            for cell in group:
                for place in cell.places:
                    tally.add(cell, place)
            yield

    def _groups(self, tally: "_Tally") -> Iterator[list["_Cell"]]:
        """Copies that fit into memory together. Copies without any fault are one copy, and so are equal ones."""
        size = sum(theta.numel() * theta.element_size() for theta in self.parameters.values())
        most = max(1, MEMORY // max(size, 1))
        equal_ones = self.constant and not self.random and size * len(self.levels) <= MEMORY
        if self.shared:
            most = self.shared.group
        elif self.calibrate or (self.steady and self.batches.columns):
            most = 1
        if not (self.scorer.by_example or self.batches.once):
            most = min(most, COPIES)  # which share the memory for their outputs
        room = MEMORY / min(most, self.draws * len(self.levels))
        clean: _Cell | None = None
        first: dict[int, tuple[_Cell, dict[str, Tensor]]] = {}  # copy of each level
        group: list[_Cell] = []
        for draw in range(self.draws):
            if not isinstance(self.fault, FeatureFault):
                copies_at = faulty(self.model, self.fault, ("evaluate", self.seed), draw, self.where)
            for i, level in enumerate(self.levels):
                copies: dict[str, Tensor] = {}
                changes = False
                if isinstance(self.fault, FeatureFault):
                    changes = level > 0 or not self.fault.traits.identity_at_zero
                else:
                    copies = copies_at(level)
                faultless = not (self.random or changes) and _equal(copies, self.parameters)
                known = clean if faultless else None
                if i in first and _equal(copies, first[i][1]):
                    known = first[i][0]
                if known:
                    known.places.append((i, draw))
                    if known not in group:
                        tally.add(known, (i, draw))
                    continue
                cell = _Cell([(i, draw)], {} if faultless else copies, room)
                clean = cell if faultless else clean
                if equal_ones:
                    first.setdefault(i, (cell, copies))
                group.append(cell)
                if len(group) == most:
                    if self.batches.once and (draw, i) != (self.draws - 1, len(self.levels) - 1):
                        fit = f"only {most} of {self.draws * len(self.levels)} faulty copies fit into memory at a time"
                        why = "each copy reads it after it was calibrated" if self.calibrate else fit
                        raise ValueError(
                            f"data: an iterator can be read once, and {why}; give an iterable that can be read again "
                            "(a list, a DataLoader)"
                        )
                    yield group
                    group = []
        if group:
            yield group

    def _score(self, group: list["_Cell"]) -> None:
        order = 0
        try:
            with self._calibrated(group) as start:
                for number, batch in enumerate(self.batches):
                    if not self.fixed:
                        check_no_nan(batch)
                    for cell, outputs, targets in self._passes(group, batch, number, start):
                        cell.add(self.scorer, mapped(lambda tensor: tensor.detach(), outputs), targets)
                    if not self.fixed:
                        order = mark(targets, order)
                for cell in group:
                    cell.finish(self.scorer)
        finally:
            if self.steady:
                write(self.parameters, self.clean)
            else:
                self.start.restore()
        if not self.fixed:
            self.batches.check_order(order)

    def _passes(
        self, group: list["_Cell"], batch: Any, number: int, start: Snapshot
    ) -> Iterator[tuple["_Cell", Any, Any]]:
        """Outputs and targets of a batch, or of a part of it, for each copy. Targets come in the order of the batch."""
        if self.shared:
            copies = [cell.copies or self.clean for cell in group]
            x, y = (tensor.detach().to(self.device) for tensor in batch)
            for i, outputs, targets in self.shared.outputs(x, y, copies):
                yield group[i], outputs, targets
            return
        for cell in group:
            if self.steady:
                if not self.calibrate and (len(group) > 1 or number == 0):
                    write(self.parameters, cell.copies or self.clean)
            else:
                write(self.parameters, cell.copies)
            seed = derive_seed("evaluate", self.seed, "pass", cell.places[0][1], number)
            with self._struck(cell, number):
                outputs, targets = self.run(batch, seed)
            yield cell, outputs, targets
            if not self.steady:
                start.restore()

    def _struck(self, cell: "_Cell", number: int, *key: str) -> AbstractContextManager[Any]:
        """The copy's fault of activations, for a pass of batch `number`."""
        level, draw = cell.places[0]
        return struck(self.model, self.fault, self.levels[level], ("evaluate", self.seed, *key), draw, number)

    @contextmanager
    def _calibrated(self, group: list["_Cell"]) -> Iterator[Snapshot]:
        """The state in which each pass begins: as given, or as the calibration of the one copy left it."""
        if self.calibrate is None:
            yield self.start
            return
        write(self.parameters, group[0].copies)
        with ExitStack() as stack:
            with suppress(NotStruck), self._struck(group[0], 0, "calibration"):  # a function may run no pass
                made = self.calibrate(self.model)
                stack.enter_context(made if hasattr(made, "__enter__") else nullcontext())
            group[0].copies = {}  # they are in the network, perhaps changed
            yield self.start if self.steady else Snapshot(self.model)


def _equal(copies: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(copy, others[name].detach()) for name, copy in copies.items())


@dataclass(eq=False)
class _Cell:
    """One faulty copy: the (level, draw) that it stands for, its parameters, and what is known of its score."""

    places: list[tuple[int, int]]
    copies: dict[str, Tensor]
    room: float  # bytes of outputs that it may keep
    values: list[Tensor] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # of the examples of each value
    kept: list[tuple[Any, Any]] = field(default_factory=list)
    held: int = 0  # bytes
    not_finite: int = 0

    def add(self, scorer: Scorer, outputs: Any, targets: Any) -> None:
        """Score a batch, or keep its outputs where the score needs all of them."""
        count = count_of(outputs, targets)
        bad = scorer.not_finite(outputs, count)
        self.not_finite += int(bad.sum())
        if scorer.by_example:
            self._score(scorer, outputs, targets, bad)
            return
        self.kept.append(mapped(self._kept, (outputs, targets)))
        self.held += sum(tensor.numel() * tensor.element_size() for tensor in tensors(self.kept[-1]))
        if self.held > self.room:
            if self.values or all(scorer.of_parts(*each, count_of(*each)) for each in self._joined(scorer)):
                self._score_kept(scorer)
            else:  # they must be kept, where there is more memory
                self.room = math.inf
                self.kept = [mapped(self._kept, each) for each in self.kept]

    def finish(self, scorer: Scorer) -> None:
        """The mean score, and the scores of the examples where there are such."""
        if self.kept:
            self._score_kept(scorer)
        self.copies, self.count = {}, sum(self.counts)
        if self.values[0].dim():
            value = torch.cat(self.values)
        else:
            value = (torch.stack(self.values) * torch.tensor(self.counts)).sum() / self.count
        self.values = []
        self.mean = float(value.mean())
        self.examples = value.numpy() if value.dim() else np.zeros(0)

    def _score(self, scorer: Scorer, outputs: Any, targets: Any, bad: Tensor | None = None) -> None:
        count = count_of(outputs, targets)
        value = scorer(outputs, targets, count, bad)
        if self.values and value.dim() != self.values[0].dim():
            raise ValueError(f"score gives shape {tuple(value.shape)} for a batch of {count}, and another one before")
        self.values.append(value)
        self.counts.append(count)

    def _score_kept(self, scorer: Scorer) -> None:
        """Score the outputs that are kept, and keep them no longer."""
        for outputs, targets in self._joined(scorer):
            self._score(scorer, outputs, targets)
        self.kept, self.held = [], 0

    def _joined(self, scorer: Scorer) -> list[tuple[Any, Any]]:
        """The outputs and targets that are kept, as one batch; where that can't be, and need not, batch by batch."""
        try:
            counts = [count_of(*each) for each in self.kept]
            outputs, targets = (joined(list(each), counts) for each in zip(*self.kept, strict=True))
        except Exception as error:
            if not scorer.adds_up:
                raise ValueError(
                    f"score: it needs all outputs at once, and batches can't be joined: {error}"
                ) from error
            return self.kept
        return [(outputs, targets)]

    def _kept(self, tensor: Tensor) -> Tensor:
        return tensor.cpu() if math.isinf(self.room) else tensor.clone()


class _Tally:
    """The scores by level and draw. Sums over draws are made of complete draws alone, for each example."""

    def __init__(self, levels: int, draws: int):
        self.scores = np.full((levels, draws), np.nan)
        self.not_finite = np.zeros((levels, draws), dtype=np.int64)
        self.known = np.zeros((levels, draws), dtype=bool)
        self.count = 0
        self._sums: np.ndarray | None = None
        self._waiting: dict[int, list[tuple[int, np.ndarray]]] = {}

    def add(self, cell: _Cell, place: tuple[int, int]) -> None:
        """The score of a copy, at a (level, draw) that it stands for."""
        level, draw = place
        self.scores[place], self.not_finite[place], self.known[place] = cell.mean, cell.not_finite, True
        self.count = cell.count
        self._waiting.setdefault(draw, []).append((level, cell.examples))
        if self.known[:, draw].all():
            if self._sums is None:
                self._sums = np.zeros((len(self.scores), len(cell.examples)))
            for at, values in self._waiting.pop(draw):
                self._sums[at] += values

    def complete(self) -> int:
        """How many draws are known at every level."""
        return int(self.known.all(0).sum())

    def result(self, work: _Work) -> Robustness:
        draws, traits = self.known.all(0), traits_of(work.fault)
        about = {
            "fault": repr(work.fault),
            "level": f"{traits.name} {traits.symbol}" + (f" ({traits.unit})" if traits.unit else ""),
            "score": work.scorer.name,
            "seed": work.seed,
            "draws": work.draws,
            "count": self.count,
            "data": work.batches.mark(),
            "where": work.where if isinstance(work.where, str) else "chosen",
            "calibrated": work.calibration,
            "interrupted": not bool(draws.all()),
        }
        assert self._sums is not None  # at least one draw is complete
        examples = self._sums / draws.sum()
        return Robustness(np.array(work.levels), self.scores[:, draws], examples, about, self.not_finite[:, draws])
