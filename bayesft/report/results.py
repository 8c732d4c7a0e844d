"""The results of a run, gathered: accuracies of every network at every σ, and how each was trained."""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from bayesft.evaluation.measures import half_level, weights
from bayesft.evaluation.statistics import Estimate, estimate
from bayesft.methods import Look
from bayesft.report.rows import BASELINE, BESIDE, MAIN, OTHER, OWN, SUBJECT, Row
from bayesft.tasks import TASKS, heading

# What the detection task measures, and the names of that in reports. Its "accuracy" is box_map_50.
METRICS = {
    "box_map_50": "box mAP@0.5",
    "box_map": "box mAP@[0.5, 0.95]",
    "mask_map_50": "mask mAP@0.5",
    "mask_map": "mask mAP@[0.5, 0.95]",
}


@dataclass(frozen=True)
class TaskResults:
    """One task, or one factor of the ablation.

    accuracy: for each row, (seeds, σ, draws); sigmas: (σ,); about: for each row, how the network of each seed was
    trained; data: what is known of the images; metrics: for each row what else was measured, by name, in the shape of
    its accuracy (empty for classification); shown: the rows of the report in their order. Without it, all are shown;
    end: where the range of σ ends over which the area is measured (None: at the last σ); not_finite: for rows of which
    some outputs were not finite, and so counted as wrong, their share at each σ (σ,).

    Of the detection task, what is called accuracy here is box mAP@0.5.
    """

    sigmas: np.ndarray
    seeds: tuple[int, ...]
    accuracy: dict[str, np.ndarray]
    about: dict[str, list[dict[str, Any]]]
    data: dict[str, Any]
    metrics: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    shown: Mapping[str, Row] = field(default_factory=dict)
    end: float | None = None
    not_finite: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def gather(
        cls,
        files: Mapping[int, dict[str, Any]],
        shown: Mapping[str, Row] = MappingProxyType({}),
        end: float | None = None,
    ) -> "TaskResults":
        """From the results of each seed: the content of its file.

        Raises ValueError when they can't be averaged: other rows, other σ, other images, metrics or numbers of draws;
        and for a metric of which not as much was measured as of the accuracy.
        """
        if not files:
            raise ValueError("no results to gather: run dvc repro")
        seeds = tuple(sorted(files))
        first = files[seeds[0]]
        rows = list(first["rows"])
        for seed in seeds:
            for what, of in _COMPARED.items():
                here, there = of(files[seed]), of(first)
                if here != there:
                    raise ValueError(
                        f"seeds {seeds[0]} and {seed} differ in {what} ({there} and {here}), so they can't be "
                        "averaged: run dvc repro, which makes the outdated results anew"
                    )
        accuracy = {row: np.array([files[seed]["rows"][row]["accuracy"] for seed in seeds]) for row in rows}
        metrics = {
            row: {name: np.array([files[seed]["rows"][row]["metrics"][name] for seed in seeds]) for name in names}
            for row in rows
            if (names := first["rows"][row].get("metrics"))
        }
        for row, found in metrics.items():
            for name, values in found.items():
                if values.shape != accuracy[row].shape:
                    raise ValueError(f"{row}: {name} of shape {values.shape}, accuracy of {accuracy[row].shape}")
        about = {row: [files[seed]["rows"][row]["about"] for seed in seeds] for row in rows}
        none = [0.0] * len(first["sigmas"])
        lost = {row: np.mean([files[seed]["rows"][row].get("not_finite", none) for seed in seeds], 0) for row in rows}
        lost = {row: share for row, share in lost.items() if share.any()}
        return cls(np.array(first["sigmas"]), seeds, accuracy, about, first["data"], metrics, shown, end, lost)

    def only(self, rows: Mapping[str, str]) -> "TaskResults":
        """The rows that `rows` names, in its order, under the names by which it shows them.

        Raises ValueError when there is no such row.
        """
        missing = [row for row in rows.values() if row not in self.accuracy]
        if missing:
            raise ValueError(f"no results of {', '.join(missing)}: run dvc repro")
        accuracy = {name: self.accuracy[row] for name, row in rows.items()}
        about = {name: self.about[row] for name, row in rows.items()}
        metrics = {name: self.metrics[row] for name, row in rows.items() if row in self.metrics}
        return replace(self, accuracy=accuracy, about=about, metrics=metrics, shown={})

    def rows(self) -> list[str]:
        """The rows to show, in the order of the report."""
        return [row for row in self.shown or self.accuracy if row in self.accuracy]

    def heading(self, task: str) -> str:
        """The network of a task and the data, by their own name where they stand in for the real ones."""
        return heading(task, self.data["source"])

    def beside(self) -> list[str]:
        """The networks that a method made beside its own."""
        return [row for row in self.accuracy if self.shown and row not in self.shown]

    def title(self, row: str) -> str:
        """The name of a row in figures and tables."""
        return self.shown[row].title if row in self.shown else BESIDE.get(row, row)

    def look(self, row: str) -> Look:
        """The look of a row's curve."""
        return self.shown[row].look if row in self.shown else OTHER

    def curve(self, row: str) -> list[Estimate]:
        """The accuracy of a row at each σ."""
        return [self._estimate(self.accuracy[row][:, i], row) for i in range(len(self.sigmas))]

    def at(self, row: str, sigma: float, metric: str | None = None) -> Estimate | None:
        """The accuracy of a row at `sigma`, or another `metric`, or None where the grid has no such point."""
        found = np.flatnonzero(np.isclose(self.sigmas, sigma))
        return self._estimate(self._values(row, metric)[:, found[0]], row) if len(found) else None

    @property
    def measured_to(self) -> float:
        """Where the range of σ ends over which the area is measured."""
        return float(self.sigmas[-1] if self.end is None else self.end)

    @property
    def measured(self) -> bool:
        """Whether σ was evaluated to the end of the range over which the area is measured."""
        return weights(self.sigmas, self.end) is not None

    def so_far(self) -> "TaskResults":
        """The same with the area over what was evaluated: to the last σ, where the range ends beyond it."""
        return replace(self, end=min(self.measured_to, float(self.sigmas[-1])))

    def areas(self, row: str, metric: str | None = None) -> np.ndarray | None:
        """The area under the curve of each seed and draw, over the range of σ and divided by it: (seeds, draws).

        None where σ was not evaluated to the end of the range.
        """
        by_level = weights(self.sigmas, self.end)
        return None if by_level is None else np.einsum("i,sid->sd", by_level, self._values(row, metric))

    def area(self, row: str, metric: str | None = None) -> Estimate | None:
        """Accuracy under drift: the area under a row's curve, or under that of another `metric`; None: not measured."""
        values = self.areas(row, metric)
        return None if values is None else self._estimate(values, row)

    def sigma50(self, row: str) -> Estimate | None:
        """The σ at which a row's curve falls to half of its clean value; None where that of a seed does not."""
        each = np.array([half_level(self.sigmas, seed.mean(1)) for seed in self.accuracy[row]])
        return None if np.isnan(each).any() else estimate(each[:, None])

    def _values(self, row: str, metric: str | None) -> np.ndarray:
        return self.accuracy[row] if metric is None else self.metrics[row][metric]

    def difference(self, first: str, second: str) -> Estimate | None:
        """The area under one row's curve minus that under another's, paired by seed or by draw; None: not measured.

        Raises:
            ValueError: They were measured with other seeds or draws.
        """
        one, other = self.areas(first), self.areas(second)
        if self.accuracy[first].shape != self.accuracy[second].shape:
            raise ValueError(f"{first} and {second} were measured with other seeds or draws, and can't be paired")
        return None if one is None else self._estimate(one - other, first, second)

    def differences(self, first: str, second: str) -> list[Estimate]:
        """At each σ, the accuracy of one row minus another's, paired by seed or by draw."""
        apart = self.accuracy[first] - self.accuracy[second]
        return [self._estimate(apart[:, i], first, second) for i in range(len(self.sigmas))]

    def _estimate(self, values: np.ndarray, *rows: str) -> Estimate:
        """The mean of `values` (seeds, draws).

        With one seed, a row that was programmed on a few devices has no interval: its draws share the error of their
        device, and a few devices are too few for one.
        """
        devices = max(self.devices_of(row) for row in rows)
        if len(values) > 1 or devices == 1:
            return measured(values)
        return Estimate(float(values.mean()), float("nan"), "devices", devices)

    def devices_of(self, row: str) -> int:
        """On how many devices a row's networks were programmed: 1 where on none."""
        return self.about[row][0].get("devices", 1)

    def devices(self, row: str) -> np.ndarray:
        """The curve of each device of each seed (curves, S). Draw t met device t modulo their number."""
        count, draws = self.devices_of(row), self.accuracy[row][0].shape[1]
        met = range(min(count, draws))  # of few draws, some devices have none
        return np.array([seed[:, i::count].mean(1) for seed in self.accuracy[row] for i in met])

    @property
    def chance(self) -> float | None:
        """The accuracy of a guess, or None where there are no classes to guess among."""
        return 1 / self.data["classes"] if "classes" in self.data else None

    def untuned(self) -> list[str]:
        """The rows without those of tuned methods, which have a figure of their own."""
        return [row for row in self.rows() if row not in self.shown or not self.shown[row].tuned]

    def main(self) -> list[str]:
        """The rows of the paper's methods and of the own one, as they are: Figure 3. All rows where none are named."""
        if not self.shown:
            return self.rows()
        kept = [row for row in self.untuned() if not self.shown[row].variant]
        return [row for row in kept if self.shown[row].method in MAIN]

    def controls(self) -> list[str]:
        """The rows whose gain over the baseline is shown: BayesFT, the own method and what the paper does not have.

        Rows of another network have their own figure, and methods for calibrated copies another contract.
        """
        rows = [row for row in self.untuned() if row in self.shown and not self.shown[row].network]
        rows = [row for row in rows if not self.shown[row].of.for_calibrated]
        return [row for row in rows if row not in self.main() or self.shown[row].method in (SUBJECT, OWN)]

    def without_norm(self) -> dict[str, str]:
        """The rows of a method that has another row whose network has no normalisation, each with that other."""
        bare = {self.shown[row].method: row for row in self.untuned()
                if row in self.shown and dict(self.shown[row].network) == {"normalization": None}}  # fmt: skip
        plain = [row for row in self.untuned() if row in self.shown and not self.shown[row].network]
        return {row: bare[self.shown[row].method] for row in plain if self.shown[row].method in bare}

    def epochs(self, row: str) -> float:
        """The epochs of a row's final training and search, a mean over seeds.

        Where the weights come out of the search itself, its epochs are all.
        """
        final = row not in self.shown or self.shown[row].of.final_training
        return float(np.mean([final * a["epochs"] + a.get("epochs_search", 0) for a in self.about[row]]))

    def levels(self, count: int = 6) -> list[float]:
        """About `count` levels for a table: 0, the end of the judged range, some between, and the last of the grid."""
        end = min(self.measured_to, float(self.sigmas[-1]))
        return sorted({self.nearest(level) for level in (*np.linspace(0, end, count), self.sigmas[-1])})

    def nearest(self, level: float) -> float:
        """The level of the grid that is nearest to another one."""
        return float(self.sigmas[np.abs(self.sigmas - level).argmin()])

    def tuned(self) -> list[tuple[str, str]]:
        """Each tuned row, after the row of the same method and network with given hyperparameters.

        Where there is no such row, the tuned one stands for it.
        """
        pairs = []
        given, kind = self.untuned(), lambda row: (self.shown[row].method, self.shown[row].network)
        for tuned in [row for row in self.rows() if row not in given]:
            pairs.append((next((row for row in given if kind(row) == kind(tuned)), tuned), tuned))
        return pairs

    def searches(self) -> list[str]:
        """The rows that a search of dropout rates stands behind: BayesFT and its controls."""
        return [row for row in self.untuned() if any("trials" in about for about in self.about[row])]

    def clean_share(self, row: str) -> float | None:
        """A row's accuracy without drift as a share of the baseline's, or None where there is no baseline."""
        if BASELINE not in self.accuracy or not (clean := self.at(BASELINE, 0.0)) or not clean.mean:
            return None
        return known(self.at(row, 0.0)).mean / clean.mean

    def intervals(self) -> str:
        """How many seeds there are and what the intervals are over, in a few words."""
        draws = next(iter(self.accuracy.values())).shape[2]
        if len(self.seeds) > 1:
            return f"{len(self.seeds)} seeds, 95 % intervals over seeds"
        return f"1 seed, {'95 % intervals over' if draws >= FEW else 'no intervals:'} {counted(draws, 'draw')}"

    def searched(self) -> str:
        """How the trials of the method that the study is about were trained, in words; "" where there are none."""
        about = self.about.get(SUBJECT, [{}])[0]
        if "trials" not in about:
            return ""
        last, epochs = about["trials"][-1], max(trial["epochs"] for trial in about["trials"])
        if last["cumulative_epochs"] > last["epochs"]:
            how = f"trials inherit weights, {counted(epochs, 'epoch')} each"
        elif epochs == about["epochs"]:
            how = "trials from fresh weights, as long as the training"
        else:
            how = f"trials from fresh weights, {epochs} of the training's {about['epochs']} epochs"
        return f"{self.title(SUBJECT)}: {how}"

    def band(self) -> str:
        """What the intervals are over, in words."""
        draws = next(iter(self.accuracy.values())).shape[2]
        if len(self.seeds) > 1:
            numbers = ", ".join(map(str, self.seeds))
            return f"95 % interval over {len(self.seeds)} training seeds ({numbers}; {draws} drift draws each)"
        several = {row: count for row in self.rows() if (count := self.devices_of(row)) > 1}
        of = "".join(f"; {self.title(row)}: its {count} devices, no interval" for row, count in several.items())
        said = "95 % interval over" if draws >= FEW else "no interval:"
        return f"{said} {counted(draws, 'drift draw')}{of} (1 seed: {self.seeds[0]})"

    def means(self) -> str:
        """What a table shows, in words."""
        band = self.band()
        return f"mean{',' if band.startswith('no') else ' ±'} {band}"

    def images(self) -> str:
        """Which images, from where and how many, in words."""
        used = self.data["images_used"]
        counts = " / ".join(f"{used[part]:,} {part}" for part in ("train", "validation", "test"))
        return f"data: {self.data['name']} ({self.data['source']}), {counts} images"


