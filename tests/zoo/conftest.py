"""A zoo on disk, written without our code; a run with a real student."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own and is online."""
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("XMODAL_OFFLINE", raising=False)
    return tmp_path / "cache"


def safetensors_bytes(payload: bytes) -> bytes:
    """A valid file with one uint8 tensor, by the format's definition."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}}).encode()
    return struct.pack("<Q", len(header)) + header + payload


FILES = {
    "model.safetensors": safetensors_bytes(bytes(range(256)) * 2000),
    "config.json": b'{"architecture": "test"}',
    "README.md": "Ein Schüler.\n".encode(),
    "1_Pooling/config.json": b"{}",
}


def entry_of(files: dict[str, bytes], name: str = "emoji", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "modality": "image",
        "library": "timm",
        "base": f"students/{name}/",
        "size": sum(map(len, files.values())),
        "files": {
            path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()
        },
        **changes,
    }


@dataclass
class Zoo:
    folder: Path
    files: dict[str, bytes]

    def write_index(self, *entries: dict[str, Any], **keys: Any) -> None:
        (self.folder / "index.json").write_text(json.dumps({"format": 1, "entries": list(entries), **keys}))

    def write_file(self, path: str, data: bytes, name: str = "emoji") -> None:
        target = self.folder / "students" / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


@pytest.fixture
def make_zoo(tmp_path: Path) -> Callable[..., Zoo]:
    """A zoo with one entry, ``emoji``, of the given files."""

    def make(files: dict[str, bytes] = FILES, **changes: Any) -> Zoo:
        zoo = Zoo(tmp_path / "zoo", dict(files))
        zoo.folder.mkdir()
        zoo.write_index(entry_of(files, **changes))
        for path, data in files.items():
            zoo.write_file(path, data)
        return zoo

    return make


@pytest.fixture
def zoo(make_zoo: Callable[..., Zoo]) -> Zoo:
    return make_zoo()


@pytest.fixture
def server(zoo: Zoo, serve: Callable[[Path], Any]) -> Any:
    return serve(zoo.folder)


SUMMARY = {
    "recipe": "tiny-text-to-image",
    "description": "A sentence teacher makes a tiny image student.",
    "student": {"name": "image", "modalities": ["image"], "parameters": 12345},
    "metrics": {
        "seen": {"text_to_image_recall@10": 0.93},
        "unseen": {"text_to_image_recall@10": 0.625, "odd": float("nan")},
    },
    "baseline": {
        "recipe": "tiny-without-teacher",
        "metrics": {"unseen": {"text_to_image_recall@10": {"mean": 0.25, "std": 0.01, "runs": 3}}},
    },
}
RECIPE = """
teacher: {name: sentence, model: sentence-transformers/all-MiniLM-L6-v2}
student: {name: image, model: test_efficientnet}
data: {train: "package://emoji/train-*.tar"}
"""
METADATA = {
    "recipe": "tiny-text-to-image",
    "space": {"teacher": {"name": "sentence", "model": "all-MiniLM-L6-v2"}, "tap": "text.embedding", "dim": 16},
    "licence": "CC-BY-4.0",
}


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real image student with statistics that a fresh network does not have."""
    import torch

    from xmodal.adapters import create_student
    from xmodal.export.native import save_student

    torch.manual_seed(0)
    student = create_student("image", model="test_efficientnet", weights="random", embed_dim=16, image_size=64)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        student.train()({"image": torch.randn(16, 3, 64, 64)}, ["image.embedding"])
    folder = tmp_path_factory.mktemp("student") / "student"
    save_student(student, folder, METADATA)
    return folder


@pytest.fixture
def run(tmp_path: Path, student_folder: Path) -> Path:
    """The folder of a finished run."""
    folder = tmp_path / "run"
    shutil.copytree(student_folder, folder / "student")
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "recipe.resolved.yaml").write_text(RECIPE)
    return folder
