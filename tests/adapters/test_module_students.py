"""The user's own modules through a whole run, as teacher and student, saved and loaded back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import transforms

import xmodal
from xmodal.adapters import create_student, wrap_module
from xmodal.adapters.module_encoder import ModuleEncoder
from xmodal.errors import AdapterError
from xmodal.export.loading import load_line

TRANSFORM = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
TAPS = {"image.embedding": "", "image.map": "body.2"}


class Small(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        body = [nn.Conv2d(3, width, 3, 2), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, 2), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(width, 6)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).mean((2, 3)))  # type: ignore[no-any-return]


def wrapped(seed: int, width: int = 8) -> ModuleEncoder:
    torch.manual_seed(seed)
    return wrap_module(Small(width), preprocess=TRANSFORM, taps=TAPS)


def test_a_run_from_module_to_module(tmp_path: Path) -> None:
    teacher, student = wrapped(0, 12), wrapped(1)
    before = teacher.state_hash(), student.state_hash()
    objective: list[dict[str, Any]] = [
        {"loss": "feature_cosine", "student": "image.embedding", "teacher": "image.embedding"},
        {"loss": "feature_mse", "student": "image.map", "teacher": "image.map", "projection": "conv"},
    ]
    run = xmodal.distill(
        teacher=teacher,
        student=student,
        data={"train": "package://emoji/style-*.tar", "num_workers": 2},
        objective=objective,
        train={"max_steps": 4, "batch_size": 16, "learning_rate": 0.01, "compile": False},
        out=tmp_path / "run",
        console=Console(quiet=True),
    )
    assert (teacher.state_hash(), student.state_hash()) == before
    losses = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert losses
    folder = run.folder / "student"
    with pytest.raises(
        AdapterError, match=r"weights of .*Small, a module of your own.*wrap_module\(Small\(…\), preprocess"
    ):
        run.student  # noqa: B018
    own = Small()
    own.load_state_dict(load_file(folder / "model.safetensors"))  # without xmodal
    fresh = wrapped(2)
    loaded = xmodal.load_student(folder, module=fresh)
    assert loaded is fresh
    assert loaded.state_hash() != before[1]
    assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in fresh.model.state_dict().items())
    assert loaded.metadata["steps"] == 4
    assert "load_state_dict" in load_line(folder)
    assert "Small" in (folder / "README.md").read_text()


def test_a_student_of_another_class_width_or_taps_is_refused(tmp_path: Path) -> None:
    xmodal.save_student(wrapped(0), tmp_path / "student")
    with pytest.raises(AdapterError, match=r"The weights in .* are not of this model: body\.0\.weight is \(8, 3"):
        xmodal.load_student(tmp_path / "student", module=wrapped(0, 12))
    with pytest.raises(AdapterError, match=r"saved with the taps .* the module passed has"):
        xmodal.load_student(tmp_path / "student", module=wrap_module(Small(), preprocess=TRANSFORM))
    pooled = wrap_module(nn.Conv2d(3, 6, 32), preprocess=TRANSFORM)
    with pytest.raises(AdapterError, match=r"of .*Small; the module passed is a torch\..*Conv2d"):
        xmodal.load_student(tmp_path / "student", module=pooled)
    timm = create_student("image", model="test_efficientnet", weights="random", embed_dim=4, image_size=32)
    xmodal.save_student(timm, tmp_path / "timm")
    with pytest.raises(AdapterError, match=r"a student of kind image, which needs no module="):
        xmodal.load_student(tmp_path / "timm", module=wrapped(0))


def test_a_compiled_module_is_saved_under_its_own_names(tmp_path: Path) -> None:
    module = torch.compile(Small(), backend="eager")
    encoder = wrap_module(module, preprocess=TRANSFORM, taps=TAPS)  # type: ignore[arg-type]
    xmodal.save_student(encoder, tmp_path / "student")
    Small().load_state_dict(load_file(tmp_path / "student" / "model.safetensors"))
