"""Commands that are killed at chosen or random moments, and the accounts of what they did."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from xmodal.data import ShardWriter, open_shards
from xmodal.data.keys import keys
from xmodal.data.manifest import Manifest, write_manifest

ROOT = Path(__file__).resolve().parents[2]
SHARDS, PER_SHARD, BATCH = 3, 30, 10
"""Nine batches are an epoch."""
PATIENCE = 1500
"""Seconds after which a command hangs, on a busy machine too."""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def family(pid: int) -> list[int]:
    """A process and all that it started, wherever they have gone."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


class Attempt:
    """A command that runs until it ends, or until it is killed with all its processes."""

    def __init__(self, command: Sequence[Any], *, max_file_bytes: int | None = None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}

        def limit() -> None:
            if max_file_bytes is not None:  # a write beyond it fails, as one on a full disk does
                resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit,
        )

    def finish(self) -> tuple[int, str]:
        """Exit code and stderr."""
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors

    def kill_when(self, moment: Callable[[], bool], after: float = 0.0) -> bool:
        """Kill it ``after`` some seconds from the moment on; False where it ended by itself before."""
        if not self.wait_for(moment):
            self.process.communicate()
            return False
        time.sleep(after)
        return self.kill()

    def wait_for(self, moment: Callable[[], bool]) -> bool:
        """Whether the moment came before the command ended."""
        deadline = time.monotonic() + PATIENCE
        while not moment():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(0.001)
        return True

    def kill(self) -> bool:
        """SIGKILL for all of its processes, which all are gone when this returns."""
        pids = family(self.process.pid)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.communicate()
        while any(map(alive, pids)):
            time.sleep(0.005)
        return self.process.returncode == -signal.SIGKILL


@dataclass
class Training:
    """One run, in as many attempts as it takes."""

    recipe: Path
    out: Path
    shards: Path
    num_steps: int
    overrides: tuple[str, ...] = ()
    diary_folder: Path | None = None
    """Where what it trains on is written down; by default beside it."""

    @property
    def diary(self) -> Path:
        return (self.diary_folder or self.out.parent) / f"{self.out.name}.diary.jsonl"

    @property
    def student(self) -> Path:
        return self.out / "student"

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def start(self, *, ranks: int = 1, workers: int = 0, max_file_bytes: int | None = None) -> Attempt:
        """Begin it, or go on with it where that can be done, as its user would."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks] if ranks > 1 else []
        command = [*launcher, ROOT / "tests/faults/diary.py", self.diary, "distill", self.recipe]
        command += [f"data.num_workers={workers}", f"train.max_steps={self.num_steps}", *self.overrides]
        resume = ["--resume"] if (self.out / "recipe.resolved.yaml").is_file() else []
        return Attempt([*command, "--out", self.out, *resume], max_file_bytes=max_file_bytes)

    def last_step(self) -> int:
        """Of which metrics.jsonl tells."""
        path = self.out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)

    def within_checkpoint(self) -> bool:
        return any(self.checkpoints.glob(".*.partial"))

    def weights(self) -> str:
        return hashlib.sha256((self.out / "student" / "model.safetensors").read_bytes()).hexdigest()

    def account(self) -> Account:
        """What was trained on, against what should have been."""
        account = Account()
        told: dict[tuple[int, int, int], list[str]] = {}
        for line in map(json.loads, self.diary.read_text().splitlines()):
            place = line["ranks"], line["rank"], line["step"]
            if told.setdefault(place, line["keys"]) != line["keys"]:
                account.changed.append(place)
        planned = list(keys(self.shards, epoch=None, batch_size=BATCH, batches=self.num_steps))
        own = {
            (ranks, rank): list(
                keys(self.shards, epoch=None, batch_size=BATCH, batches=self.num_steps, world_size=ranks, rank=rank)
            )
            for ranks, rank in {place[:2] for place in told}
        }
        for (ranks, rank, step), found in told.items():
            if found != own[ranks, rank][step]:
                account.changed.append((ranks, rank, step))
        for step in range(self.num_steps):
            trained = [
                Counter(key for rank in range(ranks) for key in told.get((ranks, rank, step), []))
                for ranks in {place[0] for place in told}
            ]
            whole = max(trained, key=Counter.total)
            account.lost += (Counter(planned[step]) - whole).total()
            account.doubled += (whole - Counter(planned[step])).total()
            account.trained.update(planned[step])
        return account


@dataclass
class Caching:
    """A cache of a recipe's teacher, in as many jobs as it takes."""

    recipe: Path
    shards: Path
    out: Path

    def start(self, *, workers: int) -> Attempt:
        command = ["-m", "xmodal", "cache", self.recipe, f"data.train={self.shards}/*.tar", "data.views=3"]
        return Attempt([*command, "--out", self.out, "--workers", workers, "--batch-size", 2, "--device", "cpu"])

    def sidecars(self) -> list[Path]:
        return list(self.out.glob("*.safetensors"))

    def is_writing(self) -> bool:
        return any(self.out.glob(".*.partial"))

    def is_locked(self) -> bool:
        return any(self.out.glob("*.lock"))

    def files(self) -> dict[str, bytes]:
        """All that is there, hidden or not, but for a manifest that a killed job had half written."""
        there = [path for path in self.out.iterdir() if not path.match(".cache.*.partial")]
        return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in there}


