"""A cache read back without its teacher: which one it is, what it holds, and a sample's features by shard and key."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from xmodal.data.cache.contract import Contract, listed
from xmodal.data.cache.origin import full_spec, origin_of, same_origin
from xmodal.data.cache.places import manifest_path
from xmodal.data.cache.shard import Request
from xmodal.data.cache.sidecar import Problem, Sidecar, Unusable
from xmodal.errors import DataError

_MAX_OPEN = 256


def find_teacher(folders: Sequence[Path], spec: Mapping[str, Any], mend: str) -> dict[str, Any]:
    """What the manifest of a cache says of the teacher that ``spec`` would make.

    Raises :class:`DataError` that says whose caches there are, where this teacher's is not among them.
    """
    wanted = full_spec(spec)
    here = origin_of(wanted)
    others: list[str] = []
    for folder in folders:
        for path in sorted(folder.glob(manifest_path(folder, "*").name)):
            teacher = _read_manifest(path).teacher
            if full_spec(teacher["spec"]) != wanted:
                others.append(f"{teacher['name']} {_difference(full_spec(teacher['spec']), wanted)}")
            elif not same_origin(teacher.get("origin", {}), here):
                others.append(f"{teacher['name']} as its files were before they changed")
            else:
                return dict(teacher)
    where = listed(str(folder) for folder in folders)
    if others:
        found = listed(dict.fromkeys(others))
        raise DataError(f"{where} holds the cache of another teacher: {found}, not of {_spec(wanted)}. {mend}")
    raise DataError(f"{where} holds no cache of {_spec(wanted)}. {mend}")


def _read_manifest(path: Path) -> Contract:
    try:
        return Contract.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the manifest of a cache ({error}). Remove it and cache again.") from error


def _difference(theirs: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = [name for name in theirs if theirs[name] != wanted.get(name)]
    return "(" + ", ".join(f"{name}: {theirs.get(name)!r}" for name in names) + ")"


def _spec(spec: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in spec.items() if value is not None) + "}"


@dataclass(frozen=True)
class Part:
    """The shards of one source of a stream; ``request`` is what their sidecars must be, its taps those they have."""

    request: Request

    def check_presence(self, mend: str) -> None:
        """Raises :class:`DataError` that says which sidecars are missing, one listing a folder."""
        places, identity = self.request.places, self.request.contract.identity
        if not self.request.taps:
            return
        there = {folder: _names_in(folder) for folder in places.folders()}
        paths = [self.request.sidecar(number) for number in range(len(places.shards.paths))]
        missing = [path for path in paths if path.name not in there[path.parent]]
        if missing:
            raise DataError(
                f"The cache of {self.request.contract.teacher['name']} ({identity}) is not whole: {missing[0]} is "
                f"missing, one of {len(missing)} missing of {len(paths)}. {mend}"
            )


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


class Lookup:
    """Rows of a cache by (shard, key, view). Cheap to pickle; sidecars are opened when first read, a few kept open."""

    def __init__(self, parts: Sequence[Part], taps: Sequence[str], mend: str) -> None:
        self.parts, self.taps, self.mend = tuple(parts), tuple(taps), mend
        self._places: dict[str, tuple[int, int]] = {}
        for number, part in enumerate(self.parts):
            for shard, name in enumerate(part.request.places.shards.names):
                if name in self._places:
                    raise DataError(
                        f"Two sources have a shard called {name}. Cached features are found by the shard's name and "
                        "the sample's key, so their shards need names of their own: rename one."
                    )
                self._places[name] = (number, shard)
        self._forget()

    def __call__(self, shard: str, key: str, view: int) -> dict[str, Tensor]:
        """Tap → one sample's tensor, as stored; without the taps of a modality that its source lacks.

        Raises :class:`DataError` that says what is wrong with the sidecar, and what mends it.
        """
        if shard not in self._places:
            raise DataError(f"Shard {shard} is none of those whose features were looked up at the start. {self.mend}")
        number, _ = self._places[shard]
        taps = self.parts[number].request.taps
        if not taps:
            return {}
        sidecar = self._open(shard)
        row = sidecar.row_of(key)
        if row is None:
            raise DataError(f"{sidecar.path} is stale: it has no sample {key!r} of shard {shard}. {self.mend}")
        reason = sidecar.bad(key)
        if reason is not None:
            raise DataError(
                f"{sidecar.path} has no features of sample {key!r}: when it was written it could not be decoded "
                f"({reason}). If that is mended, remove the file. {self.mend}"
            )
        return {
            tap: sidecar.tensors[tap][row, view if sidecar.taps[tap]["varies"] else 0]
            for tap in self.taps
            if tap in taps
        }

    def first(self) -> Sidecar:
        """A sidecar that holds all taps that any does, to learn their shapes from."""
        numbers = [number for number, part in enumerate(self.parts) if part.request.taps]
        if not numbers:
            raise DataError(f"No source of the training data has what this teacher reads. {self.mend}")
        best = max(numbers, key=lambda number: len(self.parts[number].request.taps))
        return self._open(self.parts[best].request.places.shards.names[0])

    def _open(self, shard: str) -> Sidecar:
        if self._pid != os.getpid():
            self._forget()
        if shard in self._opened:
            self._opened.move_to_end(shard)
            return self._opened[shard]
        number, at = self._places[shard]
        request = self.parts[number].request
        try:
            sidecar = Sidecar(request.sidecar(at))
            problem = sidecar.problem(request.wanted(at))
        except Unusable as error:
            raise DataError(f"{error.problem.text} {self._mending(error.problem)}") from error
        if problem is not None:
            raise DataError(f"{problem.text} {self._mending(problem)}")
        unbounded = [tap for tap in request.taps if sidecar.taps[tap]["varies"] and request.contract.views is None]
        if unbounded:
            raise DataError(
                f"{sidecar.path} holds {sidecar.views(unbounded[0])} views of {unbounded[0]}, but every epoch asks "
                f"for a new one. Set data.views={sidecar.views(unbounded[0])}."
            )
        self._opened[shard] = sidecar
        while len(self._opened) > _MAX_OPEN:
            self._opened.popitem(last=False)
        return sidecar

    def _mending(self, problem: Problem) -> str:
        if problem.kind == "foreign":
            return (
                f"Restore those settings, or cache with these, into an --out of its own or with --replace. {self.mend}"
            )
        return self.mend

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._opened: OrderedDict[str, Sidecar] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "taps": self.taps, "mend": self.mend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
