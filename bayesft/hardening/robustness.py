"""What was measured of a network under faults: raw numbers, intervals, table, picture, file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesft.evaluation.measures import half_level, weights
from bayesft.hardening.saved import load, save

if TYPE_CHECKING:  # loaded where it is used: it takes longer than the rest
    import pandas as pd


@dataclass(frozen=True)
class Curve:
    """A score by fault level, with intervals over draws of the fault, over examples, and over both.

    Args:
        levels: fault levels, rising, (L,).
        scores: mean over the examples for each level and draw, (L, D).
        examples: mean over the draws for each level and example, (L, N); (L, 0) where the score is not one an example.
        about: what was measured, and how.
    """

    levels: np.ndarray
    scores: np.ndarray
    examples: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> np.ndarray:
        """The mean over draws and examples, (L,)."""
        return self.scores.mean(1)

    @property
    def area(self) -> float:
        """The area under the curve over the range of the levels, divided by that range (trapezoids)."""
        return float(self.mean @ self._weights())

    @property
    def areas(self) -> np.ndarray:
        """The area of each draw, (D,)."""
        return self._weights() @ self.scores

    def area_interval(self, confidence: float = 0.95) -> float:
        """Half-width of the interval of `area`, over draws and examples."""
        by_level = self._weights()
        examples = by_level @ self.examples if self.examples.shape[1] else np.zeros(0)
        return _half_widths(by_level @ self.scores, examples, confidence)[-1]

    def _weights(self) -> np.ndarray:
        """What each level weighs in `area`, (L,)."""
        found = weights(self.levels)
        assert found is not None  # the range ends at the last level
        return found

    def table(self, confidence: float = 0.95) -> "pd.DataFrame":
        """A row a level: the mean, and half-widths of its intervals.

        The interval over draws says how exactly other devices are told from these data, the one over examples how
        exactly other data are told from these devices, the one over both how exactly other data on other devices are.
        The variance of the last is s_d²/D + s_e²/N (draws crossed with examples), which counts their interaction twice
        and so is a little too wide; Student's t with Satterthwaite's degrees of freedom. NaN: too few to tell.
        """
        import pandas as pd

        widths = [_half_widths(s, e, confidence) for s, e in zip(self.scores, self.examples, strict=True)]
        table = pd.DataFrame(widths, columns=["over_draws", "over_examples", "over_both"])
        table.insert(0, "level", self.levels)
        table.insert(1, "mean", self.mean)
        return table

    def __str__(self) -> str:
        import pandas as pd

        rows = self.table()
        over = "both" if np.isfinite(rows.over_both).any() else "draws"
        cells = {
            "level": [f"{level:g}" for level in self.levels],
            "mean": [f"{mean:.4f}" for mean in rows["mean"]],
            "95 % over draws": [f"± {width:.4f}" for width in rows.over_draws],
            "over examples": [f"± {width:.4f}" for width in rows.over_examples],
            "over both": [f"± {width:.4f}" for width in rows.over_both],
            **self._more_cells(),
        }
        area = f"area {self.area:.4f}" + (f" ± {self.area_interval():.4f}" if over == "both" else "")
        lines = [self._headline(), pd.DataFrame(cells).to_string(index=False), area + self._footnote()]
        return "\n".join(line for line in lines if line)

    def _headline(self) -> str:
        return ""

    def _more_cells(self) -> dict[str, list[str]]:
        return {}

    def _footnote(self) -> str:
        return ""

    def plot(self, ax: Any = None, label: str | None = None) -> Any:
        """Draw the curve with its interval (over both; over draws where examples have no score) onto Matplotlib axes.

        Returns:
            The axes.
        """
        ax = axes(ax)
        rows = self.table()
        width = rows.over_both.where(rows.over_both.notna(), rows.over_draws).fillna(0)
        (line,) = ax.plot(self.levels, rows["mean"], marker="o", label=label)
        ax.fill_between(
            self.levels, rows["mean"] - width, rows["mean"] + width, color=line.get_color(), alpha=0.2, linewidth=0
        )
        ax.set(xlabel=self.about.get("level", "fault level"), ylabel=self.about.get("score", "score"))
        return ax


@dataclass(frozen=True)
class Robustness(Curve):
    """The score of a network at each fault level. More is better.

    Args:
        not_finite: for each level and draw, how many examples had an output that is not finite, (L, D). They count as
            wrong: their score is at most 0, or NaN where a score of one's own is.
    """

    not_finite: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))

    @property
    def sigma50(self) -> float:
        """The level at which the curve first falls to half of its value at level 0, between two levels on a line.

        NaN where it does not fall so far, or where level 0 was not measured.
        """
        return half_level(self.levels, self.mean)

    def table(self, confidence: float = 0.95) -> "pd.DataFrame":
        """As `Curve.table`, and how many outputs were not finite, over all draws."""
        table = super().table(confidence)
        table["not_finite"] = self.not_finite.sum(1)
        return table

    def minus(self, other: "Robustness") -> "Difference":
        """This curve minus another one, paired by draw and by example.

        Raises:
            ValueError: the two were not measured alike (levels, draws, seed, fault, score, data).
        """
        if not isinstance(other, Robustness):
            raise ValueError(f"other = {type(other).__name__}: must be a Robustness")
        differ = [key for key in ("fault", "seed", "score", "data") if self.about.get(key) != other.about.get(key)]
        if not np.array_equal(self.levels, other.levels) or self.scores.shape != other.scores.shape:
            differ.append("levels or number of draws")
        if self.examples.shape != other.examples.shape:
            differ.append("number of examples")
        if differ:
            raise ValueError(f"other: can't be paired, it differs in {', '.join(differ)}")
        about = {**self.about, "score": f"difference of {self.about.get('score', 'score')}"}
        return Difference(self.levels, self.scores - other.scores, self.examples - other.examples, about)

    def save(self, path: str | Path) -> None:
        """Save all numbers as a safetensors file."""
        save(path, "Robustness", {a: torch.from_numpy(getattr(self, a)) for a in ARRAYS}, {"about": self.about})

    @classmethod
    def load(cls, path: str | Path) -> "Robustness":
        """What `save` saved.

        Raises:
            ValueError: the file is missing, damaged, or none of these.
        """
        content, about = load(path, "Robustness")
        return cls(**{a: content[a].numpy() for a in ARRAYS}, about=about["about"])

    def _headline(self) -> str:
        about = self.about
        return (
            f"{about.get('score', 'score')} under {about.get('fault', 'faults')}"
            + (f", each copy calibrated {about['calibrated']}" if about.get("calibrated") else "")
            + f": {self.scores.shape[1]} draws, "
            f"{about.get('count', self.examples.shape[1])} examples"
            + (f" (interrupted, {about['draws']} draws were asked for)" if about.get("interrupted") else "")
        )

    def _more_cells(self) -> dict[str, list[str]]:
        return {"not finite": [str(count) for count in self.not_finite.sum(1)]}

    def _footnote(self) -> str:
        half = self.sigma50
        return "" if np.isnan(half) else f", half of the clean value at {half:.3g}"


@dataclass(frozen=True)
class Difference(Curve):
    """The score of one network minus that of another, paired by draw and by example."""

    def _headline(self) -> str:
        return f"{self.about.get('score', 'difference')} under {self.about.get('fault', 'faults')}, paired"


def axes(ax: Any = None) -> Any:
    """These Matplotlib axes, or new ones."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(layout="constrained")[1]
    return ax


ARRAYS = ("levels", "scores", "examples", "not_finite")


def _half_widths(draws: np.ndarray, examples: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Half-widths of the intervals over draws (D,), over examples (N,) and over both."""
    from scipy.special import stdtrit  # Student's t

    def width(variance: float, freedom: float) -> float:
        return float(stdtrit(freedom, (1 + confidence) / 2) * variance**0.5) if variance > 0 else variance

    of_draws, of_examples = (x.var(ddof=1) / len(x) if len(x) > 1 else np.nan for x in (draws, examples))
    both = of_draws + of_examples
    freedom = 1.0
    if both > 0:
        freedom = both**2 / (of_draws**2 / (len(draws) - 1) + of_examples**2 / (len(examples) - 1))
    alone = width(of_draws, max(len(draws) - 1, 1)), width(of_examples, max(len(examples) - 1, 1))
    return *alone, float(np.max([*alone, width(both, freedom)]))  # NaN where one of them is
