"""The objective of BayesFT's search, eqs. (3) and (4)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from bayesft.training import Diverged


class Estimate(NamedTuple):
    """A mean over T draws, and its standard error."""

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Objective:
    """u(α, θ), how well a network tolerates drift.

        u(α, θ) = E_{p(θ′|θ)} [ −ℓ(f(x; α, θ′), y) ]            (3)
                ≈ 1/T Σ_t −ℓ(f(x; α, θ′_t), y),  θ′_t ~ p(θ′|θ)   (4)

    The score of a drifted copy is its accuracy, its mAP or −ℓ on validation data. It is averaged over several drift
    levels. The draws are fresh for each purpose. They are shared by the levels, and by searches that are compared.

    Args:
        scores: Gives the scores (S, T) of copies of a network, from (network, levels, numbers of draws, key).
        sigmas: The S drift levels.
        draws: T, the number of draws.
        key: The name of the draws: task and training seed.
    """

    scores: Callable[[nn.Module, tuple[float, ...], range, tuple[Any, ...]], Tensor]
    sigmas: tuple[float, ...]
    draws: int
    key: tuple[Any, ...]

    def __call__(self, model: nn.Module, purpose: tuple[Any, ...], draws: int | None = None) -> Estimate:
        """Estimate u of a network with the draws of `purpose`.

        Args:
            model: The network θ.
            purpose: What tells these draws from others of the same `key`.
            draws: The number of draws; None: T.

        Returns:
            The estimate.

        Raises:
            Diverged: A score is not finite.
        """
        count = draws or self.draws
        scores = self.scores(model, self.sigmas, range(count), (*self.key, *purpose))  # (S, T)
        u = scores.mean(0)  # (T,)
        if not u.isfinite().all():
            raise Diverged(f"the score of a drifted copy is not finite: {u.tolist()}")
        return Estimate(float(u.mean()), float(u.std() / count**0.5))
