"""What proposes architectures: chance, and evolution. A strategy is asked for candidates, and told their rewards."""

from collections.abc import Sequence
from typing import Protocol

import torch

from bayesft.models.cells import Architecture, Space
from bayesft.seeds import derive_seed


class Strategy(Protocol):
    """What proposes architectures. Its proposals depend on its seed and on the rewards that it was told alone."""

    def ask(self, count: int = 1) -> list[Architecture]:
        """The next `count` candidates."""
        ...

    def tell(self, architectures: Sequence[Architecture], rewards: Sequence[float]) -> None:
        """Learn the rewards of candidates that it was asked for."""
        ...


class RandomSearch:
    """Uniform draws.

    Args:
        space: The space.
        seed: The seed of the draws.
    """

    def __init__(self, space: Space, seed: int):
        self.space, self.generator = space, torch.Generator().manual_seed(derive_seed(seed, "architectures"))

    def ask(self, count: int = 1) -> list[Architecture]:
        """The next candidates."""
        return [self.space.sample(self.generator) for _ in range(count)]

    def tell(self, architectures: Sequence[Architecture], rewards: Sequence[float]) -> None:
        """Nothing is learnt."""


class Evolution(RandomSearch):
    """Aging evolution (Real et al., 2019): the best of a few is mutated in one edge, and the oldest dies.

    Args:
        space: The space.
        seed: The seed of all draws.
        population: How many live.
        tournament: Of how many the best is mutated.
    """

    def __init__(self, space: Space, seed: int, population: int = 16, tournament: int = 4):
        super().__init__(space, seed)
        self.size, self.tournament = population, tournament
        self.living: list[tuple[Architecture, float]] = []

    def ask(self, count: int = 1) -> list[Architecture]:
        """The next candidates: random ones until enough live."""
        missing = max(0, self.size - len(self.living))
        found = super().ask(min(count, missing))
        while len(found) < count:
            drawn = torch.randint(len(self.living), (self.tournament,), generator=self.generator).tolist()
            parent = max((self.living[i] for i in drawn), key=lambda each: each[1])[0]
            found.append(self.space.mutated(parent, self.generator))
        return found

    def tell(self, architectures: Sequence[Architecture], rewards: Sequence[float]) -> None:
        """The newest join those that live, and the oldest die."""
        self.living = [*self.living, *zip(architectures, rewards, strict=True)][-self.size :]
