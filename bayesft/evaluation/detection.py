"""Mean average precision of a detector, as COCO defines it, under a grid of drift levels σ: row j of the study."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchmetrics.detection import MeanAveragePrecision

from bayesft.calibration import calibration_layers, calibration_reference
from bayesft.calibration.layers import Layers
from bayesft.data.scenes import Scene
from bayesft.drift import FaultModel, drifted_parameters
from bayesft.drift.faults import traits_of
from bayesft.drift.scope import Where
from bayesft.evaluation.calibrated import calibrated_copy
from bayesft.evaluation.grid import resumed
from bayesft.models import Site
from bayesft.models.detector import detection_sites
from bayesft.modes import eval_mode
from bayesft.training import Checkpoint, Gradient, Problem
from bayesft.training.detection import flipping_gradient, target

METRICS = ("box_map", "box_map_50", "mask_map", "mask_map_50")
Found = TypeVar("Found")
Detections = dict[str, Tensor]  # boxes (n, 4), scores (n,), labels (n,), masks (n, H, W) bool


@torch.inference_mode()
def detect(
    model: nn.Module, images: Sequence[Tensor], parameters: dict[str, Tensor] | None = None, batch: int = 10
) -> list[Detections]:
    """What a detector finds in images. It is evaluated in eval mode and comes back as it was.

    A detection whose box or score is not finite is left out: a drifted network may compute anything.

    Args:
        model: The detector.
        images: uint8 (3, H, W) each.
        parameters: Values by name that take the place of the model's own; None: none.
        batch: How many images pass at once.

    Returns:
        What is found in each image, on the CPU: boxes (n, 4) in pixels, x₁, y₁, x₂, y₂; scores (n,) in [0, 1]; labels
        (n,); masks (n, H, W), the pixels whose probability is at least a half.
    """
    device = next(model.parameters()).device
    found = []
    with eval_mode(model):
        for start in range(0, len(images), batch):
            inputs = [image.to(device).float() / 255 for image in images[start : start + batch]]
            for output in functional_call(model, parameters or {}, (inputs,)):
                finite = output["boxes"].isfinite().all(1) & output["scores"].isfinite()
                masks = output["masks"][:, 0] >= 0.5
                kept = {
                    "boxes": output["boxes"],
                    "scores": output["scores"],
                    "labels": output["labels"],
                    "masks": masks,
                }
                found.append({name: tensor[finite].cpu() for name, tensor in kept.items()})
    return found


def mean_average_precision(predictions: Sequence[Detections], truths: Sequence[Scene]) -> dict[str, float]:
    """COCO's average precision of boxes and of masks: over IoU thresholds 0.5 to 0.95, and at 0.5 alone.

    A detector that finds nothing scores 0.

    Args:
        predictions: What `detect` found in each image.
        truths: The scene of each image.

    Returns:
        The precisions in [0, 1], by METRICS.

    Raises:
        ValueError: There is nothing to find, or another number of predictions than of scenes.
    """
    if len(predictions) != len(truths) or not any(len(scene.masks) for scene in truths):
        raise ValueError(f"{len(predictions)} predictions for {len(truths)} scenes: need as many, and an instance")
    metric = MeanAveragePrecision(
        iou_type=("bbox", "segm"),
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),  # COCO's own: the defaults are rounded to float32, and a
        rec_thresholds=np.linspace(0, 1, 101).tolist(),  # recall that equals a threshold then misses it
        backend="pycocotools",
    )
    metric.warn_on_many_detections = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric.update(list(predictions), [target(scene) for scene in truths])
        values = metric.compute()
    names = {"box_map": "bbox_map", "box_map_50": "bbox_map_50", "mask_map": "segm_map", "mask_map_50": "segm_map_50"}
    return {name: max(0.0, float(values[theirs])) for name, theirs in names.items()}


def drifted_map(
    model: nn.Module,
    scenes: Sequence[Scene],
    fault: FaultModel,
    sigma: float,
    draw: int,
    key: tuple[Any, ...],
    parameters: Where = "all",
) -> dict[str, float]:
    """The precision of one drifted copy of a detector, which is left alone.

    Draws are keyed as everywhere: the same key gives the same drift to every method at every σ. Running statistics of a
    normalisation, and all of a frozen one, are buffers and do not drift.

    Args:
        model: The detector.
        scenes: The scenes to find.
        fault: The fault model.
        sigma: The drift level.
        draw: The number of the draw.
        key: The name of the draws.
        parameters: Which parameters drift, as `scoped` takes them.

    Returns:
        The precisions in [0, 1], by METRICS.

    Raises:
        ValueError: σ is less than 0, or there is nothing to find.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma = {sigma}: must be at least 0")
    copy = drifted_parameters(model, fault, sigma, key, draw, parameters)
    return mean_average_precision(detect(model, [scene.image for scene in scenes], copy), scenes)


