"""The chapter on fault-tolerant training: its parameters, what runs it, and all of its stages at the smallest scale."""

import json
import os
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from bayesft.data import Images, Split
from bayesft.fault_tolerance import ROWS, level_at
from bayesft.report import ftt
from bayesft.training import Trained
from stages import ftt_evaluate, ftt_search, ftt_train, plan
from stages.parameters import ParameterError, load, read_all
from tests.parameters import write_parameters

ROOT = Path(__file__).parents[2]
CONTENT = read_all(ROOT / "params.yaml")


def write(folder: Path, **changes: object) -> Path:
    """params.yaml with changes, by keys with "/" between their parts."""
    content = deepcopy(CONTENT)
    for key, value in changes.items():
        *parents, last = key.split("/")
        block = content
        for parent in parents:
            block = block[parent]
        block[last] = value
    return write_parameters(folder, content)


@pytest.mark.parametrize("scale", ["smoke", "quick", "medium", "paper"])
def test_the_chapter_is_planned_at_every_scale(tmp_path, scale):
    p = load(write(tmp_path, scale=scale))
    planned = plan.Planner(p).fault_tolerance()
    json.dumps(planned)
    trained = {(item["fault"], item["row"]) for item in planned["ftt-train"]}
    wanted = {
        ("any" if ROWS[row].alike else fault, row) for fault, rows in p.ftt_budget().seeds.items() for row in rows
    }
    assert trained == wanted
    searched = {(item["fault"], item["search"]) for item in planned["ftt-search"]}
    assert {(fault, ROWS[row].search) for fault, row in trained if ROWS[row].search} == searched
    for item in planned["ftt-evaluate"]:
        for of in item["faults"].values():
            assert of["level"] in of["levels"]


def test_no_faults_switch_the_chapter_off(tmp_path):
    p = load(write(tmp_path, **{"ftt/faults": {}}))
    planner = plan.Planner(p)
    chapter = planner.fault_tolerance()
    assert chapter == {"ftt-search": [], "ftt-train": [], "ftt-evaluate": []}
    assert planner.rendered_ftt(chapter)["networks"] == []


