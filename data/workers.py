"""Batches in order, from this process or from workers, without touching the global random state."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader

from xmodal.data.batches import Batches, Loaded
from xmodal.data.memory import release
from xmodal.errors import DataError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def load(
    batches: Batches, numbers: Iterable[int], *, num_workers: int, start_method: str | None = None
) -> Generator[Loaded, None, None]:
    """``batches[number]`` for each of the ``numbers``, in their order whatever ``num_workers`` is.

    Workers live as long as this generator: close it, or drop it, and they end. Raises :class:`DataError` where a batch
    has an error, or a worker dies.
    """
    loader = DataLoader(
        batches,
        batch_size=None,  # an item is a whole batch already
        sampler=numbers,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_prepare_worker,
        multiprocessing_context=start_method if num_workers else None,
        generator=torch.Generator(),  # else the workers' seed would be drawn from the global generator
    )
    iterator = _start(loader)
    try:
        for loaded in _guarded(iterator):
            if loaded.error is not None:
                raise DataError(loaded.error)
            if loaded.batch is not None:
                loaded.batch = batches.finish(loaded.batch)
            yield loaded
    finally:
        # explicitly: an exception's traceback would keep the iterator, and with it the workers, alive
        getattr(iterator, "_shutdown_workers", lambda: None)()
        release()


def _guarded(iterator: Iterator[Loaded]) -> Iterator[Loaded]:
    """Turn what the death of a worker looks like from here, a timeout or a connection that broke, into its obituary."""
    while True:
        try:
            loaded = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            dead = None if "in DataLoader worker process" in str(error) else _dead_worker(iterator)
            if dead is None:
                raise
            raise DataError(_obituary(dead)) from error
        yield loaded


def _dead_worker(iterator: Iterator[Loaded]) -> BaseProcess | None:
    workers = getattr(iterator, "_workers", [])
    if not workers:
        return None
    wait([worker.sentinel for worker in workers], timeout=5)  # its sockets close before it counts as dead
    return next((worker for worker in workers if worker.exitcode is not None), None)


def _start(loader: DataLoader[Loaded]) -> Iterator[Loaded]:
    """Start the workers, and put the handler of SIGCHLD back that was there before.

    torch's own handler raises wherever the main thread happens to be when a worker dies, in the middle of a step of the
    optimizer for instance. Without it the death is found, some seconds later, by whoever asks for the next batch.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def _prepare_worker(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the main one decides whether it still wants batches
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Let the C library keep what a picture took for the next one, rather than give it back and fetch it anew.

    The pages of memory fetched anew are zeroed one by one, which takes a tenth of the time of decoding into them.
    """
    try:
        allow = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # not glibc
    for option, size in ((_TRIM_THRESHOLD, 2**28), (_TOP_PAD, 2**24), (_MMAP_THRESHOLD, 2**25)):
        allow(option, size)


def _end_with_parent() -> None:
    """End this worker when the main process has ended, however it did.

    torch's own watch remembers who the parent is when it starts. Where the main process was killed before that, while
    workers were starting, the parent is already another, and a worker would wait for it for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # from a thread, and with nobody left to hand anything to


def _obituary(worker: BaseProcess) -> str:
    code = worker.exitcode or 0
    name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    causes = {
        "SIGKILL": "The system does that when memory runs out: try fewer data.num_workers or a smaller batch_size.",
        "SIGBUS": "Shared memory ran out: enlarge /dev/shm (docker: --shm-size), or set data.num_workers=0.",
    }
    mend = causes.get(name, "Set data.num_workers=0 to see the error where it happens.")
    died = f"A loading worker (pid {worker.pid}) died: {name}."
    return f"{died} {mend} A run goes on from its last checkpoint with --resume."


def _as_it_is(loaded: Any) -> Any:
    return loaded
