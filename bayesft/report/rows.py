"""What a row of the report is called, and how its curve looks: both come from its method."""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from bayesft.methods import Look, Method, load

BASELINE, SUBJECT = "erm", "bayesft"  # what gains are over, and the method that the study is about
OTHER = Look("#6b6b00", "-", ".")  # of what is no row


@dataclass(frozen=True)
class Row:
    """A row of the report.

    Args:
        name: The name in params.yaml.
        method: The method's name.
        tuned: Whether the search finds hyperparameters that the method takes as given.
        network: What differs in the network.
    """

    name: str
    method: str
    tuned: bool = False
    network: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of(self) -> Method:
        """The method."""
        return load(self.method)

    @property
    def title(self) -> str:
        """The name in reports."""
        changes = ["without BN" if (k, v) == ("normalization", None) else f"{k} {v}" for k, v in self.network.items()]
        return " ".join([self.of.title, *changes]) + (", tuned" if self.tuned else "")

    @property
    def look(self) -> Look:
        """The method's look. On another network the colour is darker and shifted, and dashes and marker are others."""
        look = self.of.look
        if not self.network:
            return look
        hue, light, saturation = colorsys.rgb_to_hls(*to_rgb(look.colour))
        dashes = (0, (4, 1, 1, 1)) if look.dashes == "-" and self.method == BASELINE else (0, (1, 1))
        colour = to_hex(colorsys.hls_to_rgb((hue - 0.11) % 1, 0.6 * light, saturation))
        return Look(colour, dashes, {"o": "<", "*": ">"}.get(look.marker, "d"))