NOT_MEASURED = "not measured"
FEW = 3  # seeds: with fewer, a difference carries their number where it stands; draws: with fewer, no interval


def measured(values: np.ndarray) -> Estimate:
    """The mean of `values` (seeds, draws), as `settled`."""
    return settled(estimate(values))


def settled(e: Estimate) -> Estimate:
    """An estimate; without its interval where that is over fewer than 3 draws, of which none says anything."""
    return replace(e, half_width=float("nan")) if e.over == "draws" and e.count < FEW else e


def known(e: Estimate | None) -> Estimate:
    """An estimate of what the caller knows to be measured."""
    assert e is not None
    return e


def show(e: Estimate | None, sign: str = "", missing: str = "–") -> str:
    """A mean with its interval, where there is one: the draws of one network without drift are all the same.

    A half-width below 0.001 is shown as 0.001. A difference (`sign` "+") of fewer than 3 seeds says how many there are.
    """
    if e is None:
        return missing
    return with_half(e.mean, e.half_width, sign) + (f" ({seeds(e)})" if sign and seeds(e) else "")


def with_half(mean: float, half_width: float, sign: str = "") -> str:
    """A mean, and half the width of its interval, where that is neither NaN nor 0. One below 0.001 is shown as that."""
    return f"{mean:{sign}.3f}" + (f" ± {max(half_width, 0.001):.3f}" if half_width > 1e-12 else "")


