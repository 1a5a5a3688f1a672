"""Every sidecar against what a run would ask of it, and against its shard as it is now; no teacher is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xmodal.data.cache.job import Job, by_job, units_of
from xmodal.data.cache.lookup import find_teacher
from xmodal.data.cache.places import Places
from xmodal.data.cache.shard import Request
from xmodal.data.cache.sidecar import KEYS, Sidecar, digest_keys, hash_keys, inspect
from xmodal.data.cache.taps import not_finite
from xmodal.data.hashing import file_sha256


@dataclass(frozen=True)
class Finding:
    """One sidecar that a run could not use."""

    sidecar: str
    kind: str
    problem: str


def check(
    jobs: Sequence[Job],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    part: tuple[int, int] = (0, 1),
) -> list[Finding]:
    """All that is missing, stale, short, foreign, broken or not finite. Shards are read whole, for their sha256.

    ``part`` is (i, n): the shards that :func:`~xmodal.data.cache.job.cache` would take of it.

    Raises :class:`~xmodal.errors.DataError` where there is no cache of a job's teacher at all.
    """
    units = units_of(jobs, part)
    findings: list[Finding] = []
    done = 0
    for job, own in by_job(jobs, units):
        places = Places(job.shards, job.out)
        request = job.request(find_teacher(places.folders(), job.teacher, "Run the same command without --check."))
        for _, number in own:
            if request.taps and (finding := _look(request, number)) is not None:
                findings.append(finding)
            done += 1
            progress(done, len(units))
    return findings


def _look(request: Request, number: int) -> Finding | None:
    path = request.sidecar(number)
    sidecar, problem = inspect(path, request.wanted(number, exact=True))
    if problem is not None:
        return Finding(str(path), problem.kind, problem.text)
    assert sidecar is not None  # it is None only with a problem
    found = _stale(sidecar, request, number) or _not_finite(sidecar)
    return None if found is None else Finding(str(path), *found)


def _stale(sidecar: Sidecar, request: Request, number: int) -> tuple[str, str] | None:
    shard = Path(request.places.shards.paths[number])
    keys = request.keys(number)
    same = sidecar.facts["shard"]["keys"] == digest_keys(keys)
    if not same or not bool((sidecar.tensors[KEYS] == hash_keys(keys, str(shard))).all()):
        return "stale", f"{sidecar.path} is stale: its keys are not those of {shard}."
    recorded = sidecar.facts["shard"]["sha256"]
    if recorded is not None and shard.is_file() and file_sha256(shard) != recorded:
        return "stale", f"{sidecar.path} is stale: {shard} has other bytes than when it was written."
    return None


def _not_finite(sidecar: Sidecar) -> tuple[str, str] | None:
    for tap in sidecar.taps:
        bad = not_finite(tap, sidecar.tensors[tap])
        if bool(bad.any()):
            return "broken", f"{sidecar.path} holds NaN or infinity in {tap}, in {int(bad.sum())} rows."
    return None
