"""A few real pictures in three shards, a picture teacher and a text teacher, and what it takes to cache them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from xmodal.adapters.networks import make_network
from xmodal.data.cache.job import Job
from xmodal.data.manifest import Manifest, write_manifest
from xmodal.data.shards import open_shards
from xmodal.data.writer import ShardWriter

COUNTS = (9, 9, 5)
TEXT = {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"}


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    source = open_shards("package://emoji/style-*.tar")
    with ShardWriter(folder, shard_size=COUNTS[0]) as writer:
        for number in range(sum(COUNTS)):
            raw = source.read(number * 7)
            captions = [f"{raw.members['txt'].decode().strip()} {n}" for n in ("one", "two", "three")]
            more = {"json": json.dumps({"captions": captions, "one": captions[0]}).encode()}
            writer.add(raw.key, {**raw.members, **more})
    write_manifest(Manifest(shards=tuple(writer.entries)), folder)
    return folder


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    """A copy of the shards that a test may spoil."""
    return Path(shutil.copytree(packed, tmp_path / "shards"))


@pytest.fixture(scope="session")
def picture_spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small timm network whose weights lie in a file."""
    torch.manual_seed(1)
    network = make_network("test_efficientnet", weights=False, image_size=32)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(network.state_dict(), path)
    return {"name": "timm", "model": "test_efficientnet", "pretrained": str(path), "image_size": 32}


@pytest.fixture
def job(folder: Path, picture_spec: dict[str, Any]) -> Callable[..., Job]:
    """A job over the shards of this test: by the picture teacher, unless it says otherwise."""

    def make(taps: str = "image.embedding", teacher: dict[str, Any] | None = None, **options: Any) -> Job:
        spec = {"picture": picture_spec, "text": TEXT}.get(teacher, teacher) if isinstance(teacher, str) else teacher
        shards = options.pop("shards", None) or open_shards(str(folder / "*.tar"))
        names = tuple(taps.split())
        return Job(spec or picture_spec, names, shards, **{"batch_size": 4, "device": "cpu", **options})

    return make
