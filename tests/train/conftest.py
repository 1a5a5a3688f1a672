"""A recipe small enough to run whole in seconds, with a real teacher and real pictures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

TINY = {
    "teacher": {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"},
    "student": {"name": "image", "model": "test_efficientnet", "weights": "random", "drop_path": 0.1},
    "data": {
        "train": "package://emoji/style-*.tar",
        "image_size": 32,
        "augment": {"crop_scale": [0.6, 1.0], "flip": 0.5},
        "num_workers": 0,
    },
    "objective": [
        {"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding"},
        {
            "loss": "soft_contrastive",
            "student": ["image.embedding", "teacher:text.embedding"],
            "teacher": ["text.embedding", "text.embedding"],
            "student_scale": {"learn": 10},
            "teacher_scale": {"from": 10, "to": 20, "until": 0.5},
        },
        {
            "loss": "contrastive_representation",
            "student": "image.embedding",
            "teacher": "text.embedding",
            "bank": 40,
            "standardize": True,
            "projection": {"name": "linear", "learning_rate_factor": 0.5},
            "weight": {"from": 0, "to": 0.5, "after": 0.1, "shape": "cosine"},
        },
        {
            "loss": "feature_mse",
            "student": "image.embedding",
            "teacher": "text.embedding",
            "standardize": {"method": "phi_s", "samples": 40},
            "weight": 0.1,
        },
    ],
    "train": {"max_steps": 14, "batch_size": 16, "learning_rate": 0.002, "checkpoint_every": 3, "ema": 0.9},
}


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory):
    """The path of its YAML."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


class Command:
    """`xmodal distill` in a process group of its own, so that it can be killed with its workers."""

    def __init__(self, recipe, out, *arguments):
        self.out = Path(out)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "xmodal", "distill", str(recipe), "--out", str(out), *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def finish(self):
        stdout, stderr = self.process.communicate(timeout=300)
        return self.process.returncode, stdout, stderr

    def signal_after(self, step, number=signal.SIGKILL):
        """Send a signal to the process (SIGKILL: to the whole group) once ``step`` stands in metrics.jsonl."""
        while self.last_step() < step:
            assert self.process.poll() is None, self.finish()
            time.sleep(0.02)
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.finish()

    def last_step(self):
        path = self.out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        return max(steps, default=0)


@pytest.fixture
def command():
    return Command
