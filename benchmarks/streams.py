"""What streams cost, beside webdataset's own pipeline, open_clip's and litData: pictures a second, and beginnings.

    python benchmarks/streams.py [--json FILE] [--docs PAGE] [--workers 0 1 2] [--rounds 3] [--only throughput ...]

The same photographs for all (scikit-image's and scikit-learn's, cut and encoded anew, about 500 pixels): JPEG in tar
files, and in litData's own format. All give float batches of 224 × 224 pixels; ``same decoder``: Pillow for all, else
each its own. Loaders take turns, each started anew and warmed up; a figure is the median over the rounds with its
quartiles, a ratio that of the rounds' ratios. The bare loop decodes and resizes with Pillow what lies in memory, in one
process. Every process computes in one thread.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import logging
import os
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from stream_cases import CASES, PEERS, Case, bare_loop, optimize_for_litdata
from stream_page import page
from stream_pictures import write_shards
from stream_resume import far_plan, first_batches
from stream_teacher import cached_step

PARTS = ("throughput", "beginning", "plan", "teacher")
PACKAGES = ("webdataset", "open_clip_torch", "litdata", "pillow", "simplejpeg", "torch", "torchvision")
SHARDS = 16
WARM_UP = 3  # batches of each worker before the clock starts
DECODERS = {"same decoder": True, "own decoder": False}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path, help="the page whose figures to replace, docs/streams-speed.md")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=8, help="of each worker that a round times")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--many-shards", type=int, default=1000, help="for the first batch of many shards")
    parser.add_argument("--pairs", type=int, default=200, help="of steps with a cached teacher and without one")
    parser.add_argument("--plan-shards", type=int, default=100_000)
    options = parser.parse_args(arguments)
    quiet()
    result: dict[str, Any] = {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "cores": os.cpu_count(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "throughput" in options.only:
            write_shards(folder / "photos", options.pictures, SHARDS)
            timed = (WARM_UP + options.batches) * max(1, *options.workers) * options.batch_size
            optimize_for_litdata(folder / "photos", copies=-(-timed // options.pictures))
            result["throughput"] = throughput(
                folder / "photos", options.workers, options.batch_size, options.batches, options.rounds
            )
        if "beginning" in options.only:
            result["first_batch"] = first_batches(
                folder / "many", 2 * options.many_shards, options.many_shards, options.batch_size, repeats=3
            )
            print(json.dumps(result["first_batch"], indent=1))
        if "plan" in options.only:
            result["plan"] = far_plan(options.plan_shards, per_shard=10_000, batch_size=options.batch_size)
            print(json.dumps(result["plan"], indent=1))
        if "teacher" in options.only:
            result["cached_teacher"] = cached_step(folder / "cache", options.pairs, batch_size=32)
            print(json.dumps(result["cached_teacher"], indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        text = options.docs.read_text(encoding="utf-8")
        marked = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)
        options.docs.write_text(marked.sub(lambda found: found[1] + page(result) + found[2], text), encoding="utf-8")


def quiet() -> None:
    """One thread, and none of the peers' warnings among the figures."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    logging.getLogger("litdata").setLevel(logging.ERROR)


def throughput(
    folder: Path, workers: Sequence[int], batch_size: int, batches: int, rounds: int
) -> list[dict[str, Any]]:
    """A row for each decoder and number of workers."""
    rows = []
    bare = bare_loop(folder, pictures=2 * batch_size)
    bare()
    for decoder, same in DECODERS.items():
        for number in workers:
            rates: dict[str, list[float]] = {name: [] for name in (*CASES, "bare loop")}
            for turn in range(rounds):
                start = time.perf_counter()
                bare()
                rates["bare loop"].append(2 * batch_size / (time.perf_counter() - start))
                names = list(CASES)
                for name in names if turn % 2 else reversed(names):
                    rates[name].append(rate(CASES[name], folder, batch_size, number, same, batches))
            rows.append({"decoder": decoder, "workers": number, **summary(rates, max(1, number))})
            print(line(rows[-1]), flush=True)
    return rows


def rate(case: Case, folder: Path, batch_size: int, workers: int, same: bool, batches: int) -> float:
    """Pictures a second, over so many batches that those made before the clock started weigh little."""
    loader = case(folder, batch_size, workers, same)
    processes = max(1, workers)
    for _ in range(WARM_UP * processes):
        next(loader)
    start = time.perf_counter()
    for _ in range(batches * processes):
        batch = next(loader)
    seconds = time.perf_counter() - start
    assert batch.shape == (batch_size, 3, 224, 224)
    assert batch.dtype == torch.float32
    del loader, batch
    gc.collect()  # ends the workers
    return batch_size * batches * processes / seconds


def summary(rates: Mapping[str, Sequence[float]], processes: int) -> dict[str, Any]:
    """Medians and quartiles; xmodal by the best peer, round by round, and by the bare loop, for each process."""
    best = max(PEERS, key=lambda name: statistics.median(rates[name]))
    ours = rates["xmodal"]
    return {
        "pictures_a_second": {name: quartiles(values) for name, values in rates.items()},
        "best_peer": best,
        "by_best_peer": round(statistics.median(a / b for a, b in zip(ours, rates[best], strict=True)), 3),
        "by_bare_loop": round(
            statistics.median(a / processes / b for a, b in zip(ours, rates["bare loop"], strict=True)), 3
        ),
    }


def quartiles(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": round(middle, 1), "low": round(low, 1), "high": round(high, 1)}


def line(row: Mapping[str, Any]) -> str:
    figures = "  ".join(f"{name} {each['median']:.0f}" for name, each in row["pictures_a_second"].items())
    return (
        f"{row['decoder']}, {row['workers']} workers: {figures}  "
        f"× {row['by_best_peer']:.2f} of {row['best_peer']}, {row['by_bare_loop']:.2f} of the bare loop"
    )


if __name__ == "__main__":
    main()
