"""Measure what rate and level to begin with, and how to fine-tune: the table of docs/library/advice.md.

    PYTHONPATH=. python docs/make_advice.py        (a quarter of an hour on one core; a killed run goes on)

Three networks on scikit-learn's digits (1,000 to train, 300 to choose, 497 to report), three seeds, log-normal
drift. A score is the accuracy, its mean over σ = 0, 0.3, … 1.5 and at σ = 0 alone. What is measured is kept in
advice.json beside the page.
"""

import json
from pathlib import Path

import torch
from scipy.special import stdtrit
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bayesft import evaluate, harden
from bayesft.files import write_json, write_text
from bayesft.settings import Recipe

FILE = Path(__file__).parent / "library" / "advice.json"
PAGE = FILE.with_suffix(".md")
LEVELS = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5)
SEEDS = (0, 1, 2)
SCRATCH = [(0.0, 0.0), (0.3, 1.0), (0.1, 1.0), (0.3, 0.0)]  # rate, level
TUNED = [(0.3, 1.0, 1e-2), (0.3, 1.0, 3e-3), (0.3, 1.0, 1e-3)]  # rate, level, step size


class Transformer(nn.Module):
    """Rows of pixels as tokens, two layers of attention."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.embed, self.encoder = nn.Linear(8, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.place, self.classes = nn.Parameter(torch.randn(8, 32) / 10), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.encoder(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))


def mlp() -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Two convolutions with batch normalisation."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(128, 10),
    )  # fmt: skip


NETWORKS = {"MLP": mlp, "CNN with batch norm": cnn, "transformer": Transformer}


def parts() -> list[tuple[Tensor, Tensor]]:
    """Training, validation and test data."""
    digits = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(digits.data).float()[order] / 16, torch.tensor(digits.target)[order]
    return [(x[:1000], y[:1000]), (x[1000:1300], y[1000:1300]), (x[1300:], y[1300:])]


def rows(found: dict) -> list[str]:
    """The lines of the table: for each network and way, means and 95 % intervals over the seeds."""
    lines = [
        "| network | training | seeds | validation, mean over σ | test, mean over σ | test, σ = 0 |",
        "|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        for run in (*SCRATCH, *TUNED):
            scores = [found[key] for seed in SEEDS if (key := f"{name}/{seed}/{run}") in found]
            if not scores:
                continue
            how = f"fine-tuned, rate {run[0]}, level {run[1]}, lr {run[2]}" if len(run) == 3 else (
                f"rate {run[0]}, level {run[1]}" if any(run) else "plain"
            )  # fmt: skip
            cells = [interval([s[part][at] for s in scores]) for part, at in ((0, 0), (1, 0), (1, 1))]
            lines.append(f"| {name} | {how} | {len(scores)} | {' | '.join(cells)} |")
    return lines


def interval(values: list[float]) -> str:
    """A mean, with the half-width of its 95 % interval where there are several values."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stdtrit(len(values) - 1, 0.975) * torch.tensor(values, dtype=torch.float64).std() / len(values) ** 0.5
    return f"{mean:.3f} ± {half:.3f}"


def write_page() -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split("<!-- table -->\n")[0], text.split("<!-- end of table -->")[1]
    table = "\n".join(rows(json.loads(FILE.read_text())))
    write_text(PAGE, f"{before}<!-- table -->\n{table}\n<!-- end of table -->{rest}")


def main() -> None:
    """Train and measure what the file lacks."""
    torch.set_num_threads(1)
    train, validation, test = parts()
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name, build in NETWORKS.items():
        for seed in SEEDS:
            missing = [run for run in (*SCRATCH, *TUNED) if f"{name}/{seed}/{run}" not in found]
            given = None
            for run in [SCRATCH[0], *missing] if missing else []:
                if run == SCRATCH[0] and given is not None:
                    continue
                rate, level, *lr = run
                recipe = Recipe(epochs=20, batch_size=64, **({"lr": lr[0]} if lr else {}))
                result = harden(
                    given if lr else build, train, validation, rate=rate, level=level, recipe=recipe, seed=seed,
                    levels=LEVELS, draws=10, progress=False, sites=() if not rate else None,
                )  # fmt: skip
                given = result.model if given is None else given
                curves = (
                    result.comparison.curves["hardened"],
                    evaluate(result.model, test, levels=LEVELS, draws=20, seed=seed, progress=False),
                )
                found[f"{name}/{seed}/{run}"] = [[round(float(x), 4) for x in (c.area, c.mean[0])] for c in curves]
                write_json(FILE, found)
                print(name, seed, run, found[f"{name}/{seed}/{run}"], flush=True)
    write_page()


if __name__ == "__main__":
    main()
