"""Runs whose student learns from its own moving average, with locked towers or whole."""

import hashlib
import json

import pytest
import yaml
from rich.console import Console

import xmodal

RECIPE = {
    "teachers": {"mean": {"name": "ema", "decay": 0.9}},
    "student": {"name": "image", "model": "test_efficientnet", "weights": "random", "embed_dim": 16, "drop_path": 0.2},
    "data": {"train": "package://emoji/style-*.tar", "image_size": 32, "num_workers": 0, "augment": {"flip": 0.5}},
    "objective": [
        {
            "loss": "feature_cosine",
            "student": "image.embedding",
            "teacher": "mean:image.embedding",
            "projection": {"name": "mlp"},
        },
    ],
    "train": {"max_steps": 10, "batch_size": 8, "learning_rate": 0.002, "checkpoint_every": 3},
}


@pytest.mark.parametrize("locked", [False, True])
def test_a_run_killed_ends_byte_for_byte_like_one_left_alone(command, tmp_path, locked):
    recipe = {**RECIPE, "student": {**RECIPE["student"], "locked": locked}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    xmodal.distill(path, out=whole, console=Console(quiet=True))
    command(path, killed).signal_after(step=5)
    assert not (killed / "summary.json").exists()
    code, _, stderr = command(path, killed, "--resume").finish()
    assert code == 0, stderr
    first, second = (
        hashlib.sha256((run / "student" / "model.safetensors").read_bytes()).hexdigest() for run in (whole, killed)
    )
    assert first == second
    steps = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 11))
