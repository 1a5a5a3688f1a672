"""What kind of student lies in a folder, and where its notes are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodal.adapters.open_clip.sources import CONFIG as OPEN_CLIP_CONFIG
from xmodal.errors import AdapterError

CLIP_FILE = "xmodal.json"
MODULE_KEY = "module_class"
"""In ``config.json``, the class of a student that is the user's own module."""


def kind_of(folder: Path) -> str | None:
    """``image``, ``text``, ``clip``, ``open_clip`` or ``module``: what student lies in ``folder``; None: none does."""
    if (folder / CLIP_FILE).is_file():
        return "clip"
    if (folder / "modules.json").is_file():
        return "text"
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return "open_clip"
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return "image" if "architecture" in config else "module" if MODULE_KEY in config else None


def find_student(given: str | Path) -> tuple[Path, str]:
    """The student's folder at ``given``, or in ``student/`` of a run folder, and its kind.

    Raises :class:`~xmodal.errors.AdapterError` where there is none.
    """
    given = Path(given).expanduser()
    for folder in (given, given / "student"):
        kind = kind_of(folder)
        if kind is not None:
            return folder, kind
    state = (
        f"holds no student: no timm config.json, no modules.json, no {OPEN_CLIP_CONFIG}, no xmodal.json"
        if given.is_dir()
        else "is not a folder"
    )
    raise AdapterError(f"{given} {state}. Give a student's folder, or a run's folder with student/ in it.")


def read_notes(folder: Path) -> dict[str, Any]:
    """What xmodal wrote of a student: its metadata, and under ``student`` its spec; empty for a foreign checkpoint."""
    if (folder / CLIP_FILE).is_file():
        return read_json(folder / CLIP_FILE)
    config = OPEN_CLIP_CONFIG if kind_of(folder) == "open_clip" else "config.json"
    return dict(read_json(folder / config).get("xmodal") or {})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises :class:`~xmodal.errors.AdapterError` where it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path} is not a JSON object.")
    return value


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """JSON, indented, with a last newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
