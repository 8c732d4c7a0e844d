"""params.yaml is checked before anything computes, and the message says key, value and what is allowed."""

import re
from pathlib import Path

import pytest
import yaml

from bayesft.search.surrogate import check_space
from bayesft.tasks import CLASSIFICATION, TASKS
from stages.parameters import ONE_DIMENSION, ParameterError, load

PARAMS = Path(__file__).parents[2] / "params.yaml"
SEARCH = yaml.safe_load(PARAMS.read_text())["search"]


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
    assert parameters.all_tasks == list(TASKS)
    for task in CLASSIFICATION:
        methods = parameters.methods_of(task)
        assert methods[0] == "erm" and "bayesft" in methods
        assert parameters.search_settings(task).trials == parameters.scales.quick.tasks[task].search.trials
    assert parameters.methods_of("preact152-cifar10") == ["erm", "uniform", "bayesft"]
    assert parameters.methods_of("vgg11-cifar10")[-2:] == ["erm-no-norm", "bayesft-no-norm"]
    assert parameters.methods_of("lenet-mnist")[-2:] == ["bayesft-tuned", "drift_dropout-tuned"]
    assert not set(parameters.training.drift_aware.sigma_train) - set(parameters.search.sigmas)


def test_every_tuned_method_gets_the_same_search():
    parameters = load(PARAMS)
    settings = parameters.tuning_settings("mlp-mnist")
    paper = parameters.search_settings("mlp-mnist")
    assert settings.weights == "scratch" and paper.weights == "inherit"
    assert (settings.sigmas, settings.draws, settings.bounds) == (paper.sigmas, paper.draws, paper.bounds)
    assert parameters.search_settings("mlp-mnist", "random").strategy == "random"


def test_the_searches_of_the_study_differ_in_what_their_names_say():
    parameters = load(PARAMS)
    found = parameters.study_settings("mlp-mnist")
    reference = found[parameters.study.reference][1].model_dump()
    assert list(found) == [*parameters.study.strategies, *parameters.study.options]
    for name, option in parameters.study.options.items():
        differing = {key for key, value in found[name][1].model_dump().items() if value != reference[key]}
        assert differing == set(option), name
    for name, (method, settings) in found.items():
        if name.startswith("GP"):  # its control differs in what proposes, and in nothing else
            control = name.replace("GP", "random", 1)
            assert found[control] == (method, settings.model_copy(update={"strategy": "random"})), name


def test_a_search_of_the_study_is_looked_at_after_each_of_its_lengths():
    study, settings = load(PARAMS).study, load(PARAMS).search_settings("mlp-mnist", weights="scratch")
    assert study.lengths("GP", settings) == (4, 8, 12)
    assert study.lengths("GP", settings.model_copy(update={"trials": 2})) == (1, 2)
    assert study.lengths("GP", settings.model_copy(update={"batch": 4})) == (12,)
    assert study.lengths("grid", settings.model_copy(update={"strategy": "grid"})) == (12,)
    assert study.lengths("early stop", settings) == (12,)
    assert study.lengths("uniform", None) == (0,)


def test_what_depends_on_the_data_set_is_looked_up():
    parameters = load(PARAMS)
    assert parameters.method_settings("mlp-mnist", "uniform") == {"rate": 0.5}
    assert parameters.method_settings("stn-gtsrb", "uniform") == {"rate": 0.1}
    assert parameters.method_settings("vgg11-cifar10", "erm-no-norm") == {}
    assert parameters.search_settings("mlp-mnist").sigmas[-1] == 1.5
    assert parameters.search_settings("vgg11-cifar10").sigmas[-1] == 0.6


