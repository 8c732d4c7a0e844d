"""What a method is given, and what it leaves behind."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesft.data import Split
from bayesft.drift import FaultModel, LogNormalDrift, monte_carlo_grid
from bayesft.drift.faults.interface import Scope
from bayesft.files import Unusable
from bayesft.models import Site, build, find_sites
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe
from bayesft.tensors import load_tensors, save_tensors
from bayesft.training.checkpoint import Checkpoint
from bayesft.training.loop import Gradient, Loss, plain_gradient


@dataclass(frozen=True)
class Problem:
    """What every method gets, and gets alike. It never holds a test image.

    Args:
        task: The task's name.
        specification: What `build` makes the network of.
        classes: The number of classes.
        train: The training part.
        validation: The validation part, which a search measures on.
        recipe: The recipe of every training.
        seed: The training seed.
        fault: The fault model of training under drift and of a search.
        parameters: Which parameters drift: "all", "weights" or "convolutions".
        level: The fault level that networks are meant for; None for one of the fault's own.
        granularity: Whether each layer has a dropout site of its own ("layer"), or each stage ("stage").
        bounds: The lowest and the highest dropout rate that a search may choose.
        checkpoint: Where a killed training finds its state.
    """

    task: str
    specification: dict[str, Any]
    classes: int
    train: Split
    validation: Split
    recipe: Recipe
    seed: int
    fault: FaultModel = field(default_factory=LogNormalDrift)
    parameters: Scope = "all"
    level: float | None = None
    granularity: str = "layer"
    bounds: tuple[float, float] = (0.0, 0.8)
    checkpoint: Checkpoint | None = None

    @property
    def loss(self) -> Loss:
        """The loss ℓ of training."""
        return F.cross_entropy

    @property
    def gradient(self) -> Gradient:
        """The gradient of a step of plain training."""
        return plain_gradient

    @cached_property
    def sites(self) -> list[Site]:
        """The network's dropout sites."""
        return find_sites(self.fresh(), self.train.images[:1], self.granularity)

    def fresh(self, **changes: object) -> nn.Module:
        """A new network. The initialisation depends on the seed alone, so methods start from the same weights."""
        model = build({**self.specification, **changes}, derive_seed(self.seed, "initialisation"))
        return model.to(self.train.labels.device)

    def scores(
        self,
        model: nn.Module,
        sigmas: Sequence[float],
        draws: Sequence[int],
        key: tuple[Any, ...],
        objective: str = "accuracy",
    ) -> Tensor:
        """The score of drifted copies of `model` on the validation part.

        Args:
            model: The network θ.
            sigmas: The S drift levels.
            draws: The numbers of the T draws.
            key: The name of the draws.
            objective: "accuracy", or "neg_loss" for −ℓ of eq. (3) with cross entropy as ℓ.

        Returns:
            The mean score of each copy, (S, T), float64.
        """
        score = accuracy_score if objective == "accuracy" else neg_loss_score
        images, labels = self.validation
        return monte_carlo_grid(model, images, labels, score, self.fault, sigmas, draws, key, self.parameters)

    def label(self, method: str) -> str:
        """The name of a training in progress bars, checkpoints and errors."""
        return f"{self.task} {method} seed {self.seed}"


def accuracy_score(outputs: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest output is the label's, else 0: (B,). Outputs that are not finite are wrong."""
    return ((outputs.argmax(1) == labels) & outputs.isfinite().all(1)).float()


def neg_loss_score(outputs: Tensor, labels: Tensor) -> Tensor:
    """−ℓ of eq. (3) with cross entropy as ℓ: (B,)."""
    return -F.cross_entropy(outputs, labels, reduction="none")


@dataclass(frozen=True)
class Trained:
    """A trained network, as one safetensors file.

    Args:
        specification: What `build` makes the network of.
        members: The weights: one set, or one for each device where a method works device by device. Evaluation spreads
            the draws over them.
        codebook: Codewords of 0 and 1, (classes, bits). The outputs are then bits, and the prediction is the nearest
            codeword. None: it is the largest output.
        about: How it was trained.
    """

    specification: dict[str, Any]
    members: list[dict[str, Tensor]]
    codebook: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, specification: dict[str, Any], **about: Any) -> "Trained":
        """The weights of `model` as they stand."""
        return cls(specification, [{k: v.detach().cpu().clone() for k, v in model.state_dict().items()}], None, about)

    def networks(self, device: str | torch.device = "cpu") -> list[nn.Module]:
        """One network for each member, in eval mode."""
        networks = []
        for member in self.members:
            network = build(self.specification)
            network.load_state_dict(member)
            networks.append(network.to(device).eval())
        return networks

    def decode(self, outputs: Tensor) -> Tensor:
        """The predicted classes (B,) for outputs (B, K)."""
        if self.codebook is None:
            return outputs.argmax(1)
        return decode_codewords(outputs, self.codebook.to(outputs.device))

    def save(self, path: Path) -> None:
        """Write the file, atomically: the same weights give the same bytes."""
        tensors = {f"{i}/{k}": v for i, member in enumerate(self.members) for k, v in member.items()}
        if self.codebook is not None:
            tensors["codebook"] = self.codebook
        header = {"specification": self.specification, "about": self.about}
        save_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: Path) -> "Trained":
        """Read what `save` wrote.

        Raises:
            Unusable: The file is missing or damaged, or a weight is not finite. It is a ValueError.
        """
        tensors, header = load_tensors(path)
        codebook = tensors.pop("codebook", None)
        members: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise Unusable(f"{path} is damaged ({key} is not finite)")
        try:
            for key, tensor in tensors.items():
                index, name = key.split("/", 1)
                members.setdefault(int(index), {})[name] = tensor
            return cls(header["specification"], [members[i] for i in sorted(members)], codebook, header["about"])
        except (ValueError, KeyError, TypeError):
            raise Unusable(f"{path} is damaged (it holds no trained network)") from None


def decode_codewords(logits: Tensor, codebook: Tensor) -> Tensor:
    """The class whose codeword is nearest to outputs in Hamming distance.

    Ties go to the codeword of the larger summed log-likelihood.

    Args:
        logits: The outputs, (B, L). A bit is the sign.
        codebook: The codewords of 0 and 1, (C, L).

    Returns:
        The classes, (B,).
    """
    code = codebook.to(logits.dtype)  # (C, L)
    distance = (logits > 0).to(logits.dtype) @ (1 - code).T + (logits <= 0).to(logits.dtype) @ code.T  # (B, C)
    # Σ_l log p(c_l | z_l) is z·c plus a term that no class changes.
    likelihood = logits @ code.T
    return likelihood.masked_fill(distance > distance.amin(1, keepdim=True), -torch.inf).argmax(1)
