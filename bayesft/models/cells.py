"""The search space of FTT-NAS (Ning et al., arXiv 2003.10375, and its code): networks of two kinds of cells.

A cell has the inputs 0 (the cell before the last one) and 1 (the last cell), and nodes 2, 3, … . A node is the sum of
two operations on earlier inputs or nodes. The output of a cell is all of its nodes, concatenated. Reducing cells halve
the size and double the channels. All normal cells have one architecture, and all reducing cells have one.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesft.models.operations import OPERATIONS, WEIGHT_OPERATIONS, Norm, conv_norm
from bayesft.models.parts import he_normal

KINDS = ("normal", "reduce")
Edge = tuple[int, str]  # input, operation
Node = tuple[Edge, Edge]
CellPlan = tuple[Node, ...]


class Architecture(NamedTuple):
    """What stands where: for the normal and the reducing cell, for each node, two pairs of (input, operation)."""

    normal: CellPlan
    reduce: CellPlan

    def __str__(self) -> str:
        """As text: `normal: sep3@0+skip@1 max3@2+conv1@0; reduce: …`, an operation and its input for each edge."""
        return "; ".join(
            f"{kind}: " + " ".join("+".join(f"{op}@{source}" for source, op in node) for node in plan)
            for kind, plan in zip(KINDS, self, strict=True)
        )

    @classmethod
    def parse(cls, text: str) -> "Architecture":
        """The architecture that `str` wrote.

        Raises:
            ValueError: The text is none, or the architecture is not allowed (`check`).
        """
        parts = [part.partition(":") for part in text.split(";")]
        if [part[0].strip() for part in parts] != list(KINDS):
            raise ValueError(f"architecture {text!r}: must be 'normal: …; reduce: …'")
        plans: list[CellPlan] = []
        for kind, _, rest in parts:
            plan: list[Node] = []
            for word in rest.split():
                edges = [edge.partition("@") for edge in word.split("+")]
                if len(edges) != 2 or not all(source.isdigit() for _, _, source in edges):
                    raise ValueError(f"architecture, {kind.strip()} cell: node {word!r} must be 'op@input+op@input'")
                first, second = ((int(source), op) for op, _, source in edges)
                plan.append((first, second))
            plans.append(tuple(plan))
        return cls(*plans).check()

    def check(self) -> "Architecture":
        """The architecture itself.

        Raises:
            ValueError: An operation is unknown, an input does not come before its node, the cells differ in their
                nodes, or a cell's output does not depend on its inputs.
        """
        if len(self.normal) != len(self.reduce) or not self.normal:
            raise ValueError(
                f"architecture: {len(self.normal)} and {len(self.reduce)} nodes: need as many in both cells, at least 1"
            )
        for kind, plan in zip(KINDS, self, strict=True):
            depends = [True, True]
            for number, node in enumerate(plan, 2):
                if len(node) != 2:
                    raise ValueError(f"architecture, {kind} cell, node {number}: {len(node)} inputs, must be 2")
                for source, op in node:
                    if op not in OPERATIONS:
                        known = ", ".join(OPERATIONS)
                        raise ValueError(f"architecture, {kind} cell, node {number}: operation {op!r}: one of {known}")
                    if not 0 <= source < number:
                        raise ValueError(
                            f"architecture, {kind} cell, node {number}: input {source}: must be from 0 to {number - 1}"
                        )
                depends.append(any(op != "none" and depends[source] for source, op in node))
            if not any(depends[2:]):
                raise ValueError(f"architecture, {kind} cell: its output does not depend on its inputs")
        return self


@dataclass(frozen=True)
class Space:
    """A space of architectures.

    Args:
        nodes: n, the number of nodes of a cell.
        operations: The names of the operations that may stand on an edge.

    Raises:
        ValueError: There is no node, an operation is unknown, or none passes its input on.
    """

    nodes: int = 4
    operations: tuple[str, ...] = WEIGHT_OPERATIONS

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ValueError(f"nodes = {self.nodes}: must be at least 1")
        for op in self.operations:
            if op not in OPERATIONS:
                raise ValueError(f"operations: {op!r}: must be one of {', '.join(OPERATIONS)}")
        if not set(self.operations) - {"none"}:
            raise ValueError(f"operations = {self.operations}: need one that passes its input on")

    @property
    def size(self) -> int:
        """The number of architectures, ordered pairs counted: ((n + 1)! · o^n)⁴ with o operations."""
        return (math.factorial(self.nodes + 1) * len(self.operations) ** self.nodes) ** 4

    def edges(self) -> Iterator[tuple[int, int, int]]:
        """All edges of an architecture: kind of cell, number of the node from 0, which of its two inputs."""
        return itertools.product(range(2), range(self.nodes), range(2))

    def sample(self, generator: torch.Generator) -> Architecture:
        """An architecture, each choice uniform. One whose output does not depend on its input is drawn again."""

        def edge(node: int) -> Edge:
            return _draw(generator, node + 2), self.operations[_draw(generator, len(self.operations))]

        while True:
            kinds = (tuple((edge(node), edge(node)) for node in range(self.nodes)) for _ in KINDS)
            found = Architecture(*kinds)
            if _is_allowed(found):
                return found

    def mutated(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """The architecture with one edge changed, in its input or its operation."""
        places = list(self.edges())
        while True:
            kind, node, side = places[_draw(generator, len(places))]
            source, op = architecture[kind][node][side]
            if _draw(generator, 2) and len(self.operations) > 1:
                operations = [other for other in self.operations if other != op]
                op = operations[_draw(generator, len(operations))]
            else:
                sources = [other for other in range(node + 2) if other != source]
                source = sources[_draw(generator, len(sources))]
            found = with_edge(architecture, (kind, node, side), (source, op))
            if _is_allowed(found):
                return found


def with_edge(architecture: Architecture, place: tuple[int, int, int], edge: Edge) -> Architecture:
    """The architecture with another edge at one place.

    Args:
        architecture: The architecture.
        place: As `Space.edges` gives it.
        edge: The new input and operation.

    Returns:
        The changed architecture. It is not checked.
    """
    kinds = [[list(node) for node in plan] for plan in architecture]
    kind, node, side = place
    kinds[kind][node][side] = edge
    return Architecture(*(tuple((first, second) for first, second in plan) for plan in kinds))


def _is_allowed(architecture: Architecture) -> bool:
    try:
        architecture.check()
    except ValueError:
        return False
    return True


def _draw(generator: torch.Generator, count: int) -> int:
    return int(torch.randint(count, (), generator=generator))


# W-FTT-Net, as the authors' code has it. (The genotype of F-FTT-Net is nowhere.)
W_FTT_NET = Architecture(
    normal=(
        ((0, "rcb3"), (0, "rcb5")), ((1, "conv1"), (1, "dil3")), ((1, "sep3"), (0, "sep3")), ((2, "max3"), (1, "rcb5")),
    ),
    reduce=(
        ((0, "skip"), (1, "rcb5")), ((2, "dil3"), (0, "sep3")), ((1, "max3"), (3, "conv1")), ((4, "dil3"), (2, "skip")),
    ),
)  # fmt: skip


class Cell(nn.Module):
    """A cell: two inputs made alike, nodes, all nodes concatenated.

    Two equal edges of a node are one module.

    Args:
        preprocess: What makes inputs 0 and 1 alike.
        nodes: For each node, its operations by "op@input".
        edges: For each node, the two keys of its edges.
    """

    def __init__(self, preprocess: nn.ModuleList, nodes: nn.ModuleList, edges: tuple[tuple[str, str], ...]):
        super().__init__()
        self.preprocess, self.nodes, self.edges = preprocess, nodes, edges

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        states = [self.preprocess[0](a), self.preprocess[1](b)]
        for operations, keys in zip(self.nodes, self.edges, strict=True):
            assert isinstance(operations, nn.ModuleDict)
            parts = [operations[key](states[int(key.rpartition("@")[2])]) for key in keys]
            states.append(parts[0] + parts[1])
        return torch.cat(states[2:], 1)


class CellNetwork(nn.Module):
    """A stem, cells, a pool and a linear layer.

    Args:
        stem: From images (B, 3, H, W) to maps.
        cells: Each takes the outputs of the two before it.
        head: The pool and the linear layer.
        divisor: What the sides of an image must be multiples of.

    Raises:
        ValueError: In a pass: the sides of the images are no such multiples.
    """

    def __init__(self, stem: nn.Module, cells: nn.ModuleList, head: nn.Module, divisor: int):
        super().__init__()
        self.stem, self.cells, self.head, self.divisor = stem, cells, head, divisor

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.divisor or x.shape[-2] % self.divisor:
            raise ValueError(
                f"images of {x.shape[-2]} × {x.shape[-1]} pixels do not fit the network: the sides must be multiples "
                f"of {self.divisor}"
            )
        a = b = self.stem(x)
        for cell in self.cells:
            a, b = b, cell(a, b)
        return self.head(b)


class SharedNetwork(CellNetwork):
    """A network with every operation of a space on every edge. `child` gives one architecture of it.

    Args:
        stem, cells, head, divisor: As for `CellNetwork`.
        reducing: Which cells reduce.

    Raises:
        ValueError: In a pass, since it has none of its own.
    """

    def __init__(
        self, stem: nn.Module, cells: nn.ModuleList, head: nn.Module, divisor: int, reducing: tuple[bool, ...]
    ):
        super().__init__(stem, cells, head, divisor)
        self.reducing = reducing

    def child(self, architecture: Architecture) -> CellNetwork:
        """The network of one architecture, whose modules are those of this one: what trains it trains this one."""
        cells = []
        for cell, reduces in zip(self.cells, self.reducing, strict=True):
            assert isinstance(cell, Cell)
            edges = keys_of(architecture[int(reduces)])
            nodes = nn.ModuleList()
            for operations, keys in zip(cell.nodes, edges, strict=True):
                assert isinstance(operations, nn.ModuleDict)
                nodes.append(nn.ModuleDict({key: operations[key] for key in keys}))
            cells.append(Cell(cell.preprocess, nodes, edges))
        return CellNetwork(self.stem, nn.ModuleList(cells), self.head, self.divisor).train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("a shared network is no network of its own: use child(architecture)")


def keys_of(plan: CellPlan) -> tuple[tuple[str, str], ...]:
    """For each node, the keys of its two operations in a `Cell`."""
    return tuple((f"{first_op}@{first}", f"{second_op}@{second}") for (first, first_op), (second, second_op) in plan)


def cell_network(
    architecture: str, outputs: int = 10, channels: int = 20, cells: int = 8, stem_stride: int = 1, preprocess: int = 3
) -> CellNetwork:
    """The network of an architecture.

    Args:
        architecture: As text.
        outputs: The number of classes.
        channels: c, of a node of the first cells.
        cells: L, the number of cells; cells ⌊L/3⌋ and ⌊2L/3⌋, counted from 0, reduce.
        stem_stride: The stride of the first convolution.
        preprocess: The size of the convolutions that make a cell's inputs alike: 1, or 3 as under weight faults.

    Returns:
        The network, of images (B, 3, H, W).

    Raises:
        ValueError: The architecture or a number is not allowed.
    """
    found = Architecture.parse(architecture)

    def nodes_of(channels: int, reduces: bool, norm: Norm) -> Iterator[dict[str, nn.Module]]:
        for keys in keys_of(found[int(reduces)]):
            yield {key: _edge(key, channels, reduces, norm) for key in dict.fromkeys(keys)}

    parts, _ = _assemble(nodes_of, len(found.normal), channels, cells, stem_stride, preprocess, outputs, nn.BatchNorm2d)
    edges = [keys_of(found[int(reduces)]) for reduces in _reducing(cells)]
    stem, built, head = parts
    network = nn.ModuleList([Cell(*cell, keys) for cell, keys in zip(built, edges, strict=True)])
    return he_normal(CellNetwork(stem, network, head, 4 * stem_stride))


def shared_network(
    space: Space, outputs: int = 10, channels: int = 20, cells: int = 8, stem_stride: int = 1, preprocess: int = 3
) -> SharedNetwork:
    """The weight-sharing network of a space.

    Its normalisations have no parameters, and use the statistics of the batch always.

    Args:
        space: The space.
        outputs, channels, cells, stem_stride, preprocess: As for `cell_network`.

    Returns:
        The network. `SharedNetwork.child` gives that of one architecture.

    Raises:
        ValueError: A number is not allowed.
    """

    def norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)

    def nodes_of(channels: int, reduces: bool, norm: Norm) -> Iterator[dict[str, nn.Module]]:
        for node in range(space.nodes):
            keys = [f"{op}@{source}" for source in range(node + 2) for op in space.operations]
            yield {key: _edge(key, channels, reduces, norm) for key in keys}

    parts, reducing = _assemble(nodes_of, space.nodes, channels, cells, stem_stride, preprocess, outputs, norm)
    stem, built, head = parts
    network = nn.ModuleList([Cell(*cell, ()) for cell in built])
    return he_normal(SharedNetwork(stem, network, head, 4 * stem_stride, reducing))


def _edge(key: str, channels: int, reduces: bool, norm: Norm) -> nn.Module:
    op, _, source = key.rpartition("@")
    return OPERATIONS[op](channels, 2 if reduces and int(source) < 2 else 1, norm)


def _reducing(cells: int) -> tuple[bool, ...]:
    return tuple(cell in (cells // 3, 2 * cells // 3) for cell in range(cells))


def _assemble(
    nodes_of: Callable[[int, bool, Norm], Iterator[dict[str, nn.Module]]],
    nodes: int,
    channels: int,
    cells: int,
    stem_stride: int,
    preprocess: int,
    outputs: int,
    norm: Norm,
) -> tuple[tuple[nn.Module, list[tuple[nn.ModuleList, nn.ModuleList]], nn.Module], tuple[bool, ...]]:
    """Stem, (preprocess, nodes) of each cell, and head; and which cells reduce."""
    for name, value, allowed in (
        ("channels", channels, range(1, 10_000)), ("cells", cells, range(2, 1000)),
        ("stem_stride", stem_stride, (1, 2)), ("preprocess", preprocess, (1, 3)),
    ):  # fmt: skip
        if value not in allowed:
            limits = f"from {allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else f"one of {allowed}"
            raise ValueError(f"{name} = {value}: must be {limits}")
    reducing, built = _reducing(cells), []
    a = b = 3 * channels
    stem = nn.Sequential(nn.Conv2d(3, b, 3, stem_stride, 1, bias=False), norm(b))
    halved = False
    for reduces in reducing:
        channels *= 2 if reduces else 1
        alike = nn.ModuleList(
            [conv_norm(a, channels, preprocess, norm, 2 if halved else 1), conv_norm(b, channels, preprocess, norm)]
        )
        made = nn.ModuleList([nn.ModuleDict(node) for node in nodes_of(channels, reduces, norm)])
        built.append((alike, made))
        a, b, halved = b, nodes * channels, reduces
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(b, outputs))
    return (stem, built, head), reducing
