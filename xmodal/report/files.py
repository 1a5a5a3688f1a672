"""What a run folder holds, read forgivingly: what is missing or damaged becomes a note on the page, not an error."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from xmodal.errors import RunError

_MADE_BY_A_RUN = ("recipe.resolved.yaml", "metrics.jsonl", "summary.json")


@dataclass
class RunFiles:
    """The contents of a run folder; an empty mapping, list or string for a file that is missing or unreadable."""

    folder: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    gallery: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    bad_samples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_run(folder: str | Path) -> RunFiles:
    """Read a run folder. Raises :class:`RunError` where ``folder`` is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder. Expected a run folder, such as xmodal distill RECIPE --out makes.")
    if not any((folder / name).is_file() for name in _MADE_BY_A_RUN):
        raise RunError(
            f"{folder} is not a run folder: it holds none of {', '.join(_MADE_BY_A_RUN)}. "
            "Make one: xmodal distill RECIPE --out DIR"
        )
    run = RunFiles(folder)
    run.recipe_text = _text(run, "recipe.resolved.yaml")
    run.recipe = _recipe(run)
    run.environment = mapping(_json(run, "env.json"))
    run.summary = mapping(_json(run, "summary.json"))
    run.evaluation = mapping(_json(run, "evaluation.json"))
    gallery = _json(run, "gallery.json") or run.evaluation.get("gallery")
    run.gallery = [row for row in gallery if isinstance(row, dict)] if isinstance(gallery, list) else []
    run.metrics = _lines(run, "metrics.jsonl")
    run.bad_samples = _lines(run, "bad_samples.jsonl")
    _note_what_is_missing(run)
    return run


def mapping(value: Any) -> dict[str, Any]:
    """``value`` where it is a mapping, its keys as strings; else an empty one."""
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else {}


def _text(run: RunFiles, name: str) -> str:
    path = run.folder / name
    if not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        run.notes.append(f"{name} could not be read: {error.strerror or error}.")
        return ""


def _recipe(run: RunFiles) -> dict[str, Any]:
    try:
        return mapping(yaml.safe_load(run.recipe_text))
    except (yaml.YAMLError, RecursionError):
        run.notes.append("recipe.resolved.yaml is not YAML; it is shown as it stands.")
        return {}


def _json(run: RunFiles, name: str) -> Any:
    text = _text(run, name)
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        run.notes.append(f"{name} is not JSON ({error}); what it would have shown is left out.")
        return None


def _lines(run: RunFiles, name: str) -> list[dict[str, Any]]:
    """Every line that is a JSON object. A run that was killed leaves half a line at the end: noted, not fatal."""
    rows: list[dict[str, Any]] = []
    broken: list[int] = []
    for number, line in enumerate(_text(run, name).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken.append(number)
    if broken:
        which = ", ".join(map(str, broken[:5])) + (" …" if len(broken) > 5 else "")
        lines = f"line {which} is" if len(broken) == 1 else f"lines {which} are"
        run.notes.append(f"{name}: {lines} not whole and left out.")
    return rows


def _note_what_is_missing(run: RunFiles) -> None:
    def missing(name: str) -> bool:
        return not (run.folder / name).is_file()

    if missing("summary.json"):
        run.notes.append("The run has not finished: there is no summary.json yet. Sizes and latencies come with it.")
    if missing("recipe.resolved.yaml"):
        run.notes.append("There is no recipe.resolved.yaml, so the recipe and the names of its parts are not known.")
    if missing("metrics.jsonl"):
        run.notes.append("There is no metrics.jsonl, so there are no curves.")
    if missing("env.json"):
        run.notes.append("There is no env.json, so the environment is not known.")
