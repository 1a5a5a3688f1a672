"""The entry of a student: what its files, its run's summary and its recipe say about it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from xmodal import __version__
from xmodal.errors import ZooError
from xmodal.zoo.files import sha256_of
from xmodal.zoo.index import NAME, Entry, File

LOAD_LINES = {
    "timm": 'timm.create_model("local-dir:{folder}", pretrained=True)',
    "sentence-transformers": 'SentenceTransformer("{folder}")',
    "xmodal": 'xmodal.load_student("{folder}")',
}


def describe(
    staged: Path,
    summary: Mapping[str, Any],
    *,
    name: str | None,
    half: bool,
    description: str | None,
    licence: str | None,
) -> Entry:
    """The entry of the files in ``staged``; where they will lie is filled in when they do."""
    metadata, library = read_metadata(staged)
    resolved, student = summary["resolved"], summary.get("student") or {}
    name = name if name is not None else str(summary.get("recipe") or resolved.get("name") or "")
    if not NAME.fullmatch(name):
        raise ZooError(
            f"{name!r} is not a name for a zoo: letters, digits, '.', '_' and '-'. Give another with name=… (--name)."
        )
    files = {path: File(size=at.stat().st_size, sha256=sha256_of(at)) for path, at in files_of(staged).items()}
    modalities = student.get("modalities") or metadata.get("modalities") or []
    data = (resolved.get("data") or {}).get("train")
    try:
        return Entry(
            name=name,
            description=description if description is not None else str(summary.get("description") or ""),
            modality="+".join(modalities) or "unknown",
            library=library,
            load=LOAD_LINES[library].replace("{folder}", "FOLDER"),
            space=metadata.get("space"),
            teacher=_teachers(resolved),
            data=", ".join(data) if isinstance(data, list) else data,
            licence=licence if licence is not None else metadata.get("licence"),
            recipe=str(summary.get("recipe") or resolved.get("name") or "") or None,
            metrics=finite(summary.get("metrics") or {}),
            baseline=finite(summary["baseline"]) if summary.get("baseline") else None,
            parameters=student.get("parameters"),
            weights="float16" if half else "float32",
            xmodal_version=__version__,
            published=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            base=f"students/{name}/",
            size=sum(file.size for file in files.values()),
            files=files,
        )
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, mistake['loc']))}  {mistake['msg']}" for mistake in error.errors()]
        raise ZooError(
            "\n".join(["The run's summary does not fit an entry; nothing was published.", *lines])
        ) from error


def read_metadata(student: Path) -> tuple[dict[str, Any], str]:
    """xmodal's own metadata of a student folder, and the library that loads the folder without xmodal."""
    for path in ("config.json", "xmodal.json", "config_sentence_transformers.json"):
        if not (student / path).is_file():
            continue
        config = json.loads((student / path).read_text(encoding="utf-8"))
        metadata = config if path == "xmodal.json" else config.get("xmodal")
        if not isinstance(metadata, dict):
            continue
        if (student / "modules.json").is_file():
            return metadata, "sentence-transformers"
        return metadata, "timm" if "architecture" in config else "xmodal"
    raise ZooError(
        "The student was not written by xmodal: no config of it has the key `xmodal`. Expected what distill writes."
    )


def _teachers(resolved: Mapping[str, Any]) -> str | None:
    """The teachers by the model they name, or by their own name."""
    specs = [resolved["teacher"]] if resolved.get("teacher") else list((resolved.get("teachers") or {}).values())
    return ", ".join(str(spec.get("model") or spec.get("name")) for spec in specs) or None


def finite(value: Any) -> Any:
    """The same nested value with None for every number that JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def files_of(folder: Path) -> dict[str, Path]:
    """Every file below ``folder``, by its name relative to it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
