"""The training loop, the same for every method: data in memory, batches by indexing, Adam, one-cycle, norm clipping.

The authors train with Adam at 0.01 and clip gradients at 0.1. Under drift-aware training that falls apart, and every
method must get the same recipe; so the step size rises to `lr` and falls again over the whole training, and the
gradient's norm is clipped.
"""

import math
import time
from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from bayesft.data import Split
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe
from bayesft.training.checkpoint import Checkpoint

Loss = Callable[[Tensor, Tensor], Tensor]
Gradient = Callable[[nn.Module, Loss, Any, Any, float], Tensor]  # a batch is what the columns of the data give


class Adam(torch.optim.Adam):
    """PyTorch's Adam without the wrappers that keep its methods out of torch.compile.

    The wrappers import the compiler at their first use, which takes 1.6 s in every training, and nothing is compiled.
    """

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class Diverged(RuntimeError):
    """The loss or its gradient is no longer finite."""


def plain_gradient(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, progress: float = 0.0) -> Tensor:
    """The gradient of the mean loss of a batch. Every method's gradient has this signature and keeps this contract.

    Args:
        model: The network. Its parameters keep their values; their gradients are added to `.grad`.
        loss: Gives a scalar, the mean over the batch, for outputs (B, ...) and labels.
        x: The inputs (B, ...), or a tuple of several inputs.
        y: The labels (B, ...).
        progress: The share of the training's steps that are done, for a method that changes on the way.

    Returns:
        The loss, a scalar that is detached. `fit` raises Diverged where it or the gradient is not finite.
    """
    value = loss(model(*x) if isinstance(x, tuple) else model(x), y)
    value.backward()
    return value.detach()


