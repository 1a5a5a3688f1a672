"""One process a shard: a file that only one can create, kept fresh while its owner lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

BEAT = 10.0
"""Seconds between two signs of life."""
PATIENCE = 120.0
"""Seconds without one after which an owner counts as dead."""


class Busy(Exception):  # noqa: N818  it is not an error
    """Another process holds the lock; the message says which."""


class Lock:
    """Hold ``path`` while inside; raises :class:`Busy` where another process does.

    The file is created by ``O_EXCL``, which one process alone can do, on network file systems too. It names its owner;
    a thread touches it every :data:`BEAT` seconds. An owner that is dead on this machine, or silent for
    :data:`PATIENCE` seconds, has lost it. Should two hold it all the same, after a long sleep say, both write the same
    whole file.
    """

    def __init__(self, path: Path, *, beat: float = BEAT) -> None:
        self.path, self.beat = path, beat
        self._token = uuid.uuid4().hex
        self._released = threading.Event()

    def __enter__(self) -> Self:
        if not self._create(self.path):
            owner = _read(self.path)
            if owner is not None and not self._take_over(owner):
                raise Busy(f"{owner.get('host', '?').partition(' ')[0]}, pid {owner.get('pid', '?')}")
            if owner is None and not self._create(self.path):  # it was given back in between
                raise Busy("another process")
        self._released.clear()
        threading.Thread(target=self._keep_fresh, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._released.set()
        if (_read(self.path) or {}).get("token") == self._token:
            self.path.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        content = {"pid": os.getpid(), "host": this_host(), "time": time.time(), "token": self._token}
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        return True

    def _take_over(self, owner: dict[str, Any]) -> bool:
        """Replace a dead owner. Of several that try one wins: who creates the file named after the dead one."""
        if not self._is_stale(self.path, owner):
            return False
        right = self.path.with_name(f"{self.path.name}.{owner.get('token', 'unreadable')}")
        if not self._create(right):
            if self._is_stale(right, _read(right) or {}):  # whoever had the right died with it
                right.unlink(missing_ok=True)
            return False
        try:
            if (_read(self.path) or {}).get("token") != owner.get("token"):
                return False  # it was replaced while we looked
            self.path.unlink(missing_ok=True)
            return self._create(self.path)
        finally:
            right.unlink(missing_ok=True)

    def _is_stale(self, path: Path, owner: dict[str, Any]) -> bool:
        if owner.get("host") == this_host() and isinstance(owner.get("pid"), int) and not _is_alive(owner["pid"]):
            return True
        try:
            return _now_there(path.parent) - path.stat().st_mtime > PATIENCE
        except OSError:
            return False  # gone: the next attempt will see

    def _keep_fresh(self) -> None:
        while not self._released.wait(self.beat):
            with contextlib.suppress(OSError):
                if (_read(self.path) or {}).get("token") != self._token:
                    return
                os.utime(self.path)


def this_host() -> str:
    """This machine and its process numbers: containers may share a name and count processes apart."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {space}".strip()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    try:
        # a killed process that its parent has not asked after yet writes nothing any more
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    except (OSError, IndexError):
        return True


def _now_there(folder: Path) -> float:
    """The time by the clock that dates this folder's files: a server's may differ from ours."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as file:
        return os.fstat(file.fileno()).st_mtime


def _read(path: Path) -> dict[str, Any] | None:
    """What a lock says; None where there is none, empty where its owner has not written it yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
