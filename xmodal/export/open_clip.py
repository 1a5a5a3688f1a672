"""An open_clip student as a folder: ``open_clip.create_model_and_transforms("local-dir:FOLDER")`` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodal.adapters.open_clip.loading import load_open_clip
from xmodal.adapters.open_clip.sources import CONFIG, FOLDER
from xmodal.adapters.students.open_clip import OpenClipStudent
from xmodal.export.layout import read_notes, write_json
from xmodal.export.tensors import write_tensors

_WEIGHTS = "open_clip_model.safetensors"
_OF_THE_MODEL = ("size", "input_size")
"""What open_clip takes from the model, whatever a folder says of pictures."""


def write_open_clip(encoder: OpenClipStudent, folder: Path, notes: Mapping[str, Any]) -> None:
    """Write ``open_clip_config.json``, weights and, where it has one of its own, the tokenizer.

    ``notes`` go into the config under ``xmodal``.
    """
    pictures = {key: value for key, value in encoder.pictures.config.items() if key not in _OF_THE_MODEL}
    write_json(folder / CONFIG, {"model_cfg": encoder.config, "preprocess_cfg": pictures, "xmodal": dict(notes)})
    write_tensors(encoder.model, folder / _WEIGHTS)
    tokenizer = encoder.texts.tokenizer
    if hasattr(tokenizer, "save_pretrained"):  # one of transformers'; CLIP's comes with open_clip
        tokenizer.save_pretrained(str(folder))


def read_open_clip(folder: Path) -> OpenClipStudent:
    """The student in an open_clip folder."""
    encoder = OpenClipStudent(f"open_clip ({folder.name})", load_open_clip(f"{FOLDER}{folder}"))
    encoder.spec = read_notes(folder).get("student", {})
    return encoder