def fit(
    model: nn.Module,
    data: Split,
    recipe: Recipe,
    *,
    seed: int,
    label: str,
    loss: Loss = F.cross_entropy,
    gradient: Gradient = plain_gradient,
    after_step: Callable[[], None] = lambda: None,
    after_epoch: Callable[[int], bool] = lambda _: False,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """Train `model` in place on `data` and return it.

    The order of the images, and every other random number, is drawn for each epoch from (seed, epoch) alone: a training
    that resumes from `checkpoint` ends with the same weights as one that was never interrupted.

    Args:
        model: The network, on the device of the data.
        data: The training images and labels. Columns of another kind must have a length, a device, and batches by
            number.
        recipe: How long and with what steps.
        seed: The seed of all random numbers.
        label: The name of the training in the progress bar, the checkpoint and errors.
        loss: The loss ℓ, as `plain_gradient` takes it.
        gradient: How a step's gradient is taken; the contract is that of `plain_gradient`.
        after_step: Called after each step.
        after_epoch: Called with the number of epochs that are done. It ends the training when it says True.
        checkpoint: Where a killed training finds its state.

    Returns:
        The network, in train mode unless `after_epoch` changed that.

    Raises:
        Diverged: At the end of an epoch: a loss or a gradient in it was not finite. The message names step and label.
    """
    device = data.labels.device
    steps = math.ceil(len(data.labels) / recipe.batch_size)
    # One kernel updates all parameters: 1.4 times the steps of a multi-layer perceptron. It takes no complex numbers.
    fused = all(p.is_floating_point() for p in model.parameters())
    optimizer = Adam(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    scheduler = None
    if recipe.schedule == "one_cycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps * recipe.epochs + 1)
    done = resume(checkpoint, label, model, optimizer, scheduler)
    if done:
        tqdm.write(f"{label}: resuming after epoch {done} of {recipe.epochs}")
    bar = tqdm(range(done, recipe.epochs), desc=label, initial=done, total=recipe.epochs, unit="epoch", disable=None)
    saved = time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in bar:
            torch.manual_seed(derive_seed(seed, "epoch", epoch))
            model.train()  # at each epoch: what `after_epoch` measures may leave it in eval mode
            order = torch.randperm(len(data.labels)).to(device)
            seen: list[Tensor] = []  # losses and norms: looked at once an epoch, since a look makes a GPU wait
            # Batches of equal size: a last one of a single image would break batch normalisation.
            for step, batch in enumerate(order.tensor_split(steps)):
                optimizer.zero_grad()
                # A GPU trains in bfloat16 where that is safe. Weights change between the passes of one step (AWP,
                # drift-aware), so no cast of a weight may be kept.
                with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
                    progress = (epoch + step / steps) / recipe.epochs
                    value = gradient(model, loss, data.images[batch], data.labels[batch], progress)
                norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
                seen.append(torch.stack([value.detach().float(), norm.detach().float()]))
                optimizer.step()
                after_step()
                if scheduler:
                    scheduler.step()
            for step, (value, norm) in enumerate(torch.stack(seen).tolist(), epoch * steps):
                if not (math.isfinite(value) and math.isfinite(norm)):
                    found = f"the loss is {value} and its gradient's norm {norm}"
                    raise Diverged(f"{label}: {found} at step {step} (epoch {epoch}); lower the lr")
            bar.set_postfix(loss=f"{value:.3f}", refresh=False)
            if after_epoch(epoch + 1):
                break
            if checkpoint and time.monotonic() - saved >= checkpoint.save_after_s:
                save(checkpoint, label, epoch + 1, model, optimizer, scheduler)
                saved = time.monotonic()
    return model


@torch.inference_mode()
def accuracy(
    model: nn.Module,
    data: Split,
    decode: Callable[[Tensor], Tensor] = lambda outputs: outputs.argmax(1),
    batch: int = 512,
) -> float:
    """The share of `data` that `model` classifies rightly, as it stands. Outputs that are not finite are wrong.

    Args:
        model: The network. It is left in eval mode.
        data: The images and labels.
        decode: Gives the classes (B,) for outputs (B, K).
        batch: How many images pass at once.

    Returns:
        The share, in [0, 1].
    """
    model.eval()
    right = 0
    for x, y in zip(data.images.split(batch), data.labels.split(batch), strict=True):
        outputs = model(x)
        right += int(((decode(outputs) == y) & outputs.isfinite().all(1)).sum())
    return right / len(data.labels)


def save(
    checkpoint: Checkpoint,
    label: str,
    epochs_done: int,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
) -> None:
    """Keep the state of a training.

    Args:
        checkpoint: Where it is kept.
        label: The name of the training, under which it is kept.
        epochs_done: The number of epochs that are done.
        model: The network.
        optimizer: Its optimizer, Adam.
        scheduler: That of the step size; None for a constant one.
    """
    state = optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"adam.{i}.{k}": tensor for i, entry in state["state"].items() for k, tensor in entry.items()}
    value = {
        "epochs": epochs_done,
        "groups": state["param_groups"],
        "scheduler": scheduler.state_dict() if scheduler else None,
    }
    checkpoint.save(label, tensors, value)


def resume(
    checkpoint: Checkpoint | None,
    label: str,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
) -> int:
    """Put everything back as `save` kept it.

    Args:
        checkpoint: Where it is kept; None: nowhere.
        label, model, optimizer, scheduler: As for `save`. The last three are changed in place.

    Returns:
        The number of epochs that are done; 0 where nothing was kept.
    """
    found = checkpoint.load(label) if checkpoint else None
    if found is None:
        return 0
    tensors, value = found
    states: dict[int, dict[str, Tensor]] = {}
    parameters = [theta for group in optimizer.param_groups for theta in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            like = parameters[int(index)]
            if tensor.shape == like.shape:  # the fused kernel takes the parameter's order in memory for granted
                tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
            states.setdefault(int(index), {})[key] = tensor
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    optimizer.load_state_dict({"state": states, "param_groups": value["groups"]})
    if scheduler:
        scheduler.load_state_dict(value["scheduler"])
    return value["epochs"]
