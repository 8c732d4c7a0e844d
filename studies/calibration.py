"""What calibration is worth: the questions of docs/calibration.md, over seeds, on real images.

    python -m studies.calibration --mirror FOLDER [--minutes 45] [--tasks mlp-mnist lenet-mnist …]

Finished items are in the store (data/store), so a stopped run goes on where it was, and a run of 0 minutes gives what
is there. Choices are made on validation images with seeds that no result uses (the questions "recipe" and "labels,
choice").
Results: docs/calibration.csv, a line for each network, seed, setting and level. The tables are printed.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesft.calibration import calibrated, calibration_reference, reestimate_batch_norm
from bayesft.data import Images, Split, load_images
from bayesft.drift import FaultModel, drifted_parameters, fault_model
from bayesft.drift.copies import swapped
from bayesft.evaluation.calibrated import calibrated_accuracy_grid, calibration_images, layer_choices
from bayesft.evaluation.grid import accuracy_grid
from bayesft.evaluation.statistics import estimate
from bayesft.files import read_json, write_json, write_text
from bayesft.methods import load
from bayesft.models.networks import NETWORKS
from bayesft.settings import Recipe
from bayesft.store import Store
from bayesft.tasks import TASKS
from bayesft.training import Checkpoint, Problem, Trained
from stages.code import code_of, digest
from stages.plan import DECIDING

N = 128  # calibration images, where a question says nothing else
DRAWS = {"mnist": 8, "digits": 8, "cifar10": 5}
SIGMAS = {"mnist": (0.0, 0.3, 0.6, 0.9, 1.2, 1.5), "cifar10": (0.0, 0.2, 0.4, 0.6, 0.8)}
SIGMAS["digits"] = SIGMAS["mnist"]
IMAGES = {
    "mnist": {"train": 5000, "validation": 1000, "test": 2000},
    "cifar10": {"train": 8000, "validation": 500, "test": 1000},
    "digits": {"train": None, "validation": None, "test": None},
}
RECIPES = {
    "mnist": Recipe(epochs=20, batch_size=128),
    "cifar10": Recipe(epochs=8, batch_size=64),
    "digits": Recipe(epochs=40, batch_size=64),
}
NETWORK = {  # the networks of the tasks, narrow on CIFAR-10
    "resnet18-cifar10": {"width": 0.125},
    "vgg11-cifar10": {"width": 0.25},
    "preact18-cifar10": {"width": 0.125},
    "alexnet-cifar10": {"width": 0.25},
}
TRANSFORMER = "transformer-digits"
METHODS: dict[str, dict[str, Any]] = {  # rows: the method is the name's first part
    "erm": {},
    "uniform": {"rate": {"mnist": 0.5, "cifar10": 0.1}},
    "drift_aware": {"sigma_train": {"mnist": 1.5, "digits": 1.5, "cifar10": 0.3}},
    "drift_dropout": {"rate": {"mnist": 0.5, "cifar10": 0.1}, "sigma_train": {"mnist": 1.25, "cifar10": 0.3}},
    "calibration_aware-0": {"rate": 0.0, "sigma_train": {"mnist": 1.5, "digits": 1.5, "cifar10": 0.8}},
    "calibration_aware": {"rate": {"mnist": 0.3, "cifar10": 0.1}, "sigma_train": {"mnist": 1.5, "cifar10": 0.8}},
}
FAULTS: tuple[tuple[str, dict, tuple[float, ...]], ...] = (  # in the weights of linear layers and convolutions
    ("stuck", {}, (0.04, 0.08)),
    ("gaussian", {}, (0.1, 0.2)),
    ("device", {}, (0.5,)),
    ("pcm", {"programming": 3.0, "read": 3.0}, (86400.0, 2.6e6)),
    ("reram_wan", {}, (86400.0,)),
    ("bitflip_int8", {}, (1e-3, 1e-2)),
    ("stuck_bit", {}, (1e-3, 1e-2)),
    ("bitflip_float32", {}, (1e-5, 1e-4)),
    ("quantise", {"bits": 3, "scale": "uniform"}, (0.0,)),
    ("quantise", {"bits": 2, "scale": "uniform"}, (0.0,)),
)
LABELS = (30, 0.03)  # steps and lr of fine-tuning with labels


class DigitsTransformer(nn.Module):
    """A transformer on handwritten digits: each of the 28 lines of an image is a token."""

    def __init__(self, outputs: int = 10, features: int = 32, layers: int = 2, heads: int = 4):
        super().__init__()
        self.line = nn.Linear(28, features)
        self.place = nn.Parameter(torch.randn(1, 28, features) * 0.1)
        layer = nn.TransformerEncoderLayer(features, heads, 2 * features, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.last = nn.Linear(features, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 1, 28, 28)."""
        return self.last(self.encoder(self.line(images.flatten(1, 2)) + self.place).mean(1))