@dataclass(frozen=True)
class DetectionProblem(Problem):
    """A problem whose network is a detector.

    Args:
        scenes: The scenes of the validation part. The other arguments are those of `Problem`.
    """

    scenes: Sequence[Scene] = ()

    @property
    def gradient(self) -> Gradient:
        """The gradient of Mask R-CNN's losses, with random flips."""
        return flipping_gradient

    @cached_property
    def sites(self) -> list[Site]:
        """The parts of the detector."""
        (image,) = self.train.images[torch.tensor([0])]  # a batch of scenes is a list
        return detection_sites(self.fresh(), image)

    def scores(
        self,
        model: nn.Module,
        sigmas: Sequence[float],
        draws: Sequence[int],
        key: tuple[Any, ...],
        objective: str = "accuracy",
    ) -> Tensor:
        """mAP@0.5 of the boxes of drifted copies on the validation scenes, in place of −ℓ of eq. (3).

        Args:
            model, sigmas, draws, key: As for `Problem.scores`.
            objective: "accuracy", which stands for mAP here.

        Returns:
            The precision of each copy, (S, T), float64.

        Raises:
            ValueError: The objective is another one.
        """
        if objective != "accuracy":
            raise ValueError(f"objective = {objective!r}: a detector is searched by mAP, objective = 'accuracy'")

        def precision(sigma: float, draw: int) -> float:
            return drifted_map(model, self.scenes, self.fault, sigma, draw, key, self.parameters)["box_map_50"]

        return torch.tensor(over_grid(precision, self.fault, sigmas, draws), dtype=torch.float64)


def calibrated_layers(model: nn.Module, layers: Layers = "all") -> list[str]:
    """The layers of a detector that are calibrated: those of `layers` without the mask head.

    That head sees what a copy finds, perhaps nothing, so its outputs on two copies are no outputs on the same inputs.
    """
    return [name for name in calibration_layers(model, layers) if ".mask_" not in name]


def batch_of_scenes(scenes: Sequence[Scene], device: str | torch.device = "cpu") -> Tensor:
    """The images of scenes as one batch (n, 3, H, W) in [0, 1], smaller ones with zeros on the right and below."""
    height, width = (max(scene.image.shape[side] for scene in scenes) for side in (1, 2))
    batch = torch.zeros(len(scenes), 3, height, width, device=device)
    for place, scene in zip(batch, scenes, strict=True):
        place[:, : scene.image.shape[1], : scene.image.shape[2]] = scene.image.to(device).float() / 255
    return batch


def calibrated_map_grid(
    model: nn.Module,
    scenes: Sequence[Scene],
    calibration: Sequence[Scene],
    fault: FaultModel,
    sigmas: Sequence[float],
    draws: int,
    key: tuple[Any, ...],
    *,
    parameters: Where = "all",
    layers: Layers = "all",
    label: str = "calibrated detection",
    checkpoint: Checkpoint | None = None,
) -> dict[str, np.ndarray]:
    """Each of METRICS for each drifted copy of a detector that is calibrated before it is measured.

    Args:
        model, scenes, fault, sigmas, draws, key, parameters, label, checkpoint: As for `map_grid`, whose copies these
            are.
        calibration: The scenes whose images calibrate a copy; what is in them is not used.
        layers: As for `calibrated_layers`.

    Returns:
        The precisions (S, T) by metric, float64.
    """
    images = batch_of_scenes(calibration, next(model.parameters()).device)
    with torch.no_grad(), eval_mode(model):
        reference = calibration_reference(model, images, layers=calibrated_layers(model, layers))

    def precision(sigma: float, draw: int) -> dict[str, float]:
        with torch.no_grad(), eval_mode(model):
            with calibrated_copy(model, reference, images, fault, sigma, key, draw, parameters) as copy:
                return mean_average_precision(detect(copy, [scene.image for scene in scenes]), scenes)

    return _grid_of(precision, fault, sigmas, draws, label, checkpoint)


def map_grid(
    model: nn.Module,
    scenes: Sequence[Scene],
    fault: FaultModel,
    sigmas: Sequence[float],
    draws: int,
    key: tuple[Any, ...],
    *,
    parameters: Where = "all",
    label: str = "detection",
    checkpoint: Checkpoint | None = None,
) -> dict[str, np.ndarray]:
    """Each of METRICS for each drifted copy of a detector under a grid of drift levels.

    Args:
        model: The detector.
        scenes: The test scenes.
        fault, sigmas, draws, key, parameters, label, checkpoint: As for `accuracy_grid`.

    Returns:
        The precisions (S, T) by metric, float64.
    """

    def precision(sigma: float, draw: int) -> dict[str, float]:
        return drifted_map(model, scenes, fault, sigma, draw, key, parameters)

    return _grid_of(precision, fault, sigmas, draws, label, checkpoint)


def over_grid(
    measure: Callable[[float, int], Found], fault: FaultModel, sigmas: Sequence[float], draws: Sequence[int]
) -> list[list[Found]]:
    """A measurement at each level and draw; once at a level at which every copy is the network itself.

    Args:
        measure: Measures the copy of a level and the number of a draw.
        fault: The fault model.
        sigmas: The S levels.
        draws: The numbers of the T draws.

    Returns:
        S lists of T measurements.
    """
    found = []
    for sigma in sigmas:
        alike = sigma == 0 and traits_of(fault).identity_at_zero
        each = [measure(sigma, draw) for draw in (draws[:1] if alike else draws)]
        found.append(each * len(draws) if alike else each)
    return found


def _grid_of(
    precision: Callable[[float, int], dict[str, float]],
    fault: FaultModel,
    sigmas: Sequence[float],
    draws: int,
    label: str,
    checkpoint: Checkpoint | None,
) -> dict[str, np.ndarray]:
    def measure(levels: Sequence[float]) -> np.ndarray:
        found = over_grid(precision, fault, levels, range(draws))
        return np.array([[[values[metric] for metric in METRICS] for values in row] for row in found])

    values = resumed(sigmas, measure, label, checkpoint, together=1)
    return {metric: values[..., i] for i, metric in enumerate(METRICS)}
