"""Write ``report.html``: read the run folder, lay out its parts, fill in the template."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from xmodal.errors import RunError
from xmodal.files import write_text
from xmodal.report import numbers
from xmodal.report.files import RunFiles, mapping, read_run
from xmodal.report.gallery import read_gallery
from xmodal.report.history import History, read_history
from xmodal.report.models import read_models
from xmodal.report.panels import evaluation_panels, machine_curves, objective_curves
from xmodal.report.results import Results, read_results

NAME = "report.html"


def write_report(run: str | Path) -> Path:
    """Write the page of a run folder into it and return its path; an older page is replaced.

    Reads the run folder, and the shards that the recipe names under ``data.val`` for the gallery's pictures. What is
    missing or damaged is noted on the page. Raises :class:`RunError` where ``run`` is no run folder or not writable.
    """
    folder = Path(run)
    html = render(read_run(folder))
    path = folder / NAME
    try:
        write_text(path, html)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def render(run: RunFiles) -> str:
    """The page as a string."""
    history = read_history(run.metrics)
    results = read_results(run, history)
    gallery = read_gallery(run, results.splits)
    style, script = _asset("page.css"), _asset("page.js")
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=str(run.summary.get("recipe") or run.recipe.get("name") or run.folder.resolve().name),
            description=str(run.summary.get("description") or run.recipe.get("description") or ""),
            models=read_models(run),
            training=_training(run, history),
            results=results,
            gallery=gallery,
            objective=objective_curves(history, run.recipe),
            machine=machine_curves(history),
            panels=evaluation_panels(history, results.curve_metrics, results.splits),
            stages=len(history.stage_starts) + 1,
            load=_load(run, results),
            recipe=run.recipe_text.strip("\n"),
            environment=_flat(run.environment),
            bad_samples=[[str(row.get(key, "")) for key in ("key", "shard", "reason")] for row in run.bad_samples[:10]],
            num_bad_samples=len(run.bad_samples),
            notes=run.notes,
            style=Markup(style),  # our own files, not what a run wrote
            script=Markup(script),
            policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
            "base-uri 'none'; form-action 'none'",
        )
    )


@cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("xmodal.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["breakable"] = _breakable
    return templates


def _asset(name: str) -> str:
    return resources.files("xmodal.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the page's policy lets run: this very text, so that no name or query can smuggle in a script of its own."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _breakable(name: str) -> Markup:
    """A long name that may break after its hyphens, dots, slashes and underscores, not in the middle of a word."""
    return Markup(re.sub(r"(?<=[-_./])(?=\w)", "<wbr>", str(escape(name))))


def _training(run: RunFiles, history: History) -> list[tuple[str, str]]:
    training = mapping(run.summary.get("training"))
    shown = {
        "steps": numbers.count,
        "samples": numbers.count,
        "seconds": numbers.duration,
        "samples_per_second": numbers.significant,
        "data_wait": numbers.percent,
        "skipped_steps": numbers.count,
        "bad_samples": numbers.count,
    }
    names = {"seconds": "time", "data_wait": "waiting for data", "bad_samples": "samples left out"}
    facts = [
        (names.get(key, key.replace("_", " ")), show(training[key])) for key, show in shown.items() if key in training
    ]
    if not facts and history.last_step is not None:
        facts = [("steps so far", numbers.count(history.last_step))]
    return facts


def _load(run: RunFiles, results: Results) -> dict[str, str]:
    """The student with its own library alone, with xmodal, and from the shell."""
    student = mapping(run.summary.get("student"))
    folder = _from_here(run.folder)
    modalities = student.get("modalities")
    modality = str(modalities[0]) if isinstance(modalities, list) and modalities else "image"
    value = {"image": "image=[picture]", "text": 'text=["a sad cat"]', "audio": "audio=[(samples, rate)]"}.get(modality)
    python = [f"student = xmodal.load_student({folder!r})"]
    if value:
        python.append(f'features = student.encode({value}, taps=["{modality}.embedding"])')
    shards = mapping(run.recipe.get("data")).get("val")
    chosen = (
        shards[results.splits[0]]
        if isinstance(shards, dict) and results.splits and results.splits[0] in shards
        else shards
    )
    data = shlex.quote(chosen) if isinstance(chosen, str) else "SHARDS"
    place, recipe = shlex.quote(folder), shlex.quote(f"{folder}/recipe.resolved.yaml")
    return {
        "native": _native(str(student.get("load") or "")),
        "python": "\n".join(["import xmodal", "", *python]),
        "shell": "\n".join(
            [
                f'xmodal search "a sad cat" --student {place} --data {data}',
                f"xmodal evaluate {place} --data {data} --task retrieval",
                f"xmodal distill {recipe} --out {shlex.quote(folder + '-again')}",
            ]
        ),
    }


def _native(line: str) -> str:
    """The summary's one line with its import, and for timm the transform that goes with it."""
    library = line.partition(".")[0]
    if library == "xmodal":
        return ""  # it has no other library
    if not library.isidentifier():
        return line
    lines = [f"import {library}", "", f"student = {line}"]
    if library == "timm":
        lines.append("transform = timm.data.create_transform(**timm.data.resolve_model_data_config(student))")
    return "\n".join(lines)


def _from_here(folder: Path) -> str:
    """The run folder as one types it in the working directory, which is likely the reader's, too."""
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return folder.as_posix()


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows with dotted names; lists in one line."""
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        name = f"{prefix}{key}"
        if isinstance(entry, dict):
            rows += _flat(entry, f"{name}.")
        elif isinstance(entry, list):
            words = map(str, entry)
            rows.append((name, shlex.join(words) if key == "command" else ", ".join(words)))
        else:
            rows.append((name, numbers.UNKNOWN if entry is None else str(entry)))
    return rows
