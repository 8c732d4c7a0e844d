"""Figure 4: what detectors find in a few test images, under the drift that their precision is measured with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from bayesft.data.scenes import Scene, packed, unpacked
from bayesft.drift import FaultModel, drifted_parameters
from bayesft.drift.scope import Where
from bayesft.seeds import derive_seed
from bayesft.tensors import load_tensors, save_tensors

THRESHOLD = 0.5  # the score from which a detection is shown
CROWD = 2  # the instances that a scene should have to be picked


@dataclass(frozen=True)
class Pictures:
    """A few images with what is in them and what was found.

    Args:
        images: uint8 (3, H, W) each.
        truths: The scene of each.
        sigmas: The S drift levels.
        detections: For each row, at each σ, of each image: boxes (n, 4), scores (n,) and masks bool (n, H, W) of what
            has a score of at least THRESHOLD.

    Raises:
        ValueError: There is no image, or the shapes or numbers of the others do not fit the images and levels.
    """

    images: list[Tensor]
    truths: list[Scene]
    sigmas: list[float]
    detections: dict[str, list[list[dict[str, Tensor]]]]

    def __post_init__(self) -> None:
        shapes = [tuple(image.shape) for image in self.images]
        if not shapes or [tuple(scene.image.shape) for scene in self.truths] != shapes:
            raise ValueError(f"images {shapes}: need at least one, and a scene of the same size for each")
        for row, levels in self.detections.items():
            if [len(found) for found in levels] != [len(shapes)] * len(self.sigmas):
                raise ValueError(f"{row}: need detections for {len(self.sigmas)} levels of σ in {len(shapes)} images")
            for found in levels:
                for one, (_, *size) in zip(found, shapes, strict=True):
                    count = len(one["scores"])
                    if one["boxes"].shape != (count, 4) or one["masks"].shape != (count, *size):
                        raise ValueError(
                            f"{row}: {count} scores with boxes {tuple(one['boxes'].shape)} and masks "
                            f"{tuple(one['masks'].shape)} in an image of {tuple(size)}"
                        )

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically: the same pictures give the same bytes."""
        tensors: dict[str, Tensor] = {}
        for i, (image, truth) in enumerate(zip(self.images, self.truths, strict=True)):
            tensors |= {f"{i}.image": image, f"{i}.truth": packed(truth.masks)}
        for r, levels in enumerate(self.detections.values()):
            for s, found in enumerate(levels):
                for i, one in enumerate(found):
                    place = f"{i}.{r}.{s}"
                    tensors |= {f"{place}.{name}": one[name] for name in ("boxes", "scores")}
                    tensors[f"{place}.masks"] = packed(one["masks"])
        about = {"images": len(self.images), "sigmas": list(self.sigmas), "rows": list(self.detections)}
        save_tensors(path, tensors, about)

    @classmethod
    def load(cls, path: Path) -> "Pictures":
        """Read what `save` wrote."""
        tensors, about = load_tensors(path)
        images = [tensors[f"{i}.image"] for i in range(about["images"])]
        truths = [Scene(image, unpacked(tensors[f"{i}.truth"], image)) for i, image in enumerate(images)]

        def found(place: str, image: Tensor) -> dict[str, Tensor]:
            boxes, scores, masks = (tensors[f"{place}.{name}"] for name in ("boxes", "scores", "masks"))
            return {"boxes": boxes, "scores": scores, "masks": unpacked(masks, image)}

        detections = {
            row: [[found(f"{i}.{r}.{s}", image) for i, image in enumerate(images)] for s in range(len(about["sigmas"]))]
            for r, row in enumerate(about["rows"])
        }
        return cls(images, truths, about["sigmas"], detections)


def detection_pictures(
    networks: Mapping[str, nn.Module],
    scenes: Sequence[Scene],
    fault: FaultModel,
    sigmas: Sequence[float],
    key: tuple[Any, ...],
    count: int = 2,
    parameters: Where = "all",
) -> Pictures:
    """What each of several detectors finds in a few scenes at each σ.

    Args:
        networks: The detectors, by row.
        scenes: The test scenes.
        fault: The fault model.
        sigmas: The S drift levels.
        key: The name of the draws, as for `map_grid`: draw 0 is shown, a copy that was measured there. It also picks
            the images: nobody chooses them.
        count: How many scenes are shown; all, where there are fewer. They have at least CROWD instances each where
            enough scenes do.
        parameters: Which parameters drift, as `scoped` takes them.

    Returns:
        The pictures.

    Raises:
        ValueError: There is no network, σ or scene to show, or a σ is less than 0.
    """
    from bayesft.evaluation.detection import detect  # imports what figures can do without

    if not networks or not len(sigmas) or not all(sigma >= 0 for sigma in sigmas):
        raise ValueError(f"networks {list(networks)} at sigmas {list(sigmas)}: need at least one each, no negative σ")
    shown = [scenes[i] for i in _pick(scenes, key, count)]
    detections: dict[str, list[list[dict[str, Tensor]]]] = {}
    for row, model in networks.items():
        detections[row] = []
        for sigma in sigmas:
            copy = drifted_parameters(model, fault, sigma, key, 0, parameters)
            found = detect(model, [scene.image for scene in shown], copy)
            sure = [one["scores"] >= THRESHOLD for one in found]
            detections[row].append(
                [
                    {name: one[name][kept] for name in ("boxes", "scores", "masks")}
                    for one, kept in zip(found, sure, strict=True)
                ]
            )
    return Pictures([scene.image for scene in shown], shown, [float(sigma) for sigma in sigmas], detections)


def _pick(scenes: Sequence[Scene], key: tuple[Any, ...], count: int) -> list[int]:
    """The numbers of `count` scenes, or of all where there are fewer."""
    if not len(scenes) or count < 1:
        raise ValueError(f"{count} of {len(scenes)} scenes: need at least one")
    crowded = [i for i, scene in enumerate(scenes) if len(scene.masks) >= CROWD]
    among = crowded if len(crowded) >= count else range(len(scenes))
    rng = np.random.default_rng(derive_seed(*key, "pictures"))
    return sorted(rng.choice(among, min(count, len(among)), replace=False).tolist())
