"""params.yaml is checked before anything computes, and the message says key, value and what is allowed."""

import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayesft.tasks import TASKS, range_of
from stages.parameters import ParameterError, load, load_part, read_all
from tests.parameters import write_parameters

PARAMS = Path(__file__).parents[2] / "params.yaml"
CONTENT = read_all(PARAMS)


@pytest.fixture
def write(tmp_path):
    """Write params.yaml with entries changed, and give its path. Keys are paths with "/" between their parts."""

    def change(*changes: tuple[str, object]) -> Path:
        content = deepcopy(CONTENT)
        for key, value in changes:
            *parents, last = key.split("/")
            block = content
            for parent in parents:
                block = block.setdefault(parent, {})
            block[last] = value
        return write_parameters(tmp_path, content)

    return change


def test_the_committed_parameters_are_valid():
    p = load(PARAMS)
    assert p.scale == "quick" and set(p.tasks) == set(TASKS)
    for task in p.tasks:
        rows = p.rows_of(task)
        assert rows[0] == "erm" and "bayesft" in rows
    assert p.rows_of("preact152-cifar10") == ["erm", "bayesft"]
    assert "erm-no-norm" in p.rows_of("vgg11-cifar10") and "erm-no-norm" not in p.rows_of("resnet18-cifar10")
    assert p.rows_of("maskrcnn-pennfudan") == ["erm", "algorithm1", "bayesft"]
    assert len(p.seeds_of("mlp-mnist")) >= 3


@pytest.mark.parametrize("scale", ["smoke", "quick", "medium", "paper"])
def test_every_task_has_a_budget_at_every_scale(write, scale):
    p = load(write(("scale", scale)))
    for task in TASKS:
        assert p.recipe_of(task).epochs > 0 and p.budget(task).evaluate.draws >= 2


def test_layers_change_one_another():
    p = load(PARAMS)
    everything = p.scales["quick"]["all"]["train"]
    assert p.budget("vgg11-cifar10").train.lr == everything["lr"]
    assert p.budget("alexnet-cifar10").train.lr == 0.001 and p.budget("alexnet-cifar10").train.batch_size == 64
    assert p.budget("preact152-cifar10").pixels == 16 and p.budget("vgg11-cifar10").pixels is None


def test_what_depends_on_the_data_set_is_looked_up():
    p = load(PARAMS)
    assert p.values("mlp-mnist", p.row("uniform")) == {"rate": 0.5}
    assert p.values("stn-gtsrb", p.row("uniform")) == {"rate": 0.27}
    assert p.search_settings("vgg11-cifar10").sigmas[-1] == 0.8


@pytest.mark.parametrize("task", TASKS)
def test_a_search_optimises_what_it_is_judged_by(task):
    sigmas = load(PARAMS).search_settings(task).sigmas
    assert sigmas[0] == 0 and sigmas[-1] == range_of(task)


def test_calibration_is_of_the_rows_that_are_named(write):
    p = load(write(("calibration/methods", ["erm"])))
    found = p.calibrated("mlp-mnist", "erm")
    assert found["images"] == 128 and found["sigma_step"] == 0.3 and found["details"]["sigmas"]
    assert p.calibrated("vgg11-cifar10", "erm")["details"] is None and p.calibrated("mlp-mnist", "awp") is None
    assert load(write(("calibration/methods", []))).calibrated("mlp-mnist", "erm") is None
    budget = ("scales/quick/mnist/evaluate", {"sigma_step": 0.1, "draws": 3})
    assert load(write(budget)).calibrated("mlp-mnist", "erm")["draws"] == 3  # of the layer before it


