"""What the cases are built from: the libraries' own small models, the real ones, samples, and somebody to teach."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console

import xmodal
from tests.adapters.table.library import Samples
from xmodal.adapters import Encoder, create_student, create_teacher
from xmodal.data import open_shards
from xmodal.data.decode import decode

NAMES = "package://emoji/names-*.tar"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
BATCH, STEPS, SIZE = 4, 2, 32


@dataclass
class Workshop:
    """``transformers`` and ``open_clip`` give the folder of a kind of small model; ``root`` is for files of our own."""

    transformers: Callable[[str], Path]
    open_clip: Callable[[str], Path]
    bert: Path
    minilm: Path
    reinforced: Path
    root: Path
    _count: Any = field(default_factory=itertools.count)

    def fresh(self) -> Path:
        """A folder that is not there yet."""
        return self.root / str(next(self._count))

    def timm(self, model: str, **options: Any) -> Path:
        """A timm network of random weights in timm's own folder."""
        folder = self.root / f"timm-{model}"
        if not folder.exists():
            torch.manual_seed(0)
            timm.models.save_for_hf(timm.create_model(model, **options), folder, safe_serialization=True)
        return folder

    @cached_property
    def samples(self) -> Samples:
        """Emoji and their names; a text of words that small tokenizers know, and one longer than every limit."""
        shards = open_shards(NAMES)
        rows = [decode(shards.read(number), fields=("image", "text")) for number in (0, 30, 60, 90)]
        said = "The sad cat sleeps under the bridge of the river, and the red dog plays on the grass."
        return Samples([row["image"] for row in rows], [rows[0]["text"], rows[1]["text"], said, "night " * 600])

    @cached_property
    def pupil(self) -> Encoder:
        """A tiny student of pictures and texts for every teacher."""
        torch.manual_seed(0)
        image = {"model": "test_efficientnet", "weights": "random", "image_size": SIZE}
        text = {"tokenizer": str(self.bert), "num_layers": 1, "width": 16, "num_heads": 2, "max_length": 16}
        return create_student("clip", image=image, text=text, embed_dim=12)

    @cached_property
    def pupil_folder(self) -> Path:
        return xmodal.save_student(self.pupil, self.root / "pupil")

    @cached_property
    def master(self) -> Encoder:
        """A tiny teacher of pictures and texts for every student."""
        return create_teacher("open_clip", model=f"local-dir:{self.open_clip('vit')}")

    def distill(
        self,
        teacher: Encoder | Mapping[str, Any],
        student: Encoder | Mapping[str, Any],
        modalities: Sequence[str],
        data: str = NAMES,
    ) -> xmodal.Run:
        sections = self.recipe(modalities, data)
        return xmodal.distill(
            teacher=teacher, student=student, out=self.fresh(), console=Console(quiet=True), **sections
        )

    def recipe(self, modalities: Sequence[str], data: str = NAMES) -> dict[str, Any]:
        """Two steps towards the teacher's embeddings, models left out."""
        return {
            "data": {"train": data, "image_size": SIZE, "num_workers": 0},
            "objective": [
                {
                    "loss": "feature_cosine",
                    "student": f"{modality}.embedding",
                    "teacher": f"{modality}.embedding",
                    "projection": "linear",
                }
                for modality in modalities
            ],
            "train": {"max_steps": STEPS, "batch_size": BATCH, "learning_rate": 0.01, "device": "cpu"},
        }