NETWORKS["digits_transformer"] = DigitsTransformer


class Study:
    """The store, the time that is left, and the lines that were found.

    Args:
        store: the store.
        minutes: no item is begun after so many.
        mirror: where published files lie.
        raw: where they are copied to.
    """

    def __init__(self, store: Store, minutes: float, mirror: str | None, raw: Path):
        self.store, self.end, self.mirror, self.raw = store, time.monotonic() + 60 * minutes, mirror, raw
        self.lines: list[dict[str, Any]] = []
        # The library's code decides; a question that changes its meaning must change its words or `decides`.
        starts = ["bayesft/evaluation/calibrated.py", *(f"bayesft/methods/{_method(m)}.py" for m in METHODS)]
        self.code = digest(code_of(starts))
        self.machine = [{name: version(name) for name in DECIDING}, torch.backends.cpu.get_cpu_capability()]
        self.parts = cache(self._parts)

    def _parts(self, data: str) -> tuple[Images, dict[str, Split]]:
        name, source = ("mnist", "embedded") if data == "digits" else (data, "official")
        images = load_images(name, source, self.raw / name, self.mirror).limited(IMAGES[data])
        return images, images.standardised()

    def problem(self, task: str, seed: int) -> Problem:
        """What a method is given."""
        data = data_of(task)
        images, parts = self.parts(data)
        specification = {"network": "digits_transformer"} if task == TRANSFORMER else dict(TASKS[task].specification)
        specification |= NETWORK.get(task, {})
        return Problem(
            task, specification, images.classes, parts["train"], parts["validation"], RECIPES[data], seed,
        )  # fmt: skip

    def item(self, about: Mapping[str, Any], build: Callable[[Path, Checkpoint], None]) -> Path | None:
        """The folder of an item, which is made where there is time; None where there is none."""
        key = digest([about, self.code, self.machine, self.parts(data_of(about["task"]))[0].about])
        found = self.store.find(key)
        if found or time.monotonic() > self.end:
            return found
        began = time.monotonic()
        found = self.store.make(key, build)
        said = " ".join(f"{about[key]}" for key in ("kind", "task", "row", "seed", "setting", "values") if key in about)
        print(f"{time.monotonic() - began:6.1f} s  {said}", flush=True)
        return found

    def trained(self, task: str, row: str, seed: int, **changes: float) -> Trained | None:
        """The network of a row, trained where it is not in the store."""
        data = data_of(task)
        given = {k: v[data] if isinstance(v, dict) else v for k, v in {**METHODS[row], **changes}.items()}
        method = load(_method(row))
        values = method.Settings(**given).model_dump()
        recipe, counts = RECIPES[data].model_dump(), IMAGES[data]
        about = {"kind": "network", "task": task, "method": method.name, "seed": seed, "values": values,
                 "network": NETWORK.get(task, {}), "recipe": recipe, "images": counts}  # fmt: skip

        def build(folder: Path, checkpoint: Checkpoint) -> None:
            problem = self.problem(task, seed)
            method.train(problem, values, {})[method.name].save(folder / "network.safetensors")

        place = self.item(about, build)
        return Trained.load(place / "network.safetensors") if place else None

    def measure(
        self,
        question: str,
        task: str,
        row: str,
        seed: int,
        setting: str,
        how: Callable[["Copies"], np.ndarray],
        levels: Iterable[float] | None = None,
        fault: tuple[str, dict] = ("lognormal", {}),
        part: str = "test",
        decides: Any = None,
        **changes: float,
    ) -> None:
        """Measure one setting of one network, (levels, draws), and note a line for each level."""
        trained = self.trained(task, row, seed, **changes)
        if trained is None:
            return
        data = data_of(task)
        levels = list(SIGMAS[data] if levels is None else levels)
        about = {"kind": "measured", "task": task, "row": row, "seed": seed, "setting": setting, "fault": fault,
                 "levels": levels, "draws": DRAWS[data], "part": part, "changes": changes, "decides": decides,
                 "values": METHODS[row], "network": NETWORK.get(task, {}), "recipe": RECIPES[data].model_dump(),
                 "images": IMAGES[data]}  # fmt: skip

        def build(folder: Path, checkpoint: Checkpoint) -> None:
            copies = Copies(trained, self.parts(data)[1], part, fault_model(*fault), levels, DRAWS[data], (task, seed),
                            "all" if fault[0] == "lognormal" else "weights")  # fmt: skip
            write_json(folder / "found.json", np.round(how(copies), 6).tolist())

        place = self.item(about, build)
        if place is None:
            return
        for level, values in zip(levels, read_json(place / "found.json"), strict=True):
            self.lines.append(
                {
                    "question": question, "data": data, "task": task, "row": row, "seed": seed, "setting": setting,
                    "fault": fault[0] + (f" {fault[1]}" if fault[1] else ""), "level": level, "part": part,
                    "draws": len(values), "accuracy": round(float(np.mean(values)), 5),
                    "deviation": round(float(np.std(values)), 5), **changes,
                }
            )  # fmt: skip