def test_searches_differ_in_what_the_methods_say():
    p = load(PARAMS)
    found, random, published = (p.row_search("mlp-mnist", p.row(r)) for r in ("bayesft", "random", "algorithm1"))
    assert found.weights == "scratch" and found.epochs == p.recipe_of("mlp-mnist").epochs
    assert random == found.model_copy(update={"strategy": "random"})
    assert published.weights == "inherit" and published.epochs < found.epochs
    assert p.row_search("mlp-mnist", p.row("awp")) is None and p.row_search("mlp-mnist", p.row("awp-tuned")) == found


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sigma_max", -1, "greater than 0"),
        ("sigma_max", 11, "less than or equal to 10"),
        ("sigma_max", float("inf"), ""),
        ("sigma_max", True, "valid number"),
        ("sigma_max", "1.2", "valid number"),
        ("scale", "papr", "'smoke', 'quick', 'medium' or 'paper'"),
        ("tasks", ["mlp-mnits"], "mlp-mnist, lenet-mnist"),
        ("tasks", ["mlp-mnist", "mlp-mnist"], "listed twice"),
        ("seeds", [], "at least 1"),
        ("seeds", [-1], "greater than or equal to 0"),
        ("seeds", [1.0], "valid integer"),
        ("seeds", [True], "valid integer"),
        ("seeds", [0, 0], "listed twice"),
        ("threads", 0, "greater than 0"),
        ("kernels", "sse", "'avx2' or 'native'"),
        ("report", "mnist", "each after a hyphen"),
        ("report", "-../mnist", "each after a hyphen"),
        ("threads", 1025, "less than or equal to 1024"),
        ("ablation/data", ["imagenet"], "mnist, cifar10"),
        ("ablation/factors", ["colour"], "dropout, normalization, depth, activation"),
        ("search/acquisition", "pi", "'ei', 'mean' or 'lcb'"),
        ("search/sigmas/mnist", [], "at least 1"),
        ("search/draws", 100_001, "less than or equal to 100000"),
        ("data/source", "internet", "'embedded' or 'official'"),
        ("drift/parameters", "some", "'all', 'weights' or 'convolutions'"),
        ("drift/model", "lognormol", "must be one of"),
        ("calibration/images", 1, "greater than or equal to 2"),
        ("calibration/layers", "some", "'all' or 'weights'"),
        ("calibration/methods", ["em"], "no row: must be among"),
        ("calibration/methods", ["erm", "erm"], "listed twice"),
        ("calibration/details/methods", ["em"], "no row: must be among"),
        ("calibration/details/tasks", ["maskrcnn-pennfudan"], "has no accuracy: leave it out"),
        ("calibration/details/sigmas", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "at most 5"),
        (
            "scales/quick/all/evaluate",
            {"sigma_step": 0.2, "draws": 6, "calibrated": {"sigma_step": 0.3, "draws": 2}},
            "must be a multiple of 0.2",
        ),
        ("scales/quick/mnist/evaluate/calibrated", {"sigma_step": 0.3, "draws": 11}, "must be at most 10"),
        ("drift/model", "mibb", "leave it out of tasks"),
        (
            "drift/model",
            "stuck",
            "sigma_max = 1.2, drift.model = 'stuck': share of stuck cells: p = 1.2: must be from 0 to 1",
        ),
        ("drift/model", "reram_wan", "the grid of mlp-mnist = 0, drift.model = 'reram_wan': time since programming"),
        ("scales/quick/mnist/pixels", 15, "pixels = 15 of mlp-mnist: must divide 28"),
        ("scales/quick/pennfudan/pixels", 64, "a detector has network.size instead"),
        ("scales/quick/ablation-mnist/evaluate/sigma_step", 1e-7, "of ablation-mnist: more than 1000 points"),
        ("methods/uniform/rate/mnits", 0.3, "methods.uniform.rate.mnits: must be one of mnist, cifar10"),
        ("studies/options/a~b", {"title": "x", "search": {}}, "letters, digits, _, - and . alone"),
        ("studies/options/landscape", {"title": "x", "search": {}}, "the study has something else of this name"),
        ("scales/quick/preact18-cifar10/pixels", 12, "pixels = 12 of preact18-cifar10: must divide 32"),
        ("scales/quick/resnet18-cifar10/network/width", -1, "must be a number greater than 0"),
        ("scales/quick/resnet18-cifar10/network/width", "wide", "must be a number greater than 0"),
        ("scales/quick/pennfudan/network/size", "x", "must be a whole number of at least 32"),
        ("scales/quick/pennfudan/network/backbone", "slimm", "must be one of slim, resnet18, resnet50"),
        ("parallel/backend", "threads", "'fork', 'loky' or 'ray'"),
        ("study", "big", "'none', 'small' or 'full'"),
        ("methods/awp/gama", 0.01, "did you mean gamma?"),
        ("methods/awp/gamma", -1, "greater than 0"),
        ("methods/uniform/rate", 1.0, "less than 1"),
        ("methods/mine", {}, "must be one of algorithm1, awp"),
        ("methods/erm-tuned", {"method": "erm", "search": {}}, "no hyperparameters to search"),
        ("methods/awp-tuned/search", {"weights": "inherit", "batch": 2}, "batch > 1 needs weights = scratch"),
        ("methods/awp-tuned/search", {"trails": 3}, "did you mean trials?"),
        ("methods/erm-no-norm/tasks", ["alexnet-cifar10"], "has no batch norm to leave out"),
        ("methods/awp/gamma", True, "valid number"),
        ("methods/reram_v/rounds", 5.0, "valid integer"),
        ("methods/reram_v/devices", "3", "valid integer"),
        ("methods/awp-tuned/search", {"trials": 4.0}, "awp-tuned.search.trials = 4.0: input should be a valid integer"),
        ("methods/awp-tuned/tasks", ["mlp-mnist", "mlp-mnist"], "listed twice"),
        ("methods/erm/network", {"normalisation": None}, "did you mean normalization?"),
        ("methods/study", {"method": "erm"}, "has a folder of this name"),
        ("recipe/weight_decay", False, "valid number"),
        ("search/lr", True, "valid number"),
        ("search/bounds", [0.0, False], "valid number"),
        ("search/sigmas/mnist", [0.3, 0.3], "listed twice"),
        ("search/sigmas/mnist", [0.3, "0.6"], "valid number"),
        ("pictures/sigmas", [0.0, 0.0], "listed twice"),
        ("boundary/sigmas", [0.0, 0.0], "listed twice"),
        ("boundary/points", 1e3, "valid integer"),
        ("ablation/data", ["mnist", "mnist"], "listed twice"),
        ("ablation/factors", ["depth", "depth"], "listed twice"),
        ("more_seeds/mnist", [1, 1], "listed twice"),
        ("more_seeds/mnits", [1], "must be one of mnist"),
        ("studies/seeds", [0, 0], "listed twice"),
        ("studies/small", ["gp", "gp"], "listed twice"),
        ("studies/tasks", ["mlp-mnist", "mlp-mnist"], "listed twice"),
        ("studies/tasks", ["maskrcnn-pennfudan"], "has no accuracy to study"),
        ("studies/strategies/gp/search", {"inherited_epochs": 4.0}, "gp.search.inherited_epochs = 4.0: input should"),
        ("studies/strategies/gp", {"title": "GP", "search": {}, "method": "awpp"}, "must be one of algorithm1, awp"),
        ("studies/strategies/gp", {"title": "GP", "search": {}, "method": "ftna"}, "no hyperparameters to search"),
        ("studies/options/mean", {"title": "mean", "search": {"acquisiton": "mean"}}, "did you mean acquisition?"),
        ("threads", 1.0, "valid integer"),
        ("parallel/jobs", True, "valid integer"),
        ("scales/quick/deep/rows", ["erm", "erm"], "listed twice"),
        ("scales/paper/mnist/search/bounds", [0.0, float("nan")], "finite number"),
        ("scales/paper/mnist/search/trials", "12", "valid integer"),
        ("scales/quick/mnist/search/sigmas", [0.3, 0.3], "listed twice"),
        ("scales/quick/all/network/widht", 1, "did you mean width?"),
        ("scales/paper/all/network/width", float("nan"), "must be finite"),
        ("sigma_mx", 1.5, "did you mean sigma_max?"),
        ("scales/quick/all/train/with", 1, "unknown key"),
        ("scales/quick/mnist/evaluate/draws", 1, "greater than or equal to 2"),
        ("scales/quick/mnist/train/batch_size", 0, "greater than or equal to 2"),
        ("scales/quick/mnist/search/bonds", [0, 0.5], "did you mean bounds?"),
        ("scales/quick/mnits", {}, "must be one of all, mnist"),
        ("scales/quick/mnist/trane", {}, "did you mean train?"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(write, key, value, said):
    with pytest.raises(ParameterError) as failure:
        load(write((key, value)))
    message = str(failure.value)
    assert key.split("/")[0] in message and key.split("/")[-1] in message
    assert said in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("methods/erm/tasks", ["lenet-mnist"])], "needs the row erm on mlp-mnist"),
        ([("methods/uniform/rate", {"mnist": 0.5})], "rate.cifar10: missing"),
        ([("search/sigmas", {"mnist": [0.3]})], "search.sigmas.cifar10: missing"),
        ([("scales/quick/mnist/search/initial", 5)], "initial = 5: must be less than trials = 5"),
        ([("scales/quick/mnist/search/bounds", [0.5, 0.3])], "0 <= lower < upper < 1"),
        ([("scales/quick/mnist/evaluate/sigma_step", 0.0001)], "more than 1000 points"),
        ([("studies/small", ["random"])], "studies.small: must have studies.reference, 'gp'"),
        (
            [("methods/uniform/rate", {"cifar10": 0.1}), ("methods/uniform/tasks", ["vgg11-cifar10"])],
            "rate.mnist: missing",
        ),
        ([("studies/options/other", {"title": "GP", "search": {}})], "studies: the title 'GP' stands twice"),
        ([("drift/parameters", "convolutions")], "mlp-mnist has no convolution: leave it out of tasks"),
        (
            [("drift/parameters", "convolutions")],
            "the networks of mnist have no convolution: leave it out of ablation.data",
        ),
        ([("drift/model", "mibb")], "the networks of mnist have no convolution: leave it out of ablation.data"),
        ([("studies/reference", "gps")], "studies.reference = 'gps': must be one of"),
        ([("studies/small", ["gps"])], "studies.small: 'gps'"),
        ([("studies/sigma_max", 1.2)], "studies.sigma_max = 1.2: must be >= 1.5 for mlp-mnist"),
        ([("studies/options/gp", {"title": "x", "search": {}})], "the name is taken"),
        ([("scales/quick/deep/rows", ["erm", "mine"])], "name mine"),
        ([("scales/quick/deep/rows", [])], "rows in scales.quick: preact50-cifar10 needs at least one row"),
    ],
)
def test_what_contradicts_itself_is_refused(write, changes, said):
    with pytest.raises(ParameterError, match=re.escape(said)):
        load(write(*changes))


