"""The log of a run, and a disk that is full: said once, by what matters more than the log."""

from __future__ import annotations

import errno
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger("xmodal")


def is_full(error: BaseException | None) -> bool:
    """Whether this is the error of a disk, a quota or a file that can grow no more."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Inside, what xmodal logs goes to the file too, and the error that ends it with its traceback."""
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with _threads_silent_of_full_disks():
            yield
    except Exception:
        logger.exception("the run stopped")
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


class _Log(logging.FileHandler):
    """A log that cannot be written is no reason to bury in tracebacks the error that is to be told."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # what could not be flushed
            super().close()


@contextmanager
def _threads_silent_of_full_disks() -> Iterator[None]:
    """TensorBoard writes in a thread of its own, whose traceback would say nothing new."""
    others = threading.excepthook

    def told_elsewhere(args: threading.ExceptHookArgs) -> None:
        if not is_full(args.exc_value):
            others(args)

    threading.excepthook = told_elsewhere
    try:
        yield
    finally:
        threading.excepthook = others