class Copies:
    """The faulty copies of a network, and the ways to measure them: each gives (levels, draws)."""

    def __init__(self, trained, parts, part, fault, levels, draws, key, parameters):
        self.trained, self.train, self.data = trained, parts["train"], parts[part]
        self.fault: FaultModel = fault
        self.levels, self.draws, self.key, self.parameters = levels, draws, key, parameters

    def images(self, count: int, name: str = "first") -> Tensor:
        """So many training images; of another `name`, others."""
        images, key = self.train.images, self.key if name == "first" else (*self.key, name)
        return images[calibration_images(images, count, key)]

    def plain(self, brighter: float = 0.0) -> np.ndarray:
        """Without calibration."""
        data = Split(self.data.images + brighter, self.data.labels)
        return accuracy_grid(
            self.trained, data, self.fault, self.levels, self.draws, self.key, parameters=self.parameters
        )

    def calibrated(self, count: int = N, brighter: float = 0.0, **how: Any) -> np.ndarray:
        """Calibrated with `count` images; `how` is for `calibrated_accuracy_grid`."""
        given = {"images": self.images(count), **how}
        data = Split(self.data.images + brighter, self.data.labels)
        return calibrated_accuracy_grid(
            self.trained, data, given.pop("images"), self.fault, self.levels, self.draws, self.key,
            parameters=self.parameters, **given,
        )  # fmt: skip

    def each(self, measure: Callable[[nn.Module], float]) -> np.ndarray:
        """`measure` of each copy."""
        network = self.trained.networks()[0]
        found = np.zeros((len(self.levels), self.draws))
        for i, level in enumerate(self.levels):
            for draw in range(self.draws):
                copy = drifted_parameters(network, self.fault, level, self.key, draw, self.parameters)
                with torch.no_grad(), swapped(network, copy):
                    found[i, draw] = measure(network)
        return found

    def right(self, network: nn.Module) -> float:
        """The accuracy of a copy."""
        with torch.no_grad():
            outputs = torch.cat([network(x) for x in self.data.images.split(256)])
        return float(((outputs.argmax(1) == self.data.labels) & outputs.isfinite().all(1)).double().mean())

    def batch_norm_again(self, count: int) -> np.ndarray:
        """The control: running statistics estimated anew on the copy."""
        images = self.images(count)
        return self.each(lambda network: self.right(reestimate_batch_norm(network, images)))

    def with_labels(self, count: int, steps: int, lr: float) -> np.ndarray:
        """The upper bound: the same two numbers a channel, calibrated and then fine-tuned with labels by Adam."""
        chosen = calibration_images(self.train.images, count, self.key)
        x, y = self.train.images[chosen], self.train.labels[chosen]
        reference = calibration_reference(self.trained.networks()[0], x)

        def tuned(network: nn.Module) -> float:
            with calibrated(network, reference, x, fold=False):
                names = ("calibration_scale", "calibration_shift")
                numbers = [m._buffers[name] for m in network.modules() for name in names if name in m._buffers]
                for parameter in network.parameters():
                    parameter.requires_grad_(False)
                optimizer = torch.optim.Adam([t.requires_grad_() for t in numbers], lr)
                schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1)
                with torch.enable_grad():
                    for _ in range(steps):
                        optimizer.zero_grad()
                        F.cross_entropy(network(x), y).backward()
                        optimizer.step()
                        schedule.step()
                return self.right(network)

        return self.each(tuned)


