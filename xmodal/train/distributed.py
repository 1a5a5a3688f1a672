"""One process or many: device, rank, world size. ``torchrun`` starts the many; nothing here starts a process."""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from xmodal.errors import Interrupted, RunError

_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    """Where this process stands among its peers, and the device it computes on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def total(self, number: int) -> int:
        """The sum of every rank's ``number``."""
        if self.size == 1:
            return number
        summed = torch.tensor(number, device=self.device)
        dist.all_reduce(summed)
        return int(summed)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """:func:`join` for the time of a run, leaving the process group that it made in good order.

    Where one rank alone fails the group is left as it is: its peers are in a collective, and the launcher ends them.
    """
    made_before = dist.is_initialized()
    world = join(device)
    try:
        yield world
    except Interrupted as stopped:  # on every rank after the same step
        traceback.clear_frames(stopped.__traceback__)  # or they keep the wrapped modules that _leave waits for
        _leave(world, made_before)
        raise
    _leave(world, made_before)


def _leave(world: World, made_before: bool) -> None:
    if world.size > 1 and not made_before:
        # Left to the end of the process, threads of the group may still run when it ends, and abort it; so may what a
        # wrapped module still holds of the group, and such modules lie in cycles.
        gc.collect()
        world.barrier()
        dist.destroy_process_group()


def join(device: str = "auto") -> World:
    """The device asked for, and the process group where ``torchrun`` started this process.

    Raises :class:`RunError` for a device that this machine does not have.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device)
    if size == 1:
        return World(chosen)
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        # The main rank evaluates and writes while the others wait: longer than the libraries' ten or thirty minutes.
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    return World(chosen, dist.get_rank(), dist.get_world_size())


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA, else MPS, else the CPU."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind, _, index = name.partition(":")
    if kind not in available or (index and not index.isdigit()):
        raise RunError(f"train.device is {name!r}; expected auto, cpu, cuda, cuda:N or mps.")
    found = available[kind] and (not index or kind == "cpu" or int(index) < torch.cuda.device_count())
    if not found:
        here = ", ".join(kind for kind, there in available.items() if there)
        raise RunError(f"train.device is {name!r}, but this machine has only: {here}. Use train.device=auto.")
    return torch.device(name)
