"""Checkpoints: what is saved comes back, one process at a time, nothing half written."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesft.training import Checkpoint

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_values_come_back_as_they_were(value):
    with tempfile.TemporaryDirectory() as folder, Checkpoint(Path(folder) / "c") as checkpoint:
        checkpoint.save("state", {}, value)
        assert checkpoint.load("state") == ({}, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    whole = (torch.arange(24) % 7).to(dtype)
    tensors = {
        "scalar": whole[3].clone(),
        "empty": whole[:0].clone(),
        "matrix": whole.view(4, 6).clone(),
        "transposed": whole.view(4, 6).T,
        "channels last": whole.view(1, 2, 3, 4).clone().to(memory_format=torch.channels_last),
    }
    with Checkpoint(tmp_path / "c") as checkpoint:
        checkpoint.save("state", tensors, {"epoch": 3})
    with Checkpoint(tmp_path / "c") as checkpoint:
        loaded, value = checkpoint.load("state")
    assert value == {"epoch": 3}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == dtype and loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name], tensor), name


def test_saving_replaces_the_state_of_that_name_alone(tmp_path):
    with Checkpoint(tmp_path / "c") as checkpoint:
        checkpoint.save("a", {"w": torch.zeros(2)}, 1)
        checkpoint.save("b", {"w": torch.ones(2)}, 2)
        checkpoint.save("a", {"v": torch.ones(3)}, 3)
        assert checkpoint.load("a")[0].keys() == {"v"} and checkpoint.load("a")[1] == 3
        assert checkpoint.load("b")[1] == 2


def test_missing_name_is_none(tmp_path):
    with Checkpoint(tmp_path / "c") as checkpoint:
        assert checkpoint.load("state") is None
    assert Checkpoint(tmp_path / "never used").load("state") is None


def test_leftover_of_a_killed_write_is_ignored(tmp_path):
    with Checkpoint(tmp_path / "c") as checkpoint:
        leftover = tmp_path / "c" / ".state.safetensors.12345.part"
        leftover.write_bytes(b"half a fi")
        assert checkpoint.load("state") is None
        checkpoint.save("state", {}, "whole")
        assert checkpoint.load("state") == ({}, "whole")
        leftover.write_bytes(b"half a fi")
        assert checkpoint.load("state") == ({}, "whole")
        checkpoint.clear()
    assert not leftover.exists()


def test_failed_save_keeps_the_state_before_and_no_leftover(tmp_path):
    with Checkpoint(tmp_path / "c") as checkpoint:
        checkpoint.save("state", {"w": torch.ones(2)}, "good")
        with pytest.raises(TypeError):
            checkpoint.save("state", {"w": torch.zeros(2)}, object())
        tensors, value = checkpoint.load("state")
    assert value == "good" and torch.equal(tensors["w"], torch.ones(2))
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["state.safetensors"]


def test_second_holder_is_told_what_to_do(tmp_path):
    with Checkpoint(tmp_path / "mlp-mnist-erm-0-abc") as first:
        first.save("state", {}, 1)
        with pytest.raises(RuntimeError, match=r"mlp-mnist-erm-0-abc.*wait for it, or end it, and run again"):
            Checkpoint(tmp_path / "mlp-mnist-erm-0-abc").__enter__()
        assert first.load("state") == ({}, 1)
        with Checkpoint(tmp_path / "mlp-mnist-erm-1-abc"):
            pass  # another item is free
    with Checkpoint(tmp_path / "mlp-mnist-erm-0-abc") as next_one:
        assert next_one.load("state") == ({}, 1)


def test_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), Checkpoint(tmp_path / "c"):
        raise ZeroDivisionError
    with Checkpoint(tmp_path / "c"):
        pass


def test_clear_leaves_nothing(tmp_path):
    with Checkpoint(tmp_path / "c") as checkpoint:
        checkpoint.save("a", {"w": torch.ones(2)}, 1)
        checkpoint.save("b", {}, 2)
        checkpoint.clear()
        assert checkpoint.load("a") is None
        checkpoint.clear()  # nothing left to clear is no error
    assert list(tmp_path.iterdir()) == []


def test_folders_that_differ_after_a_dot_have_locks_of_their_own(tmp_path):
    with Checkpoint(tmp_path / "dropout 0.2"), Checkpoint(tmp_path / "dropout 0.5"):
        pass


@pytest.mark.parametrize("damage", [b"", b"half a fi", None])
def test_a_damaged_state_is_named_and_set_aside(tmp_path, capsys, damage):
    with Checkpoint(tmp_path / "c") as checkpoint:
        checkpoint.save("a task erm seed 0.5", {"w": torch.ones(2)}, 1)
        checkpoint.save("other", {}, 2)
        state = tmp_path / "c" / "a task erm seed 0.5.safetensors"
        damage = state.read_bytes()[:-1] if damage is None else damage
        state.write_bytes(damage)
        assert checkpoint.load("a task erm seed 0.5") is None
        said = capsys.readouterr().out
        assert f"{state} is damaged" in said and "set aside as a task erm seed 0.5.damaged" in said
        assert state.with_suffix(".damaged").read_bytes() == damage
        assert checkpoint.load("other") == ({}, 2)
        checkpoint.save("a task erm seed 0.5", {}, "anew")
        assert checkpoint.load("a task erm seed 0.5") == ({}, "anew")
    assert capsys.readouterr().out == ""
