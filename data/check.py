"""Read all of some shards and list what is wrong with them: sizes, checksums, keys, members, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xmodal.data.hashing import file_sha256
from xmodal.data.index import Flaw, Index, build_index, index_path, read_index
from xmodal.data.manifest import Manifest, ShardEntry, read_manifest
from xmodal.data.member_check import can_hold_code, kinds_of, member_problems
from xmodal.data.reader import ShardReader
from xmodal.data.repeated_keys import RepeatedKeys
from xmodal.data.shards import short_names
from xmodal.data.uri import Shards, expand_local
from xmodal.errors import DataError

Level = Literal["error", "warning"]

_USUAL = 0.5
"""A kind of member that more than this share of all samples has is missed in the others."""
_MANY = 20
"""Flaws of one tar file that are listed one by one."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a shard or, where ``key`` is given, with one of its samples.

    An ``error`` stops a run or costs it a sample. A ``warning`` costs nothing here, but is seldom meant.
    """

    shard: str
    key: str | None
    problem: str
    level: Level = "error"

    def __str__(self) -> str:
        return f"{self.shard}: {self.problem}" if self.key is None else f"{self.shard}: {self.key}: {self.problem}"


@dataclass
class _Tally:
    """What can be judged only when all shards were read."""

    samples: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    layouts: dict[tuple[str, frozenset[str]], tuple[str, int]] = field(default_factory=dict)
    """(shard, kinds of members) → the first key that has just these, and how many have."""
    keys: RepeatedKeys = field(default_factory=RepeatedKeys)


def check(shards: Shards, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Read every byte that ``shards`` names, decode all that has a decoder, and return all that is wrong.

    One broken shard does not hide the others, nor a shard's first flaw its others. Nothing is changed or written.
    Without an error among the findings, a run that takes its texts from a ``txt`` will meet no bad sample. Memory grows
    by 8 bytes a sample, and by what is found. ``progress`` is told how many shards of how many are done.

    Raises :class:`DataError` only where no shard is found at all, or a manifest cannot be read.
    """
    findings: list[Finding] = []
    tally = _Tally()
    paths = [Path(path) for path in expand_local(shards)]
    names = short_names([str(path) for path in paths])
    manifests = {folder: read_manifest(folder) for folder in dict.fromkeys(path.parent for path in paths)}
    for number, (path, name) in enumerate(zip(paths, names, strict=True)):
        manifest = manifests[path.parent]
        findings += _shard_findings(path, name, manifest.entry(path.name) if manifest else None, tally)
        if progress is not None:
            progress(number + 1, len(paths))
    return [*findings, *_absent_shards(manifests), *_missing_partners(tally), *_repeated_keys(tally)]


def _shard_findings(path: Path, name: str, entry: ShardEntry | None, tally: _Tally) -> Iterator[Finding]:
    flaws: list[Flaw] = []
    try:
        index = build_index(path, flaws)
    except DataError as error:
        yield Finding(name, None, str(error))
        return
    for flaw in flaws[:_MANY]:
        yield Finding(name, None, str(flaw))
    if len(flaws) > _MANY:
        yield Finding(name, None, f"{len(flaws) - _MANY} more flaws like these")
    for problem in _file_problems(path, index, entry, sound=not flaws):
        yield Finding(name, None, problem)
    if index.ignored:
        shown = ", ".join(repr(member) for member in index.ignored[:3])
        what = f"{len(index.ignored)} files belong to no sample (no key or no extension): {shown}"
        yield Finding(name, None, what, "warning")
    tally.keys.add_shard(name, path, index.keys)
    yield from _sample_findings(path, name, index, tally)


def _file_problems(path: Path, index: Index, entry: ShardEntry | None, *, sound: bool) -> Iterator[str]:
    if entry is not None:
        if entry.size != index.size:
            yield f"{index.size} bytes; manifest.json says {entry.size}"
        elif entry.sha256 is not None and entry.sha256 != file_sha256(path):
            yield "its SHA-256 is not the one in manifest.json: the content changed after it was packed"
        if sound and entry.samples != len(index):
            yield f"{len(index)} samples; manifest.json says {entry.samples}"
    if index_path(path).exists():
        try:
            if read_index(path) != index and sound:
                yield f"{index_path(path).name} does not describe it. Run: xmodal data index {path}"
        except DataError as error:
            yield str(error)


def _sample_findings(path: Path, name: str, index: Index, tally: _Tally) -> Iterator[Finding]:
    code: Counter[str] = Counter()
    reader = ShardReader(path, index, name)
    for row, key in enumerate(index.keys):
        try:
            members = reader.read(row).members
        except DataError as error:  # somebody writes to it now, or the disk fails
            yield Finding(name, key, str(error))
            break
        kinds = kinds_of(members)
        tally.samples += 1
        tally.kinds.update(kinds)
        first, count = tally.layouts.get((name, kinds), (key, 0))
        tally.layouts[name, kinds] = first, count + 1
        code.update(filter(can_hold_code, members))
        for problem in member_problems(members):
            yield Finding(name, key, problem)
    for member, count in code.items():
        what = f"{count} members .{member}: such files can run code when they are unpickled, which xmodal never does"
        yield Finding(name, None, what, "warning")


def _absent_shards(manifests: dict[Path, Manifest | None]) -> Iterator[Finding]:
    for folder, manifest in manifests.items():
        for entry in manifest.shards if manifest else ():
            if not (folder / entry.name).exists():
                yield Finding(entry.name, None, "listed in manifest.json, but not in the folder")


def _missing_partners(tally: _Tally) -> Iterator[Finding]:
    usual = sorted(kind for kind, count in tally.kinds.items() if count > _USUAL * tally.samples)
    for (shard, kinds), (key, count) in tally.layouts.items():
        for kind in usual:
            if kind not in kinds:
                what = kind if kind in ("picture", "sound") else f".{kind}"
                others = f" (nor have {count - 1} more in this shard)" if count > 1 else ""
                yield Finding(
                    shard, key, f"has no {what}, which {tally.kinds[kind]} of {tally.samples} samples have{others}"
                )


def _repeated_keys(tally: _Tally) -> Iterator[Finding]:
    for shard, other, key, count in tally.keys.repeated():
        others = f", as of {count - 1} more" if count > 1 else ""
        yield Finding(shard, key, f"{other} has a sample of this key too{others}", "warning")