def test_the_range_of_drift_touches_none_of_it(tmp_path):
    plans = []
    for sigma_max in (1.2, 1.5):
        plans.append(plan.Planner(load(write(tmp_path, sigma_max=sigma_max))).fault_tolerance())
    assert plans[0] == plans[1]
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name in ("ftt-search", "ftt-train", "ftt-evaluate"):
        assert "sigma_max" not in stages[name]["params"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ftt/faults", {"stack": {"level": 0.1, "alpha_reward": 0.2}}, "must be one of stuck, mibb"),
        ("ftt/faults", {"stuck": {"level": 1.5, "alpha_reward": 0.2}}, "p = 1.5: must be from 0 to 1"),
        ("ftt/faults", {"stuck": {"level": 0.1, "alpha_reward": 1.2}}, "less than or equal to 1"),
        ("ftt/faults", {"stuck": {"level": 0.1, "alpha_reward": 0.2, "settings": {"r": 1}}}, "Unexpected keyword"),
        ("ftt/alpha_loss", -0.1, "greater than or equal to 0"),
        ("ftt/bits", 1, "greater than or equal to 2"),
        ("scales/quick/ftt/train", {"epochs": 0, "batch_size": 8, "lr": 0.1}, "greater than 0"),
        ("scales/quick/ftt/trian", 1, "did you mean train?"),
        ("scales/quick/ftt/seeds", {"stuck": {"fond": 1}, "mibb": {}}, "must be one of plain, ftt"),
        ("scales/quick/ftt/seeds", {"stuck": {"found": 1}}, "scales.quick.ftt.seeds.mibb: missing"),
        ("scales/quick/ftt/evaluate/levels", {"stuck": [0.0, 0.5], "mibb": [0.0, 1.0], "lognormal": [0.0]},
         "levels.stuck: must have 0 and 1"),
        ("scales/quick/ftt/network/stem_stride", 3, "1 or 2"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(tmp_path, key, value, said):
    with pytest.raises(ParameterError, match=said):
        load(write(tmp_path, **{key: value}))


def test_the_level_of_mibb_grows_as_the_channels_shrink():
    assert level_at("mibb", 1e-4, 8) == pytest.approx(2.5e-4)
    assert level_at("stuck", 0.08, 8) == 0.08


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder in which the chapter's stages have run at scale smoke, on random images."""
    folder, before = tmp_path_factory.mktemp("ftt"), Path.cwd()
    for name in ("bayesft", "stages"):
        (folder / name).symlink_to(ROOT / name)
    write(folder, scale="smoke", parallel={"backend": "fork", "jobs": 1})
    generator, counts = torch.Generator().manual_seed(0), {"train": 64, "validation": 32, "test": 32}
    parts = {
        name: Split(
            torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8), torch.arange(count) % 10
        )
        for name, count in counts.items()
    }
    os.chdir(folder)
    try:
        Images(parts, 10, {"name": "noise", "source": "embedded"}).save(Path("data/datasets/cifar10.safetensors"))
        plan.main()
        for stage in (ftt_search, ftt_train, ftt_evaluate):
            Path("data/results/ftt").mkdir(parents=True, exist_ok=True)
            stage.main()
        yield folder
    finally:
        os.chdir(before)


def test_a_search_names_networks_that_are_trained_and_measured(workspace):
    found = json.loads(Path("data/results/ftt-search/stuck-ftt-nas.json").read_text(encoding="utf-8"))
    assert len(found["candidates"]) == 3 and len(found["gate"]["architectures"]) == 3
    assert set(found["rewards"]) == {"found", "random-1", "random-2", "random-3", "largest"}
    trained = Trained.load(Path("data/models/ftt/stuck-found-0/found.safetensors"))
    assert trained.specification == found["networks"]["found"]
    assert trained.specification["architecture"] == found["best"]
    measured = json.loads(Path("data/results/ftt/any-plain-0.json").read_text(encoding="utf-8"))
    assert set(measured["faults"]) == {"stuck", "mibb"}
    assert set(measured["faults"]["stuck"]["calibrated"]) == {"bn-device", "bn-pooled", "channels"}
    assert 0 < measured["faults"]["mibb"]["strike_rate"] < 0.1
    accuracy = np.array(measured["faults"]["stuck"]["accuracy"])
    assert accuracy.shape == (2, 2) and ((accuracy >= 0) & (accuracy <= 1)).all() and accuracy[0, 0] == accuracy[0, 1]


def test_what_is_in_the_store_is_not_made_again(workspace):
    before = {path: path.stat().st_mtime_ns for path in Path("data/store").rglob("*.safetensors")}
    ftt_search.main()
    ftt_train.main()
    assert {path: path.stat().st_mtime_ns for path in Path("data/store").rglob("*.safetensors")} == before


def test_the_chapter_is_drawn_and_told(workspace, tmp_path):
    planned = json.loads(Path("data/plan/render.json").read_text(encoding="utf-8"))["items"][0]["ftt"]
    chapter = ftt.Chapter.gather(
        planned, lambda name: json.loads((Path("data/results") / name).read_text(encoding="utf-8"))
    )
    face = ftt.section(chapter, tmp_path)
    assert "FTT-NAS under stuck cells (adSAF): two shared networks rank architectures with Spearman's ρ" in face
    drawn = ("ftt_faults", "ftt_cells", "ftt_ranks", "ftt_gains")
    assert all((tmp_path / f"{name}.{kind}").stat().st_size > 5_000 for name in drawn for kind in ("png", "pdf"))
    page = ftt.tables(chapter, tmp_path)
    assert "inconclusive (1 seed)" in page and "**F1**" in page and "noise" in page
    for paper in ("86.2", "69.6"):
        assert all("paper, other scale" in line for line in page.splitlines() if paper in line)
    assert {claim["verdict"] for claim in ftt.table(chapter)["claims"].values()} <= {
        "supported", "contradicted", "inconclusive", "not run"
    }  # fmt: skip