def data_of(task: str) -> str:
    """The data set of a task."""
    return "digits" if task == TRANSFORMER else TASKS[task].data


def _method(row: str) -> str:
    return row.partition("-")[0]


def worth(study: Study, task: str, rows: Iterable[str], seeds: Iterable[int]) -> None:
    """What does calibration add to each method?"""
    for seed in seeds:
        for row in rows:
            study.measure("methods", task, row, seed, "nothing", Copies.plain)
            study.measure("methods", task, row, seed, f"{N} images", Copies.calibrated)


def how_many(study: Study, task: str, rows: Iterable[str], seeds: Iterable[int]) -> None:
    """How many images, and which part of the correction?"""
    for seed in seeds:
        for row in rows:
            for count in (4, 8, 16, 32, 64, 128, 256, 512):
                study.measure("images", task, row, seed, f"{count} images", lambda c, n=count: c.calibrated(n))
            for terms in ("scale", "shift"):
                study.measure("terms", task, row, seed, f"{terms} alone", lambda c, t=terms: c.calibrated(terms=t))


def which_layers(study: Study, task: str, rows: Iterable[str], seeds: Iterable[int]) -> None:
    """At which layers?"""
    known = ("first alone", "last alone", "all but the first", "all but the last")
    for seed in seeds:
        for row in rows:
            for name in known:

                def chosen(c: Copies, of: str = name) -> np.ndarray:
                    return c.calibrated(layers=layer_choices(c.trained.networks()[0])[of])

                study.measure("layers", task, row, seed, name, chosen)


def how_often(study: Study, task: str, rows: Iterable[str], seeds: Iterable[int]) -> None:
    """How often, as drift grows: calibrated at one level, used at another."""
    sigmas = SIGMAS[data_of(task)]
    for seed in seeds:
        for row in rows:
            for at in sigmas[1:-1]:
                name = f"calibrated at σ = {at:g}"
                study.measure("further", task, row, seed, name, lambda c, s=at: c.calibrated(calibrated_at=s))


