"""Checkpoints that survive a crash: written beside, flushed, renamed. Tensors in safetensors, the rest in JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from xmodal.errors import RunError
from xmodal.files import PARTIAL

_NAME = re.compile(r"^stage-(\d+)-step-(\d+)$")


@dataclass(frozen=True, order=True)
class Place:
    """Where a run stands: its stage, and the steps of that stage that are done."""

    stage: int
    step: int

    @property
    def name(self) -> str:
        return f"stage-{self.stage}-step-{self.step:08d}"


def save_checkpoint(folder: Path, place: Place, state: Mapping[str, Any], keep: int) -> Path:
    """Write ``state`` under ``folder``; then remove all but the newest ``keep`` checkpoints.

    ``state`` is nested mappings and lists of tensors, numbers, strings and None. Nothing is visible under its final
    name before it is whole and on disk. Raises :class:`RunError` where the disk refuses; older checkpoints stay.
    """
    target, partial = folder / place.name, folder / f".{place.name}{PARTIAL}"
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(state, "", tensors)
    try:
        for left in folder.glob(f".*{PARTIAL}"):  # by runs that were killed, perhaps at steps that never come again
            shutil.rmtree(left)
        partial.mkdir(parents=True)
        save_file(tensors, partial / "state.safetensors")
        (partial / "state.json").write_text(json.dumps(skeleton))
        for path in (partial / "state.safetensors", partial / "state.json", partial):
            _flush(path)
        _remove(target)
        partial.rename(target)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(
            f"The checkpoint of step {place.step} could not be written to {folder}: {error}. Earlier checkpoints are "
            "whole: free some space and go on with --resume."
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        _remove(folder / old.name)
    return target


def list_checkpoints(folder: Path) -> list[Place]:
    """Whole checkpoints, oldest first."""
    names = [match for path in folder.glob("stage-*") if (match := _NAME.match(path.name))]
    return sorted(Place(int(match[1]), int(match[2])) for match in names)


def load_checkpoint(folder: Path, place: Place) -> dict[str, Any]:
    """The state that was saved. Raises :class:`RunError` where a file is missing or broken."""
    path = folder / place.name
    try:
        skeleton = json.loads((path / "state.json").read_text())
        tensors = load_file(path / "state.safetensors")
        state: dict[str, Any] = _unpack(skeleton, tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RunError(
            f"The checkpoint {path} cannot be read: {error}. Delete that folder to go on from the one before it."
        ) from error
    return state


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()  # safetensors refuses memory that is shared
        return {"tensor": path}
    if isinstance(value, Mapping):
        # As pairs: optimizers key their state by integers, which JSON objects cannot.
        return {"items": [[key, _pack(entry, f"{path}/{key}", tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_pack(entry, f"{path}/{index}", tensors) for index, entry in enumerate(value)]}
    return {"value": value}


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "items":
        return {key: _unpack(entry, tensors) for key, entry in content}
    if kind == "list":
        return [_unpack(entry, tensors) for entry in content]
    return content


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that, whenever the process is killed, no half of it passes for a whole one."""
    if checkpoint.exists():
        going = checkpoint.with_name(f".{checkpoint.name}.old{PARTIAL}")
        checkpoint.rename(going)
        shutil.rmtree(going)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle for a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
