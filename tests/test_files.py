"""Files that are whole or absent, and what is said of a damaged one."""

import json
import os
import signal
from multiprocessing import get_context

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bayesft.files import atomic, checksum, read_json, temporary_folder, write_json, write_text
from bayesft.tensors import load_tensors, save_tensors
from tests.disks import small_disk


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with atomic(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_bytes() == b"half" and names(path.parent) == ["file"]


def test_an_error_leaves_the_file_before_and_no_temporary(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), atomic(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "before" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_gives(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "text", "x")
        write_json(tmp_path / "json", {})
        save_tensors(tmp_path / "tensors", {"w": torch.ones(1)})
        for name in ("text", "json", "tensors"):
            assert (tmp_path / name).stat().st_mode & 0o777 == mode, name
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_text_has_the_same_bytes_on_every_system(tmp_path):
    write_text(tmp_path / "text", "σ ≤ 1\nnext\n")
    assert (tmp_path / "text").read_bytes() == "σ ≤ 1\nnext\n".encode()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_json_comes_back(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "content.json"
    write_json(path, content)
    assert read_json(path) == content == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", None])
def test_damaged_json_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "file.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file.json is damaged \(.*\)"):
        read_json(path)
    with pytest.raises(ValueError, match="other.json is missing"):
        read_json(tmp_path / "other.json")


def test_a_checksum_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert checksum(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(tmp_path / "file", "md5") == "900150983cd24fb0d6963f7d28e17f72"


def test_a_temporary_folder_is_empty_and_does_not_stay(tmp_path):
    with temporary_folder(tmp_path / "a" / "item") as folder:
        assert names(folder) == []
        (folder / "file").touch()
    assert names(tmp_path / "a") == []
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path / "a" / "item") as folder:
        (folder / "file").touch()
        raise KeyboardInterrupt
    assert names(tmp_path / "a") == []
    with temporary_folder(tmp_path / "a" / "item") as folder:
        (folder / "file").touch()
        folder.rename(tmp_path / "a" / "item")
    assert names(tmp_path / "a") == ["item"] and names(tmp_path / "a" / "item") == ["file"]


def test_a_process_that_is_killed_while_it_writes_leaves_the_file_before(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def write():
        with atomic(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    process = get_context("fork").Process(target=write)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and path.read_text() == "before"
    write_text(path, "after")
    assert path.read_text() == "after"


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        write_text(disk / "text", "before")
        save_tensors(disk / "tensors", {"w": torch.ones(4)}, "before")
        with pytest.raises(OSError, match="No space left.*disk/text"):
            write_text(disk / "text", "x" * 2**19)
        with pytest.raises(OSError, match="disk/tensors cannot be written: .*No space left"):
            save_tensors(disk / "tensors", {"w": torch.ones(2**17)}, "after")
        assert (disk / "text").read_text() == "before"
        assert load_tensors(disk / "tensors")[1] == "before"
        assert names(disk) == ["tensors", "text"]
