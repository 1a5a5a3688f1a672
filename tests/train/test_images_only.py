"""An image network teaches an image network: nothing embeds a text, so there are no queries to show."""

from __future__ import annotations

import json

import pytest

import xmodal
from xmodal.errors import RecipeError


def test_a_run_without_texts_is_measured_by_agreement_and_ends_with_a_report(tmp_path):
    run = xmodal.distill(recipe("agreement"), out=tmp_path / "run")
    assert -1 <= run.metrics["val"]["teacher_agreement"] <= 1
    assert json.loads((run.folder / "gallery.json").read_text()) == []
    assert run.report.is_file()


@pytest.mark.parametrize("task", ["retrieval", "zero-shot"])
def test_a_task_that_needs_texts_is_refused_before_anything_is_trained(task, tmp_path):
    with pytest.raises(RecipeError, match=r"nothing was trained") as told:
        xmodal.distill(recipe(task), out=tmp_path / "run")
    assert "evaluate.tasks" in str(told.value)
    assert "embeds text" in " ".join(str(told.value).split())


def recipe(task):
    return {
        "teacher": {"name": "timm", "model": "test_resnet", "pretrained": False},
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
        "data": {"train": "package://emoji/names-*.tar", "val": "package://emoji/names-*.tar", "image_size": 32},
        "objective": [{"loss": "feature_mse", "student": "image.embedding", "teacher": "image.embedding"}],
        "train": {"max_steps": 2, "batch_size": 16},
        "evaluate": {"tasks": [task]},
    }
