"""A zoo on disk, written without our code; a server that fails as it is told to; a run with a real student."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own and is online."""
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("XMODAL_OFFLINE", raising=False)
    return tmp_path / "cache"


def safetensors_bytes(payload: bytes) -> bytes:
    """A valid file with one uint8 tensor, by the format's definition."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}}).encode()
    return struct.pack("<Q", len(header)) + header + payload


FILES = {
    "model.safetensors": safetensors_bytes(bytes(range(256)) * 2000),
    "config.json": b'{"architecture": "test"}',
    "README.md": "Ein Schüler.\n".encode(),
    "1_Pooling/config.json": b"{}",
}


def entry_of(files: dict[str, bytes], name: str = "emoji", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "modality": "image",
        "library": "timm",
        "base": f"students/{name}/",
        "size": sum(map(len, files.values())),
        "files": {
            path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()
        },
        **changes,
    }


@dataclass
class Zoo:
    folder: Path
    files: dict[str, bytes]

    def write_index(self, *entries: dict[str, Any], **keys: Any) -> None:
        (self.folder / "index.json").write_text(json.dumps({"format": 1, "entries": list(entries), **keys}))

    def write_file(self, path: str, data: bytes, name: str = "emoji") -> None:
        target = self.folder / "students" / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


@pytest.fixture
def make_zoo(tmp_path: Path) -> Callable[..., Zoo]:
    """A zoo with one entry, ``emoji``, of the given files."""

    def make(files: dict[str, bytes] = FILES, **changes: Any) -> Zoo:
        zoo = Zoo(tmp_path / "zoo", dict(files))
        zoo.folder.mkdir()
        zoo.write_index(entry_of(files, **changes))
        for path, data in files.items():
            zoo.write_file(path, data)
        return zoo

    return make


@pytest.fixture
def zoo(make_zoo: Callable[..., Zoo]) -> Zoo:
    return make_zoo()


@dataclass
class Fault:
    """What goes wrong with one request: a ``status``, or at ``count`` bytes: drop, stall, shorten, claim, shift."""

    kind: str
    count: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def fault() -> Callable[..., Fault]:
    def make(kind: str, count: int = 0, **headers: str) -> Fault:
        return Fault(kind, count, {name.replace("_", "-"): value for name, value in headers.items()})

    return make


@dataclass
class Server:
    """Serves a folder. ``faults[path]`` are used up one a request; ``requests`` are (path, Range header)."""

    folder: Path
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def asked(self, suffix: str) -> list[str | None]:
        return [given for path, given in self.requests if path.endswith(suffix)]

    def fail(self, suffix: str, *faults: Fault) -> None:
        self.faults[suffix] = list(faults)

    def next_fault(self, path: str) -> Fault | None:
        for suffix, faults in self.faults.items():
            if path.endswith(suffix) and faults:
                return faults.pop(0)
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    state: Server

    def do_GET(self) -> None:
        path, state = self.path.split("?")[0], self.state
        state.requests.append((path, self.headers.get("Range")))
        fault = state.next_fault(path) or Fault("none")
        if fault.kind == "status":
            self.send_response(fault.count)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        file = state.folder / path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        data, start = file.read_bytes(), 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and state.ranges:
            start = int(match[1])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault.kind == "shift":  # another part than the one asked for
                start -= fault.count
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        if fault.kind == "shorten":
            body = body[: fault.count]
        self.send_header("Content-Length", str(fault.count if fault.kind == "claim" else len(body)))
        self.end_headers()
        self.wfile.write(body[: fault.count] if fault.kind in ("drop", "stall") else body)
        self.wfile.flush()
        if fault.kind == "stall":
            state.closing.wait(30)
        if fault.kind in ("drop", "stall", "claim"):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    """Serves a folder on 127.0.0.1 until the test ends."""
    running: list[tuple[http.server.ThreadingHTTPServer, Server]] = []

    def start(folder: Path) -> Server:
        state = Server(folder)
        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
        httpd.daemon_threads = True
        state.address = f"http://127.0.0.1:{httpd.server_port}"
        threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True).start()
        running.append((httpd, state))
        return state

    yield start
    for httpd, state in running:
        state.closing.set()
        httpd.shutdown()
        httpd.server_close()


@pytest.fixture
def server(zoo: Zoo, serve: Callable[[Path], Server]) -> Server:
    return serve(zoo.folder)


SUMMARY = {
    "recipe": "tiny-text-to-image",
    "description": "A sentence teacher makes a tiny image student.",
    "student": {"name": "image", "modalities": ["image"], "parameters": 12345},
    "metrics": {
        "seen": {"text_to_image_recall@10": 0.93},
        "unseen": {"text_to_image_recall@10": 0.625, "odd": float("nan")},
    },
    "baseline": {
        "recipe": "tiny-without-teacher",
        "metrics": {"unseen": {"text_to_image_recall@10": {"mean": 0.25, "std": 0.01, "runs": 3}}},
    },
}
RECIPE = """
teacher: {name: sentence, model: sentence-transformers/all-MiniLM-L6-v2}
student: {name: image, model: test_efficientnet}
data: {train: "package://emoji/train-*.tar"}
"""
METADATA = {
    "recipe": "tiny-text-to-image",
    "space": {"teacher": {"name": "sentence", "model": "all-MiniLM-L6-v2"}, "tap": "text.embedding", "dim": 16},
    "licence": "CC-BY-4.0",
}


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real image student with statistics that a fresh network does not have."""
    import torch

    from xmodal.adapters import create_student
    from xmodal.export.native import save_student

    torch.manual_seed(0)
    student = create_student("image", model="test_efficientnet", weights="random", embed_dim=16, image_size=64)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        student.train()({"image": torch.randn(16, 3, 64, 64)}, ["image.embedding"])
    folder = tmp_path_factory.mktemp("student") / "student"
    save_student(student, folder, METADATA)
    return folder


@pytest.fixture
def run(tmp_path: Path, student_folder: Path) -> Path:
    """The folder of a finished run."""
    folder = tmp_path / "run"
    shutil.copytree(student_folder, folder / "student")
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "recipe.resolved.yaml").write_text(RECIPE)
    return folder
