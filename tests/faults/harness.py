"""Runs that are killed at random moments and go on, and what must hold of them at the end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from xmodal.data.keys import keys as keys_of
from xmodal.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).with_name("recorded.py")


class TornRun:
    """One training run in a folder of its own, started, killed and resumed as often as one likes."""

    def __init__(self, recipe: Path, folder: Path, *, overrides: Sequence[str] = (), ranks: int = 1) -> None:
        self.recipe, self.folder, self.overrides, self.ranks = recipe, folder, tuple(overrides), ranks
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.record = folder / "run", folder / "delivered"
        self.kills = 0

    def start(self, *overrides: str, **options: Any) -> subprocess.Popen[str]:
        launcher = (
            ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.ranks)]
            if self.ranks > 1
            else []
        )
        resume = ["--resume"] if (self.out / "recipe.resolved.yaml").exists() else []
        command = [sys.executable, *launcher, RECORDED, self.record, self.recipe, "--out", self.out, *resume]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [*map(str, command), *self.overrides, *overrides],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def kill_at(self, moment: str, draw: random.Random, *overrides: str) -> bool:
        """Start, and kill the whole process group at a random moment; False where the run ended before that.

        ``moment``: ``start`` within the first seconds, whatever goes on; ``step`` some steps on; ``checkpoint`` while
        one is being written.
        """
        process = self.start(*overrides)
        before, began = self.last_step(), time.monotonic()
        delay, steps = draw.uniform(0.5, 8), draw.randint(1, 12)
        while process.poll() is None:
            if moment == "start" and time.monotonic() - began > delay:
                break
            if moment == "step" and self.last_step() >= before + steps:
                break
            if moment == "checkpoint" and self.last_step() >= before + steps % 7 and self._writes_checkpoint():
                break
            time.sleep(0.001 if moment == "checkpoint" else 0.01)
        else:
            self._expect_success(process)
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        self.kills += 1
        return True

    def finish(self, *overrides: str) -> None:
        self._expect_success(self.start(*overrides))

    def _expect_success(self, process: subprocess.Popen[str]) -> None:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr

    def _writes_checkpoint(self) -> bool:
        return any((self.out / "checkpoints").glob(".*.partial"))

    def last_step(self) -> int:
        path = self.out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)

    def weights(self) -> str:
        return hashlib.sha256((self.out / "student" / "model.safetensors").read_bytes()).hexdigest()

    def account(self) -> Account:
        """Every delivery of every rank and attempt beside what the plan says."""
        recipe = load_recipe(self.out / "recipe.resolved.yaml")
        size = recipe.train.batch_size
        delivered: dict[int, dict[int, list[str]]] = {}
        account = Account()
        for rank in range(self.ranks):
            for line in Path(f"{self.record}-{rank}.jsonl").read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # cut short by a kill; the next line may stand behind it
                    continue
                seen = delivered.setdefault(entry["position"] // size, {})
                if rank in seen and seen[rank] != entry["keys"]:
                    account.changed.append(entry["position"] // size)
                seen[rank] = entry["keys"]
        steps = int(recipe.train.max_steps or 0)
        planned = keys_of(recipe.data.train, seed=recipe.train.seed, epoch=None, batch_size=size)
        for number, expected in enumerate(islice(planned, steps)):
            got = [key for rank in range(self.ranks) for key in delivered.get(number, {}).get(rank, [])]
            account.lost += len(set(expected) - set(got))
            account.doubled += len(got) - len(set(got))
            account.foreign += len(set(got) - set(expected))
        account.batches = steps
        return account


@dataclass
class Account:
    """What was delivered against the plan: samples that never came, came twice in a batch, or belong elsewhere."""

    batches: int = 0
    lost: int = 0
    doubled: int = 0
    foreign: int = 0
    changed: list[int] = field(default_factory=list)
    """Batches that another attempt delivered with other samples."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.foreign or self.changed)
