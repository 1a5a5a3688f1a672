"""Shards fetched before they are read, by a few threads of this process that are told what comes next."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from xmodal.data.remote.held import Held

logger = logging.getLogger(__name__)
THREADS = 4
MOST_AHEAD = 64
_IDLE_SECONDS = 30.0


class Prefetcher:
    """Fetches what it was last told to want, in that order, and holds it until it is taken or wanted no more.

    ``fetch`` gives a shard by its number, or None where another process is at it or there is no room; then the next one
    is tried. Nothing is ever raised: who reads a shard that could not be fetched is told why. Belongs to one process.
    """

    def __init__(self, fetch: Callable[[int], Held | None]) -> None:
        self._fetch = fetch
        self._changed = threading.Condition()
        self._wanted: tuple[int, ...] = ()
        self._ready: dict[int, Held] = {}
        self._tried: set[int] = set()  # since it was last told; what failed is left to who reads it
        self._failed: set[int] = set()
        self._busy: set[int] = set()
        self._threads = 0
        self._closed = False

    def want(self, shards: Sequence[int]) -> None:
        """What comes next, the nearest first; at most 64 are looked at. Replaces what was wanted before."""
        with self._changed:
            self._wanted = tuple(dict.fromkeys(shards))[:MOST_AHEAD]
            self._tried.clear()
            for shard in self._ready.keys() - set(self._wanted):
                self._ready.pop(shard).file.close()
            while self._threads < min(THREADS, len(self._open())):
                self._threads += 1
                threading.Thread(target=self._work, daemon=True, name="xmodal-prefetch").start()
            self._changed.notify_all()

    def take(self, shard: int) -> Held | None:
        """Hand a fetched shard over, None where it is not ready."""
        with self._changed:
            return self._ready.pop(shard, None)

    def close(self) -> None:
        """Let the threads end after what they are at. Takes no lock: it may run anywhere, in a forked child as well."""
        self._closed = True

    def _open(self) -> list[int]:
        done = self._tried | self._failed | self._busy | self._ready.keys()
        return [shard for shard in self._wanted if shard not in done]

    def _work(self) -> None:
        while (shard := self._next()) is not None:
            held, failed = None, False
            try:
                held = self._fetch(shard)
            except Exception as error:
                failed = True
                logger.info("shard %d could not be fetched ahead: %s", shard, error)
            with self._changed:
                self._busy.discard(shard)
                self._tried.add(shard)
                if failed:
                    self._failed.add(shard)
                if held is None:
                    continue
                if shard in self._wanted and not self._closed:
                    self._ready[shard] = held
                else:
                    held.file.close()

    def _next(self) -> int | None:
        """The next shard to fetch; None where this thread is to end."""
        with self._changed:
            while not self._closed:
                if shards := self._open():
                    self._busy.add(shards[0])
                    return shards[0]
                if not self._changed.wait(_IDLE_SECONDS):
                    break
            self._threads -= 1
            return None
