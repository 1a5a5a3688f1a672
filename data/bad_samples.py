"""The account of samples that could not be decoded: named once each in a file, and too many of them stop the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from xmodal.data.batches import BadSample
from xmodal.errors import DataError

_ENOUGH = 1000


class BadSamples:
    """Counts what was read and what of it was bad, since this process started.

    ``path`` is a file of JSON lines ``{key, shard, reason, position}``, appended to, one line for each sample however
    often it comes up; None writes none. ``max_fraction`` of all that was read may be bad; it is looked at once
    ``enough`` were read (at most 1 000).
    """

    def __init__(self, path: Path | None, *, max_fraction: float, enough: int) -> None:
        self.path, self.max_fraction, self.enough = path, max_fraction, min(enough, _ENOUGH)
        self.read = self.count = 0
        self._named = _names_in(path)

    def add(self, read: int, bad: Sequence[BadSample]) -> None:
        """Take note of a batch. Raises :class:`DataError` where more than ``max_fraction`` are bad."""
        self.read += read
        self.count += len(bad)
        for sample in bad:
            self._name(sample)
        if bad and self.read >= self.enough and self.count > self.max_fraction * self.read:
            last = bad[-1]
            listed = f" All are named in {self.path}." if self.path else ""
            raise DataError(
                f"{self.count} of {self.read} samples cannot be decoded, more than data.max_bad_fraction="
                f"{self.max_fraction:g} allows. The last: sample {last.key!r} of {last.shard}: {last.reason}.{listed} "
                "Run `xmodal data check` on the shards, or allow more."
            )

    def _name(self, sample: BadSample) -> None:
        if self.path is None or (sample.shard, sample.key) in self._named:
            return
        self._named.add((sample.shard, sample.key))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:  # one write a line: ranks and killed runs leave whole lines
            file.write(json.dumps(asdict(sample), ensure_ascii=False).encode() + b"\n")


def _names_in(path: Path | None) -> set[tuple[str, str]]:
    if path is None or not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return {(line["shard"], line["key"]) for line in map(json.loads, lines)}
