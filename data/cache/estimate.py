"""How many bytes and how long a cache will take, by one measured batch a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xmodal.data.cache.job import Job, by_job, units_of
from xmodal.data.cache.shard import ShardRun, describe_teacher
from xmodal.data.cache.sidecar import inspect


@dataclass(frozen=True)
class Estimate:
    """Of one job: what a sample takes, and what is left to do of how much. ``seconds`` are those of one process."""

    teacher: str
    taps: tuple[str, ...]
    samples: int
    left: int
    sample_bytes: float
    sample_seconds: float

    @property
    def bytes(self) -> int:
        """Of the whole cache."""
        return round(self.samples * self.sample_bytes)

    @property
    def seconds(self) -> float:
        """For what is left."""
        return self.left * self.sample_seconds


def estimate(jobs: Sequence[Job], part: tuple[int, int] = (0, 1)) -> list[Estimate]:
    """Run one batch of each job, write nothing. Jobs whose samples have nothing for their teacher are left out.

    Sequences are taken to be as long as the longest of that batch; a shard's longest may be longer.
    """
    found = []
    for job, units in by_job(jobs, units_of(jobs, part)):
        own = [shard for _, shard in units]
        teacher = job.make_teacher()
        request = job.request(describe_teacher(teacher, job.teacher))
        if not request.taps:
            continue
        left = [shard for shard in own if inspect(request.sidecar(shard), request.wanted(shard))[1] is not None]
        size, seconds = ShardRun(teacher, request, (left or own)[0]).measure()
        counts = job.shards.counts
        samples, missing = sum(counts[shard] for shard in own), sum(counts[shard] for shard in left)
        found.append(Estimate(teacher.name, request.taps, samples, missing, size, seconds))
    return found
