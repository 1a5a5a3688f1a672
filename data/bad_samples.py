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
        self._named, self._torn = _names_in(path)

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
        # half a surrogate pair, which JSON can hold and UTF-8 cannot, stays escaped
        line = json.dumps(asdict(sample), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:  # one write a line: ranks and killed runs leave whole lines
                file.write(b"\n" + line if self._torn else line)
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error.strerror or error}. It names samples that cannot be decoded."
            ) from error
        self._torn = False
        self._named.add((sample.shard, sample.key))


def _names_in(path: Path | None) -> tuple[set[tuple[str, str]], bool]:
    """Who is named in the file, and whether its last line is torn, as a disk that was full leaves it."""
    if path is None or not path.exists():
        return set(), False
    content = path.read_bytes()
    names = set()
    for line in content.splitlines():
        try:
            entry = json.loads(line)
            names.add((str(entry["shard"]), str(entry["key"])))
        except (ValueError, TypeError, KeyError):
            continue  # torn, or not ours; the sample is named once more when it comes up
    return names, not content.endswith(b"\n") and bool(content)
