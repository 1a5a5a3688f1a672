"""One shard through one teacher: the idempotent function that pools, launchers and arrays of jobs all run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from xmodal.adapters.encoder import Encoder
from xmodal.data.cache.contract import Contract, Wanted, modalities_of
from xmodal.data.cache.lock import Busy, Lock
from xmodal.data.cache.origin import full_spec, origin_of
from xmodal.data.cache.places import Places, lock_path
from xmodal.data.cache.rows import Rows
from xmodal.data.cache.sidecar import KEYS, Sidecar, digest_keys, hash_keys, inspect, write_sidecar
from xmodal.data.cache.taps import LARGEST_HALF, SMALLEST_HALF, mask_of, parent_of_top
from xmodal.data.cache.written_from import changed_at, place_of
from xmodal.data.decode import SampleError
from xmodal.data.hashing import file_sha256
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import RawSample
from xmodal.data.reading import Reading
from xmodal.errors import DataError
from xmodal.files import remove_partial
from xmodal.taps import resolve_tap

Status = Literal["written", "finished"]
_KEY_BYTES = 8
_PROBES = 32
"""Of how many views the texts are compared where views have no end. A list of two is taken for one text once in 2³¹."""


@dataclass(frozen=True)
class Request:
    """What is to be stored of each shard: ``taps`` under the names they are read by, masks included."""

    contract: Contract
    taps: tuple[str, ...]
    places: Places
    reading: Reading
    batch_size: int = 64
    replace: bool = False

    @cached_property
    def _recorded(self) -> dict[str, str | None]:
        """Shard → the sha256 that its folder's manifest has of it."""
        paths = [Path(path) for path in self.places.shards.paths if "://" not in path]
        manifests = {folder: read_manifest(folder) for folder in {path.parent for path in paths}}
        entries = {str(path): found.entry(path.name) for path in paths if (found := manifests[path.parent])}
        return {path: entry.sha256 for path, entry in entries.items() if entry is not None}

    def wanted(self, number: int, *, exact: bool = False) -> Wanted:
        """What the sidecar of shard ``number`` has to be; ``exact`` as :class:`Wanted` has it."""
        shards = self.places.shards
        path, count, size = shards.paths[number], shards.counts[number], shards.sizes[number]
        views = self.contract.views or 1
        sha256 = shards.sha256[number] if "://" in path and shards.sha256 else self._recorded.get(path)
        return Wanted(self.contract, self.taps, path, count, size, sha256 or None, views, exact)

    def sidecar(self, number: int) -> Path:
        return self.places.sidecar(number, self.contract.identity)

    def rows(self, number: int) -> range:
        """The samples of shard ``number``, counted over all shards."""
        counts = self.places.shards.counts
        start = sum(counts[:number])
        return range(start, start + counts[number])

    def keys(self, number: int) -> list[str]:
        """The keys of shard ``number``, in its order."""
        return [self.places.shards.key(row) for row in self.rows(number)]


def describe_teacher(teacher: Encoder, spec: Mapping[str, Any]) -> dict[str, Any]:
    """All that a run needs to know of a teacher that it does not load."""
    shown, full = repr(teacher.preprocess), full_spec(spec)
    return {
        "identity": teacher.identity(),
        "spec": full,
        "origin": origin_of(full),
        "name": teacher.name,
        "modalities": list(teacher.modalities),
        "fields": list(teacher.preprocess.fields),
        "taps": list(teacher.taps()),
        "preprocessing": type(teacher.preprocess).__name__ if " at 0x" in shown else shown,
        "parameters": teacher.num_parameters(),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in teacher.state_dict().values()),
    }


def stored_as(tap: str, teacher: Mapping[str, Any]) -> str:
    """The name under which a tap that is asked for is stored: ``text.hidden.-1`` as ``text.hidden.6``.

    ``teacher`` is its description. Raises :class:`~xmodal.errors.AdapterError` for a tap that it does not have.
    """
    if parent_of_top(tap) in teacher["taps"]:
        return tap
    return resolve_tap(tap, teacher["taps"], teacher["name"])


