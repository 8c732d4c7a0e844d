"""Networks that can't be built, or take no images of their task, are refused before anything is trained."""

import re
from copy import deepcopy
from pathlib import Path

import pytest

from stages.parameters import ParameterError, load, read_all
from stages.plan import Planner, check_networks
from tests.parameters import write_parameters

CONTENT = read_all(Path(__file__).parents[2] / "params.yaml")
SMALL = {"tasks": ["mlp-mnist", "resnet18-cifar10", "stn-gtsrb"], "study": "none"}


def planned(folder: Path, methods: dict, *changes: tuple[str, object]) -> dict:
    """The plan of some tasks, with rows and entries of scales.yaml changed. Code has no part in it."""
    content = {
        **deepcopy(CONTENT),
        **SMALL,
        "methods": methods,
        "calibration": {**CONTENT["calibration"], "methods": []},
    }
    content["calibration"]["details"] = {"tasks": [], "methods": [], "images": [], "sigmas": []}
    content["ftt"]["faults"] = {}
    for key, value in changes:
        content["scales"]["quick"][key] = {**content["scales"]["quick"].get(key, {}), **value}
    planner = Planner(load(write_parameters(folder, content)))
    planner.code = lambda *starts: ""
    return planner.plan()


@pytest.mark.parametrize("scale", ["smoke", "quick", "medium", "paper"])
def test_the_networks_of_every_scale_fit(scale, tmp_path):
    path = write_parameters(tmp_path, {**deepcopy(CONTENT), "scale": scale})
    planner = Planner(load(path))
    planner.code = lambda *starts: ""
    check_networks(planner.plan())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("cifar10", {"network": {"normalization": "bach"}})], "erm resnet18-cifar10: its network"),
        (
            [("mnist", {"pixels": 14})],
            "plain ablation-mnist: its network, {'network': 'mlp', 'width': 1}, does not take images of 1 × 14 × 14",
        ),
        ([("gtsrb", {"pixels": 8})], "erm stn-gtsrb: its network"),
        ([("ablation-mnist", {"network": {"depth": 3}})], "plain ablation-mnist: its network"),
    ],
)
def test_a_network_that_does_not_fit_is_named(changes, said, tmp_path):
    with pytest.raises(ParameterError, match=re.escape(said)):
        check_networks(planned(tmp_path, {"erm": {}}, *changes))


def test_a_change_of_a_row_is_built_too(tmp_path):
    rows = {"erm": {}, "other": {"method": "erm", "network": {"normalization": "bach"}, "tasks": ["resnet18-cifar10"]}}
    with pytest.raises(ParameterError, match="other resnet18-cifar10: its network.*bach"):
        check_networks(planned(tmp_path, rows))
