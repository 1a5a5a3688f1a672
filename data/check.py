"""Read all of some shards and list what is wrong with them: sizes, checksums, keys, members, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmodal.data.decode import (
    IMAGE_EXTENSIONS,
    MemberError,
    decode_image,
    decode_json,
    decode_label,
    decode_text,
    image_member,
)
from xmodal.data.hashing import file_sha256, stable_hash
from xmodal.data.index import Index, build_index, index_path, read_index
from xmodal.data.manifest import ShardEntry, read_manifest
from xmodal.data.reader import ShardReader
from xmodal.data.uri import Shards, expand
from xmodal.errors import DataError

_USUAL = 0.5
"""A kind of member that more than this share of all samples has is missed in the others."""

_DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(IMAGE_EXTENSIONS, decode_image),
    "txt": decode_text,
    "json": decode_json,
    "cls": decode_label,
}


@dataclass(frozen=True)
class Finding:
    """Something wrong with a shard or, where ``key`` is given, with one of its samples."""

    shard: str
    key: str | None
    problem: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.problem}" if self.key is None else f"{self.shard}: {self.key}: {self.problem}"


@dataclass
class _Tally:
    """What can be judged only when all shards were read."""

    samples: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    layouts: dict[tuple[str, frozenset[str]], list[str]] = field(default_factory=dict)  # (shard, kinds) → keys
    shard_of: dict[int, str] = field(default_factory=dict)  # by hash of the key: keys themselves would need more memory


def check(shards: Shards) -> list[Finding]:
    """Read every byte that ``shards`` names, decode every picture, text and label, and return all that is wrong.

    Nothing is changed or written. An empty list means that training and evaluation will meet no bad sample.
    Raises :class:`DataError` only where no shard is found at all, or a manifest cannot be read.
    """
    findings: list[Finding] = []
    tally = _Tally()
    paths = [Path(path) for path in expand(shards)]
    manifests = {folder: read_manifest(folder) for folder in dict.fromkeys(path.parent for path in paths)}
    for path in paths:
        manifest = manifests[path.parent]
        entry = manifest.entry(path.name) if manifest else None
        try:
            index = build_index(path)
        except DataError as error:
            findings.append(Finding(path.name, None, str(error)))
            continue
        findings += [Finding(path.name, None, problem) for problem in _file_problems(path, index, entry)]
        findings += _check_samples(path, index, tally)
    for folder, manifest in manifests.items():
        for entry in manifest.shards if manifest else ():
            if not (folder / entry.name).exists():
                findings.append(Finding(entry.name, None, "listed in manifest.json, but not in the folder"))
    return findings + _missing_partners(tally)


def _file_problems(path: Path, index: Index, entry: ShardEntry | None) -> list[str]:
    problems = []
    if entry is not None:
        if entry.size != index.size:
            problems.append(f"{index.size} bytes; manifest.json says {entry.size}")
        elif entry.sha256 is not None and entry.sha256 != file_sha256(path):
            problems.append("its SHA-256 is not the one in manifest.json: the content changed after it was packed")
        if entry.samples != len(index):
            problems.append(f"{len(index)} samples; manifest.json says {entry.samples}")
    if index_path(path).exists():
        try:
            if read_index(path) != index:
                problems.append(f"{index_path(path).name} does not describe it. Run: xmodal data index {path}")
        except DataError as error:
            problems.append(str(error))
    if index.ignored:
        shown = ", ".join(repr(name) for name in index.ignored[:3])
        problems.append(f"{len(index.ignored)} files belong to no sample (no key or no extension): {shown}")
    return problems


def _check_samples(path: Path, index: Index, tally: _Tally) -> list[Finding]:
    findings = []
    reader = ShardReader(path, index, path.name)
    for row, key in enumerate(index.keys):
        first = tally.shard_of.setdefault(stable_hash(key), path.name)
        if first != path.name:
            findings.append(Finding(path.name, key, f"{first} has a sample of this key too"))
        members = reader.read(row).members
        kinds = frozenset("picture" if name in IMAGE_EXTENSIONS else name for name in members)
        tally.samples += 1
        tally.kinds.update(kinds)
        tally.layouts.setdefault((path.name, kinds), []).append(key)
        if "picture" in kinds:
            try:
                image_member(members)
            except MemberError as error:
                findings.append(Finding(path.name, key, str(error)))
        problems = {name: _member_problem(name, data) for name, data in members.items()}
        findings += [Finding(path.name, key, f".{name}: {problem}") for name, problem in problems.items() if problem]
    return findings


def _member_problem(name: str, data: bytes) -> str:
    if not data:
        return "empty (0 bytes)"
    try:
        _DECODERS.get(name, len)(data)
    except MemberError as error:
        return str(error)
    return ""


def _missing_partners(tally: _Tally) -> list[Finding]:
    findings = []
    usual = sorted(name for name, count in tally.kinds.items() if count > _USUAL * tally.samples)
    for (shard, kinds), keys in tally.layouts.items():
        for name in usual:
            if name not in kinds:
                what = "picture" if name == "picture" else f".{name}"
                others = f" (nor have {len(keys) - 1} more in this shard)" if len(keys) > 1 else ""
                problem = f"has no {what}, which {tally.kinds[name]} of {tally.samples} samples have{others}"
                findings.append(Finding(shard, keys[0], problem))
    return findings