def stored_taps(asked: Sequence[str], teacher: Mapping[str, Any], fields: frozenset[str]) -> tuple[str, ...]:
    """The names under which ``asked`` is stored, with the masks that go with it.

    ``fields`` is what the samples have (empty: all that is asked): taps of a modality that they lack are left out.
    """
    names: dict[str, None] = {}
    for tap in asked:
        found = stored_as(tap, teacher)
        mask = mask_of(parent_of_top(found) or found, teacher["taps"])
        names.update(dict.fromkeys([mask, found] if mask is not None else [found]))
    return tuple(name for name in names if not fields or set(modalities_of(name, teacher["modalities"])) <= fields)


def cache_shard(
    teacher: Encoder, request: Request, number: int, on_samples: Callable[[int], object] = lambda count: None
) -> Status:
    """Write the sidecar of shard ``number``, unless a sound one is there.

    ``on_samples`` is told of every few samples that are done. Raises :class:`~xmodal.data.cache.lock.Busy` where
    another process is writing it, and :class:`DataError` where features are not finite, or what is there was made with
    other settings and ``replace`` is not set.
    """
    path, wanted = request.sidecar(number), request.wanted(number, exact=True)
    _, problem = inspect(path, wanted)
    if problem is None:
        if lock_path(path).exists():  # its owner died after the last thing it had to do, or is about to give it back
            with contextlib.suppress(Busy), Lock(lock_path(path)):
                pass
        return "finished"
    path.parent.mkdir(parents=True, exist_ok=True)
    with Lock(lock_path(path)):
        sidecar, problem = inspect(path, wanted)  # it may have been finished in between
        if problem is None:
            return "finished"
        if problem.kind == "foreign" and not request.replace:
            raise DataError(
                f"{problem.text} It is left as it is. Write beside it with --out DIR, or over it with --replace."
            )
        remove_partial(path)
        keep = sidecar if problem.kind in ("taps", "views") else None
        tensors, facts = ShardRun(teacher, _grown(request, keep), number, on_samples).run()
        write_sidecar(path, tensors, facts)
        _, problem = inspect(path, wanted)
        if problem is not None:
            raise DataError(f"{problem.text} The shard is not what its manifest says: xmodal data index {wanted.shard}")
    return "written"


def _grown(request: Request, there: Sidecar | None) -> Request:
    """The request with what a sidecar already holds beside it, so that nobody loses a tap or a view."""
    if there is None:
        return request
    views = max((there.views(tap) for tap in there.taps), default=1)
    asked = request.contract.views
    reading = {**request.contract.reading, "views": None if asked is None else max(views, asked)}
    taps = tuple(dict.fromkeys((*request.taps, *there.taps)))
    asked_tops = any(map(parent_of_top, request.taps))
    top_k = (request.contract.top_k if asked_tops else None) or there.contract.top_k
    return replace(request, contract=replace(request.contract, reading=reading, top_k=top_k), taps=taps)


class _Again(Exception):  # noqa: N818
    """What was found out of a shard on the way changes what was stored of it before."""


