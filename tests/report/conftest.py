"""Results made by hand, in the form in which the evaluation writes them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from bayesft.data.scenes import Scene, mask_boxes
from bayesft.evaluation.pictures import Pictures
from bayesft.report.results import METRICS, TaskResults
from bayesft.report.worth import Study
from bayesft.tasks import ABLATIONS, FACTORS
from tests.report.shown import LOOKS, ROWS, gather

SIGMAS = [0.0, 0.3, 0.6, 0.75]
DATA = {
    "name": "digits",
    "source": "embedded",
    "classes": 10,
    "images_used": {"train": 997, "validation": 300, "test": 1500},
}


def _trials(count: int, shift: float = 0.0) -> list[dict]:
    objectives = [0.5, 0.4, 0.7, 0.6, 0.65][:count]
    return [
        {
            "number": n,
            "values": [0.1 * n, 0.8 - 0.1 * n],
            "objective": u + shift,
            "standard_error": 0.02,
            "cumulative_epochs": 2 * (n + 1),
            "epochs": 2,
            "recheck": 0.68 if n == 2 else None,
            "recheck_error": 0.01 if n == 2 else None,
        }
        for n, u in enumerate(objectives)
    ]


def _about(row: str) -> dict:
    rates = {"rates": {"2": 0.25, "4": 0.5}}
    search = {"epochs_search": 10, "trials": _trials(5, 0.01 if row == "bayesft" else 0.0)}
    return {
        "reram_v": {"epochs": 40, "epochs_repair_per_device": 1.5},
        "erm-programmed": {"epochs": 40, "epochs_repair_per_device": 0},
        "uniform": {"epochs": 40, **rates},
        "random": {"epochs": 40, **rates, **search},
        "bayesft": {"epochs": 40, **rates, **search},
        "bayesft-no-norm": {"epochs": 40, **rates, **search},
        "bayesft-alg1": {"epochs": 6, "epochs_search": 10, **rates, "trial": 2},
        "awp-tuned": {"epochs": 40, "gamma": 0.021, **search},
        "drift_aware-tuned": {"epochs": 40, "sigma_train": 1.3, **search},
        "uniform-tuned": {"epochs": 40, "rates": {"2": 0.4, "4": 0.4}, **search},
        "drift_dropout": {"epochs": 40, "rates": {"2": 0.2, "4": 0.2}, "sigma_train": 1.25},
        "drift_dropout-tuned": {"epochs": 40, "rates": {"2": 0.3, "4": 0.3}, "sigma_train": 1.1, **search},
    }.get(row, {"epochs": 40})


def _accuracy(place: int, seed: int, draws: int) -> list[list[float]]:
    """Falls with σ; higher for rows of a later place; a little other for each seed and draw."""
    return [
        [
            0.9 - 0.5 * sigma + 0.01 * place * sigma + 0.003 * seed + 0.002 * ((draw * 7 + i) % 5)
            for draw in range(draws)
        ]
        for i, sigma in enumerate(SIGMAS)
    ]


ALL_ROWS = [*ROWS, "erm-programmed"]
CONTROLS = ("erm-no-norm", "bayesft-no-norm")


@pytest.fixture(scope="session")
def files() -> Callable[..., dict]:
    """The content of the files of the seeds: every row but the controls without BN, or those of `rows`."""

    def make(seeds=(0,), draws: int = 4, rows=None) -> dict:
        rows = rows or [row for row in ALL_ROWS if row not in CONTROLS]
        return {
            seed: {
                "sigmas": SIGMAS,
                "data": DATA,
                "device": "cpu",
                "rows": {
                    row: {"accuracy": _accuracy(ALL_ROWS.index(row), seed, draws), "about": _about(row)} for row in rows
                },
            }
            for seed in seeds
        }

    return make


@pytest.fixture(scope="session")
def results(files) -> Callable[..., TaskResults]:
    """The same, gathered."""
    return lambda **choices: gather(files(**choices))


SHARES = dict(zip(METRICS, (1.0, 0.5, 0.8, 0.4), strict=True))  # of each metric in the first, box_map_50


@pytest.fixture(scope="session")
def detection_files(files) -> Callable[..., dict]:
    """The same of the detection task: no classes, and four metrics."""

    def make(seeds=(0,), rows=("erm", "bayesft", "bayesft-alg1")) -> dict:
        content = files(seeds=seeds, rows=rows)
        for of_seed in content.values():
            of_seed["data"] = {name: value for name, value in DATA.items() if name != "classes"}
            of_seed["rows"] = {
                row: {
                    **entry,
                    "metrics": {m: (share * np.array(entry["accuracy"])).tolist() for m, share in SHARES.items()},
                }
                for row, entry in of_seed["rows"].items()
            }
        return content

    return make


@pytest.fixture(scope="session")
def detections(detection_files) -> Callable[..., TaskResults]:
    """The same, gathered."""
    return lambda **choices: gather(detection_files(**choices))


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    """Two images of other sizes: ERM finds all, then nothing; BayesFT finds one instance at both levels."""
    truths = []
    for height, width in ((24, 20), (16, 30)):
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 2:12, 3:9] = masks[1, 0:10, 12:20] = True
        truths.append(Scene(torch.full((3, height, width), 90, dtype=torch.uint8), masks))

    def found(truth: Scene, count: int) -> dict:
        masks = truth.masks[:count]
        return {"boxes": mask_boxes(masks), "scores": torch.tensor([0.93, 0.51])[:count], "masks": masks}

    counts = {"bayesft": (1, 1), "erm": (2, 0)}
    levels = {row: [[found(truth, n) for truth in truths] for n in of] for row, of in counts.items()}
    return Pictures([truth.image for truth in truths], truths, [0.0, 0.4], levels)


@pytest.fixture(scope="session")
def ablations() -> Callable[..., dict[str, dict[str, TaskResults]]]:
    """Some factors of the ablations, by data set."""

    def make(factors=FACTORS, names=tuple(ABLATIONS), seeds=(0,)) -> dict:
        found = {}
        for name in names:
            ablation = ABLATIONS[name]
            networks = ablation.networks(factors)
            rows = {v: {"accuracy": _accuracy(i, 0, 4), "about": {"epochs": 40}} for i, v in enumerate(networks)}
            result = TaskResults.gather({seed: {"sigmas": SIGMAS, "data": DATA, "rows": rows} for seed in seeds})
            found[name] = {
                factor: result.only({v: ablation.row(factor, v) for v in ablation.factors[factor].variants})
                for factor in factors
            }
        return found

    return make


UNSEARCHED = {name: LOOKS[name] for name in ("uniform", "drift_dropout")}
STRATEGIES, OPTIONS = {"GP": {}, "random": {}, "grid": {}}, {"more draws": {}, "early stop": {}}


@pytest.fixture(scope="session")
def study_files() -> Callable[..., dict]:
    """A study of three strategies, of which a grid has one length, and two options; "early stop" spends less."""

    def make(seeds=(0, 1, 2), draws: int = 4) -> dict:
        def run(place: int, epochs: tuple[int, ...], seed: int) -> list[dict]:
            return [
                {
                    "trials": n // 4,
                    "epochs_search": n,
                    "accuracy": [0.9 - 0.01 * place + 0.002 * seed * place + 0.0005 * n, 0.5],
                }
                for n in epochs
            ]

        lengths = {"GP": (16, 32, 48), "random": (16, 32, 48), "grid": (48,), "more draws": (48,), "early stop": (30,)}
        runs = {**lengths, "uniform": (0,), "drift_dropout": (0,)}
        return {
            seed: {
                "sigmas": [0.0, 1.5],
                "data": DATA,
                "runs": {name: run(place, epochs, seed) for place, (name, epochs) in enumerate(runs.items())},
                "landscape": {
                    "rates": [0.1, 0.3, 0.5, 0.7],
                    "objective": [0.5, 0.6, 0.8, 0.7 + 0.2 * (seed == 1)],
                    "whole_objective": [0.5, 0.6, 0.8, 0.7],
                    "accuracy": [[0.9, u + 0.01 * seed] for u in (0.5, 0.66, 0.7, 0.6)],
                    "equal_trials": {
                        "objective": [u + seed for u in (0.7, 0.72, 0.74, 0.76)],
                        "standard_error": [0.03, 0.01, 0.01, 0.01],
                    },
                    "random_trials": {"objective": [0.1, 0.3, 0.2, 0.6], "standard_error": [0.05] * 4},
                },
            }
            for seed in seeds
        }

    return make


@pytest.fixture(scope="session")
def studies(study_files) -> Callable[..., Study]:
    """The same, gathered."""
    return lambda **choices: Study.gather(study_files(**choices), list(STRATEGIES), list(OPTIONS), "GP", UNSEARCHED)