def test_a_variant_without_batch_norm_differs_in_this_alone():
    parameters = load(PARAMS)
    keeps, drops = (parameters.specification("vgg11-cifar10", m) for m in ("bayesft", "bayesft-no-norm"))
    assert drops == {**keeps, "normalization": None}
    assert "normalization" not in keeps


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sigma_max", -1, "greater than 0"),
        ("sigma_max", float("inf"), "finite number"),
        ("scales.quick.detection.search.bounds", [0.5, 0.3], "0 <= lower < upper < 1"),
        ("scale", "papr", "'smoke', 'quick', 'medium' or 'paper'"),
        ("tasks", ["mlp-mnits"], ", ".join(CLASSIFICATION)),
        ("deep.tasks", ["preact51-cifar10"], "preact50-cifar10"),
        ("no_norm.methods.train", ["ftna"], "'erm', 'awp' or 'uniform'"),
        ("detection.tasks", ["mlp-mnist"], "must be one of maskrcnn-pennfudan"),
        ("detection.methods", ["awp"], "'erm' or 'bayesft'"),
        ("ablation.data", ["imagenet"], "mnist, cifar10"),
        ("tasks", ["mlp-mnist", "mlp-mnist"], "listed twice"),
        ("ablation.factors", ["colour"], "dropout, normalization, depth, activation"),
        ("methods.train", ["erm", "empire"], "'erm', 'awp' or 'uniform'"),
        ("methods.search", ["grid"], "'bayesft' or 'random'"),
        ("seeds", [], "at least 1"),
        ("seeds", [-1], "greater than or equal to 0"),
        ("search.acquisition", "pi", "'ei', 'mean' or 'lcb'"),
        ("scales.quick.tasks.mlp-mnist.search.bounds", [0.5, 0.2], "0 <= lower < upper < 1"),
        ("search.sigmas.mnist", [], "at least 1"),
        ("training.awp.gama", 0.01, "did you mean gamma? Allowed here: gamma"),
        ("sigma_mx", 1.5, "did you mean sigma_max?"),
        ("scales.quick.tasks.mlp-mnist.evaluate.draws", 1, "greater than or equal to 2"),
        ("scales.quick.ablation.mnist.train.batch_size", 0, "greater than or equal to 2"),
        ("scales.quick.tasks.mlp-mnist.train.with", 1, "did you mean width?"),
        ("scales.quick.tasks.stn-gtsrb.train.width", 0, "greater than 0"),
        ("training.uniform.rate.mnist", 1.0, "less than 1"),
        ("data.source", "internet", "'embedded' or 'official'"),
        ("tuned.methods", ["erm"], "'awp', 'drift_aware', 'uniform', 'drift_dropout' or 'bayesft'"),
        ("study.jobs", 0, "greater than 0"),
        ("study.landscape", 30, "less than or equal to 25"),
        ("training.drift_dropout.rate.mnist", 1.0, "less than 1"),
        ("search.strategy", "guess", "'gp', 'random' or 'grid'"),
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


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("methods.train", ["awp"], "must have erm"),
        ("deep.tasks", ["stn-gtsrb"], "stn-gtsrb is in tasks already"),
        ("no_norm.tasks", ["alexnet-cifar10"], "has no batch norm to drop; allowed: resnet18-cifar10"),
        ("tasks", ["mlp-mnist", "vgg11-cifar10"], "preact18-cifar10 must be in tasks or deep.tasks too"),
        ("training.uniform.rate", {"mnist": 0.5, "cifar10": 0.5}, "training.uniform.rate.gtsrb: missing"),
        ("search.sigmas", {"mnist": [0.3], "gtsrb": [0.3]}, "search.sigmas.cifar10: missing"),
        ("methods", {"train": [], "adapt": [], "drift": [], "search": []}, "need at least one method"),
        ("scales.quick.tasks.mlp-mnist.search.initial", 12, "search.initial = 12: must be less than trials = 12"),
        ("scales.quick.detection.search.initial", 50, "search.initial = 50: must be less than trials"),
        (
            "tuned.tasks",
            ["preact50-cifar10"],
            "tuned.tasks = ['preact50-cifar10']: preact50-cifar10 must be in tasks too",
        ),
        ("study.reference", "GPs", "study.reference = 'GPs': must be one of study.strategies ("),
        ("search.batch", 2, "can't inherit weights from one another: batch > 1 needs weights = scratch"),
        ("tuned.search", {"stop_early": True}, "stop_early needs weights = scratch"),
        (
            "tuned.search",
            {"wights": "scratch"},
            "tuned.search.wights = 'scratch': unknown key; allowed here: trials",
        ),
        (
            "study.options",
            {"x": {"kernel": "rbf"}},
            "study.options.x.kernel = 'rbf': Input should be 'squared_exponential'",
        ),
        ("search", {**SEARCH, "weights": "scratch", "stop_early": True}, "a trial of one epoch has no half-way"),
        ("tuned.search", {"trials": 3}, "initial = 4 must be less than trials = 3, or every trial is random"),
        ("study.options", {"x": {"trials": 4}}, "'trials': 4}: initial = 4 must be less"),
        ("tuned.search", {"trials": 26}, "tuned.search: trials = 26: where a single number is searched, at most 25"),
        ("study.options", {"uniform": {"draws": 9}}, "the name 'uniform' is taken"),
        ("study.options", {"grid!": {"draws": 9}, "grid?": {"draws": 9}}, "the name 'grid!' is taken"),
        ("training.drift_dropout.rate", {"mnist": 0.3}, "training.drift_dropout.rate.cifar10: missing"),
        ("detection.weights", "imagenet", "the backbone slim has only none"),
        ("scales.quick.tasks", {}, "scales.quick.tasks.mlp-mnist: missing"),
        ("scales.quick.ablation", {}, "scales.quick.ablation.cifar10: missing"),
    ],
)
def test_what_contradicts_itself_is_refused(write, key, value, said):
    with pytest.raises(ParameterError, match=re.escape(said)):
        load(write(key, value))


def test_a_run_needs_a_task(write, tmp_path):
    content = yaml.safe_load(PARAMS.read_text())
    content["tasks"] = content["deep"]["tasks"] = content["detection"]["tasks"] = content["no_norm"]["tasks"] = []
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ParameterError, match="need at least one task"):
        load(tmp_path / "params.yaml")


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


def test_the_bound_of_trials_on_a_line_is_that_of_the_search():
    check_space(1, ONE_DIMENSION)
    with pytest.raises(ValueError, match=f"room for {ONE_DIMENSION}"):
        check_space(1, ONE_DIMENSION + 1)
