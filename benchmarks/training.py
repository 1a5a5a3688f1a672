"""What the library costs: a training step of a recipe beside the same step written by hand, interleaved.

    python benchmarks/training.py [--recipe NAME] [--pairs 5] [--steps 8] [--json FILE]

The hand-written loop has the same models, pictures, augmentation (none, on both sides), batch size and losses; its
pictures are decoded and resized beforehand and lie in memory, so it pays for no data at all. Prints samples a second
of both, medians over the pairs, and the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from xmodal.recipe import Recipe
from xmodal.recipes import load_recipe
from xmodal.schemes import Progress
from xmodal.train.batches import Batch, to_device
from xmodal.train.build import Parts, build_parts, build_scheme, build_stream
from xmodal.train.distributed import join


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="emoji-text-to-image")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, {"data.augment": {}, "train.seed": 0})
    ours, by_hand = library_loop(recipe), hand_loop(recipe)
    rates: dict[str, list[float]] = {"xmodal": [], "by hand": []}
    for loop in (ours, by_hand):
        loop(2)
    for _ in range(options.pairs):
        rates["xmodal"].append(recipe.train.batch_size * options.steps / timed(ours, options.steps))
        rates["by hand"].append(recipe.train.batch_size * options.steps / timed(by_hand, options.steps))
    ratios = [a / b for a, b in zip(rates["xmodal"], rates["by hand"], strict=True)]
    result = {
        **{name: round(statistics.median(values), 1) for name, values in rates.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }
    print(f"{options.recipe}, batch {recipe.train.batch_size}, {torch.get_num_threads()} threads")
    print(f"  xmodal   {result['xmodal']:7.1f} samples/s   (stream, decode, preprocess, teacher, student, losses)")
    print(f"  by hand  {result['by hand']:7.1f} samples/s   (no data to load)")
    print(f"  ratio    {result['ratio']:7.3f}              min {min(ratios):.3f}, max {max(ratios):.3f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def timed(loop: Callable[[int], None], steps: int) -> float:
    start = time.perf_counter()
    loop(steps)
    return time.perf_counter() - start


def parts_of(recipe: Recipe) -> Parts:
    torch.manual_seed(0)
    return build_parts(recipe, {})


def library_loop(recipe: Recipe) -> Callable[[int], None]:
    parts, world = parts_of(recipe), join()
    scheme = build_scheme(recipe, parts, world)
    progress = Progress(learning_rate_factor=0.5)
    models = {"student": parts.student, **parts.teachers}
    batches = iter(build_stream(recipe, models, parts.shards, num_workers=recipe.data.num_workers))

    def run(steps: int) -> None:
        for _ in range(steps):
            scheme.step(to_device(next(batches), world.device), progress)

    return run


def hand_loop(recipe: Recipe) -> Callable[[int], None]:
    """The objective of emoji-text-to-image, written out."""
    parts, device = parts_of(recipe), join().device
    student, teacher = parts.student.to(device), parts.teachers["teacher"].to(device)
    stream = build_stream(recipe, {"student": student, "teacher": teacher}, parts.shards, num_workers=0)
    prepared: list[Batch] = [to_device(batch, device) for batch, _ in zip(stream, range(2), strict=False)]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)

    def run(steps: int) -> None:
        for step in range(steps):
            views = prepared[step % len(prepared)]["views"]
            with torch.no_grad():
                text = F.normalize(teacher(views["teacher"], ["text.embedding"])["text.embedding"], dim=-1)
            image = F.normalize(student(views["student"], ["image.embedding"])["image.embedding"], dim=-1)
            target, found = 20 * text @ text.T, 20 * image @ text.T
            rows = F.kl_div(found.log_softmax(1), target.softmax(1), reduction="batchmean")
            columns = F.kl_div(found.T.log_softmax(1), target.T.softmax(1), reduction="batchmean")
            loss = (1 - (image * text).sum(-1)).mean() + (rows + columns) / 2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()

    return run


if __name__ == "__main__":
    main()
