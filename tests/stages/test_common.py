"""What every stage does around its own work."""

import threading
import time

import pytest

from bayesft.training import Checkpoint
from stages.common import code_digest, held


def test_a_stage_waits_for_another_that_works_on_the_same_item(tmp_path, capsys):
    order = []

    def second() -> None:
        with held(Checkpoint(tmp_path / "item")):
            order.append("second begins")

    thread = threading.Thread(target=second, daemon=True)
    with Checkpoint(tmp_path / "item"):
        thread.start()
        time.sleep(0.7)
        order.append("first is done")
    thread.join(timeout=30)
    assert order == ["first is done", "second begins"]
    assert "another process is at work on item" in capsys.readouterr().out


def test_waiting_ends_with_an_error_that_says_what_to_do(tmp_path):
    with Checkpoint(tmp_path / "item"):  # noqa: SIM117 (the second must not be entered)
        with pytest.raises(RuntimeError, match="wait for it, or end it"), held(Checkpoint(tmp_path / "item"), 0):
            pass


def test_the_code_that_decides_results_has_a_digest():
    assert len(code_digest()) == 64
    assert code_digest() == code_digest()
