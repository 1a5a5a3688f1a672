"""Students to save, a process in which xmodal cannot be imported, and metadata as a run writes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.adapters import Encoder, create_student

SMALL_TEXT = {"num_layers": 2, "width": 32, "num_heads": 4, "max_length": 16}


@pytest.fixture
def make_student() -> Callable[..., Encoder]:
    """A student whose running statistics and biases are no longer those of a new one."""

    def make(name: str = "image", **options: Any) -> Encoder:
        torch.manual_seed(0)
        if name == "image":
            options = {"model": "test_efficientnet", "weights": "random", "embed_dim": 8, "image_size": 64, **options}
        elif name == "text":
            options = {**SMALL_TEXT, "embed_dim": 8, **options}
        elif name == "open_clip":
            vision = {"image_size": 64, "patch_size": 16, "width": 24, "head_width": 12, "layers": 1}
            text = {"context_length": 16, "width": 16, "heads": 2, "layers": 1}
            options = {"model": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}, **options}
        else:
            image = {"model": "test_efficientnet", "weights": "random", "image_size": 64}
            options = {"image": image, "text": SMALL_TEXT, "embed_dim": 8, **options}
        student = create_student(name, **options)
        with torch.no_grad():
            for _, parameter in student.named_parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        if "image" in student.modalities:
            student({"image": torch.randn(4, 3, 64, 64)}, ["image.embedding"])
        return student.eval()

    return make


@pytest.fixture
def without_xmodal(tmp_path: Path) -> Callable[[str], None]:
    """Run code in a process that stands elsewhere and cannot import xmodal."""

    def run(code: str) -> None:
        place = tmp_path / "elsewhere"
        place.mkdir(exist_ok=True)
        guard = "import sys\nsys.modules['xmodal'] = None\n"
        result = subprocess.run([sys.executable, "-I", "-c", guard + code], cwd=place, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr

    return run


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))


@pytest.fixture
def metadata() -> dict[str, Any]:
    teacher = {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"}
    return {
        "xmodal_version": "0.1.0",
        "recipe": {
            "name": "emoji",
            "description": "A text teacher makes an image student.",
            "data": {"train": "package://emoji/train-*.tar"},
            "objective": [{"loss": "feature_cosine"}, {"loss": "soft_contrastive"}],
        },
        "teachers": {"teacher": teacher},
        "space": {"teacher": teacher, "tap": "text.embedding", "dim": 8},
        "steps": 12,
        "licence": "Apache-2.0",
    }
