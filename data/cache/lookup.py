"""A cache read back without its teacher: which one it is, what it holds, and a sample's features by shard and key."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from xmodal.data.cache.contract import Contract
from xmodal.data.cache.origin import full_spec, origin_of, same_origin
from xmodal.data.cache.places import manifest_path
from xmodal.data.cache.shard import Request
from xmodal.data.cache.sidecar import Problem, Sidecar, Unusable
from xmodal.data.members import listed
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


def check_presence(request: Request, mend: str) -> None:
    """Raises :class:`DataError` that says which sidecars of a source are missing, by one listing a folder."""
    if not request.taps:
        return
    there = {folder: _names_in(folder) for folder in request.places.folders()}
    paths = [request.sidecar(number) for number in range(len(request.places.shards.paths))]
    missing = [path for path in paths if path.name not in there[path.parent]]
    if missing:
        contract = request.contract
        raise DataError(
            f"The cache of {contract.teacher['name']} ({contract.identity}) is not whole: {missing[0]} is "
            f"missing, one of {len(missing)} missing of {len(paths)}. {mend}"
        )


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


class Lookup:
    """Rows of a cache by (shard, key, view). Cheap to pickle; sidecars are opened when first read, a few kept open.

    ``requests`` say what the sidecars of each source must be; a source without what the teacher reads has no taps.
    """

    def __init__(self, requests: Sequence[Request], taps: Sequence[str], mend: str) -> None:
        self.requests, self.taps, self.mend = tuple(requests), tuple(taps), mend
        self._places: dict[str, tuple[Request, int]] = {}
        for request in self.requests:
            for number, name in enumerate(request.places.shards.names):
                if name in self._places:
                    raise DataError(
                        f"Two sources have a shard called {name}. Cached features are found by the shard's name and "
                        "the sample's key, so their shards need names of their own: rename one."
                    )
                self._places[name] = (request, number)
        self._forget()

    def __call__(self, shard: str, key: str, view: int) -> dict[str, Tensor]:
        """Tap → one sample's tensor, as stored; without the taps of a modality that its source lacks.

        Raises :class:`DataError` that says what is wrong with the sidecar, and what mends it.
        """
        if shard not in self._places:
            raise DataError(f"Shard {shard} is none of those whose features were looked up at the start. {self.mend}")
        request, _ = self._places[shard]
        if not request.taps:
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
            if tap in request.taps
        }

    def first(self) -> Sidecar:
        """A sidecar that holds all taps that any does, to learn their shapes from."""
        best = max(self.requests, key=lambda request: len(request.taps), default=None)
        if best is None or not best.taps:
            raise DataError(f"No source of the training data has what this teacher reads. {self.mend}")
        return self._open(best.places.shards.names[0])

    def _open(self, shard: str) -> Sidecar:
        if self._pid != os.getpid():
            self._forget()
        if shard in self._opened:
            self._opened.move_to_end(shard)
            return self._opened[shard]
        request, number = self._places[shard]
        try:
            sidecar = Sidecar(request.sidecar(number))
            problem = sidecar.problem(request.wanted(number))
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
        return {"requests": self.requests, "taps": self.taps, "mend": self.mend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
