"""What a row of the report is called, and how its curve looks: both come from its method."""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from bayesft.methods import Look, Method, load, names

BASELINE, SUBJECT, OWN = "erm", "bayesft", "drift_dropout"  # what gains are over, the paper's method, our own
PUBLISHED = (BASELINE, "ftna", "reram_v", "awp")  # what the paper compares its method with
MAIN = (*PUBLISHED, SUBJECT, OWN)
BARE = "-no-norm"  # the end of the names of rows whose network has no normalisation, in params.yaml
BESIDE = {"erm-programmed": "ERM on the devices of ReRAM-V"}  # networks that a method made beside its own
OTHER = Look("#6b6b00", "-", ".")  # of what is no row
# Dashes and markers of rows that a report has besides a method's plain one. Their colour is the method's, darker.
VARIANTS = (((0, (4, 1, 1, 1)), "<"), ((0, (1, 1)), ">"), ((0, (7, 2)), "d"), ((0, (3, 1, 1, 1, 1, 1)), "8"))


@dataclass(frozen=True)
class Row:
    """A row of the report.

    Args:
        name: The name in params.yaml.
        method: The method's name.
        tuned: Whether the search finds hyperparameters that the method takes as given.
        network: What differs in the network.
        variant: Its number among the rows that need a look of their own beside their method's; 0 for none.
        again: Whether a row before it has the same title.
    """

    name: str
    method: str
    tuned: bool = False
    network: Mapping[str, Any] = field(default_factory=dict)
    variant: int = 0
    again: bool = False

    @property
    def of(self) -> Method:
        """The method."""
        return load(self.method)

    @property
    def title(self) -> str:
        """The name in reports. Where no word tells a row from one before it, its name does."""
        changes = ["without BN" if (k, v) == ("normalization", None) else f"{k} {v}" for k, v in self.network.items()]
        return " ".join([self.of.title, *changes]) + ", tuned" * self.tuned + f" [{self.name}]" * self.again

    @property
    def look(self) -> Look:
        """The method's look. A variant's is darker and shifted in colour, with other dashes and another marker."""
        look = self.of.look
        if not self.variant:
            return look
        hue, light, saturation = colorsys.rgb_to_hls(*to_rgb(look.colour))
        colour = to_hex(colorsys.hls_to_rgb((hue - 0.11) % 1, 0.6 * light, saturation))
        return Look(colour, *VARIANTS[(self.variant - 1) % len(VARIANTS)])


def called(name: str) -> str:
    """What a row of params.yaml, or a network beside one, is called where its settings are not at hand."""
    if name in BESIDE:
        return BESIDE[name]
    method = name.removesuffix(BARE)
    return load(method).title + " without BN" * (method != name) if method in names() else name


def rows_of(described: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
    """The rows of a report, no two of the same title.

    Args:
        described: By name, in the report's order: "method", its name; "network", what differs in the network; "tuned",
            whether the row has a search of its own.

    Returns:
        The rows by name. A row is tuned where its method by itself searches nothing.
    """
    rows: dict[str, Row] = {}
    for name, entry in described.items():
        row = Row(name, entry["method"], entry["tuned"] and load(entry["method"]).search is None, entry["network"])
        again = row.title in [other.title for other in rows.values()]
        variants = sum(other.variant > 0 for other in rows.values())
        rows[name] = replace(row, again=again, variant=variants + 1 if row.network or again else 0)
    return rows
