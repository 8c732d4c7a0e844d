"""The training loop of `harden`: anyone's network, data and loss, under faults and dropout or without."""

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from bayesft.hardening.batches import Batches, in_memory, mapped, outputs_of, tensors
from bayesft.hardening.checks import check_no_nan, check_rereadable
from bayesft.hardening.progress import tqdm
from bayesft.hardening.state import own_random, seed_all
from bayesft.hardening.step import Hardening
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe

HALF_EPS = 1e-4  # Adam's ε in float16, where the usual 1e-8 is zero


@dataclass(frozen=True)
class Task:
    """What every training of a call shares.

    Args:
        start: the network that each begins with a copy of.
        data: the training data: tensors, a Dataset, or an iterable of batches that can be read again.
        loss: (outputs, targets) to a scalar.
        forward: (model, batch) to (outputs, targets), or None for the convention of `parted`.
        device: where to train.
        seed: of all that is random.
    """

    start: nn.Module
    data: Any
    loss: Callable[[Any, Any], Tensor]
    forward: Callable[[nn.Module, Any], tuple[Any, Any]] | None
    device: torch.device
    seed: int

    def run(self, network: nn.Module, batch: Any) -> tuple[Any, Any]:
        """Outputs and targets of a copy of a batch, in the modes that the network is in."""
        return outputs_of(network, mapped(lambda tensor: tensor.detach().clone().to(self.device), batch), self.forward)

    def value(self, network: nn.Module, batch: Any) -> Tensor:
        """The loss of a copy of a batch.

        Raises:
            ValueError: it is no scalar with a gradient.
        """
        value = self.loss(*self.run(network, batch))
        if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
            given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss gives {given}: must give a scalar tensor with a gradient")
        return value


class TrainingBatches:
    """Training data, in another order at each epoch; an epoch's order depends on (seed, epoch) alone.

    Batches of tensors and of a Dataset have equal sizes, so none is a single example. An iterable of batches is read as
    it is.
    """

    def __init__(self, data: Any, size: int, seed: int, forward: bool = False):
        Batches(data, forward=forward)  # it checks the kind
        check_rereadable("train", data)
        self.data, self.size, self.seed = data, size, seed
        self.columns = in_memory(data, forward)
        self.dataset = isinstance(data, Dataset) and not isinstance(data, (DataLoader, IterableDataset))
        if isinstance(data, IterableDataset):
            self.data = DataLoader(data, batch_size=size)
        self.count = len(data[0]) if self.columns else len(data) if self.dataset else 0
        self.steps = math.ceil(self.count / size) if self.count else self._counted()
        if not self.steps:
            raise ValueError("train: there is no batch")

    def _counted(self) -> int:
        try:
            return len(self.data)
        except TypeError:
            return sum(1 for _ in self.data)

    def epoch(self, number: int) -> Iterable[Any]:
        """The batches of an epoch. It seeds the global random streams."""
        seed_all(derive_seed(self.seed, "epoch", number))
        if not self.count:
            return self.data
        parts = torch.randperm(self.count).tensor_split(self.steps)
        if self.columns:
            return (tuple(tensor[rows.to(tensor.device)] for tensor in self.data) for rows in parts)
        return DataLoader(self.data, batch_sampler=[rows.tolist() for rows in parts])


def trained(
    task: Task,
    recipe: Recipe,
    make: Callable[[nn.Module], Hardening] | None,
    *,
    label: str,
    checkpoint: Any = None,
    progress: bool = True,
) -> nn.Module:
    """A copy of the task's network, trained: Adam, one-cycle step size, clipped gradients. In train mode.

    Args:
        task: network, data, loss.
        recipe: how long, and with what steps.
        make: makes the `Hardening` of the copy; None for plain training.
        label: names the training in bars, checkpoints and errors.
        checkpoint: where a killed training finds its state, or None.
        progress: show a bar.

    Raises:
        Diverged: a loss or its gradient is not finite.
    """
    from bayesft.training import Diverged
    from bayesft.training.loop import Adam, resume, save

    network = copy.deepcopy(task.start)
    hardening = make(network) if make else None
    batches = TrainingBatches(task.data, recipe.batch_size, task.seed, task.forward is not None)
    optimizer = Adam(_groups(network), lr=recipe.lr, weight_decay=recipe.weight_decay)
    total = batches.steps * recipe.epochs
    scheduler = None
    if recipe.schedule == "one_cycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=total + 1)
    done, saved = resume(checkpoint, label, network, optimizer, scheduler), time.monotonic()
    learnt = [theta for theta in network.parameters() if theta.requires_grad]
    with (
        own_random(derive_seed("harden", task.seed)),
        tqdm(total=recipe.epochs, initial=done, desc=label, unit="epoch", disable=not progress) as bar,
    ):
        for epoch in range(done, recipe.epochs):
            network.train()
            step = epoch * batches.steps
            for batch in batches.epoch(epoch):
                check_no_nan(batch)
                optimizer.zero_grad()
                if hardening:
                    hardening.steps = step  # a training that resumes meets the same faults
                    value = hardening.backward(partial(task.value, network, batch), min(1.0, step / total))
                else:
                    value = task.value(network, batch)
                    value.backward()
                norm = nn.utils.clip_grad_norm_(learnt, recipe.clip_norm)
                value = value.detach()
                if not (math.isfinite(value) and math.isfinite(norm)):
                    found = f"the loss is {float(value)} and its gradient's norm {float(norm)}"
                    raise Diverged(f"{label}: {found} at step {step} (epoch {epoch}); lower the lr")
                optimizer.step()
                if scheduler and step < total:
                    scheduler.step()
                step += 1
            bar.update()
            late = time.monotonic() - saved >= checkpoint.save_after_s if checkpoint else False
            if checkpoint and (late or epoch + 1 == recipe.epochs):
                save(checkpoint, label, epoch + 1, network, optimizer, scheduler)
                saved = time.monotonic()
    for theta in network.parameters():
        theta.grad = None
    return network


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    """The parameters that learn, those in float16 with an ε of their own."""
    learnt = [theta for theta in network.parameters() if theta.requires_grad]
    half = [theta for theta in learnt if theta.dtype == torch.float16]
    others = [theta for theta in learnt if theta.dtype != torch.float16]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": half, "eps": HALF_EPS}]
    return [group for group in groups if group["params"]]


def first_batch(data: Any, size: int, seed: int, forward: bool = False) -> Any:
    """The first batch of the first epoch, checked."""
    with own_random(0):
        batch = next(iter(TrainingBatches(data, size, seed, forward).epoch(0)), None)
    if batch is None or not any(True for _ in tensors(batch)):
        raise ValueError("train: there is no batch of tensors")
    check_no_nan(batch)
    return batch