@dataclass
class ShardRun:
    """The samples of one shard, a few at a time, in every view."""

    teacher: Encoder
    request: Request
    number: int
    on_samples: Callable[[int], object] = lambda count: None
    text_varies: bool = False
    wide: set[str] = field(default_factory=set)
    bad: dict[str, str] = field(default_factory=dict)
    done: int = 0

    def run(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        while True:
            try:
                return self._run()
            except _Again:
                continue

    def _run(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        shards, wanted = self.request.places.shards, self.request.wanted(self.number)
        written = changed_at(wanted.shard)  # before it is read: what is written meanwhile is seen to be newer
        keys, places = self.request.keys(self.number), self.request.rows(self.number)
        hashes = hash_keys(keys, wanted.shard)
        rows, varying = self._new_rows()
        self.bad = {}
        for first in range(0, len(places), self.request.batch_size):
            raws = [shards.read(place) for place in places[first : first + self.request.batch_size]]
            self._add(rows, raws, varying)
            if first + len(raws) > self.done:  # a second pass says nothing twice
                self.on_samples(first + len(raws) - max(self.done, first))
                self.done = first + len(raws)
        tensors = rows.tensors()
        tiny = {tap for tap, peak in rows.peaks.items() if 0 < peak < SMALLEST_HALF} - self.wide
        if tiny:
            self.wide |= tiny
            raise _Again
        return {KEYS: hashes, **tensors}, self._facts(wanted, written, keys, tensors, varying)

    def measure(self) -> tuple[float, float]:
        """Bytes and seconds that a sample takes, by the first batch of the shard, run twice."""
        shards, places = self.request.places.shards, self.request.rows(self.number)[: self.request.batch_size]
        best = float("inf")
        rounds = 0
        while rounds < 2:
            before = time.perf_counter()
            try:
                rows, varying = self._new_rows()
                self._add(rows, [shards.read(place) for place in places], varying)
            except _Again:
                continue
            best, rounds = min(best, time.perf_counter() - before), rounds + 1
        stored = sum(tensor.numel() * tensor.element_size() for tensor in rows.tensors().values())
        return stored / len(places) + _KEY_BYTES, best / len(places)

    def _new_rows(self) -> tuple[Rows, dict[str, bool]]:
        """Rows to gather features in, and which taps differ from view to view."""
        taps, shard = self.request.taps, self.request.places.shards.paths[self.number]
        rows = Rows(self.teacher, taps, self.request.contract.top_k, shard, self.wide)
        return rows, {tap: self._varies(tap) for tap in taps}

    def _add(self, rows: Rows, raws: Sequence[RawSample], varying: Mapping[str, bool]) -> None:
        views = (self.request.contract.views or 1) if any(varying.values()) else 1
        samples = [read for raw in raws if (read := self._read(raw, views)) is not None]
        good = [number for number, raw in enumerate(raws) if raw.key not in self.bad]
        rows.start(len(raws), good)
        for view in range(views if good else 0):
            taps = [tap for tap in self.request.taps if varying[tap] or view == 0]
            rows.add([each[view] for each in samples], taps)
        rows.end()
        large = {tap for tap, peak in rows.peaks.items() if peak > LARGEST_HALF} - self.wide
        if large:
            self.wide |= large
            raise _Again  # what was stored before it was stored with fewer digits

    def _read(self, raw: RawSample, views: int) -> list[dict[str, Any]] | None:
        """The sample in each view; None, and a line in ``bad``, where it cannot be decoded."""
        fields, text = self.request.contract.fields, self.request.contract.text
        try:
            if "text" in fields and not self.text_varies and self._has_several_texts(raw):
                self.text_varies = True
                raise _Again
            return [self.request.reading(raw, fields=fields, text=text, view=view) for view in range(views)]
        except SampleError as error:
            self.bad[raw.key] = error.reason
            return None

    def _has_several_texts(self, raw: RawSample) -> bool:
        views, text = self.request.contract.views or _PROBES, self.request.contract.text
        texts = {self.request.reading(raw, fields={"text"}, text=text, view=view)["text"] for view in range(views)}
        return len(texts) > 1

    def _varies(self, tap: str) -> bool:
        contract = self.request.contract
        modalities = modalities_of(tap, contract.modalities)
        varies = any(contract.varies(m) for m in modalities) or (self.text_varies and "text" in modalities)
        if varies and contract.views is None:
            raise DataError(no_views(contract))
        return varies

    def _facts(
        self,
        wanted: Wanted,
        written: int | None,
        keys: Sequence[str],
        tensors: Mapping[str, Tensor],
        varying: Mapping[str, bool],
    ) -> dict[str, Any]:
        path = Path(wanted.shard)
        return {
            "contract": self.request.contract.to_dict(),
            "shard": {
                "name": self.request.places.shards.names[self.number],
                "samples": wanted.samples,
                "size": wanted.size,
                "sha256": file_sha256(path) if path.is_file() else wanted.sha256,
                "keys": digest_keys(keys),
                "place": place_of(wanted.shard, self.request.sidecar(self.number)),
                "mtime_ns": written,
            },
            "taps": {
                tap: {
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": list(tensor.shape[2:]),
                    "varies": varying[tap],
                }
                for tap, tensor in tensors.items()
            },
            "bad": self.bad,
            "libraries": _libraries(),
        }


def no_views(contract: Contract) -> str:
    """What to say where a cache would have no end."""
    return (
        f"Every epoch brings a new view of every sample, and {contract.teacher['name']} would see each differently, so "
        "its cache would have no end. Say how many views a sample has, such as data.views=10; so many are stored."
    )


def _libraries() -> dict[str, str]:
    """Versions that pixels and features may hang on, for whoever wonders later. They are not compared."""
    from importlib import metadata

    names = ("torch", "pillow", "timm", "transformers", "xmodal")
    found = {distribution.metadata["Name"].lower() for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in names if name in found}
