"""A student's folder, in the layout of the library that its users have: written whole or not at all, and read back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodal.adapters.encoder import Encoder
from xmodal.adapters.module_encoder import ModuleEncoder
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.static_encoder import StaticEncoder
from xmodal.adapters.students.clip import ClipStudent
from xmodal.adapters.students.image import ImageStudent
from xmodal.adapters.students.open_clip import OpenClipStudent
from xmodal.errors import AdapterError
from xmodal.export.card import Metrics, model_card
from xmodal.export.image import read_image, write_image
from xmodal.export.layout import CLIP_FILE, find_student, kind_of, read_notes, write_json
from xmodal.export.module import read_module, write_module
from xmodal.export.open_clip import read_open_clip, write_open_clip
from xmodal.export.text import read_text, write_text


def save_student(
    encoder: Encoder,
    folder: str | Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    metrics: Metrics | None = None,
    baseline: Metrics | None = None,
) -> Path:
    """Write ``encoder`` to ``folder`` and return it.

    Image and open_clip students are ``local-dir:`` folders of timm's and open_clip's, a text student is a
    sentence-transformers one, a clip student holds an image and a text student, a wrapped module is its state dict.
    ``metadata`` (JSON; by default the own one) goes into the config under ``xmodal``, ``metrics`` and ``baseline``
    ({split: {metric: value}}) into the model card. The folder is written under a temporary name and renamed; a student
    that lies there is replaced.

    Raises :class:`~xmodal.errors.AdapterError` where ``folder`` holds something else.
    """
    folder = Path(folder)
    metadata = dict(metadata if metadata is not None else encoder.metadata)
    if folder.exists() and not _replaceable(folder):
        raise AdapterError(
            f"{folder} exists and is not a student's folder; it is left alone. Choose another, or remove it."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp makes folders for the owner alone
        spec = _saved_spec(encoder)
        _write(encoder, temporary, {"student": spec, **metadata})
        card = model_card(spec, metadata, metrics=metrics, baseline=baseline)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_student(folder: str | Path, *, module: Encoder | None = None) -> Encoder:
    """The student in ``folder``, or in ``folder/student`` of a run, in eval mode, on the CPU, in float32.

    It has ``.model`` (the library's own module), ``.preprocess`` and ``.metadata``. A timm, open_clip or
    sentence-transformers folder that xmodal did not write is read too, with empty metadata. Where the student is a
    module of the user's own, ``module`` is that module, made and wrapped anew by
    :func:`~xmodal.adapters.wrap_module`; its weights are replaced.

    Raises :class:`~xmodal.errors.AdapterError` where there is no student, or its files are broken.
    """
    folder, kind = find_student(folder)
    encoder: Encoder
    if module is not None and kind != "module":
        raise AdapterError(f"{folder} holds a student of kind {kind}, which needs no module=.")
    if kind == "module":
        encoder = read_module(folder, module)
    elif kind == "image":
        encoder = read_image(folder)
    elif kind == "text":
        encoder = read_text(folder)
    elif kind == "open_clip":
        encoder = read_open_clip(folder)
    else:
        encoder = ClipStudent(f"clip ({folder.name})", read_image(folder / "image"), read_text(folder / "text"))
    notes = read_notes(folder)
    encoder.spec = notes.pop("student", {}) if kind != "module" else encoder.spec
    encoder.metadata = {name: value for name, value in notes.items() if name != "student"}
    return encoder.eval()


def _write(encoder: Encoder, folder: Path, notes: Mapping[str, Any]) -> None:
    if isinstance(encoder, ImageStudent):
        write_image(encoder, folder, notes)
    elif isinstance(encoder, SentenceEncoder | StaticEncoder):
        write_text(encoder, folder, notes)
    elif isinstance(encoder, OpenClipStudent):
        write_open_clip(encoder, folder, notes)
    elif isinstance(encoder, ModuleEncoder):
        write_module(encoder, folder, notes)
    elif isinstance(encoder, ClipStudent):
        for name, tower in (("image", encoder.image), ("text", encoder.text)):
            (folder / name).mkdir()
            _write(tower, folder / name, {"student": tower.spec})
        write_json(folder / CLIP_FILE, notes)
    else:
        raise AdapterError(
            f"{encoder.name} is a {type(encoder).__name__}; only image, text, clip and open_clip students and "
            "wrapped modules can be saved."
        )


def _saved_spec(encoder: Encoder) -> dict[str, Any]:
    """Name and options of the student; of a module, which no name makes again, the class."""
    return {"name": "module", "model": encoder.module_class} if isinstance(encoder, ModuleEncoder) else encoder.spec


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or kind_of(folder) is not None)


def _swap(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``: a reader finds the old one, the new one or, between two renames, none."""
    if not folder.exists():
        os.rename(new, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.rename(folder, old / "student")
    os.rename(new, folder)
    shutil.rmtree(old)
