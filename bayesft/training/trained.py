"""What a method is given, and what it leaves behind."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bayesft.data import Split
from bayesft.files import atomic
from bayesft.models import build
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe
from bayesft.training.checkpoint import Checkpoint
from bayesft.training.loop import Gradient, plain_gradient


@dataclass(frozen=True)
class Problem:
    """What every method gets, and gets alike: the network, the data without the test part, the recipe, the seed.

    `gradient` is that of a step of training; a method that is another gradient (AWP, drift-aware) has its own.
    """

    task: str
    specification: dict
    classes: int
    train: Split
    validation: Split
    recipe: Recipe
    seed: int
    checkpoint: Checkpoint | None = None
    gradient: Gradient = plain_gradient

    def fresh(self, **changes) -> nn.Module:
        """A new network. The initialisation depends on the seed alone, so methods start from the same weights."""
        model = build({**self.specification, **changes}, derive_seed(self.seed, "initialisation"))
        return model.to(self.train.labels.device)

    def label(self, method: str) -> str:
        """The name of a training in progress bars, checkpoints and errors."""
        return f"{self.task} {method} seed {self.seed}"


@dataclass(frozen=True)
class Trained:
    """A trained network, as one safetensors file.

    `members` are the weights: one set, or one for each device where a method works device by device; evaluation
    spreads the draws over them. With a `codebook` (classes, bits) the outputs are bits, and the prediction is the
    nearest codeword; else it is the largest output. `about` says how it was trained.
    """

    specification: dict
    members: list[dict[str, Tensor]]
    codebook: Tensor | None = None
    about: dict = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, specification: dict, **about) -> "Trained":
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
        tensors = {f"{i}/{k}": v.contiguous() for i, member in enumerate(self.members) for k, v in member.items()}
        if self.codebook is not None:
            tensors["codebook"] = self.codebook
        header = {"specification": self.specification, "about": self.about}
        with atomic(path) as temporary:
            save_file(tensors, temporary, {"trained": json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> "Trained":
        """Read what `save` wrote."""
        members: dict[int, dict[str, Tensor]] = {}
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["trained"])
            codebook = None
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                if key == "codebook":
                    codebook = file.get_tensor(key)
                else:
                    index, name = key.split("/", 1)
                    members.setdefault(int(index), {})[name] = file.get_tensor(key)
        return cls(header["specification"], [members[i] for i in sorted(members)], codebook, header["about"])


def decode_codewords(logits: Tensor, codebook: Tensor) -> Tensor:
    """The class (B,) whose codeword is nearest in Hamming distance to the signs of `logits` (B, L).

    codebook: (C, L) of 0 and 1. Ties go to the codeword of the larger summed log-likelihood.
    """
    code = codebook.to(logits.dtype)  # (C, L)
    distance = (logits > 0).to(logits.dtype) @ (1 - code).T + (logits <= 0).to(logits.dtype) @ code.T  # (B, C)
    # Σ_l log p(c_l | z_l) is z·c plus a term that no class changes.
    likelihood = logits @ code.T
    return likelihood.masked_fill(distance > distance.amin(1, keepdim=True), -torch.inf).argmax(1)
