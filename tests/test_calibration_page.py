"""The examples of docs/calibration.md run as they stand, and its table has the arguments that there are."""

import inspect
import re
from pathlib import Path

import torch
from torch import nn

import bayesft.calibration
from bayesft.calibration import calibrate, calibration_reference

PAGE = (Path(__file__).parents[1] / "docs" / "calibration.md").read_text(encoding="utf-8")
EXAMPLE, EVALUATED, HOOK = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_examples_run_and_correct(capsys):
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(EXAMPLE, "docs/calibration.md", "exec"), found)
        others = torch.rand(32, 1, 8, 8)
        exec(compile(EVALUATED, "docs/calibration.md", "exec"), found)
    assert found["better"].mean[1] > found["plain"].mean[1] and "paired" in capsys.readouterr().out
    with torch.no_grad():
        clean, faulty, calibrated = (found[name](others) for name in ("clean", "device", "calibrated"))
    assert (calibrated - clean).norm() < 0.5 * (faulty - clean).norm()
    assert len(EXAMPLE.strip().splitlines()) <= 12


def test_a_kept_correction_without_this_library():
    torch.manual_seed(0)

    def build() -> nn.Module:
        model = nn.Sequential()
        model.norm = nn.RMSNorm(4)
        return model

    x = torch.randn(20, 4)
    clean, faulty = build(), build()
    nn.init.constant_(faulty.norm.weight, 1.7)
    calibrated = calibrate(faulty, calibration_reference(clean, x), x)
    found = {"model": build(), "state": calibrated.state_dict()}
    exec(compile(HOOK, "docs/calibration.md", "exec"), found)
    found["model"].load_state_dict(found["state"])
    torch.testing.assert_close(found["model"](x), calibrated(x))


def test_the_table_has_every_public_function_and_its_arguments():
    calls = dict(re.findall(r"^\| `(?:with )?(\w+)\((.*?)\)", PAGE, re.MULTILINE))
    public = {name for name in bayesft.calibration.__all__ if inspect.isfunction(getattr(bayesft.calibration, name))}
    assert set(calls) == public
    for name, arguments in calls.items():
        parameters = list(inspect.signature(getattr(bayesft.calibration, name)).parameters)
        named = re.findall(r"(\w+)(?==|,|$)", re.sub(r'"\w+"|True', "", arguments))
        assert [n for n in named if n] == parameters[: len(named)], name
