"""The store: items are whole or absent, made once, and a damaged one is named and made anew."""

import json
import os
import shutil
import signal
import time
from multiprocessing import get_context

import pytest
import torch

from bayesft.store import LIST, Store, copy_item, main, size
from tests.disks import small_disk
from tests.test_files import names

KEY = "0123456789abcdef"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path, said) -> Store:
    return Store(tmp_path / "store", said.append)


def build(folder, checkpoint):
    """An item of two files."""
    (folder / "a.txt").write_text("first")
    (folder / "b.bin").write_bytes(bytes(range(256)))


def forbidden(folder, checkpoint):
    raise AssertionError("it was made already")


def contents(store: Store, key: str = KEY) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.find(key).iterdir()}


def leftovers(store: Store) -> list[str]:
    """Everything below the store but finished items and their locks."""
    files = [path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file()]
    return [name for name in files if not name.startswith(("locks/", f"{KEY[:2]}/{KEY}/"))]


def in_a_child(function) -> int:
    """The exit code of a forked process that calls `function`."""
    process = get_context("fork").Process(target=function)
    process.start()
    process.join(timeout=60)
    return process.exitcode


def test_an_item_is_made_once(store, said):
    assert store.find(KEY) is None
    place = store.make(KEY, build)
    assert place == store.place(KEY) == store.find(KEY)
    assert names(place) == ["a.txt", "b.bin", LIST]
    assert store.make(KEY, forbidden) == place
    assert store.find("f" * 16) is None
    assert said == [] and leftovers(store) == []


def test_an_item_that_can_not_be_made_leaves_nothing(store):
    for error in (ZeroDivisionError, KeyboardInterrupt):

        def fails(folder, checkpoint, error=error):
            build(folder, checkpoint)
            raise error

        with pytest.raises(error):
            store.make(KEY, fails)
        assert store.find(KEY) is None
    store.make(KEY, build)
    assert contents(store)["a.txt"] == b"first" and leftovers(store) == []


def test_a_build_finds_its_checkpoint_again_which_goes_when_it_is_done(store):
    def killed(folder, checkpoint):
        checkpoint.save("state", {}, 7)
        raise KeyboardInterrupt

    def resumed(folder, checkpoint):
        assert checkpoint.load("state") == ({}, 7)
        build(folder, checkpoint)

    with pytest.raises(KeyboardInterrupt):
        store.make(KEY, killed)
    store.make(KEY, resumed)
    assert leftovers(store) == []


def cut(place):
    (place / "b.bin").write_bytes(bytes(range(255)))


def flip(place):
    (place / "b.bin").write_bytes(bytes(range(255)) + b"\xfe")


def lose(place):
    (place / "a.txt").unlink()


def folder_for_file(place):
    lose(place)
    (place / "a.txt").mkdir()


def no_list(place):
    (place / LIST).unlink()


def cut_list(place):
    (place / LIST).write_text((place / LIST).read_text()[:-9])


def other_list(place):
    (place / LIST).write_text('["a.txt"]')


def folder_for_list(place):
    no_list(place)
    (place / LIST).mkdir()


def another_item(place):
    content = json.loads((place / LIST).read_text())
    (place / LIST).write_text(json.dumps({**content, "key": "another"}))


def file_for_item(place):
    shutil.rmtree(place)
    place.write_text("no folder")


DAMAGES = {
    cut: "the file b.bin is damaged (its SHA-256 differs",
    flip: "the file b.bin is damaged (its SHA-256 differs",
    lose: "the file a.txt is missing",
    folder_for_file: "the file a.txt is missing",
    no_list: f"its list {LIST} is damaged or missing",
    cut_list: f"its list {LIST} is damaged or missing",
    other_list: f"its list {LIST} is damaged or missing",
    folder_for_list: f"its list {LIST} is damaged or missing",
    file_for_item: f"its list {LIST} is damaged or missing",
    another_item: "its list names another item (another)",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_item_is_named_set_aside_and_made_anew(store, said, damage):
    place = store.make(KEY, build)
    whole = contents(store)
    damage(place)
    store.make(KEY, build)
    assert contents(store) == whole
    (line,) = said
    assert line.startswith(f"{place}: {DAMAGES[damage]}") and line.endswith("and made anew")
    (aside,) = [path for path in place.parent.iterdir() if path != place]
    assert aside.name in line and ".damaged-" in aside.name


def test_two_processes_make_an_item_once(store, said, tmp_path):
    log = tmp_path / "log"

    def slow(folder, checkpoint):
        with open(log, "a") as file:
            file.write("built\n")
        time.sleep(0.5)
        build(folder, checkpoint)

    process = get_context("fork").Process(target=store.make, args=(KEY, slow))
    process.start()
    deadline = time.monotonic() + 30
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    store.make(KEY, forbidden)
    process.join()
    assert process.exitcode == 0 and log.read_text() == "built\n"
    (line,) = said
    assert f"another process makes the item {KEY}: waiting for it" in line


def test_an_item_is_made_by_the_one_that_waits_where_the_other_is_killed(store, tmp_path):
    started = tmp_path / "started"

    def killed(folder, checkpoint):
        build(folder, checkpoint)
        started.touch()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)

    process = get_context("fork").Process(target=store.make, args=(KEY, killed))
    process.start()
    while not started.exists():
        time.sleep(0.01)
    store.make(KEY, build)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert contents(store)["a.txt"] == b"first" and leftovers(store) == []