def test_all_that_is_wrong_is_said_at_once(write):
    with pytest.raises(ParameterError, match=r"(?s)scale = 'papr'.*sigma_max = -1"):
        load(write(("scale", "papr"), ("sigma_max", -1)))


def test_another_fault_is_named_wherever_it_does_not_allow_a_level(write):
    fault = ("drift/model", "stuck"), ("sigma_max", 0.2)
    with pytest.raises(ParameterError) as caught:
        load(write(*fault))
    for key in (
        "boundary.sigmas = 1.2",
        "search.sigmas of mlp-mnist = 1.5",
        "sigma_train of drift_aware on lenet-mnist",
    ):
        assert key in str(caught.value), key
    assert "on resnet18-cifar10" not in str(caught.value), "0.3 is a share"
    with pytest.raises(ParameterError, match="methods.drift_aware: drift.model = 'bitflip_float32' has no gradient"):
        load(write(("drift/model", "bitflip_float32"), ("sigma_max", 1e-4)))
    assert load(write(("drift/model", "gaussian"), ("sigma_max", 0.3))).drift.model == "gaussian"


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    shutil.copy(PARAMS.with_name("scales.yaml"), tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text(encoding="utf-8").replace("seeds: [0]  ", "seeds: [010]"), encoding="utf-8")
    assert load(path).seeds == (10,), "DVC reads it so, too"


