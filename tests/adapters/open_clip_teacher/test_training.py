"""Students of open_clip teachers, on real emoji: online, and from a cache of what the teacher says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import xmodal
from xmodal.data.cache.job import cache
from xmodal.data.cache.recipe import jobs_of
from xmodal.recipes import load_recipe

Make = Callable[..., Any]
BOTH = ["image.embedding", "text.embedding"]
QUIET = Console(quiet=True)


def recipe(folder: Path, objective: list[dict[str, Any]], **teacher: Any) -> dict[str, Any]:
    return {
        "teacher": {"name": "open_clip", "model": f"local-dir:{folder}", **teacher},
        "student": {
            "name": "clip",
            "image": {"model": "test_efficientnet", "weights": "random"},
            "text": {"num_layers": 1, "width": 16, "num_heads": 2},
            "embed_dim": 64,
        },
        "data": {"train": "package://emoji/style-*.tar", "image_size": 32, "num_workers": 0},
        "objective": objective,
        "train": {"max_steps": 2, "batch_size": 8, "learning_rate": 0.002, "device": "cpu"},
    }


def losses(run: Any) -> list[float]:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [value for line in lines if "terms" in line for value in line["terms"].values()]


def test_two_towers_learn_by_siglips_own_scale_and_bias(saved: Make, teacher_of: Make, tmp_path: Path) -> None:
    teacher = teacher_of("siglip")
    numbers = {"teacher_scale": teacher.logit_scale, "teacher_bias": teacher.logit_bias}
    learned = {"student_scale": {"learn": 10}, "student_bias": {"learn": -10}}
    terms = [
        {"loss": "soft_sigmoid", "student": BOTH, "teacher": BOTH, **learned, **numbers},
        {"loss": "feature_cosine", "student": "image.embedding", "teacher": "image.embedding"},
    ]
    run = xmodal.distill(recipe(saved("siglip"), terms), out=tmp_path / "run", console=QUIET)
    assert len(losses(run)) == 4
    assert all(math.isfinite(value) for value in losses(run))
    assert run.student.metadata["space"]["teacher"]["name"] == "open_clip"


def test_training_from_a_cache_is_training_online(saved: Make, tmp_path: Path) -> None:
    terms = [
        {"loss": "soft_contrastive", "student": BOTH, "teacher": BOTH, "student_scale": 10, "teacher_scale": 14},
        {"loss": "feature_mse", "student": "text.embedding", "teacher": "text.features", "projection": "linear"},
    ]
    folder = saved("vit")
    online = xmodal.distill(recipe(folder, terms), out=tmp_path / "online", console=QUIET)
    made = load_recipe(recipe(folder, terms, cached=str(tmp_path / "cache")))
    cache(jobs_of(made, device="cpu"))
    cached = xmodal.distill(made, out=tmp_path / "cached", console=QUIET)
    assert losses(cached) == pytest.approx(losses(online), abs=2e-3)
    assert len(losses(cached)) == 4