def test_a_process_that_is_killed_leaves_nothing_half_written(store):
    def killed(folder, checkpoint):
        checkpoint.save("state", {"w": torch.ones(3)}, 7)
        build(folder, checkpoint)
        os.kill(os.getpid(), signal.SIGKILL)

    def resumed(folder, checkpoint):
        assert names(folder) == []
        assert checkpoint.load("state")[1] == 7
        build(folder, checkpoint)

    assert in_a_child(lambda: store.make(KEY, killed)) == -signal.SIGKILL
    assert store.find(KEY) is None
    store.make(KEY, resumed)
    assert leftovers(store) == []


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        store = Store(disk / "store")
        store.make("f" * 16, build)

        def large(folder, checkpoint):
            build(folder, checkpoint)
            (folder / "c.bin").write_bytes(bytes(2**19))

        def large_state(folder, checkpoint):
            checkpoint.save("state", {}, "small")
            checkpoint.save("state", {"w": torch.ones(2**17)}, "large")

        for fails in (large, large_state):
            with pytest.raises(OSError, match="No space left"):
                store.make(KEY, fails)
            assert store.find(KEY) is None and store.find("f" * 16)
        store.make(KEY, lambda folder, checkpoint: (folder / "a").write_text(checkpoint.load("state")[1]))
        assert (store.find(KEY) / "a").read_text() == "small"


def test_measurements_are_kept_and_extended(store, said):
    with store.keep(KEY) as checkpoint:
        assert checkpoint.load("levels") is None
        checkpoint.save("levels", {}, [1])
    with store.keep(KEY) as checkpoint:
        assert checkpoint.load("levels") == ({}, [1])
    with store.keep("f" * 16) as checkpoint:
        assert checkpoint.load("levels") is None


@pytest.fixture
def elsewhere(tmp_path):
    """A copy of an item in another folder, among others, as data/models has it."""
    other = Store(tmp_path / "other")
    copy_item(other.make(KEY, build), tmp_path / "models", "erm")
    return tmp_path / "models"


def test_a_copy_has_a_list_of_its_own(elsewhere):
    assert names(elsewhere) == ["a.txt", "b.bin", f"erm.{LIST}"]


def test_an_item_that_lies_elsewhere_is_adopted_once(store, elsewhere):
    assert store.adopt(elsewhere / f"erm.{LIST}")
    assert names(store.find(KEY)) == ["a.txt", "b.bin", LIST]
    store.make(KEY, forbidden)
    assert not store.adopt(elsewhere / f"erm.{LIST}")
    assert leftovers(store) == []


@pytest.mark.parametrize("damage", [cut, flip, lose, folder_for_file])
def test_what_is_damaged_is_not_adopted(store, elsewhere, damage):
    damage(elsewhere)
    assert not store.adopt(elsewhere / f"erm.{LIST}")
    assert store.find(KEY) is None


@pytest.mark.parametrize("content", [None, "", "{", "[]", "null", '{"key": 3}', '{"key": "x", "files": 4}'])
def test_what_is_no_list_is_not_adopted(store, elsewhere, content):
    listing = elsewhere / f"erm.{LIST}"
    listing.unlink() if content is None else listing.write_text(content)
    assert not store.adopt(listing)


def test_nothing_is_adopted_from_or_into_other_folders(store, elsewhere, tmp_path):
    (tmp_path / "secret").write_text("first")
    listing = elsewhere / f"erm.{LIST}"
    content = json.loads(listing.read_text())
    for wrong in ({"files": {"../secret": content["files"]["a.txt"]}}, {"key": "../../x"}, {"key": ""}):
        listing.write_text(json.dumps({**content, **wrong}))
        assert not store.adopt(listing)


def test_two_processes_adopt_an_item_at_once(store, elsewhere):
    def adopt():
        os._exit(0 if store.adopt(elsewhere / f"erm.{LIST}") in (True, False) else 1)

    processes = [get_context("fork").Process(target=adopt) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert store.find(KEY)


def used_days_ago(path, days):
    """Give `path` and what is below it the time of so many days ago."""
    for each in (*path.rglob("*"), path):
        os.utime(each, (time.time() - days * 86400,) * 2)


def test_what_no_run_has_used_for_a_while_is_removed(store):
    old, used = (store.make(key, build) for key in (KEY, "fedcba9876543210"))
    with store.keep("a" * 16) as measured:
        measured.save("0.1", {}, 0.5)
    for entry in store.entries():
        used_days_ago(entry, 40)
    store.find(used.name)  # a run that finds an item uses it
    assert store.prune(50) == []
    assert sorted(path.name for path in store.prune(30)) == sorted([old.name, "a" * 16])
    assert store.find(old.name) is None and store.find(used.name) == used
    assert store.prune(0) == [used] and store.entries() == []


def test_an_item_in_work_is_not_removed(store):
    def pruned_meanwhile(folder, checkpoint):
        checkpoint.save("state", {}, 7)
        used_days_ago(store.folder, 40)
        assert store.entries() and store.prune(30) == []
        assert checkpoint.load("state") == ({}, 7)
        build(folder, checkpoint)

    store.make(KEY, pruned_meanwhile)
    assert contents(store)["a.txt"] == b"first"


def test_the_command_says_the_size_and_what_went(store, monkeypatch, capsys):
    store.make(KEY, build)
    before = size(store.folder)
    assert before > 256
    for days, said in (("1", "1 entries, 0.0 MiB; removed 0;"), ("0", "1 entries, 0.0 MiB; removed 1; now 0.0 MiB")):
        monkeypatch.setattr("sys.argv", ["store", str(store.folder), "--unused-days", days])
        main()
        assert said in capsys.readouterr().out
    assert size(store.folder) == 0
    monkeypatch.setattr("sys.argv", ["store", str(store.folder), "--unused-days", "-1"])
    with pytest.raises(SystemExit, match="-1.0: must be 0 or more"):
        main()