@pytest.mark.parametrize("content", ["", "- a list", "a: [unclosed"])
def test_what_is_no_mapping_is_refused(tmp_path, content):
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(ParameterError):
        load(tmp_path / "params.yaml")


def test_budgets_stand_in_a_file_of_their_own(tmp_path):
    (tmp_path / "params.yaml").write_text("scale: quick\nscales: {}\n")
    with pytest.raises(ParameterError, match=r"scales: unknown key; budgets stand in scales\.yaml"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("scale: quick\n")
    with pytest.raises(ParameterError, match=r"scales\.yaml can't be read"):
        load(tmp_path / "params.yaml")


def test_a_scale_without_budgets_is_refused(write):
    with pytest.raises(ParameterError, match=r"scale = 'quick': must be one of scales.yaml \(it has none\)"):
        load(write(("scales", {})))


def test_a_part_alone_is_checked_too(write):
    assert load_part("sigma_max", PARAMS) == load(PARAMS).sigma_max
    with pytest.raises(ParameterError, match="sigma_max = -1"):
        load_part("sigma_max", write(("sigma_max", -1)))


def test_the_mirror_comes_from_the_parameters_or_the_environment(write, monkeypatch):
    monkeypatch.setenv("BAYESFT_MIRROR", "/from/environment")
    assert load(PARAMS).mirror == "/from/environment"
    assert load(write(("data/mirror", "/from/parameters"))).mirror == "/from/parameters"
    monkeypatch.delenv("BAYESFT_MIRROR")
    assert load(PARAMS).mirror is None


def test_a_password_in_the_mirror_is_refused_and_not_shown(write, monkeypatch):
    address = "https://me:secret@localhost/mirror"
    monkeypatch.delenv("BAYESFT_MIRROR", raising=False)
    for where in ("parameters", "environment"):
        if where == "environment":
            monkeypatch.setenv("BAYESFT_MIRROR", address)
        with pytest.raises(ParameterError, match="data.mirror, or BAYESFT_MIRROR: .*user name") as error:
            load(write(("data/mirror", address)) if where == "parameters" else PARAMS)
        assert "secret" not in str(error.value)


def leaves(content: object, path: str = "") -> list[str]:
    """The paths of all leaves of params.yaml."""
    if isinstance(content, dict) and content:
        return [leaf for key, value in content.items() for leaf in leaves(value, f"{path}/{key}".strip("/"))]
    return [path]


def at(content: object, key: str) -> object:
    for part in key.split("/"):
        content = content[part]
    return content


def as_yaml(value: object) -> object:
    """Lists for tuples."""
    return [as_yaml(part) for part in value] if isinstance(value, (list, tuple)) else value


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(leaves(CONTENT)),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("1.5ex-", max_size=3)
    | st.lists(st.integers(0, 2) | st.floats() | st.booleans(), max_size=2),
)  # fmt: skip
def test_any_value_is_refused_by_its_key_or_read_as_it_is(write, key, value):
    try:
        found = at(load(write((key, value))).model_dump(), key)
    except ParameterError as error:
        parts = key.split("/")
        assert parts[-1] in str(error) or parts[-2] in str(error)
    else:
        found = as_yaml(found)
        assert found == value and type(found) in (type(value), float if type(value) is int else type(value))
