"""A teacher's cache that is written by jobs which are killed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class TornCache:
    """`xmodal cache` for one recipe into one folder, started and killed as often as one likes."""

    def __init__(self, recipe: Path, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self.kills = 0

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "xmodal", "cache", self.recipe, "--out", self.out, *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [*map(str, command)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def kill(self, draw: random.Random, jobs: int = 1, workers: int = 1) -> None:
        """Start so many jobs at once, and kill each with its workers at a moment of its own."""
        running = [(self.start("--workers", str(workers)), draw.uniform(1, 20)) for _ in range(jobs)]
        began = time.monotonic()
        for process, moment in sorted(running, key=lambda job: job[1]):
            while process.poll() is None and time.monotonic() - began < moment:
                time.sleep(0.01)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self.kills += 1
            else:
                assert process.stderr is not None
                assert process.returncode == 0, process.stderr.read()
            assert process.stderr is not None
            process.stderr.close()

    def finish(self) -> None:
        process = self.start()
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr

    def hashes(self) -> dict[str, str]:
        """What was stored, by the files' names; nothing else may be left behind."""
        files = sorted(path for path in self.out.rglob("*") if path.is_file() and path.suffix != ".json")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