@dataclass
class Account:
    """Samples that were never trained on, or once more than planned; batches that came out otherwise."""

    lost: int = 0
    doubled: int = 0
    changed: list[tuple[int, int, int]] = field(default_factory=list)
    trained: Counter[str] = field(default_factory=Counter)


def write_shards(folder: Path, count: int) -> Path:
    """Real pictures."""
    source = open_shards("package://emoji/style-*.tar")
    with ShardWriter(folder, shard_size=PER_SHARD) as writer:
        for number in range(count * PER_SHARD):
            raw = source.read(number * 5)
            writer.add(raw.key, raw.members)
    write_manifest(Manifest(shards=tuple(writer.entries)), folder)
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), SHARDS)


@pytest.fixture(scope="session")
def more_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("more-shards"), 8)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A student that learns from a network of random weights: a checkpoint every three steps, an average of weights."""
    from xmodal.adapters.networks import make_network

    folder = tmp_path_factory.mktemp("recipe")
    torch.manual_seed(1)
    save_file(
        make_network("test_efficientnet", weights=False, image_size=32).state_dict(), folder / "teacher.safetensors"
    )
    weights = str(folder / "teacher.safetensors")
    values = {
        "teacher": {"name": "timm", "model": "test_efficientnet", "pretrained": weights, "image_size": 32},
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random", "drop_path": 0.1},
        "data": {"train": str(shards / "*.tar"), "image_size": 32, "augment": {"crop_scale": [0.6, 1.0], "flip": 0.5}},
        "objective": [{"loss": "feature_cosine", "student": "image.embedding", "teacher": "image.embedding"}],
        "train": {"max_steps": 1, "batch_size": BATCH, "learning_rate": 0.002, "checkpoint_every": 3, "ema": 0.9},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


@pytest.fixture
def training(recipe: Path, shards: Path, tmp_path: Path) -> Callable[..., Training]:
    """``training(name, num_steps, *overrides)``: a run that has not begun."""

    def make(name: str, num_steps: int, *overrides: str, folder: Path | None = None) -> Training:
        return Training(recipe, (folder or tmp_path) / name, shards, num_steps, overrides)

    return make


@pytest.fixture
def caching(recipe: Path, more_shards: Path, tmp_path: Path) -> Callable[[str], Caching]:
    """``caching(name)``: a cache that has not begun."""
    return lambda name: Caching(recipe, more_shards, tmp_path / name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system in memory of a given size; a second call with another size changes it."""
    folder = tmp_path / "disk"

    def resize(size: str) -> Path:
        there = folder.is_mount()
        folder.mkdir(exist_ok=True)
        option = f"remount,size={size}" if there else f"size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)
