"""An image network teaches an image network: nothing embeds a text, so there are no queries to show."""

from __future__ import annotations

import json

import xmodal


def test_a_run_without_texts_is_measured_by_agreement_and_ends_with_a_report(tmp_path):
    recipe = {
        "teacher": {"name": "timm", "model": "test_resnet", "pretrained": False},
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
        "data": {"train": "package://emoji/names-*.tar", "val": "package://emoji/names-*.tar", "image_size": 32},
        "objective": [{"loss": "feature_mse", "student": "image.embedding", "teacher": "image.embedding"}],
        "train": {"max_steps": 2, "batch_size": 16},
        "evaluate": {"tasks": ["agreement"]},
    }
    run = xmodal.distill(recipe, out=tmp_path / "run")
    assert -1 <= run.metrics["val"]["teacher_agreement"] <= 1
    assert json.loads((run.folder / "gallery.json").read_text()) == []
    assert run.report.is_file()
