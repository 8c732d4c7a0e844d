"""Write the tables of docs/faults.md and its picture, docs/faults.png: `python docs/make_faults.py`.

One core, less than a minute. The accuracies are those of LeNet-5 on scikit-learn's digits, three training seeds,
five faulty copies a seed at each level.
"""

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.func import functional_call

from bayesft.data import Split, load_images
from bayesft.drift.faults import (
    FAULT_MODELS,
    Composite,
    FaultModel,
    Float32BitFlips,
    GaussianNoise,
    LogNormalDrift,
    Quantise,
    Retention,
    StuckCells,
    Traits,
    traits_of,
)
from bayesft.drift.features import FEATURE_FAULTS
from bayesft.drift.scope import scoped
from bayesft.models import build
from bayesft.seeds import derive_seed

PAGE = Path(__file__).with_name("faults.md")
SEEDS, DRAWS, EPOCHS = range(3), range(5), 12
# The composite of the picture and of the accuracies.
EXAMPLE = Composite(parts=((Quantise(), 0.0), (GaussianNoise(), 0.02), (Retention(), None), (StuckCells(), 0.02)))
# What the picture shows where the default settings at the highest level of the default grid would be hard to see.
SHOWN = {
    "lognormal": ("lognormal, σ = 0.5", LogNormalDrift(), 0.5),
    "bitflip_float32": ("bitflip_float32, p = 0.01", Float32BitFlips(), 0.01),
    "quantise": ("quantise, 3 bits", Quantise(bits=3), 0.0),
}


def examples() -> dict[str, FaultModel]:
    """Each fault model with its default settings, by name."""
    return {name: EXAMPLE if cls is Composite else cls() for name, cls in sorted(FAULT_MODELS.items())}


def table_of_models(models: dict[str, type]) -> str:
    """Every fault model of a registry: device, formula, level, settings and source, from the classes themselves."""
    lines = ["| name, class | device | formula | level, unit and default grid | settings | source |", "|---" * 6 + "|"]
    for name, cls in sorted(models.items()):
        level = _said(cls, "Level") if isinstance(cls.traits, Traits) else "that of one of its parts"
        settings = ", ".join(f"`{f.name}{'' if f.default is MISSING else f' = {f.default!r}'}`" for f in fields(cls))
        row = [f"`{name}`, `{cls.__name__}`", _said(cls, "Device"), _said(cls, "Formula"), level, settings or "none"]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in [*row, _said(cls, "Source")]) + " |")
    return "\n".join(lines)


def _said(cls: type, section: str) -> str:
    """The paragraph `section` of a class's docstring, on one line."""
    found = re.search(rf"^{section}: (.+?)\.?$(?=\n\n|\Z)", inspect.getdoc(cls), re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split())


def table_of_accuracies() -> str:
    """Accuracy of LeNet-5 at up to five levels of each default grid: mean and standard deviation over seeds."""
    data = load_images("mnist", "embedded", Path()).standardised()
    networks = [trained(data["train"], seed) for seed in SEEDS]
    lines = ["| fault model | level: accuracy (mean ± standard deviation over seeds) |", "|---|---|"]
    for name, fault in examples().items():
        traits = traits_of(fault)
        cells = []
        for level in spread(traits.grid, 5):
            found = torch.tensor([accuracy(network, data["test"], fault, level, seed) for network, seed in networks])
            cells.append(f"{traits.symbol} = {level:g}: {found.mean():.3f} ± {found.std():.3f}")
        lines.append(f"| `{name}` | {'; '.join(cells)} |")
    return "\n".join(lines)


def spread(grid: tuple[float, ...], count: int) -> list[float]:
    """At most `count` entries of `grid`, evenly apart, with the first and the last."""
    steps = min(count, len(grid)) - 1
    return [grid[round(i * (len(grid) - 1) / max(1, steps))] for i in range(steps + 1)]


def trained(data: Split, seed: int) -> tuple[nn.Module, int]:
    """LeNet-5, trained with Adam and a one-cycle schedule, and its seed."""
    model = build({"network": "lenet5"}, seed)
    generator = torch.Generator().manual_seed(derive_seed("docs/faults", "order", seed))
    optimiser = torch.optim.Adam(model.parameters())
    steps = -(-len(data.labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, EPOCHS * steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(data.labels), generator=generator).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimiser.step()
            schedule.step()
    return model.eval(), seed


@torch.inference_mode()
def accuracy(model: nn.Module, data: Split, fault: FaultModel, level: float, seed: int) -> float:
    """Mean accuracy of faulty copies; faults meet the weights. Outputs that are not finite count as wrong."""
    right = []
    for draw in DRAWS:
        copy = {}
        for name, theta in scoped(model, "weights").items():
            generator = torch.Generator().manual_seed(derive_seed("docs/faults", seed, draw, name))
            copy[name] = fault.perturb(theta, level, generator)
        outputs = functional_call(model, copy, data.images)
        right.append((outputs.argmax(1) == data.labels) & outputs.isfinite().all(1))
    return torch.stack(right).double().mean().item()


def picture(path: Path) -> None:
    """Faulty weights against true ones, a panel for each fault model."""
    theta = torch.linspace(-1, 1, 601)
    figure, panels = plt.subplots(3, 4, figsize=(9, 7), sharex=True, sharey=True, layout="constrained")
    for axes, (name, fault) in zip(panels.flat, examples().items(), strict=True):
        traits = traits_of(fault)
        end = traits.grid[-1]
        usual = (f"{name}, {traits.symbol} = {end:g} {traits.unit}", fault, end)
        title, fault, level = SHOWN.get(name, usual)
        faulty = fault.perturb(theta, level, torch.Generator().manual_seed(derive_seed("docs/faults", name)))
        axes.plot([-1, 1], [-1, 1], color="0.6", lw=1, label="no fault")
        axes.plot(theta, faulty.clamp(-2, 2), ".", color="#0072b2", ms=2.5, label="with the fault")
        axes.set_title(title, fontsize=9)
    panels[0, 0].set(xlim=(-1, 1), ylim=(-2.1, 2.1))
    panels[0, 0].legend(fontsize=7, loc="upper left")
    figure.supxlabel("weight θ (M = 1)")
    figure.supylabel("faulty weight θ′ (cut at ±2)")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def with_current_tables(text: str) -> str:
    """`text` with the tables of the fault models as the classes have them."""
    text = between_markers(text, "models", table_of_models(FAULT_MODELS))
    return between_markers(text, "feature faults", table_of_models(FEATURE_FAULTS))


def between_markers(text: str, marker: str, content: str) -> str:
    """`text` with `content` between the two comments that name `marker`."""
    start, end = f"<!-- {marker} -->\n", f"<!-- end of {marker} -->"
    before, rest = text.split(start)
    return before + start + content + "\n" + end + rest.split(end)[1]


def main() -> None:
    torch.set_num_threads(1)
    text = with_current_tables(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(between_markers(text, "accuracies", table_of_accuracies()), encoding="utf-8")
    picture(PAGE.with_suffix(".png"))


if __name__ == "__main__":
    main()