def other_data(study: Study, task: str, rows: Iterable[str], seeds: Iterable[int]) -> None:
    """Calibrated with other images than the reference's, and with other data than it is used on."""
    bright = 0.5  # of the deviation of the training pixels
    for seed in seeds:
        for row in rows:
            for n in (32, 128, 512):
                study.measure("other images", task, row, seed, f"{n} images, others for the reference",
                              lambda c, n=n: c.calibrated(n, reference_images=c.images(n, "second")))  # fmt: skip
            study.measure("brightness", task, row, seed, "nothing", lambda c: c.plain(bright), decides=bright)
            study.measure("brightness", task, row, seed, "calibrated with training images",
                          lambda c: c.calibrated(brighter=bright), decides=bright)  # fmt: skip
            study.measure("brightness", task, row, seed, "calibrated with brighter images, and so the reference",
                          lambda c: c.calibrated(brighter=bright, images=c.images(N) + bright),
                          decides=bright)  # fmt: skip
            name = "calibrated with brighter images, the reference with training images"
            study.measure("brightness", task, row, seed, name,
                          lambda c: c.calibrated(brighter=bright, images=c.images(N) + bright,
                                                 reference_images=c.images(N)), decides=bright)  # fmt: skip


def other_faults(study: Study, task: str, rows: Iterable[str], seeds: Iterable[int]) -> None:
    """Does it carry over to other faults?"""
    for seed in seeds:
        for row in rows:
            for name, settings, levels in FAULTS:
                given: dict[str, Any] = {"levels": levels, "fault": (name, settings)}
                study.measure("faults", task, row, seed, "nothing", Copies.plain, **given)
                study.measure("faults", task, row, seed, f"{N} images", Copies.calibrated, **given)


def labels(study: Study, task: str, rows: Iterable[str], seeds: Iterable[int]) -> None:
    """What do labels add? Steps and lr are chosen on validation images, with seed 100."""
    sigmas = SIGMAS[data_of(task)][2:5]
    for steps, lr in ((30, 0.01), (30, 0.03), (100, 0.01), (100, 0.03)):
        study.measure("labels, choice", task, "erm", 100, f"{steps} steps, lr {lr}",
                      lambda c, s=steps, r=lr: c.with_labels(N, s, r), levels=sigmas, part="validation")  # fmt: skip
    for seed in seeds:
        for row in rows:
            for n in (N, 512):
                study.measure("labels", task, row, seed, f"{n} images with labels",
                              lambda c, n=n: c.with_labels(n, *LABELS), decides=LABELS)  # fmt: skip


def recipe(study: Study, task: str, *_: Any) -> None:
    """σ_train and the dropout rate of training that expects calibration, on validation images with seed 100."""
    for sigma in (1.0, 1.5, 2.0):
        for rate in (0.0, 0.2, 0.3, 0.5):
            study.measure("recipe", task, "calibration_aware", 100, f"rate {rate}, σ_train {sigma}", Copies.calibrated,
                          part="validation", rate=rate, sigma_train=sigma)  # fmt: skip


def batch_norm(study: Study, task: str, rows: Iterable[str], seeds: Iterable[int]) -> None:
    """Behind normalisations too, or their statistics estimated anew?"""
    for seed in seeds:
        for row in rows:
            study.measure("batch norm", task, row, seed, "statistics anew, 128 images",
                          lambda c: c.batch_norm_again(N))  # fmt: skip
            study.measure("batch norm", task, row, seed, "behind convolutions and linear layers",
                          lambda c: c.calibrated(layers="weights"))  # fmt: skip


