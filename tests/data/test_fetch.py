"""Fetching published files: from a local server and from mirrors, good and damaged in every way that a host can be."""

import gzip
import hashlib
import io
import lzma
import re
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesft.data import FetchError, Source, fetch
from bayesft.data.fetch import SUMS, Limits, checked_mirror, fetch_mirrored, listed_in_sums, tar_members, zip_members
from tests.disks import small_disk

GOOD = bytes(range(256)) * 2000  # two blocks of a download
BAD = b"<html>Not the file, but a page that says so</html>"
NAME = "images.gz"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def source(*urls: str) -> Source:
    return Source(NAME, md5(GOOD), urls)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def assert_fetched(path: Path, folder: Path):
    """The file is there, whole, under its name, and nothing else is."""
    assert path == folder / NAME
    assert path.read_bytes() == GOOD
    assert files(folder) == [NAME]


FAULTS = {
    "cut short": lambda host: host.put("/bad", GOOD[:-1000], length=len(GOOD)),
    "cut to nothing": lambda host: host.put("/bad", b"", length=len(GOOD)),
    "another file": lambda host: host.put("/bad", BAD),
    "one wrong bit": lambda host: host.put("/bad", GOOD[:-1] + b"\xfe"),
    "not found": lambda host: host.put("/bad", b"", status=404),
    "server error": lambda host: host.put("/bad", GOOD, status=503),
    "nobody there": lambda host: "http://127.0.0.1:1/bad",
}


@pytest.fixture(params=FAULTS)
def bad_url(request, host) -> str:
    return FAULTS[request.param](host)


def test_a_good_file_is_fetched_into_a_folder_that_it_makes(host, tmp_path):
    folder = tmp_path / "new" / "folder"
    assert_fetched(fetch(source(host.put("/good", GOOD)), folder), folder)


def test_a_good_file_on_disk_needs_no_host(host, tmp_path):
    (tmp_path / NAME).write_bytes(GOOD)
    assert_fetched(fetch(source(host.put("/good", GOOD)), tmp_path, mirror=host.base), tmp_path)
    assert host.asked == []


def test_the_next_host_is_tried(host, bad_url, tmp_path):
    assert_fetched(fetch(source(bad_url, host.put("/good", GOOD)), tmp_path), tmp_path)
    assert host.asked[-1] == "/good"


def test_hosts_are_tried_in_order_and_only_until_one_works(host, tmp_path):
    urls = [host.put("/first", BAD), host.put("/second", GOOD), host.put("/third", GOOD)]
    assert_fetched(fetch(source(*urls), tmp_path), tmp_path)
    assert host.asked == ["/first", "/second"]


def test_nothing_damaged_is_left_and_the_message_says_what_to_do(host, bad_url, tmp_path):
    other = host.put("/other", BAD)
    with pytest.raises(FetchError) as error:
        fetch(source(bad_url, other), tmp_path)
    assert files(tmp_path) == []
    for part in (NAME, md5(GOOD), md5(BAD), bad_url, other, "data.mirror", "BAYESFT_MIRROR", "data.source=embedded"):
        assert part in str(error.value)


def test_after_a_failure_a_repaired_host_works(host, bad_url, tmp_path):
    with pytest.raises(FetchError):
        fetch(source(bad_url), tmp_path)
    assert_fetched(fetch(source(host.put("/bad", GOOD)), tmp_path), tmp_path)


def test_a_chunked_answer_that_is_cut_short_is_no_different(host, tmp_path):
    urls = [host.put("/bad", GOOD[:1000], length="chunked"), host.put("/good", GOOD)]
    assert_fetched(fetch(source(*urls), tmp_path), tmp_path)


def test_an_answer_with_a_senseless_length_is_no_different(host, tmp_path):
    urls = [host.put("/bad", BAD, length="unknown"), host.put("/good", GOOD)]
    assert_fetched(fetch(source(*urls), tmp_path), tmp_path)


def test_a_file_damaged_on_disk_is_fetched_again(host, tmp_path):
    (tmp_path / NAME).write_bytes(GOOD[:-1])
    assert_fetched(fetch(source(host.put("/good", GOOD)), tmp_path), tmp_path)