def seeds(e: Estimate) -> str:
    """The words "1 seed" or "2 seeds" where an estimate has so few, else nothing."""
    count = e.count if e.over == "seeds" else 1
    return "" if count >= FEW else counted(count, "seed")


def shown_half(result: TaskResults, row: str, interval: bool = True) -> str:
    """The σ50 of a row: "> σ" where a curve does not fall so far, "–" where there is nothing to fall from."""
    half = result.sigma50(row)
    if half is None:
        return f"> {result.sigmas[-1]:g}" if (result.accuracy[row][:, 0].mean(1) > 0).all() else "–"
    return show(half) if interval else f"{half.mean:.2f}"


def counted(count: int, thing: str) -> str:
    """A number of things in words: "1 seed", "2 seeds"."""
    return f"{count} {thing}{'s' * (count != 1)}"


_COMPARED = {
    "the grid of σ": lambda content: content["sigmas"],
    "rows": lambda content: sorted(content["rows"]),
    "drift draws": lambda content: sorted(
        {len(draws) for row in content["rows"].values() for draws in row["accuracy"]}
    ),
    "metrics": lambda content: {row: sorted(entry.get("metrics", {})) for row, entry in content["rows"].items()},
    "images": lambda content: content["data"],
}


def notes(
    results: Mapping[str, TaskResults], panels: Mapping[str, str], rest: str = "", width: int = 150, mean: bool = True
) -> str:
    """What a reader must know of the numbers in several panels: images, what intervals are over, and `rest`.

    Panels of which the same is true share a line; what is true of all is said once, at the end. `mean`: the panels
    show means with bands; without it, the training seeds are named alone.
    """

    def band(result: TaskResults) -> str:
        return f"band: {result.band()}" if mean else f"training seed {', '.join(map(str, result.seeds))}"

    one_band = len({band(result) for result in results.values()}) == 1
    said: dict[str, list[str]] = {}
    for name, result in results.items():
        line = result.images() if one_band else f"{result.images()}; {band(result)}"
        said.setdefault(line, []).append(panels[name])
    lines = [f"({letters(names)}) {line}" if len(said) > 1 else line for line, names in said.items()]
    last = [rest, "mean" if mean and one_band else "mean and band" if mean else ""]
    last += [band(result) for result in list(results.values())[:1] if one_band]
    lines.append("; ".join(filter(None, last)))
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width, break_on_hyphens=False))


