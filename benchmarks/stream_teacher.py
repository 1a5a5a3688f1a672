"""A training step whose teacher's answers come from a cache, beside the same step without any teacher."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

TEACHER = {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"}
HARD = {"loss": "clip_contrastive", "student": ["image.embedding", "text.embedding"], "logit_scale": 20}
TAUGHT = {"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding"}
SHARDS = "package://emoji/train-000000.tar"


def cached_step(folder: Path, pairs: int, batch_size: int, shards: str = SHARDS) -> dict[str, Any]:
    """Medians of both steps, the median of the pairs' ratios with its 95 % interval, and what the cache takes on disk.

    Both train the same small two-tower student on the same pictures with the same contrastive loss; one has a term
    more, of a sentence encoder's embeddings that a cache holds. Loading is part of a step: there are no workers.
    """
    from xmodal.data import open_shards
    from xmodal.data.cache.job import cache
    from xmodal.data.cache.recipe import jobs_of

    with_cache = recipe(shards, batch_size, teacher={**TEACHER, "cached": str(folder)}, objective=[HARD, TAUGHT])
    cache(jobs_of(with_cache))
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    cached, alone = loop(with_cache), loop(recipe(shards, batch_size, objective=[HARD]))
    for step in (cached, alone) * 3:
        step()
    times = [timed_pair(cached, alone, swapped=bool(number % 2)) for number in range(pairs)]
    ratios = [first / second for first, second in times]
    low, high = interval(ratios)
    return {
        "pairs": pairs,
        "batch_size": batch_size,
        "cached_ms": round(1e3 * statistics.median(first for first, _ in times), 2),
        "without_teacher_ms": round(1e3 * statistics.median(second for _, second in times), 2),
        "ratio": round(statistics.median(ratios), 4),
        "interval": [round(low, 4), round(high, 4)],
        "bytes_a_sample": round(stored / len(open_shards(shards)), 1),
    }


def recipe(shards: str, batch_size: int, **given: Any) -> Any:
    from xmodal.recipes import load_recipe

    image = {"model": "mobilenetv3_small_050", "weights": "random", "image_size": 64}
    return load_recipe(
        {
            "student": {"name": "clip", "image": image, "text": {"num_layers": 2, "width": 128}, "embed_dim": 384},
            "data": {"train": shards, "image_size": 64, "augment": {"crop_scale": [0.5, 1.0]}, "views": 4},
            "train": {"max_steps": 10**6, "batch_size": batch_size, "learning_rate": 1e-4, "device": "cpu"},
            **given,
        }
    )


def loop(recipe: Any) -> Callable[[], object]:
    """A call does one step: a batch from the stream, forward, losses, backward, optimizer."""
    from xmodal.schemes import Progress
    from xmodal.train.batches import to_device
    from xmodal.train.build import build_parts, build_scheme, build_stream
    from xmodal.train.distributed import join

    torch.manual_seed(0)
    parts, world = build_parts(recipe, {}), join()
    scheme = build_scheme(recipe, parts, world)
    models = {"student": parts.student, **parts.teachers}
    batches = iter(build_stream(recipe, models, parts.sources, num_workers=0))
    progress = Progress(learning_rate_factor=0.5)
    return lambda: scheme.step(to_device(next(batches), world.device), progress)


def timed_pair(first: Callable[[], object], second: Callable[[], object], swapped: bool) -> tuple[float, float]:
    """Seconds of both, in the order given or in the other one."""
    if swapped:
        return timed_pair(second, first, swapped=False)[::-1]
    times = []
    for step in (first, second):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times[0], times[1]


def interval(values: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(resamples))
    return medians[int(0.025 * resamples)], medians[int(0.975 * resamples)]
