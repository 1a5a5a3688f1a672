"""Memory for batches: of one that nobody holds any more for the next one, or shared between processes."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

_KEPT = 4  # what two models take: for each a batch of bytes and one of numbers
_free: deque[NDArray[np.uint8]] = deque(maxlen=_KEPT)


def empty_batch(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of any content, contiguous.

    In a loading worker it is shared with the main process, so that nothing is copied to send it. Elsewhere its memory
    may be that of an earlier one of the same size of which no tensor is left: fetching as much anew from the system
    takes longer than all that is done to the pictures that go into it.
    """
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    if get_worker_info() is not None:
        # as torch's own default_collate does
        storage: torch.UntypedStorage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=torch.uint8).set_(storage).view(dtype).view(shape)
    memory = _take(size)
    lent = memory[:]  # which lives as long as any tensor that shares its memory
    weakref.finalize(lent, _free.append, memory).atexit = False
    return torch.from_numpy(lent).view(dtype).view(shape)


def release() -> None:
    """Give what is kept for further batches back to the system."""
    _free.clear()


def _take(size: int) -> NDArray[np.uint8]:
    for _ in range(len(_free)):
        try:
            memory = _free.popleft()
        except IndexError:  # another thread was faster
            break
        if memory.nbytes == size:
            return memory
        _free.append(memory)
    return np.empty(size, dtype=np.uint8)  # numpy takes big arrays from huge pages, torch does not
