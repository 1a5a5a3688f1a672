"""A shard's sidecar: one safetensors file of ``[N, K, …]`` a tap, its keys' hashes, and what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xmodal.data.cache.contract import Contract, Wanted
from xmodal.data.cache.taps import parent_of_top
from xmodal.data.cache.written_from import compare
from xmodal.data.hashing import stable_hash
from xmodal.data.members import listed
from xmodal.errors import DataError
from xmodal.files import write_whole

FORMAT, VERSION = "xmodal-teacher-cache", 1
KEYS = "keys"
"""The tensor of the samples' key hashes, int64 ``[N]``, in the order of the shard."""

Kind = Literal["missing", "broken", "short", "stale", "views", "taps", "foreign"]


@dataclass(frozen=True)
class Problem:
    """Why a sidecar cannot be used. All but ``foreign`` ones are mended by writing it again."""

    kind: Kind
    text: str


class Unusable(DataError):  # noqa: N818
    """A sidecar that cannot be used; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.text)


class Sidecar:
    """An open sidecar. Tensors lie in the file and are read page by page, as their rows are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(str(path), framework="pt") as file:
                facts = (file.metadata() or {}).get("xmodal")
                names = set(file.keys())
                self.facts: dict[str, Any] = _read_facts(facts, path)
                self.tensors = {name: file.get_tensor(name) for name in names}
        except FileNotFoundError as error:
            raise Unusable(Problem("missing", f"{path} is missing.")) from error
        except (SafetensorError, OSError) as error:
            size = path.stat().st_size if path.exists() else 0
            why = f"{path} ({size} bytes) is cut short or broken: {str(error).strip() or type(error).__name__}."
            raise Unusable(Problem("broken", why)) from error
        try:
            self.contract = Contract.from_dict(self.facts["contract"])
            self.taps: dict[str, dict[str, Any]] = dict(self.facts["taps"])
            self.samples, self.size = int(self.facts["shard"]["samples"]), int(self.facts["shard"]["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise Unusable(Problem("broken", f"{path} is not one of xmodal's caches ({error!r}).")) from error
        self._order: Tensor | None = None

    def views(self, tap: str) -> int:
        return int(self.tensors[tap].shape[1])

    def row_of(self, key: str) -> int | None:
        """The row of a sample, None where it is not in here."""
        hashes = self.tensors[KEYS]
        if self._order is None:
            self._order = hashes.argsort()
            self._sorted = hashes[self._order]
        wanted = key_hash(key)
        place = int(torch.searchsorted(self._sorted, wanted))
        return int(self._order[place]) if place < len(hashes) and int(self._sorted[place]) == wanted else None

    def bad(self, key: str) -> str | None:
        """Why a sample has no features, None where it has."""
        reason: str | None = self.facts.get("bad", {}).get(key)
        return reason

    def problem(self, wanted: Wanted) -> Problem | None:
        """The first thing that makes this of no use for what is wanted, None where there is none."""
        varying = any(entry["varies"] for entry in self.taps.values())
        found = compare(self.facts["shard"], wanted, self.path)
        if found == "other":
            there = self.facts["shard"]["place"]
            why = f"of {self.facts['shard']['name']} in {there}, not known to have the bytes of {wanted.shard}"
            return Problem("foreign", f"{self.path} is a foreign cache, {why}.")
        if found == "changed":
            return Problem("stale", f"{self.path} is stale: shard {wanted.shard} changed after it was written.")
        rows = {len(tensor) for tensor in self.tensors.values()}
        if rows != {self.samples} or self.samples != wanted.samples or not {KEYS, *self.taps} <= set(self.tensors):
            held = f"{min(rows, default=0)} rows of {len(self.taps)} taps"
            return Problem("short", f"{self.path} is short: {held}, shard {wanted.shard} has {wanted.samples} samples.")
        tops = any(map(parent_of_top, wanted.taps)) and any(map(parent_of_top, self.taps))
        different = wanted.contract.differences(self.contract, varying=varying, tops=tops)
        if different:
            return Problem("foreign", f"{self.path} is a foreign cache, of {'; of '.join(different)}.")
        missing = [tap for tap in wanted.taps if tap not in self.taps]
        if missing:
            held = listed(sorted(self.taps))
            return Problem("taps", f"{self.path} lacks {', '.join(missing)}; it holds {held}.")
        few = [tap for tap in wanted.taps if self.taps[tap]["varies"] and self.views(tap) < wanted.views]
        if few:
            held = f"{self.views(few[0])} views of {few[0]}, fewer than the {wanted.views} of data.views"
            return Problem("views", f"{self.path} holds {held}.")
        return None


def inspect(path: Path, wanted: Wanted) -> tuple[Sidecar | None, Problem | None]:
    """The sidecar, where it can be opened, and what is wrong with it."""
    try:
        sidecar = Sidecar(path)
    except Unusable as error:
        return None, error.problem
    return sidecar, sidecar.problem(wanted)


def write_sidecar(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write it whole or not at all."""
    from safetensors.torch import save_file

    metadata = {"xmodal": json.dumps({"format": FORMAT, "version": VERSION, **facts}, ensure_ascii=False)}
    write_whole(path, lambda file: save_file({k: v.contiguous() for k, v in tensors.items()}, str(file), metadata))


def key_hash(key: str) -> int:
    """A sample's name as a signed number of 64 bits."""
    number = stable_hash("key", key)
    return number - 2**64 if number >= 2**63 else number


def hash_keys(keys: Sequence[str], shard: str) -> Tensor:
    """``[N]`` int64. Raises :class:`DataError` where two keys have one hash, which in practice is one key twice."""
    hashes = torch.tensor([key_hash(key) for key in keys], dtype=torch.int64)
    if len(set(hashes.tolist())) < len(keys):
        raise DataError(f"Shard {shard} holds a key twice, so its samples cannot be told apart: xmodal data check it.")
    return hashes


def digest_keys(keys: Iterable[str]) -> str:
    """One hash over all keys in their order."""
    digest = hashlib.sha256()
    for key in keys:
        encoded = key.encode("utf-8", "surrogatepass")
        digest.update(f"{len(encoded)}:".encode() + encoded)
    return digest.hexdigest()


def _read_facts(text: str | None, path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(text or "null")
        if (facts["format"], facts["version"]) != (FORMAT, VERSION):
            raise ValueError(f"{facts['format']} {facts['version']}")
    except (ValueError, TypeError, KeyError) as error:
        why = f"{path} is not a cache of this version of xmodal (expected {FORMAT} {VERSION})."
        raise Unusable(Problem("broken", why)) from error
    return dict(facts)
