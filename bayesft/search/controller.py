"""REINFORCE over architectures: a recurrent controller for each kind of cell, as in the authors' code.

It chooses edge by edge: the inputs of a node by attention over the nodes before it, v · tanh(W_e e_j + W_h h), then the
operations by a linear layer; what is chosen is fed back. After a reward R its loss is
−Σ log p · (R − b) − 0.01 · entropy, with the moving baseline b ← 0.99 b + 0.01 R.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bayesft.models.cells import Architecture, CellPlan, Space, _is_allowed
from bayesft.seeds import derive_seed

HIDDEN, TEMPERATURE, LR, DECAY, ENTROPY = 100, 5.0, 1e-3, 0.99, 0.01
PREFIX = "controller."  # of the names of a policy's tensors in a file


class _CellController(nn.Module):
    """The controller of one kind of cell."""

    def __init__(self, space: Space):
        super().__init__()
        self.space, operations = space, len(space.operations)
        self.cell = nn.LSTMCell(HIDDEN, HIDDEN)
        self.start = nn.Parameter(torch.randn(1, HIDDEN) * 0.1)
        self.inputs = nn.Embedding(2, HIDDEN)  # of the two inputs of the cell
        self.operations = nn.Embedding(operations, HIDDEN)
        self.of_input, self.of_state = nn.Linear(HIDDEN, HIDDEN, bias=False), nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.v, self.score = nn.Linear(HIDDEN, 1, bias=False), nn.Linear(HIDDEN, operations)

    def forward(self, plan: CellPlan | None, generator: torch.Generator | None) -> tuple[CellPlan, Tensor, Tensor]:
        """A plan, its log-probability and the entropy of its choices. A plan that is given is only weighed."""
        memory = (self.start.new_zeros(1, HIDDEN), self.start.new_zeros(1, HIDDEN))
        given: Tensor = self.start
        anchors = [self.inputs.weight[:1], self.inputs.weight[1:]]
        total, entropy, found = self.start.new_zeros(()), self.start.new_zeros(()), []

        def choose(logits: Tensor, fixed: int | None) -> int:
            nonlocal total, entropy
            logs = torch.log_softmax(logits / TEMPERATURE, 0)
            choice = int(torch.multinomial(logs.detach().exp(), 1, generator=generator)) if fixed is None else fixed
            total = total + logs[choice]
            entropy = entropy - (logs.exp() * logs).sum()
            return choice

        for node in range(self.space.nodes):
            sources = []
            for side in range(2):
                memory = self.cell(given, memory)
                logits = self.v(torch.tanh(self.of_input(torch.cat(anchors)) + self.of_state(memory[0]))).flatten()
                sources.append(choose(logits, plan[node][side][0] if plan else None))
                given = anchors[sources[-1]]
            chosen = []
            for side in range(2):
                memory = self.cell(given, memory)
                fixed = self.space.operations.index(plan[node][side][1]) if plan else None
                chosen.append(choose(self.score(memory[0]).flatten(), fixed))
                given = self.operations.weight[chosen[-1]][None]
            anchors.append(memory[0])
            first, second = zip(sources, (self.space.operations[choice] for choice in chosen), strict=True)
            found.append((first, second))
        return tuple(found), total, entropy


class Reinforce:
    """A policy over the architectures of a space that learns from rewards.

    Args:
        space: The space.
        seed: The seed of the controller and of all draws.
    """

    def __init__(self, space: Space, seed: int):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "controller"))
            self.policies = nn.ModuleList([_CellController(space), _CellController(space)])
        self.generator = torch.Generator().manual_seed(derive_seed(seed, "architectures"))
        self.optimizer = torch.optim.Adam(self.policies.parameters(), lr=LR)
        self.baseline: float | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """All that the policy's further course depends on, by name, for a file."""
        baseline = math.nan if self.baseline is None else self.baseline
        state = {f"policy.{name}": value for name, value in self.policies.state_dict().items()}
        for i, entry in self.optimizer.state_dict()["state"].items():
            state |= {f"adam.{i}.{key}": value for key, value in entry.items()}
        state |= {"generator": self.generator.get_state(), "baseline": torch.tensor(baseline, dtype=torch.float64)}
        return {f"{PREFIX}{name}": value for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the course of a policy, from `state_dict`. Entries of other names are left alone."""
        own = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
        self.policies.load_state_dict(
            {name.removeprefix("policy."): value for name, value in own.items() if name.startswith("policy.")}
        )
        steps: dict[int, dict[str, Tensor]] = {}
        for name, value in own.items():
            if name.startswith("adam."):
                _, number, key = name.split(".")
                steps.setdefault(int(number), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": steps})
        self.generator.set_state(own["generator"])
        baseline = float(own["baseline"])
        self.baseline = None if math.isnan(baseline) else baseline

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Architecture:
        """An architecture by the policy as it stands. One that is not allowed is drawn again."""
        while True:
            found = Architecture(*(policy(None, generator)[0] for policy in self.policies))
            if _is_allowed(found):
                return found

    def ask(self, count: int = 1) -> list[Architecture]:
        """The next candidates."""
        return [self.sample(self.generator) for _ in range(count)]

    def tell(self, architectures: Sequence[Architecture], rewards: Sequence[float]) -> None:
        """A step of the policy for each reward."""
        for architecture, reward in zip(architectures, rewards, strict=True):
            self.baseline = reward if self.baseline is None else DECAY * self.baseline + (1 - DECAY) * reward
            self.optimizer.zero_grad()
            weighed = [policy(plan, None) for policy, plan in zip(self.policies, architecture, strict=True)]
            log_probability, entropy = (sum(part[i] for part in weighed) for i in (1, 2))
            (-log_probability * (reward - self.baseline) - ENTROPY * entropy).backward()
            self.optimizer.step()
