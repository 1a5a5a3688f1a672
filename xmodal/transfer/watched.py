"""Calls that may hang, with a limit on how long anybody waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from xmodal.transfer.patience import SILENCE, InterruptedTransferError

_Call = tuple[Callable[..., Any], tuple[Any, ...], "SimpleQueue[tuple[Any, BaseException | None]]"]


class Watched:
    """Makes calls in a thread of its own, one after another; a call that takes too long is left behind in it.

    Who tries again after that needs another one: in this, later calls would wait behind the one that hangs.

    File systems have limits of their own on silence, some of them none at all; this one holds for all.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="xmodal-transfer").start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` returns or raises. Raises :class:`InterruptedTransferError` after ``timeout`` seconds."""
        reply: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._calls.put((function, arguments, reply))
        try:
            value, error = reply.get(timeout=self.timeout)
        except Empty:
            raise InterruptedTransferError(SILENCE) from None
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Let the thread end, once the call it is in does."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, arguments, reply = call
            try:
                reply.put((function(*arguments), None))
            except BaseException as error:  # it is raised where the call was made
                reply.put((None, error))
