"""params.yaml is checked before anything computes, and the message says key, value and what is allowed."""

from pathlib import Path

import pytest
import yaml

from bayesft.tasks import TASKS
from stages.parameters import ParameterError, load

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def write(tmp_path):
    """Write params.yaml with one entry changed, and give its path."""

    def change(key: str, value: object) -> Path:
        content = yaml.safe_load(PARAMS.read_text())
        *parents, last = key.split(".")
        block = content
        for parent in parents:
            block = block[parent]
        block[last] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return change


def test_the_committed_parameters_are_valid():
    parameters = load(PARAMS)
    assert parameters.scale == "quick"
    assert parameters.all_methods[0] == "erm" and parameters.all_methods[-1] == "bayesft"
    assert parameters.search_settings.trials == parameters.scales.quick.search.trials


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sigma_max", -1, "greater than 0"),
        ("scale", "papr", "'smoke', 'quick' or 'paper'"),
        ("tasks", ["mlp-mnits"], ", ".join(TASKS)),
        ("tasks", [], "at least 1"),
        ("tasks", ["mlp-mnist", "mlp-mnist"], "listed twice"),
        ("ablations", ["colour"], "dropout, normalization, depth, activation"),
        ("methods.train", ["erm", "empire"], "'erm', 'awp' or 'uniform'"),
        ("methods.search", ["grid"], "'bayesft' or 'random'"),
        ("seeds", [], "at least 1"),
        ("seeds", [-1], "greater than or equal to 0"),
        ("search.acquisition", "pi", "'ei', 'mean' or 'lcb'"),
        ("search.bounds", [0.5, 0.2], "0 <= lower < upper < 1"),
        ("search.sigmas", [], "at least 1"),
        ("training.awp.gama", 0.01, "did you mean gamma? Allowed here: gamma"),
        ("sigma_mx", 1.5, "did you mean sigma_max?"),
        ("scales.quick.evaluate.draws", 1, "greater than or equal to 2"),
        ("scales.quick.train.batch_size", 0, "greater than or equal to 2"),
        ("training.uniform.rate", 1.0, "less than 1"),
        ("data.source", "internet", "'embedded' or 'official'"),
        ("threads", 0, "greater than 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(write, key, value, said):
    with pytest.raises(ParameterError) as failure:
        load(write(key, value))
    message = str(failure.value)
    assert key in message
    assert said in message
    if not isinstance(value, list):
        assert repr(value) in message


def test_all_that_is_wrong_is_said_at_once(write, tmp_path):
    content = yaml.safe_load(write("sigma_max", -1).read_text())
    content["scale"] = "papr"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ParameterError, match=r"(?s)scale = 'papr'.*sigma_max = -1"):
        load(tmp_path / "params.yaml")


def test_a_missing_key_is_named(tmp_path):
    content = yaml.safe_load(PARAMS.read_text())
    del content["training"]["awp"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ParameterError, match="training.awp: missing"):
        load(tmp_path / "params.yaml")


def test_adapted_methods_need_erm(write):
    with pytest.raises(ParameterError, match="must have erm"):
        load(write("methods.train", ["awp"]))


@pytest.mark.parametrize("content", ["", "- a list", "a: [unclosed"])
def test_what_is_no_mapping_is_refused(tmp_path, content):
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(ParameterError):
        load(tmp_path / "params.yaml")


def test_the_mirror_comes_from_the_parameters_or_the_environment(write, monkeypatch):
    monkeypatch.setenv("BAYESFT_MIRROR", "/from/environment")
    assert load(PARAMS).mirror == "/from/environment"
    assert load(write("data.mirror", "/from/parameters")).mirror == "/from/parameters"
    monkeypatch.delenv("BAYESFT_MIRROR")
    assert load(PARAMS).mirror is None