def ask(study: Study, tasks: Iterable[str]) -> None:
    """All questions of the tasks, those first whose answers matter most."""
    tasks, seeds, main = list(tasks), (0, 1, 2), ("erm", "calibration_aware")
    mlp, lenet = "mlp-mnist", "lenet-mnist"
    plan: list[tuple[Callable[..., None], str, Iterable[str]]] = [
        (worth, mlp, METHODS),
        (worth, lenet, main),
        (how_many, mlp, main),
        (how_often, mlp, main),
        (which_layers, mlp, ("erm",)),
        (worth, "vgg11-cifar10", ("erm",)),
        (batch_norm, "vgg11-cifar10", ("erm",)),
        (other_faults, mlp, ("erm",)),
        (other_data, mlp, ("erm",)),
        (worth, lenet, ("drift_dropout",)),
        (labels, mlp, main),
        (worth, TRANSFORMER, ("erm", "drift_aware", "calibration_aware-0")),
        (recipe, mlp, ()),
        (worth, "resnet18-cifar10", ("erm",)),
        (batch_norm, "resnet18-cifar10", ("erm",)),
        (how_many, lenet, ("erm",)),
        (other_faults, lenet, ("erm",)),
        (worth, "vgg11-cifar10", ("calibration_aware", "drift_dropout")),
        (other_faults, "vgg11-cifar10", ("erm",)),
        (labels, lenet, ("erm",)),
        (which_layers, lenet, ("erm",)),
        (how_often, lenet, ("erm",)),
        (other_data, lenet, ("erm",)),
        (how_many, TRANSFORMER, ("erm",)),
        (which_layers, TRANSFORMER, ("erm",)),
        (worth, "resnet18-cifar10", ("calibration_aware", "drift_dropout")),
        (worth, "preact18-cifar10", ("erm", "calibration_aware")),
        (worth, "alexnet-cifar10", ("erm", "calibration_aware")),
    ]
    for question, task, rows in plan:
        if task in tasks:
            question(study, task, rows, seeds)


def tables(lines: pd.DataFrame) -> str:
    """Mean accuracy over the levels, mean over seeds with 95 % intervals over seeds, one table a question and task."""
    parts = []
    for (question, task), of in lines.groupby(["question", "task"], sort=False):
        seeds, draws = sorted(of.seed.unique()), of.draws.iloc[0]
        head = f"**{question}**, {task}: seeds {', '.join(map(str, seeds))}, {draws} devices, {of.part.iloc[0]} images"
        by = ["fault", "level", "setting"] if question == "faults" else ["setting"]
        cells: dict[str, dict[str, str]] = {}
        for (row, *names), group in of.groupby(["row", *by], sort=False):
            values = group.pivot(index="seed", columns="level", values="accuracy")
            area = (
                np.trapezoid(values, values.columns, axis=1) / np.ptp(values.columns) if values.shape[1] > 1 else values
            )
            e = estimate(np.asarray(area, float).reshape(-1, 1))
            name = " · ".join(f"{n:g}" if isinstance(n, float) else n for n in names)
            clean = f" (σ = 0: {values[0.0].mean():.3f})" if question != "faults" and 0.0 in values else ""
            count = f" [{e.count} seeds]" if e.over != "seeds" or e.count < len(seeds) else ""
            cells.setdefault(name, {})[row] = _shown(e.mean, e.half_width) + clean + count
        table = pd.DataFrame(cells).T.fillna("–")
        lines_of = ["| setting | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
        lines_of += [
            f"| {name} | " + " | ".join(values) + " |" for name, values in zip(table.index, table.values, strict=True)
        ]
        parts.append("\n".join([head, "", *lines_of]))
    return "\n\n".join(parts) + "\n"


def _shown(mean: float, half: float) -> str:
    return f"{mean:.3f}" + (f" ± {half:.3f}" if half == half and half > 1e-12 else "")


def main() -> None:
    """Ask, and write what was found."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--mirror", help="a folder or URL with the published files")
    parser.add_argument("--minutes", type=float, default=45.0, help="no item is begun after so many")
    known = ("mlp-mnist", "lenet-mnist", TRANSFORMER, *NETWORK)
    parser.add_argument("--tasks", nargs="+", choices=known, default=known)
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    parser.add_argument("--out", type=Path, default=Path("docs/calibration.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(Store(given.store), given.minutes, given.mirror, Path("data/raw"))
    try:
        ask(study, given.tasks)
    except KeyboardInterrupt:
        print("stopped; what was finished is kept")
    lines = pd.DataFrame(study.lines)
    write_text(given.out, lines.to_csv(index=False, lineterminator="\n"))
    print(tables(lines) if len(lines) else "nothing is finished yet")


if __name__ == "__main__":
    main()
