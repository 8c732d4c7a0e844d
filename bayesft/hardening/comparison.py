"""Several networks under the same faults."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from bayesft.hardening.checks import check_rereadable
from bayesft.hardening.measure import evaluate
from bayesft.hardening.robustness import Difference, Robustness

if TYPE_CHECKING:  # loaded where it is used: it takes longer than the rest
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """The curves of several networks, measured alike, by name. The first is the baseline of the others."""

    curves: dict[str, Robustness]

    @property
    def baseline(self) -> str:
        """The name of the network that the others are compared with."""
        return next(iter(self.curves))

    @property
    def differences(self) -> dict[str, Difference]:
        """Each other network minus the baseline, paired by draw and by example."""
        first = self.curves[self.baseline]
        return {name: curve.minus(first) for name, curve in self.curves.items() if name != self.baseline}

    def table(self, confidence: float = 0.95) -> "pd.DataFrame":
        """A row for each network and level: its mean with half-widths of intervals, and its gain over the baseline.

        `gain_over_draws`, `gain_over_examples` and `gain_over_both` are half-widths of the intervals of the gain.
        """
        import pandas as pd

        tables = []
        for name, curve in self.curves.items():
            table = curve.table(confidence)
            table.insert(0, "network", name)
            if name != self.baseline:
                gain = curve.minus(self.curves[self.baseline]).table(confidence).drop(columns="level")
                gain = gain.rename(columns={"mean": "gain"}).rename(columns=lambda c: c.replace("over", "gain_over"))
                table = pd.concat([table, gain], axis=1)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def plot(self, ax: Any = None) -> Any:
        """Draw all curves with their intervals onto the same Matplotlib axes, and return the axes."""
        for name, curve in self.curves.items():
            ax = curve.plot(ax, label=name)
        ax.legend()
        return ax

    def __str__(self) -> str:
        parts = [f"{name}: {curve}" for name, curve in self.curves.items()]
        parts += [f"{name} minus {self.baseline}: {difference}" for name, difference in self.differences.items()]
        return "\n\n".join(parts)


def compare(models: Mapping[str, nn.Module], data: Any, **same: Any) -> Comparison:
    """Measure several networks under the same draws of the same faults, on the same data.

    Networks share the fault of a parameter where name and shape of the parameter are the same.

    Args:
        models: networks by name, the baseline first.
        data: as for `evaluate`; it is read once for each network, or more often.
        same: the other arguments of `evaluate`, for all networks.

    Returns:
        The curves, with paired differences from the baseline. After Ctrl-C, those of the networks that were complete.

    Raises:
        ValueError: as `evaluate`; fewer than two networks; data that can be read only once.
    """
    if not isinstance(models, Mapping) or len(models) < 2:
        raise ValueError("models: need a dictionary of at least two networks by name")
    check_rereadable("data", data)
    curves: dict[str, Robustness] = {}
    for name, model in models.items():
        try:
            curve = evaluate(model, data, **same)
        except ValueError as error:
            raise ValueError(f"models[{name!r}]: {error}") from error
        except KeyboardInterrupt:
            curve = None
        if curve is not None and (not curves or not curve.about["interrupted"]):
            curves[name] = curve
        if curve is None or curve.about["interrupted"]:
            if not curves:
                raise KeyboardInterrupt
            warnings.warn(f"interrupted: the comparison has {', '.join(curves)} alone", stacklevel=2)
            break
    return Comparison(curves)
