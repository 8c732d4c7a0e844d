"""Which layers faults cost most: one layer faulty at a time, all but one, and what it buys to keep layers digital."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from bayesft.drift.copies import select
from bayesft.drift.faults import FaultModel, LogNormalDrift, traits_of
from bayesft.drift.features import FeatureFault
from bayesft.drift.scope import Where
from bayesft.hardening.checks import check_fault, check_model, check_rereadable, checked_level
from bayesft.hardening.measure import evaluate
from bayesft.hardening.progress import tqdm
from bayesft.hardening.robustness import Curve, Difference, Robustness, axes

if TYPE_CHECKING:  # loaded where it is used: it takes longer than the rest
    import pandas as pd


@dataclass(frozen=True)
class Sensitivity:
    """What faults in each layer cost. All curves but `clean` have one level, the same, and equal draws.

    Args:
        clean: no layer faulty.
        every: all layers faulty.
        alone: by layer, that layer alone faulty.
        without: by layer, all others faulty.
        names: by layer, its faulty parameters.
        sizes: by layer, how many numbers these hold.
        trade: (layers kept digital, their share of the numbers, the curve), from none to all, the layer first that
            gains most for each number kept digital.
    """

    clean: Robustness
    every: Robustness
    alone: dict[str, Robustness]
    without: dict[str, Robustness]
    names: dict[str, tuple[str, ...]]
    sizes: dict[str, int]
    trade: tuple[tuple[tuple[str, ...], float, Robustness], ...]

    def table(self, confidence: float = 0.95) -> "pd.DataFrame":
        """A row a layer, the dearest first.

        `parameters` are how many; `cost` is the clean score minus that with this layer alone faulty; `gain` what it
        gains to keep this layer alone digital; half-widths of their intervals over draws and examples (over draws,
        where examples have no score).
        """
        import pandas as pd

        rows = []
        for layer, curve in self.alone.items():
            cost = _difference(self.clean, curve)
            gain = _difference(self.without[layer], self.every)
            rows.append((layer, self.sizes[layer], *_of(cost, confidence), *_of(gain, confidence)))
        columns = ["layer", "parameters", "cost", "cost_half_width", "gain", "gain_half_width"]
        table = pd.DataFrame(rows, columns=columns)
        return table.sort_values("cost", ascending=False, ignore_index=True)

    def trade_table(self, confidence: float = 0.95) -> "pd.DataFrame":
        """A row for each step of keeping one more layer digital: the share of numbers kept digital, and the score."""
        import pandas as pd

        rows = []
        for kept, share, curve in self.trade:
            rows.append((kept[-1] if kept else "none", share, *_of(curve, confidence)))
        return pd.DataFrame(rows, columns=["layer", "digital", "score", "half_width"])

    def where(self, digital: Sequence[str]) -> Callable[[str, nn.Module, nn.Parameter], bool]:
        """The argument `where` of the other functions, for a network in which the layers `digital` are kept digital.

        Raises:
            ValueError: one of them was not measured.
        """
        unknown = [layer for layer in digital if layer not in self.names]
        if unknown or isinstance(digital, str):
            raise ValueError(f"digital = {digital!r}: must be a list of layers, of {', '.join(self.names)}")
        kept = {name for layer in digital for name in self.names[layer]}
        measured = {name for names in self.names.values() for name in names}
        return lambda name, module, parameter: name in measured and name not in kept

    def __str__(self) -> str:
        level = self.every.levels[0]
        head = f"{self.every.about['score']} under {self.every.about['fault']} at level {level:g}: "
        head += f"{self.clean.mean[0]:.4f} without faults, {self.every.mean[0]:.4f} with all layers faulty"
        parts = [head, self.table().round(4).to_string(index=False)]
        if self.trade:
            parts += ["kept digital, one layer after the other", self.trade_table().round(4).to_string(index=False)]
        return "\n".join(parts)

    def plot(self, ax: Any = None) -> Any:
        """Draw what each layer costs and gains as bars, the dearest on top, onto Matplotlib axes, and return these."""
        ax = axes(ax)
        table = self.table()[::-1]
        rows = np.arange(len(table))
        for shift, what, label in ((0.2, "cost", "alone faulty: cost"), (-0.2, "gain", "kept digital: gain")):
            width = table[f"{what}_half_width"].fillna(0)
            ax.barh(rows + shift, table[what], 0.4, xerr=width, label=label)
        ax.set_yticks(rows, table.layer)
        ax.set_xlabel(f"{self.every.about['score']} at level {self.every.levels[0]:g}")
        ax.legend()
        return ax

    def plot_trade(self, ax: Any = None) -> Any:
        """Draw the score against the share of numbers kept digital onto Matplotlib axes, and return the axes."""
        ax, table = axes(ax), self.trade_table()
        ax.errorbar(table.digital, table.score, table.half_width.fillna(0), marker="o")
        ax.set(xlabel="share of parameters kept digital", ylabel=self.every.about["score"])
        return ax


def sensitivity(
    model: nn.Module,
    data: Any,
    *,
    level: float | None = None,
    fault: FaultModel = LogNormalDrift(),  # noqa: B008, frozen
    where: Where = "all",
    trade: bool = True,
    progress: bool = True,
    **same: Any,
) -> Sensitivity:
    """Measure what faults in each layer cost: in it alone, and in all the others.

    A layer is a module that holds parameters itself. With L layers it is 3 L + 2 measurements by `evaluate`, without
    the trade 2 L + 2.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`; it is read again for each measurement.
        level: the fault level, in the fault's unit; without it, one of the fault's own (`Hardening`).
        fault: what happens to a parameter.
        where: the parameters that can be faulty at all.
        trade: also measure what it buys to keep one layer after the other digital.
        progress: show a bar.
        same: the other arguments of `evaluate`.

    Returns:
        What each layer costs. After Ctrl-C, of the layers that were complete.

    Raises:
        ValueError: as `evaluate`; data that can be read only once; a level at which the fault changes nothing.
    """
    check_model(model)
    check_fault(fault)
    if isinstance(fault, FeatureFault):
        raise ValueError(f"fault = {fault}: it strikes activations; sensitivity needs a fault of parameters")
    level = checked_level(fault, level)
    if level == 0 and traits_of(fault).identity_at_zero:
        raise ValueError(f"level = 0: {fault} changes nothing there; must be greater than 0")
    check_rereadable("data", data)
    if "levels" in same:
        raise ValueError("levels: sensitivity measures at one level; give `level`")
    names: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}
    for name, theta in select(model, where).items():
        layer = name.rpartition(".")[0]
        names[layer] = (*names.get(layer, ()), name)
        sizes[layer] = sizes.get(layer, 0) + theta.numel()
    every = {name for of_layer in names.values() for name in of_layer}

    with tqdm(total=2 + (3 if trade else 2) * len(names), disable=not progress, unit="measurement") as bar:

        def measured(faulty: set[str], fault: FaultModel = fault, level: float = level) -> Robustness:
            def chosen(name: str, module: nn.Module, parameter: nn.Parameter) -> bool:
                return name in faulty

            found = evaluate(model, data, fault=fault, levels=(level,), where=chosen, progress=False, **same)
            if found.about["interrupted"]:
                raise KeyboardInterrupt
            bar.update()
            return found

        clean = measured(every, LogNormalDrift(), 0.0)
        whole = measured(every)
        alone: dict[str, Robustness] = {}
        without: dict[str, Robustness] = {}
        steps: list[tuple[tuple[str, ...], float, Robustness]] = [((), 0.0, whole)]
        try:
            for layer, of_layer in names.items():
                single = measured(set(of_layer))
                without[layer] = measured(every - set(of_layer)) if len(names) > 1 else clean
                alone[layer] = single
            order = sorted(names, key=lambda n: (whole.mean[0] - without[n].mean[0]) / sizes[n]) if trade else ()
            for i in range(1, len(order) + 1):
                faulty = every.difference(*(names[layer] for layer in order[:i]))
                curve = measured(faulty) if faulty else clean
                steps.append((tuple(order[:i]), sum(sizes[n] for n in order[:i]) / sum(sizes.values()), curve))
        except KeyboardInterrupt:
            if not alone:
                raise
        without = {layer: without[layer] for layer in alone}
    return Sensitivity(clean, whole, alone, without, names, sizes, tuple(steps) if trade else ())


def _difference(better: Robustness, worse: Robustness) -> Difference:
    """One curve minus another, paired, where one may be without faults."""
    return Difference(worse.levels, better.scores - worse.scores, better.examples - worse.examples)


def _of(curve: Curve, confidence: float) -> tuple[float, float]:
    row = curve.table(confidence).iloc[0]
    return float(row["mean"]), float(row.over_draws if np.isnan(row.over_both) else row.over_both)
