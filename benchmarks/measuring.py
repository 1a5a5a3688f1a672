"""Time and peak memory of two ways to do one thing, side by side in one process."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Work = Callable[[], None]
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Measured:
    """``seconds``: median of a call; ``mebibytes``: what a call needs at its peak beyond what there was before."""

    seconds: float
    mebibytes: float


@dataclass(frozen=True)
class Pair:
    """Ours and the peer's; the ratios are ours by theirs, of time the median over interleaved pairs of calls."""

    ours: Measured
    peer: Measured
    time_ratio: float
    time_ratios: tuple[float, ...]

    @property
    def memory_ratio(self) -> float:
        return self.ours.mebibytes / max(self.peer.mebibytes, 1e-9)


def measure(work: Work, repeats: int, device: torch.device) -> Measured:
    work()
    return Measured(statistics.median(seconds(work, device) for _ in range(repeats)), peak_mebibytes(work, device))


def measure_pair(ours: Work, peer: Work, repeats: int, device: torch.device) -> Pair:
    """Each pair of calls meets the machine in the same mood; who goes first alternates."""
    ours(), peer()
    times: list[tuple[float, float]] = []
    for number in range(repeats):
        if number % 2:
            second, first = seconds(peer, device), seconds(ours, device)
        else:
            first, second = seconds(ours, device), seconds(peer, device)
        times.append((first, second))
    ratios = tuple(first / second for first, second in times)
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    memory = [peak_mebibytes(work, device) for work in (ours, peer)]
    sides = [Measured(*figures) for figures in zip(medians, memory, strict=True)]
    return Pair(sides[0], sides[1], statistics.median(ratios), ratios)


def seconds(work: Work, device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mebibytes(work: Work, device: torch.device) -> float:
    """Extra memory at the peak of one call: the allocator's on CUDA, the process's resident pages on a CPU (Linux)."""
    gc.collect()
    if device.type == "cuda":
        wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MEBIBYTE
    # Freed pages that the allocator keeps would be used again unseen: give them back, and forget the peak so far.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return max(resident("VmHWM") - before, 0) / 1024


def resident(field: str) -> int:
    """A line of the process's own status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 4096) -> float:
    """Floating operations a second of a big matrix product, the best of three."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)

    def product() -> None:
        torch.mm(a, b, out=out)

    product()
    return 2 * size**3 / min(seconds(product, device) for _ in range(3))
