"""Publishes a run's student: its files as they will be downloaded, and an entry with what the run measured."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xmodal.errors import ZooError
from xmodal.plain import read_yaml
from xmodal.transfer.download import readable_size
from xmodal.zoo.describing import describe, files_of
from xmodal.zoo.files import refuse_other_types, unsafe_path, wrong_contents
from xmodal.zoo.half import store_half
from xmodal.zoo.index import Entry
from xmodal.zoo.location import locate
from xmodal.zoo.targets import place

RECIPE_NAME = "recipe.yaml"


def publish(
    run: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    name: str | None = None,
    half: bool = True,
    overwrite: bool = False,
    description: str | None = None,
    licence: str | None = None,
    say: Callable[[str], None] = print,
) -> Entry:
    """Copy the student of a finished ``run`` into the zoo at ``to`` and enter it into the index there.

    ``to`` is a local folder, made if need be, or any address that fsspec can write: ``s3://bucket/zoo``,
    ``hf://user/zoo`` (an existing repository; files and index become one commit). ``name`` is the recipe's by default.
    With ``half`` the weights are stored as float16; timm and :func:`xmodal.load_student` load them as float32. The
    metrics and the baseline are those of the run's ``summary.json``; the resolved recipe goes along as ``recipe.yaml``.
    ``say`` is told what was done, line by line.

    Files come first and the index last, so that readers see the old entry or the new one. Raises :class:`ZooError` for
    a run that is not finished, a name that is taken (unless ``overwrite``), a file of a type that zoos refuse, and a
    place that cannot be written.
    """
    folder = Path(run).expanduser()
    summary = read_run(folder)
    location = locate(to)
    with tempfile.TemporaryDirectory(prefix="xmodal-publish-") as scratch:
        staged = Path(scratch) / "student"
        stage(folder, staged)
        was = sum(path.stat().st_size for path in files_of(staged).values())
        halved = store_half(staged) if half else []
        entry = describe(staged, summary, name=name, half=bool(halved), description=description, licence=licence)
        entry, replaced, count = place(location, staged, entry, overwrite=overwrite)
    say(f"published  {entry.name} → {location.join(entry.base)}")
    sizes = ", ".join(f"{path} {readable_size(file.size)}" for path, file in entry.files.items())
    say(f"files      {sizes}")
    if halved:
        say(f"weights    float16, {readable_size(was)} → {readable_size(entry.size)} (--full keeps float32)")
    if entry.licence is None:
        say("licence    none given: nobody may be sure to use these weights. Publish again with licence=…")
    entries = "1 entry" if count == 1 else f"{count} entries"
    say(f"index      {location.index}: {entries}, this one {'replaced' if replaced else 'new'}")
    say(f"use        xmodal zoo download {entry.name} --from {location.folder}")
    return entry


def read_run(folder: Path) -> dict[str, Any]:
    """The summary of a finished run, and its resolved recipe under ``resolved``."""
    expected = {
        "student": folder / "student",
        "summary": folder / "summary.json",
        "recipe": folder / "recipe.resolved.yaml",
    }
    missing = [path.name for path in expected.values() if not path.exists()]
    if missing:
        there = "There is no such folder." if not folder.is_dir() else f"It lacks {', '.join(missing)}."
        resume = (
            f" If the run was interrupted: xmodal distill RECIPE --out {folder} --resume" if folder.is_dir() else ""
        )
        raise ZooError(f"{folder} is not the folder of a finished run. {there}{resume}")
    try:
        summary = json.loads(expected["summary"].read_text(encoding="utf-8"))
        resolved = read_yaml(expected["recipe"].read_text(encoding="utf-8"))
    except ValueError as error:
        raise ZooError(f"{folder} cannot be published: its summary or recipe cannot be read ({error}).") from error
    if not isinstance(summary, dict) or not isinstance(resolved, dict):
        raise ZooError(f"{folder} cannot be published: summary.json and recipe.resolved.yaml hold one mapping each.")
    return {**summary, "resolved": resolved}


def stage(run: Path, staged: Path) -> None:
    """Copy what is published, after checking that every file of it could be downloaded again."""
    student = run / "student"
    files = {
        path: at for path, at in files_of(student).items() if not any(part.startswith(".") for part in path.split("/"))
    }
    refuse_other_types(files, f"{student}")
    for path, at in files.items():
        if reason := unsafe_path(path) or wrong_contents(at, path):
            raise ZooError(f"{at} cannot be published: {reason}.")
        (staged / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(at, staged / path)
    if not any(path.endswith(".safetensors") for path in files):
        raise ZooError(f"{student} holds no weights: no .safetensors file is there.")
    shutil.copyfile(run / "recipe.resolved.yaml", staged / RECIPE_NAME)
