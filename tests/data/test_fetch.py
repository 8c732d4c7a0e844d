"""Fetching published files: from a local server and from mirrors, good and damaged in every way that a host can be."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bayesft.data import FetchError, Source, fetch

GOOD = bytes(range(256)) * 2000  # two blocks of a download
BAD = b"<html>Not the file, but a page that says so</html>"
NAME = "images.gz"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Host:
    """A web server of a few fixed answers: path → (status, content, length that the header claims)."""

    def __init__(self):
        self.answers: dict[str, tuple[int, bytes, int | str]] = {}
        self.asked: list[str] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                host.asked.append(self.path)
                status, content, length = host.answers.get(self.path, (404, b"", 0))
                self.send_response(status)
                if length == "chunked":
                    self.send_header("Transfer-Encoding", "chunked")
                    content = b"%x\r\n" % (len(content) + 100) + content
                else:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, path: str, content: bytes, status: int = 200, length: int | str | None = None) -> str:
        """Answer `path` so from now on; its URL."""
        self.answers[path] = (status, content, len(content) if length is None else length)
        return self.base + path


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    host = Host()
    thread = threading.Thread(target=host.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield host
    host.server.shutdown()
    host.server.server_close()
    thread.join()


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
    mirror = str(tmp_path / "empty") if kind == "folder" else host.base + "/empty"
    folder = tmp_path / "folder"
    assert_fetched(fetch(source(host.put("/good", GOOD)), folder, mirror, "digits"), folder)


def test_the_message_names_a_mirror_that_does_not_have_the_file(tmp_path):
    with pytest.raises(FetchError) as error:
        fetch(source(), tmp_path / "folder", str(tmp_path / "mirror"), "digits")
    assert str(tmp_path / "mirror" / "digits" / NAME) in str(error.value)
    assert str(tmp_path / "mirror" / NAME) in str(error.value)