def test_a_file_damaged_on_disk_does_not_stay(tmp_path):
    (tmp_path / NAME).write_bytes(BAD)
    with pytest.raises(FetchError):
        fetch(source(), tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("place", ["digits/images.gz", "images.gz"])
def test_a_mirror_folder_comes_before_the_hosts(host, tmp_path, place):
    mirror, folder = tmp_path / "mirror", tmp_path / "folder"
    (mirror / place).parent.mkdir(parents=True)
    (mirror / place).write_bytes(GOOD)
    assert_fetched(fetch(source(host.put("/good", GOOD)), folder, str(mirror), "digits"), folder)
    assert host.asked == []
    assert files(mirror) == [place]


@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("place", ["/base/digits/images.gz", "/base/images.gz"])
def test_a_mirror_url_comes_before_the_hosts(host, tmp_path, place, end):
    host.put(place, GOOD)
    url = host.put("/official", GOOD)
    assert_fetched(fetch(source(url), tmp_path, host.base + "/base" + end, "digits"), tmp_path)
    assert host.asked[-1] == place and "/official" not in host.asked


@pytest.mark.parametrize("place", ["digits/images.gz", "images.gz"])
def test_a_damaged_copy_in_a_mirror_folder_stops_the_run(host, tmp_path, place):
    mirror, folder = tmp_path / "mirror", tmp_path / "folder"
    (mirror / place).parent.mkdir(parents=True)
    (mirror / place).write_bytes(BAD)
    with pytest.raises(FetchError) as error:
        fetch(source(host.put("/good", GOOD)), folder, str(mirror), "digits")
    for part in (str(mirror / place), md5(GOOD), md5(BAD), f"{len(BAD)} bytes", "mirror"):
        assert part in str(error.value)
    assert host.asked == []
    assert files(folder) == []
    (mirror / place).write_bytes(GOOD)
    assert_fetched(fetch(source(), folder, str(mirror), "digits"), folder)


@pytest.mark.parametrize("length", [None, 2 * len(BAD)])
@pytest.mark.parametrize("path", ["/base/digits/images.gz", "/base/images.gz"])
def test_a_damaged_copy_at_a_mirror_url_stops_the_run(host, tmp_path, path, length):
    place = host.put(path, BAD, length=length)
    with pytest.raises(FetchError) as error:
        fetch(source(host.put("/good", GOOD)), tmp_path, host.base + "/base", "digits")
    for part in (place, md5(GOOD), md5(BAD)):
        assert part in str(error.value)
    assert host.asked[-1] == path and "/good" not in host.asked
    assert files(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_a_mirror_without_the_file_leaves_it_to_the_hosts(host, tmp_path, kind):
    (tmp_path / "empty").mkdir()
    mirror = str(tmp_path / "empty") if kind == "folder" else host.base + "/empty"
    folder = tmp_path / "folder"
    assert_fetched(fetch(source(host.put("/good", GOOD)), folder, mirror, "digits"), folder)


def test_the_message_names_a_mirror_that_does_not_have_the_file(tmp_path):
    (tmp_path / "mirror").mkdir()
    with pytest.raises(FetchError) as error:
        fetch(source(), tmp_path / "folder", str(tmp_path / "mirror"), "digits")
    assert str(tmp_path / "mirror" / "digits" / NAME) in str(error.value)
    assert str(tmp_path / "mirror" / NAME) in str(error.value)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_mirror_that_says_that_a_file_is_not_there_has_none(host, tmp_path, status):
    host.put("/part", b"", status=status)
    assert fetch_mirrored("part", tmp_path, host.base, "digits", lambda _: None) is None


def test_without_a_mirror_a_file_comes_from_the_folder_or_is_none(tmp_path):
    assert fetch_mirrored("part", tmp_path, None, "digits", lambda _: None) is None
    (tmp_path / "part").write_bytes(GOOD)
    assert fetch_mirrored("part", tmp_path, None, "digits", lambda _: None) == tmp_path / "part"
    assert fetch_mirrored("part", tmp_path, None, "digits", lambda _: "damaged") is None
    assert files(tmp_path) == []


@pytest.mark.parametrize("mirror", ["answers 503", "http://127.0.0.1:1"])
def test_a_mirror_that_cannot_be_read_stops_the_run(host, tmp_path, mirror):
    if mirror == "answers 503":
        host.put("/digits/images.gz", GOOD, status=503)
        mirror = host.base
    with pytest.raises(FetchError, match="mirror cannot be read"):
        fetch(source(host.put("/good", GOOD)), tmp_path, mirror, "digits")
    assert "/good" not in host.asked and files(tmp_path) == []


def test_a_mirror_that_is_no_folder_is_said(host, tmp_path):
    url = host.put("/good", GOOD)
    for mirror in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(FetchError, match=f"{mirror}: the mirror is no folder that exists"):
            fetch(source(url), tmp_path / "folder", str(mirror), "digits")
    assert host.asked == []


def test_blanks_around_a_mirror_and_the_home_folder(host, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my mirror").mkdir()
    (tmp_path / "my mirror" / NAME).write_bytes(GOOD)
    host.put(f"/base/{NAME}", GOOD)
    for i, mirror in enumerate((" ~/my mirror\n", f" {host.base}/base/ ")):
        assert_fetched(fetch(source(), tmp_path / str(i), mirror, "digits"), tmp_path / str(i))
    assert checked_mirror(None) is checked_mirror(" ") is None


@pytest.mark.parametrize(
    "mirror",
    ["http://me:secret@localhost/m", "https://secret@localhost", "https://localhost/m?token=secret", "ftp://secret/m"],
)
def test_an_address_that_is_not_to_be_written_down_is_refused_and_not_repeated(tmp_path, mirror):
    with pytest.raises(ValueError, match="must be a folder, or an address") as error:
        fetch(source(), tmp_path, mirror)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("kind", ["mirror", "host"])
def test_a_full_disk_is_not_blamed_on_the_mirror_or_a_host(host, tmp_path, kind):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / NAME).write_bytes(GOOD)
    url = host.put("/good", GOOD)
    with small_disk(tmp_path / "small", kib=64) as folder:
        with pytest.raises(OSError, match=f"{folder / NAME} cannot be written: .*No space left") as error:
            fetch(source(url), folder, str(tmp_path / "mirror") if kind == "mirror" else None)
        assert "irror" not in str(error.value).replace(str(tmp_path), "") and files(folder) == []


def test_a_folder_in_place_of_a_file_gives_way(host, tmp_path):
    (tmp_path / "folder" / NAME / "inside").mkdir(parents=True)
    with pytest.raises(FetchError, match="a folder in place of the file"):
        fetch(source(), tmp_path / "folder")
    (tmp_path / "folder" / NAME / "inside").mkdir(parents=True)
    assert_fetched(fetch(source(host.put("/good", GOOD)), tmp_path / "folder"), tmp_path / "folder")


SHA256 = hashlib.sha256(GOOD).hexdigest()


def from_sums(mirror: str, folder: Path) -> Path | None:
    return fetch_mirrored(NAME, folder, mirror, "digits", listed_in_sums(NAME, mirror, "digits"))


@pytest.mark.parametrize(
    "line", [f"{SHA256}  digits/{NAME}", f"{SHA256.upper()} *./digits/{NAME}", f"{SHA256}  {NAME}\r"]
)
def test_a_file_that_the_mirror_lists_is_verified_by_its_list(mirror, tmp_path, line):
    mirror.put(f"digits/{NAME}", GOOD)
    mirror.put(SUMS, f"{'0' * 64}  other/{NAME}\n{line}\n".encode())
    for _ in range(2):
        assert_fetched(from_sums(mirror.base, tmp_path / "folder"), tmp_path / "folder")
    (tmp_path / "folder" / NAME).write_bytes(BAD)
    assert_fetched(from_sums(mirror.base, tmp_path / "folder"), tmp_path / "folder")


@pytest.mark.parametrize(
    ("content", "sums", "message"),
    [
        (BAD, f"{SHA256}  digits/{NAME}", "expected sha256"),
        (GOOD, f"{SHA256[::-1]}  digits/{NAME}", "expected sha256"),
        (GOOD, f"{SHA256}  other/{NAME}", "does not list it"),
        (GOOD, "<html>", "does not list it"),
        (GOOD, None, "to verify it by"),
    ],
    ids=["damaged", "wrong sum", "another name", "no list", "missing list"],
)
def test_a_file_that_the_list_of_the_mirror_does_not_vouch_for_stops_the_run(mirror, tmp_path, content, sums, message):
    mirror.put(f"digits/{NAME}", content)
    if sums is not None:
        mirror.put(SUMS, sums.encode())
    with pytest.raises(FetchError, match=message):
        from_sums(mirror.base, tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir())


def test_a_list_that_cannot_be_read_stops_the_run_and_a_mirror_without_the_file_needs_none(host, tmp_path):
    assert from_sums(host.base, tmp_path) is None
    host.put(f"/digits/{NAME}", GOOD)
    host.put(f"/{SUMS}", b"", status=500)
    with pytest.raises(FetchError, match="needed to verify"):
        from_sums(host.base, tmp_path)
    assert files(tmp_path) == []


EXPECTED = re.compile(r"set/[a-z]+\.txt")
LIMITS = Limits(EXPECTED, members=4, largest=2000, total=4500)
MEMBERS = {"set/a.txt": b"first", "set/b.txt": b"", "set/c.txt": bytes(2000)}


def tar(members: dict[str, bytes], mode: str = "w", **changes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


READERS = {"tar": (tar_members, tar), "zip": (zip_members, zipped)}


@pytest.mark.parametrize("kind", READERS)
@given(members=st.dictionaries(st.from_regex(EXPECTED, fullmatch=True), st.binary(max_size=1100), max_size=4))
@settings(max_examples=15, deadline=None)
def test_members_are_what_was_packed(tmp_path_factory, kind, members):
    read, pack = READERS[kind]
    path = tmp_path_factory.mktemp("archive") / "archive"
    path.write_bytes(pack(members))
    assert dict(read(path, LIMITS)) == members


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("name", ["../a.txt", "/set/a.txt", "set/../a.txt", "set\\a.txt", "set/a.exe", "./set/a.txt"])
def test_members_of_other_names_are_refused(tmp_path, kind, name):
    read, pack = READERS[kind]
    (tmp_path / "archive").write_bytes(pack({"set/b.txt": b"", name: b"x"}))
    with pytest.raises(ValueError, match="archive: unexpected member"):
        list(read(tmp_path / "archive", LIMITS))
    assert files(tmp_path) == ["archive"]


@pytest.mark.parametrize("kind", READERS)
def test_members_that_are_too_large_are_refused(tmp_path, kind):
    read, pack = READERS[kind]
    (tmp_path / "archive").write_bytes(pack(MEMBERS))
    with pytest.raises(ValueError, match="2000 bytes, at most 1999"):
        list(read(tmp_path / "archive", replace(LIMITS, largest=1999)))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(("change", "said"), [({"members": 2}, "at most 2 and"), ({"total": 2004}, "and 2004 bytes")])
def test_archives_of_too_many_members_or_bytes_are_refused(tmp_path, kind, change, said):
    read, pack = READERS[kind]
    (tmp_path / "archive").write_bytes(pack(MEMBERS))
    with pytest.raises(ValueError, match=said):
        list(read(tmp_path / "archive", replace(LIMITS, **change)))


def bomb(kind: str, size: int) -> bytes:
    """An archive of a few KB that unpacks to `size` bytes of nothing: in a member, or in a header before it."""
    if kind == "zip":
        return zipped({"set/a.txt": bytes(size)})
    if kind == "tar":
        return gzip.compress(tar({"set/a.txt": bytes(size)}), 1)
    if kind == "long name":
        name = tarfile.TarInfo("././@LongLink")
        name.type, name.size = tarfile.GNUTYPE_LONGNAME, size
        return gzip.compress(name.tobuf(tarfile.GNU_FORMAT) + bytes(size) + tar(MEMBERS), 1)
    attributes = tarfile.TarInfo("pax")
    attributes.type, attributes.size = tarfile.XHDTYPE, size
    return gzip.compress(attributes.tobuf(tarfile.USTAR_FORMAT) + bytes(size) + tar(MEMBERS), 1)


@pytest.mark.parametrize("kind", ["zip", "tar", "long name", "attributes"])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, kind):
    size = 48 << 20
    (tmp_path / "bomb").write_bytes(bomb(kind, size))
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"(?s)bomb: .*{size} bytes"):
        list((zip_members if kind == "zip" else tar_members)(tmp_path / "bomb", LIMITS))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, type):
    (tmp_path / "archive").write_bytes(tar({"set/a.txt": b""}, type=type, linkname="/etc/hostname"))
    with pytest.raises(ValueError, match="unexpected member"):
        list(tar_members(tmp_path / "archive", LIMITS))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("damage", ["cut short", "cut to nothing", "another file", "wrong bytes"])
def test_damaged_archives_are_named(tmp_path, kind, damage):
    noise = hashlib.shake_128(b"noise").digest(2000)
    members = {**MEMBERS, "set/d.txt": noise}
    whole = zipped(members) if kind == "zip" else tar(members)
    whole = {"tar.gz": gzip.compress, "tar.xz": lzma.compress}.get(kind, bytes)(whole)
    if damage == "wrong bytes":
        if kind in ("tar", "tar.gz"):
            pytest.skip("a tar has no checksum of its contents, and gzip's comes after the last member")
        at = whole.index(noise[:100]) if noise[:100] in whole else len(whole) // 2
        content = whole[:at] + bytes(byte ^ 0x55 for byte in whole[at : at + 40]) + whole[at + 40 :]
    else:
        # A tar ends with 8 KB of nothing: the cut must reach the contents.
        cut = whole.index(noise[-100:]) if kind == "tar" else len(whole) - 100
        content = {"cut short": whole[:cut], "cut to nothing": b"", "another file": BAD}[damage]
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(ValueError, match="broken: not a whole"):
        list((zip_members if kind == "zip" else tar_members)(tmp_path / "broken", LIMITS))
