"""What it takes to begin: the first batch of many shards, the same late in a run, and a plan of 100 000 shards."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stream_cases import PEERS, train_stream
from stream_pictures import write_shards

FAR = 10**9
LOADERS = ("webdataset", "open_clip")  # litdata has no shards of its own choosing


def first_batches(folder: Path, pictures: int, shards: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Seconds from shards with a manifest to the first batch, with no worker, medians; and late in a run."""
    from xmodal.data.indexing import index_shards

    write_shards(folder, pictures, shards, seed=1)
    index_shards(str(folder / "*.tar"))
    late = FAR // batch_size * batch_size

    def ours(position: int) -> Callable[[], object]:
        def begin() -> object:
            stream = train_stream(folder, batch_size, 0, decoder="pil")
            stream.load_state({**stream.state(), "position": position})
            return next(iter(stream))

        return begin

    begins: dict[str, Callable[[], object]] = {"xmodal": ours(0), f"xmodal, at position {late}": ours(late)}
    for name in LOADERS:
        begins[name] = lambda name=name: next(PEERS[name](folder, batch_size, 0, True))
    times: dict[str, list[float]] = {name: [] for name in begins}
    for turn in range(repeats + 1):
        for name, begin in begins.items():
            start = time.perf_counter()
            begin()
            if turn:  # the first round only brings files into memory
                times[name].append(time.perf_counter() - start)
    seconds = {name: round(statistics.median(values), 3) for name, values in times.items()}
    return {"shards": shards, "batch_size": batch_size, "seconds": seconds}


def far_plan(shards: int, per_shard: int, batch_size: int) -> dict[str, Any]:
    """Seconds and bytes to build a plan over ``shards`` counts, and to say what stands in a batch near position 10⁹."""
    from xmodal.data.plan import Plan

    counts = [per_shard + number % 7 for number in range(shards)]
    start = time.perf_counter()
    plan = Plan(counts, fingerprint="synthetic", batch_size=batch_size)
    built = time.perf_counter() - start

    def batch(number: int) -> None:
        for position in plan.positions(number):
            plan.sample(position)

    times = {}
    for name, position in (("start", 0), ("far", FAR)):
        start = time.perf_counter()
        batch(position // batch_size)
        times[name] = time.perf_counter() - start
    tracemalloc.start()
    batch(2 * FAR // batch_size)
    batch(3 * FAR // batch_size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "shards": shards,
        "samples": plan.num_samples,
        "batch_size": batch_size,
        "build_seconds": round(built, 3),
        "batch_at_0_seconds": round(times["start"], 4),
        "batch_at_1e9_seconds": round(times["far"], 4),
        "batch_peak_bytes": peak,
    }
