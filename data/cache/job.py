"""Many shards, many teachers: in this process or in a pool of them, the whole or a part i of n."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import torch

from xmodal.adapters.encoder import Encoder
from xmodal.data.cache.contract import Contract, TopK, refuse_mixing, settings_of
from xmodal.data.cache.lock import Busy
from xmodal.data.cache.places import Places, manifest_path
from xmodal.data.cache.shard import Request, cache_shard, describe_teacher, stored_taps
from xmodal.data.cache.sidecar import FORMAT, VERSION
from xmodal.data.cache.taps import parent_of_top
from xmodal.data.reading import Reading
from xmodal.data.shards import ShardSet
from xmodal.errors import DataError, XmodalError
from xmodal.files import write_text

_POLL = 0.5
"""Seconds between two looks at shards that others are writing."""


@dataclass(frozen=True)
class Job:
    """One teacher over one set of shards. Holds no weights, so that every process can be handed all jobs.

    ``teacher`` is its name and options, ``taps`` are what is asked of it, ``fields`` what the samples have (empty: all
    that is asked), ``seed`` what random weights are drawn from, as a run draws them.
    """

    teacher: Mapping[str, Any]
    taps: tuple[str, ...]
    shards: ShardSet
    reading: Reading = Reading()  # noqa: RUF009 - frozen
    text: str = "txt"
    fields: frozenset[str] = frozenset()
    top_k: TopK | None = None
    out: str | None = None
    batch_size: int = 64
    device: str = "auto"
    replace: bool = False
    seed: int = 0

    def make_teacher(self, worker: int = 0) -> Encoder:
        """The real teacher, on its device."""
        from xmodal.adapters import create_teacher

        options = {name: value for name, value in self.teacher.items() if name not in ("name", "cached")}
        torch.manual_seed(self.seed)
        return create_teacher(str(self.teacher["name"]), **options).to(choose(self.device, worker))

    def request(self, teacher: Mapping[str, Any]) -> Request:
        """What to store of each shard, by a teacher's description; no taps where the samples have nothing for it.

        Raises :class:`~xmodal.errors.XmodalError` for a tap that the teacher does not have.
        """
        contract = Contract(teacher, settings_of(self.reading), self.text, self.top_k)
        taps = stored_taps(self.taps, teacher, self.fields)
        tops = [tap for tap in taps if parent_of_top(tap) in teacher["taps"]]
        if tops and self.top_k is None:
            raise DataError(f"{tops[0]} is of the likeliest classes: say how many are to be kept, such as --top-k 64.")
        refuse_mixing(contract)
        places = Places(self.shards, self.out)
        return Request(contract, taps, places, self.reading, self.batch_size, self.replace)


Unit = tuple[int, int]
"""Number of the job, number of the shard in it."""


@dataclass
class Done:
    """What became of the shards: unit → ``written``, ``finished`` (it was there already) or ``nothing`` to store."""

    units: dict[Unit, str] = field(default_factory=dict)

    def count(self, status: str) -> int:
        return sum(found == status for found in self.units.values())


Report = Callable[[Literal["samples", "shard", "waiting"], Unit, Any], None]
"""Told of samples done in a unit, of a unit's status, and of who is being waited for."""


def cache(
    jobs: Sequence[Job], *, workers: int = 0, part: tuple[int, int] = (0, 1), report: Report | None = None
) -> Done:
    """Write every sidecar that is missing, and return when all of this ``part`` are there.

    ``part`` is (i, n): every n-th shard from the i-th on. ``workers`` processes share them; any number of other
    processes, on this machine or on others, may be at the same shards: each shard is locked while it is written.
    Killed at any moment, the same call does what is left.

    Raises :class:`DataError` at the first shard that cannot be cached.
    """
    units = units_of(jobs, part)
    done = Done()

    def note(kind: Literal["samples", "shard", "waiting"], unit: Unit, value: Any) -> None:
        if kind == "shard":
            if done.units.get(unit) == "written" or (unit in done.units and value == "finished"):
                return  # another worker's look at what one has done
            done.units[unit] = value
        if report is not None:
            report(kind, unit, value)

    if workers < 1:
        _work(jobs, units, note)
    else:
        _pool(jobs, units, min(workers, max(1, len(units))), note)
    return done


