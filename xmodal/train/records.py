"""What a run writes down as it goes: ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from xmodal.files import write_text
from xmodal.train.checkpoint import Place
from xmodal.train.folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Records:
    """Appends one JSON object a line, each with ``stage`` and ``step``, and the same numbers to TensorBoard.

    Opened at ``place``; lines of later steps, written by a run that was killed before its checkpoint, are removed.
    """

    def __init__(self, folder: RunFolder, place: Place) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _truncate(folder.metrics, place)
        self._file = folder.metrics.open("a", encoding="utf-8")
        self._board: SummaryWriter = SummaryWriter(str(folder.tensorboard), purge_step=place.step)

    def write(self, place: Place, values: Mapping[str, Any]) -> None:
        """One line; numbers, also nested ones, go to TensorBoard under their path. What is not finite is null."""
        line = {"stage": place.stage, "step": place.step, **_finite(values)}
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        for name, number in _numbers(values):
            self._board.add_scalar(f"stage {place.stage}/{name}" if place.stage else name, number, place.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()
        self._board.close()


def _truncate(path: Path, place: Place) -> None:
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # half a line, written when the run was killed
        if Place(entry.get("stage", 0), entry["step"]) <= place:
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _finite(value)
        if isinstance(value, Mapping)
        else (None if isinstance(value, float) and not math.isfinite(value) else value)
        for name, value in values.items()
    }


def _numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    numbers = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            numbers.append((prefix + name, float(value)))
    return numbers
