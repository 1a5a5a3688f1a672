"""Fixtures shared by the whole suite: quiet libraries, two ranks, and a server that fails as it is told to."""

from __future__ import annotations

import http.client
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before any library is imported: no hub, and no thread pool per tokenizer. Two workers of the suite share two cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "160"

import pytest
from hypothesis import settings

# Timings on a shared machine say nothing, and a failure found once must be found again.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """Runs ``python SCRIPT RANK 2 STORE [INPUTS] OUTPUT`` once a rank, side by side; gives what each has saved."""

    def run(script: Path, inputs: Any = None) -> list[Any]:
        import torch

        folder, root = tmp_path_factory.mktemp(script.stem), Path(__file__).parents[1]
        files = [folder / "store"]
        if inputs is not None:
            torch.save(inputs, folder / "inputs.pt")
            files.append(folder / "inputs.pt")
        processes = [
            subprocess.Popen(
                [sys.executable, script, str(rank), "2", *files, folder / f"{rank}.pt"],
                stderr=subprocess.PIPE,
                text=True,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
            )
            for rank in range(2)
        ]
        try:  # generous: on a busy machine, importing torch alone can take a minute
            errors = [process.communicate(timeout=400)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]

    return run


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
    """Serves a folder, or what a server ``behind`` it gives. ``faults[path]`` are used up one a request for contents;
    ``requests`` are (path, Range header).
    """

    folder: Path
    behind: str = ""
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
        if state.behind:
            self.forward(fault)
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
        self.answer(body, fault)

    def answer(self, body: bytes, fault: Fault) -> None:
        state = self.state
        self.send_header("Content-Length", str(fault.count if fault.kind == "claim" else len(body)))
        self.end_headers()
        self.wfile.write(body[: fault.count] if fault.kind in ("drop", "stall") else body)
        self.wfile.flush()
        if fault.kind == "stall":
            state.closing.wait(30)
        if fault.kind in ("drop", "stall", "claim"):
            self.connection.shutdown(socket.SHUT_WR)  # the other side may read on what was sent

    def do_HEAD(self) -> None:
        self.forward(Fault("none"))

    def forward(self, fault: Fault) -> None:
        connection = http.client.HTTPConnection(self.state.behind)
        connection.request(self.command, self.path, headers=dict(self.headers))
        response = connection.getresponse()
        body = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        if self.command == "HEAD":
            self.send_header("Content-Length", response.getheader("Content-Length", "0"))
            self.end_headers()
        else:
            self.answer(body[: fault.count] if fault.kind == "shorten" else body, fault)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Serves a folder on 127.0.0.1 until the test ends."""
    running: list[tuple[http.server.ThreadingHTTPServer, Server]] = []

    def start(folder: Path, behind: str = "") -> Server:
        state = Server(folder, behind)
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