def units_of(jobs: Sequence[Job], part: tuple[int, int] = (0, 1)) -> list[Unit]:
    """Every n-th shard of all jobs from the i-th on, for a ``part`` (i, n)."""
    units = [(number, shard) for number, job in enumerate(jobs) for shard in range(len(job.shards.paths))]
    return units[part[0] :: part[1]]


def by_job(jobs: Sequence[Job], units: Iterable[Unit]) -> list[tuple[Job, list[Unit]]]:
    """The jobs that have any of the units, each with its own."""
    own: dict[int, list[Unit]] = {}
    for unit in units:
        own.setdefault(unit[0], []).append(unit)
    return [(jobs[number], own[number]) for number in sorted(own)]


def part_of_launcher() -> tuple[int, int]:
    """The part of a process that torchrun started: its rank of all."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def choose(device: str, worker: int = 0) -> torch.device:
    """The device asked for; of several CUDA devices, workers and torchrun's processes take turns."""
    from xmodal.train.distributed import choose_device

    chosen = choose_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        turn = int(os.environ.get("LOCAL_RANK", "0")) + worker
        return torch.device("cuda", turn % torch.cuda.device_count())
    return chosen


def _work(jobs: Sequence[Job], units: Sequence[Unit], report: Report, worker: int = 0, workers: int = 1) -> None:
    """All units, beginning at this worker's own share, until each is done by somebody."""
    for job, own in by_job(jobs, units):
        teacher = job.make_teacher(worker)
        request = job.request(describe_teacher(teacher, job.teacher))
        if not request.taps:
            for unit in own:
                report("shard", unit, "nothing")
            continue
        _write_manifests(request)
        first = worker * len(own) // workers
        pending = own[first:] + own[:first]
        while pending:
            busy = [unit for unit in pending if not _try(teacher, request, unit, report)]
            if len(busy) == len(pending):
                time.sleep(_POLL)
            pending = busy


def _try(teacher: Encoder, request: Request, unit: Unit, report: Report) -> bool:
    try:
        status = cache_shard(teacher, request, unit[1], lambda count: report("samples", unit, count))
    except Busy as busy:
        report("waiting", unit, str(busy))
        return False
    report("shard", unit, status)
    return True


def _write_manifests(request: Request) -> None:
    """Who the teacher is, for runs that do not load it; the same bytes from every process."""
    facts = {"format": FORMAT, "version": VERSION, **request.contract.to_dict()}
    text = json.dumps(facts, indent=1) + "\n"
    for folder in request.places.folders():
        path = manifest_path(folder, request.contract.identity)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_text(path, text)
        except OSError as error:
            raise DataError(
                f"The cache cannot be written to {folder}: {error.strerror}. Give it another folder: --out DIR, and "
                "cached: DIR in the recipe."
            ) from error


def _pool(jobs: Sequence[Job], units: Sequence[Unit], workers: int, report: Report) -> None:
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)  # what OMP_NUM_THREADS allows, shared
    pool: list[BaseProcess] = []
    ears: list[Connection] = []
    try:
        for number in range(workers):
            ear, mouth = context.Pipe(duplex=False)  # one each: who is killed while speaking silences no other
            started = context.Process(target=_worker, args=(jobs, units, number, workers, threads, mouth), daemon=True)
            started.start()
            mouth.close()
            pool.append(started)
            ears.append(ear)
        _listen(ears, report)
        for process in pool:
            process.join()
    finally:
        for process in pool:
            process.terminate()
            process.join()
    killed = [process for process in pool if process.exitcode]
    if len(killed) == len(pool):  # what one left behind, others have done
        code = killed[0].exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise DataError(
            f"All {len(pool)} workers died, the first of {name}. Memory may have run out: try fewer --workers or a "
            "smaller --batch-size. The same command goes on where they stopped."
        )


def _listen(ears: Sequence[Connection], report: Report) -> None:
    """Hand on what workers say until all have ended, however they did."""
    open_ears = list(ears)
    while open_ears:
        for ear in wait(open_ears):
            assert isinstance(ear, Connection)
            try:
                kind, unit, value = ear.recv()
            except (EOFError, OSError):
                open_ears.remove(ear)
                continue
            if kind == "error":
                raise DataError(value)
            report(kind, unit, value)


def _worker(
    jobs: Sequence[Job], units: Sequence[Unit], worker: int, workers: int, threads: int, mouth: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        _work(jobs, units, lambda *said: mouth.send(said), worker, workers)
    except XmodalError as error:
        mouth.send(("error", None, str(error)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
