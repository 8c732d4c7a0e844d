"""`make reproduce`: what DVC says is passed on, and a long run is stated in yardsticks."""

import os
import sys

import pytest

from stages import reproduce


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_status_is_that_of_dvc(tmp_path, monkeypatch, capsys, code):
    dvc = tmp_path / "dvc"
    dvc.write_text(f'#!/bin/sh\n[ "$1 $2" = "repro train@erm" ] && exit {code}\nexit 9\n')
    dvc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", ["reproduce", "train@erm"])
    with pytest.raises(SystemExit) as stopped:
        reproduce.main()
    assert stopped.value.code == code and capsys.readouterr().out == ""
    monkeypatch.setattr(reproduce, "WORTH_A_YARDSTICK_S", 0.0)
    monkeypatch.setattr(reproduce, "yardstick", lambda: 1e-9)
    with pytest.raises(SystemExit):
        reproduce.main()
    assert ("yardsticks of 0.0 s" in capsys.readouterr().out) == (code == 0)


def test_a_yardstick_is_a_positive_time():
    assert reproduce.yardstick(steps=1) > 0
