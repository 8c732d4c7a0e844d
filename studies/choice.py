"""The hyperparameters of methods for CIFAR-10 and GTSRB, chosen on validation images.

    python -m studies.runs choice     changes params.yaml and scales.yaml
    dvc repro download plan
    python -m studies.choice          searches, and writes choice.csv beside this file

Each method gets the trials of the run `choice` on one network a data set, with seeds that no report uses. No test image
is read. The number that params.yaml has is the median over the seeds of what their searches chose, in two digits.
"""

import argparse
from pathlib import Path

import pandas as pd

from bayesft.files import write_text
from bayesft.tasks import TASKS
from stages.common import PLAN, Item, Stage
from stages.train import searched, told

TRIALS = Path(__file__).with_name("choice.csv")


def main() -> None:
    """Search the hyperparameters, write every trial, and print what was chosen."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    lines = []
    for file in sorted(PLAN.glob("train-*-tuned.json")):
        stage = Stage(file.stem)
        stage.work(search, stage.items)
        for item in stage.items:
            lines += trials(stage, item)
    table = pd.DataFrame(lines)
    write_text(TRIALS, table.to_csv(index=False, float_format="%.6g"))
    print(chosen(table).to_string())


def search(stage: Stage, item: Item) -> str:
    """Search for an item, where the store has no such search, and say what was found."""
    return told(searched(stage, item["searched"]))


def trials(stage: Stage, item: Item) -> list[dict]:
    """The trials of an item's search, a line each."""
    found = searched(stage, item["searched"])
    lines = []
    for trial in found.trials:
        line = {"data": TASKS[item["task"]].data, "method": item["method"], "seed": item["seed"], "trial": trial.number}
        line |= {"objective": trial.objective, "standard_error": trial.standard_error, "recheck": trial.recheck}
        values = dict(zip(found.values, trial.values, strict=True))
        lines.append({**line, "chosen": values == found.values, **values})
    return lines


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """The hyperparameters by data set and method: the median over seeds of the chosen trials, in two digits.

    Args:
        table: The trials, as in choice.csv. The columns after `chosen` are hyperparameters.
    """
    values = list(table.columns[list(table.columns).index("chosen") + 1 :])
    best = table[table["chosen"]].groupby(["method", "data"])[values].median()
    return best.map(lambda value: float(f"{value:.2g}"))


if __name__ == "__main__":
    main()
