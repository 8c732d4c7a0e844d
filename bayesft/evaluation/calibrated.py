"""Accuracy of calibrated copies: the draws of `accuracy_grid`, each copy calibrated before it is measured.

Calibration needs more than an uncalibrated network does: access to each device, a few unlabelled images on it, and a
digital scale and offset a channel (docs/calibration.md). Reports mark these numbers wherever they stand.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayesft.calibration import Reference, calibrated, calibration_layers, calibration_reference
from bayesft.calibration.layers import Layers
from bayesft.calibration.moments import NotFinite, Terms
from bayesft.data import Split
from bayesft.drift import FaultModel, FeatureFault, drifted_parameters, struck
from bayesft.drift.copies import swapped, write
from bayesft.drift.faults import traits_of
from bayesft.drift.montecarlo import batch_size, format_of
from bayesft.drift.scope import Where
from bayesft.evaluation.grid import resumed
from bayesft.seeds import derive_seed
from bayesft.training import Checkpoint, Trained, accuracy


def calibration_images(images: Sequence[Any], count: int, key: tuple[Any, ...]) -> list[int]:
    """Which training images a network is calibrated with.

    Args:
        images: All training images.
        count: How many are drawn; all, where there are fewer.
        key: What the draw depends on.

    Returns:
        Their numbers.
    """
    generator = torch.Generator().manual_seed(derive_seed(*key, "calibration"))
    return torch.randperm(len(images), generator=generator)[:count].tolist()


def layer_choices(model: nn.Module) -> dict[str, list[str]]:
    """The layers of `model` that may be calibrated alone or left out, by what they are called in reports."""
    names = list(calibration_layers(model))
    return {
        "first alone": names[:1], "last alone": names[-1:],
        "all but the first": names[1:], "all but the last": names[:-1],
    }  # fmt: skip


@contextmanager
def calibrated_copy(
    model: nn.Module,
    reference: Reference,
    images: Tensor,
    fault: FaultModel | FeatureFault,
    sigma: float,
    key: tuple[Any, ...],
    draw: int,
    parameters: Where = "all",
    *,
    calibrated_at: float | None = None,
    terms: Terms = "both",
) -> Iterator[nn.Module]:
    """`model` as one of its faulty copies, calibrated; on leaving it is as it was.

    A copy whose outputs are not finite can't be measured, and stays as it is.

    Args:
        model: The network, in eval mode.
        reference: `calibration_reference` of it.
        images: Those of the reference, (n, ...).
        fault: The fault, of weights or of activations.
        sigma: The level at which the copy is used.
        key: The name of the draws, as everywhere: the same copies are measured without calibration.
        draw: The number of the draw.
        parameters: Which parameters drift, as `scoped` takes them.
        calibrated_at: The level at which the device was calibrated, before it went on to σ; None: σ itself.
        terms: Which part of the correction, as `calibrate` takes it.
    """
    if isinstance(fault, FeatureFault):
        at = sigma if calibrated_at is None else calibrated_at
        with ExitStack() as stack:
            with struck(model, fault, at, (*key, "calibration"), draw), suppress(NotFinite):
                stack.enter_context(calibrated(model, reference, images, fold=False, terms=terms))
            with struck(model, fault, sigma, key, draw):
                yield model
        return

    def copy(level: float) -> dict[str, Tensor]:
        return drifted_parameters(model, fault, level, key, draw, parameters)

    used = copy(sigma)
    with swapped(model, used if calibrated_at is None else copy(calibrated_at)), ExitStack() as stack:
        with suppress(NotFinite):
            stack.enter_context(calibrated(model, reference, images, fold=calibrated_at is None, terms=terms))
        if calibrated_at is not None:
            write(dict(model.named_parameters()), used)
        yield model


@torch.no_grad()
def calibrated_accuracy_grid(
    trained: Trained,
    data: Split,
    images: Tensor,
    fault: FaultModel,
    sigmas: Sequence[float],
    draws: int,
    key: tuple[Any, ...],
    *,
    parameters: Where = "all",
    layers: Layers = "all",
    reference_images: Tensor | None = None,
    calibrated_at: float | None = None,
    terms: Terms = "both",
    label: str = "calibrated",
    checkpoint: Checkpoint | None = None,
) -> np.ndarray:
    """Accuracy of each drifted copy of a network, calibrated with `images`, under a grid of drift levels.

    Args:
        trained: The network. Each of several members (devices) has a reference of its own, made before it drifts.
        data: The images that are classified.
        images: The calibration images (n, ...), of the training data; labels are not used.
        fault, sigmas, draws, key, parameters, label, checkpoint: As for `accuracy_grid`, whose copies these are.
        layers: Which layers are calibrated, as `calibration_layers` takes them.
        reference_images: What the reference is made from, where that is not `images`.
        calibrated_at, terms: As for `calibrated_copy`.

    Returns:
        The accuracies (S, T), float64.
    """
    networks = trained.networks(data.labels.device)
    batch, form = batch_size(networks[0], data.images), format_of(networks[0], images)
    images, test = images.clone(memory_format=form), Split(data.images.clone(memory_format=form), data.labels)
    own = images if reference_images is None else reference_images
    references = [calibration_reference(network, own, layers=layers) for network in networks]

    def measured(sigma: float, draw: int) -> float:
        network, reference = networks[draw % len(networks)], references[draw % len(networks)]
        with calibrated_copy(
            network, reference, images, fault, sigma, key, draw, parameters, calibrated_at=calibrated_at, terms=terms
        ) as copy:
            return accuracy(copy, test, trained.decode, batch)

    same = traits_of(fault).identity_at_zero and not calibrated_at and reference_images is None

    def measure(levels: Sequence[float]) -> np.ndarray:
        found = np.zeros((len(levels), draws))
        for i, sigma in enumerate(levels):
            for draw in range(draws):  # without drift every copy is the network itself
                known = same and sigma == 0 and draw >= len(networks)
                found[i, draw] = found[i, draw - len(networks)] if known else measured(sigma, draw)
        return found

    return resumed(sigmas, measure, label, checkpoint, together=1)
