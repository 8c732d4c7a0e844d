"""The rows of the chapter on fault-tolerant training: which network, trained how."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What an architecture search has: (α_l of the shared weights counts, α_r of the reward counts).
COEFFICIENTS = {"ftt-nas": (True, True), "ft-nas": (False, True), "nas": (False, False)}
SEARCHES = (*COEFFICIENTS, "alone")
CHANNELS = 20  # of the published networks, for which the published level of `mibb` is


@dataclass(frozen=True)
class Row:
    """A row of the chapter.

    Args:
        title: The name in reports.
        network: "resnet20", "mobilenet_v2" or "w_ftt_net"; or, with a `search`, a network that the search names.
        method: The method that trains it.
        values: Settings of the method that differ from the chapter's.
        search: The search that names the network, one of `SEARCHES`.
        alike: Whether it trains alike for every fault, so that one training serves all.
    """

    title: str
    network: str
    method: str = "ftt"
    values: Mapping[str, Any] | None = None
    search: str | None = None
    alike: bool = False


PLAIN = {"alpha": 0.0}
ROWS = {
    "plain": Row("ResNet-20, plain", "resnet20", values=PLAIN, alike=True),
    "ftt": Row("ResNet-20, FTT", "resnet20"),
    "matched": Row("ResNet-20 of the found size, FTT", "matched", search="ftt-nas"),
    "mobilenet-plain": Row("MobileNet-V2, plain", "mobilenet_v2", values=PLAIN, alike=True),
    "mobilenet": Row("MobileNet-V2, FTT", "mobilenet_v2"),
    "mobilenet-matched": Row("MobileNet-V2 of the found size, FTT", "mobilenet-matched", search="ftt-nas"),
    "w-ftt-net": Row("W-FTT-Net as published, FTT", "w_ftt_net"),
    "found": Row("found by FTT-NAS, FTT", "found", search="ftt-nas"),
    "found-plain": Row("found by FTT-NAS, plain", "found", values=PLAIN, search="ftt-nas"),
    "found-ft-nas": Row("found by FT-NAS, FTT", "found", search="ft-nas"),
    "found-nas": Row("found by NAS, FTT", "found", search="nas"),
    "found-alone": Row("found by training each alone, FTT", "found", search="alone"),
    **{
        f"random-{number}": Row(f"random cells {number} of the found size, FTT", f"random-{number}", search="ftt-nas")
        for number in (1, 2, 3)
    },
    "largest": Row("largest cells of the found size, FTT", "largest", search="ftt-nas"),
    "bayesft": Row("ResNet-20, BayesFT", "resnet20", "bayesft", alike=True),
    "drift_dropout": Row("ResNet-20, drift-aware + dropout", "resnet20", "drift_dropout", alike=True),
    "drift_ftt": Row("ResNet-20, drift-aware + FTT", "resnet20", "drift_ftt"),
}


def specification(network: str, settings: Mapping[str, Any], preprocess: int) -> dict[str, Any]:
    """What `build` makes a network of that no search names.

    Args:
        network: Its name in a `Row`.
        settings: channels and cells of the searched networks, channels of ResNet-20 (`resnet`), width of MobileNet-V2
            (`mobile`), and stem_stride.
        preprocess: The size of the convolutions before the cells.
    """
    stem = {"stem_stride": settings["stem_stride"]}
    if network == "resnet20":
        return {"network": "resnet20", "channels": settings["resnet"], **stem}
    if network == "mobilenet_v2":
        return {"network": "mobilenet_v2", "width": settings["mobile"], **stem}
    from bayesft.models.cells import W_FTT_NET

    return cells(str(W_FTT_NET) if network == "w_ftt_net" else network, settings, preprocess)


def cells(architecture: str, settings: Mapping[str, Any], preprocess: int) -> dict[str, Any]:
    """What `build` makes the network of an architecture of."""
    return {
        "network": "cell_network", "architecture": architecture, "channels": settings["channels"],
        "cells": settings["cells"], "stem_stride": settings["stem_stride"], "preprocess": preprocess,
    }  # fmt: skip


def level_at(fault: str, level: float, channels: int) -> float:
    """The level of a fault for networks of so many channels.

    Fewer channels mean fewer products for a number, so `mibb` strikes less often: its level grows as the channels
    shrink.
    """
    return level * CHANNELS / channels if fault == "mibb" else level
