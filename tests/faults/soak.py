"""Kill training and caching again and again, and check that nothing was lost: `make soak`.

    python tests/faults/soak.py [--kills 50] [--cache-kills 20] [--seed 0] [--out runs/soak]

Runs of one rank with 0, 1 or 2 workers, and of two ranks, are killed with SIGKILL at random moments: while they start,
amid steps, and while a checkpoint is being written. Each is then compared with one left alone: the bytes of the
student, and the samples of every batch of every attempt. Then jobs that write a teacher's cache are killed, alone with
workers or two at once, and the files compared. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.faults.harness import TornRun  # noqa: E402 - the root must be on the path first
from tests.faults.torn_cache import TornCache  # noqa: E402
from tests.train.conftest import TINY  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--cache-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "soak")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    recipe = options.out / "torn.yaml"
    recipe.write_text(yaml.safe_dump({**TINY, "train": {**TINY["train"], "max_steps": options.steps}}))
    draw = random.Random(options.seed)
    began = time.monotonic()
    failed = soak_training(recipe, options, draw, began) + soak_caching(recipe, options, draw, began)
    print("something differs" if failed else "all as if left alone")
    return 1 if failed else 0


def soak_training(recipe: Path, options: argparse.Namespace, draw: random.Random, began: float) -> int:
    """How many of the runs, killed ``options.kills`` times in all, did not end as one left alone."""
    kills = failed = number = 0
    alone: dict[int, str] = {}
    while kills < options.kills:
        ranks = 2 if number % 3 == 2 else 1
        if ranks not in alone:
            whole = TornRun(recipe, options.out / f"alone-{ranks}", ranks=ranks)
            whole.finish()
            alone[ranks] = whole.weights()
        run = TornRun(recipe, options.out / f"torn-{number}", ranks=ranks)
        while kills + run.kills < options.kills:
            moment = draw.choice(("start", "step", "step", "checkpoint"))
            workers = 0 if ranks > 1 else draw.choice((0, 1, 2))
            if not run.kill_at(moment, draw, f"data.num_workers={workers}"):
                break
        run.finish()
        account, same = run.account(), run.weights() == alone[ranks]
        failed += not (account.clean and same)
        kills += run.kills
        number += 1
        print(
            f"run {number}   {ranks} rank(s)   {run.kills} kills   {account.batches} batches: {account.lost} lost, "
            f"{account.doubled} doubled, {account.foreign} foreign, {len(account.changed)} changed   "
            f"student {'identical' if same else 'DIFFERS'}   {time.monotonic() - began:.0f} s",
            flush=True,
        )
    print(f"{kills} kills of training in {number} runs, {failed} of them not as if left alone", flush=True)
    return failed


def soak_caching(recipe: Path, options: argparse.Namespace, draw: random.Random, began: float) -> int:
    """How many of the caches, whose jobs were killed ``options.cache_kills`` times, differ from one left alone."""
    whole = TornCache(recipe, options.out / "cache-alone")
    whole.finish()
    kills = failed = number = 0
    while kills < options.cache_kills:
        cache = TornCache(recipe, options.out / f"cache-torn-{number}")
        for _ in range(6):
            cache.kill(draw, *draw.choice(((1, 1), (1, 2), (2, 1))))
        cache.finish()
        same = cache.hashes() == whole.hashes()
        failed += not same
        kills += cache.kills
        number += 1
        told = "identical" if same else f"DIFFERS: {sorted(cache.hashes().items() ^ whole.hashes().items())}"
        print(f"cache {number}   {cache.kills} kills   {told}   {time.monotonic() - began:.0f} s", flush=True)
    print(f"{kills} kills of caching in {number} caches, {failed} of them not as if left alone", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
