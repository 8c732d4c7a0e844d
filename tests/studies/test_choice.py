"""The hyperparameters that were chosen on validation images are those of params.yaml, and a table has the trials."""

import pandas as pd
import pytest

from stages.parameters import read
from studies.choice import TRIALS, chosen


def test_the_median_over_seeds_of_the_chosen_trials():
    table = pd.DataFrame(
        [
            {"data": "cifar10", "method": method, "seed": seed, "trial": trial, "chosen": trial == 1, "gamma": value}
            for method in ("awp", "other")
            for seed, values in enumerate([(9.0, 0.012), (0.001, 0.2), (5.0, 0.0461)])
            for trial, value in enumerate(values)
        ]
    )
    assert chosen(table)["gamma"].to_dict() == {("awp", "cifar10"): 0.046, ("other", "cifar10"): 0.046}


@pytest.mark.parametrize("method", ("awp", "drift_aware", "uniform", "drift_dropout"))
def test_the_numbers_of_params_are_the_chosen_ones(method):
    row = read("params.yaml")["methods"][method]
    for data, values in chosen(pd.read_csv(TRIALS)).loc[method].iterrows():
        for name, value in values.dropna().items():
            assert row[name][data] == value, f"methods.{method}.{name}.{data}"


def test_seeds_of_the_choice_are_of_no_report():
    assert set(pd.read_csv(TRIALS).seed) == {100, 101, 102}
