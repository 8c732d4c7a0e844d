"""A local web server, archives to put on it, and the small network that measures how hard a stand-in is."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesft.data import Images


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


class Mirror:
    """A mirror of either kind: `base` names it, `put` puts a file into it."""

    def __init__(self, kind: str, host: Host, root):
        self.host, self.root = host, root
        self.base = str(root) if kind == "folder" else host.base + "/base"

    def put(self, name: str, content: bytes) -> None:
        self.host.put(f"/base/{name}", content)
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(content)


@pytest.fixture(params=["folder", "url"])
def mirror(request, host, tmp_path) -> Mirror:
    return Mirror(request.param, host, tmp_path / "mirror")


@pytest.fixture
def reference_accuracy():
    """Test accuracy of three convolutions after a short training: what any network here should about reach."""

    def measure(images: Images, epochs: int) -> float:
        torch.manual_seed(0)
        layers, channels = [], 3
        for width in (32, 64, 96):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, images.classes))
        data = images.standardised()
        x, y = data["train"]
        steps = -(-len(y) // 64)
        optimizer = torch.optim.Adam(model.parameters())
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps * epochs + 1)
        for _ in range(epochs):
            for batch in torch.randperm(len(y)).tensor_split(steps):
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
                scheduler.step()
        model.eval()
        with torch.no_grad():
            return float((model(data["test"].images).argmax(1) == data["test"].labels).float().mean())

    return measure


@pytest.fixture
def colour_accuracy():
    """Test accuracy of the nearest mean colour of a class."""

    def measure(images: Images) -> float:
        colours = {name: part.images.float().mean((2, 3)) for name, part in images.parts.items()}
        labels = images.parts["train"].labels
        means = torch.stack([colours["train"][labels == label].mean(0) for label in range(images.classes)])
        guess = torch.cdist(colours["test"], means).argmin(1)
        return float((guess == images.parts["test"].labels).float().mean())

    return measure