def letters(names: Iterable[str]) -> str:
    """The letters of panels, three or more in a row as a range: "a, c-f"."""
    runs: list[list[str]] = []
    for name in sorted(names):
        if runs and len(name) == 1 and ord(name) == ord(runs[-1][-1][-1]) + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def curves_table(results: Mapping[str, TaskResults]) -> pd.DataFrame:
    """Every curve of every task, one line a point. The column "metric" says what is in the column "accuracy".

    Of a row on a few devices with one seed, "low" and "high" are the least and the greatest device.
    """
    lines = []
    for task, result in results.items():
        for row in [*result.rows(), *result.beside()]:
            each = result.devices(row)
            for i, (sigma, e) in enumerate(zip(result.sigmas, result.curve(row), strict=True)):
                on_devices = e.over == "devices"
                lines.append(
                    {
                        "task": task,
                        "row": row,
                        "metric": _metric(task),
                        "sigma": sigma,
                        "accuracy": e.mean,
                        "low": each[:, i].min() if on_devices else e.low,
                        "high": each[:, i].max() if on_devices else e.high,
                        "interval_over": e.over,
                        "count": e.count,
                        "seeds": " ".join(map(str, result.seeds)),
                    }
                )
    columns = ["task", "row", "metric", "sigma", "accuracy", "low", "high", "interval_over", "count", "seeds"]
    return pd.DataFrame(lines, columns=columns)


