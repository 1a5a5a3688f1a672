"""Several processes, and processes that are killed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

from xmodal.zoo import download

CODE = """
import sys
from xmodal.zoo import Patience, download
print(download("emoji", index=sys.argv[1], patience=Patience(timeout=20)))
"""


def start(server, **options):
    return subprocess.Popen([sys.executable, "-c", CODE, server.address], stdout=subprocess.PIPE, text=True, **options)


def test_downloads_at_once_fetch_every_file_once(server, zoo, fault, tmp_path):
    server.fail("model.safetensors", fault("stall", 200_000))
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        started = [start(server, stderr=stderr) for _ in range(3)]
    deadline = time.monotonic() + 20
    while log.read_text().count("emoji: waiting for another process that downloads it") < 2:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    server.closing.set()  # the stalled request ends
    folders = {process.communicate(timeout=30)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert server.asked("model.safetensors") == [None, "bytes=200000-"]
    assert server.asked("README.md") == [None]
    (folder,) = folders
    assert sorted(os.listdir(folder)) == ["1_Pooling", "README.md", "config.json", "model.safetensors"]


def test_a_killed_download_is_carried_on_by_the_next_and_leaves_no_lock(server, zoo, fault, cache):
    server.fail("model.safetensors", fault("stall", 300_000))
    process = start(server, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while sum(part.stat().st_size for part in cache.rglob("*.part")) < 300_000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(cache.rglob("model.safetensors"))
    folder = download("emoji", index=server.address)
    assert server.asked("model.safetensors") == [None, "bytes=300000-"]
    assert (folder / "model.safetensors").read_bytes() == zoo.files["model.safetensors"]


def test_a_terminal_sees_a_bar_and_a_file_sees_nothing(server, zoo):
    terminal, side = pty.openpty()
    try:
        on_terminal = start(server, stderr=side, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
        os.close(side)
        shown = b""
        while chunk := _read(terminal):
            shown += chunk
        assert on_terminal.wait(timeout=20) == 0
    finally:
        os.close(terminal)
    size = sum(map(len, zoo.files.values())) / 1000
    assert b"emoji" in shown
    assert f"{size:.1f}/{size:.1f} kB".encode() in shown
    folder = on_terminal.communicate()[0].strip()
    for path in zoo.files:
        os.remove(os.path.join(folder, path))
    to_a_file = start(server, stderr=subprocess.PIPE)
    assert to_a_file.communicate(timeout=20)[1] == ""


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side closed
        return b""
