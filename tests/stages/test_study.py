"""The study of the search: what a killed one makes of what it had."""

from dataclasses import dataclass, field

import pytest
from torch.nn import functional as F

from bayesft.training import Checkpoint, Problem
from stages.study import Work, landscape, points
from tests.problems import patterns, tiny
from tests.search.searches import make_settings

SETTINGS = make_settings(weights="scratch", trials=3)
ITEM = {
    "method": "bayesft",
    "values": {},
    "search": SETTINGS.model_dump(mode="json"),
    "lengths": [1, 2, 3],
    "sigma_max": 0.6,
    "sigma_step": 0.3,
    "draws": 2,
    "landscape": 3,
}


@dataclass(frozen=True)
class Killed(Problem):
    """A problem whose training is interrupted at one of its steps."""

    stop: int | None = None
    steps: list[int] = field(default_factory=list)

    @property
    def loss(self):
        def counting(outputs, labels):
            self.steps.append(len(self.steps))
            if len(self.steps) == self.stop:
                raise KeyboardInterrupt
            return F.cross_entropy(outputs, labels)

        return counting


def work(checkpoint, **changes) -> Work:
    return Work(tiny(Killed, checkpoint=checkpoint, **changes), ITEM, patterns(40, part=2))


def whole(tmp_path, function) -> tuple:
    """What an uninterrupted study finds, and how many steps its trainings take."""
    with Checkpoint(tmp_path / "whole") as checkpoint:
        undisturbed = work(checkpoint)
        return function(undisturbed), len(undisturbed.problem.steps)


def test_a_strategy_is_looked_at_after_each_length(tmp_path):
    found, _ = whole(tmp_path, points)
    assert [point["trials"] for point in found] == [1, 2, 3]
    assert [point["epochs_search"] for point in found] == [2, 4, 6]
    assert all(len(point["accuracy"]) == 3 and len(point["values"]) == 2 for point in found)


@pytest.mark.parametrize("function", [points, landscape])
@pytest.mark.parametrize("part", [0.2, 0.4, 0.6, 0.8, 0.95])
def test_a_killed_study_finds_the_same(tmp_path, function, part):
    expected, steps = whole(tmp_path, function)
    with Checkpoint(tmp_path / "c") as checkpoint, pytest.raises(KeyboardInterrupt):
        function(work(checkpoint, stop=int(part * steps)))
    with Checkpoint(tmp_path / "c") as checkpoint:
        resumed = work(checkpoint)
        assert function(resumed) == expected
    assert len(resumed.problem.steps) < steps