def _metric(task: str) -> str:
    return TASKS[task].metric if task in TASKS else "accuracy"


def accuracies_table(results: Mapping[str, TaskResults]) -> pd.DataFrame:
    """All that was measured, one line for each task, row, seed, draw and σ: every paired interval follows from it."""
    tables = [
        pd.DataFrame(
            {
                "task": task,
                "row": row,
                "seed": np.repeat(result.seeds, values[0].size),
                "draw": np.tile(np.arange(values.shape[2]), values.shape[0] * values.shape[1]),
                "sigma": np.tile(np.repeat(result.sigmas, values.shape[2]), values.shape[0]),
                "accuracy": values.ravel(),
            }
        )
        for task, result in results.items()
        for row, values in result.accuracy.items()
    ]
    columns = ["task", "row", "seed", "draw", "sigma", "accuracy"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def measures_table(results: Mapping[str, TaskResults]) -> pd.DataFrame:
    """A line for each task and row: clean accuracy, area, σ50, and the gain in area over the baseline."""
    lines = []
    for task, result in results.items():
        for row in [*result.rows(), *result.beside()]:
            line = {"task": task, "row": row, "metric": _metric(task), "seeds": len(result.seeds)}
            line["range"] = result.measured_to
            gain = result.difference(row, BASELINE) if BASELINE in result.accuracy and row != BASELINE else None
            found = {"clean": result.at(row, 0.0), "area": result.area(row), "sigma50": result.sigma50(row)}
            found["gain"] = gain
            for name, e in found.items():
                half_width = e.half_width if e and e.over == "seeds" else None
                line |= {name: e.mean if e else None, f"{name}_half_width": half_width}
            lines.append(line)
    return pd.DataFrame(lines, columns=None if lines else ["task", "row", "metric", "seeds", "range"])


def searches_table(results: Mapping[str, TaskResults]) -> pd.DataFrame:
    """Every trial of every search, one line a trial; one of fewer numbers leaves the last columns empty.

    The values of a trial are dropout rates by site, or the tuned numbers of another method in the order of its
    description.
    """
    lines = []
    for task, result in results.items():
        for row in [row for row in result.rows() if any("trials" in about for about in result.about[row])]:
            for seed, about in zip(result.seeds, result.about[row], strict=True):
                for trial in about["trials"]:
                    values = {f"value_{i + 1}": value for i, value in enumerate(trial["values"])}
                    rest = {key: value for key, value in trial.items() if key != "values"}
                    lines.append({"task": task, "search": row, "seed": seed, **rest, **values})
    return pd.DataFrame(lines, columns=None if lines else ["task", "search", "seed"])
