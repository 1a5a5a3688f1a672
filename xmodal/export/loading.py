"""One line of Python that loads a student with its own library alone."""

from __future__ import annotations

from pathlib import Path

from xmodal.export.layout import find_student

_LINES = {
    "image": 'timm.create_model("local-dir:{}", pretrained=True)',
    "text": 'SentenceTransformer("{}")',
    "open_clip": 'open_clip.create_model_and_transforms("local-dir:{}")',
    "module": 'module.load_state_dict(safetensors.torch.load_file("{}/model.safetensors"))',
    "clip": 'timm.create_model("local-dir:{0}/image", pretrained=True), SentenceTransformer("{0}/text")',
}


def load_line(folder: str | Path) -> str:
    """The line for the student in ``folder``."""
    found, kind = find_student(folder)
    return _LINES[kind].format(found.as_posix())
