"""examples/open_clip_distillation.py: open_clip's own training script, small, on real pictures, with xmodal's loss."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("open_clip_driver.py")
EXAMPLE = ROOT / "examples" / "open_clip_distillation.py"
STEPS = 3
pytestmark = pytest.mark.xdist_group("open_clip_distillation")  # one worker trains, once


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def runs(environment, tmp_path_factory):
    """The driver's folder, and what it printed last."""
    folder = tmp_path_factory.mktemp("open_clip")
    command = [sys.executable, DRIVER, folder]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def losses(folder, name):
    """Contrastive and distillation loss of each step, as open_clip's log has them."""
    log = (folder / "logs" / name / "out.log").read_text()
    found = re.findall(r"Contrastive_loss: (\S+) .*?Distill_loss: (\S+) .*?Loss: (\S+)", log)
    assert len(found) == STEPS, log[-2000:]
    return [[float(value) for value in step] for step in found]


def test_the_training_script_asks_our_loss_at_every_step(runs):
    _, counted = runs
    assert counted == {"tiles": [5] * STEPS * 2, "after": 0}


def test_losses_are_those_of_open_clips_own_training(runs):
    folder, _ = runs
    ours, theirs = losses(folder, "ours"), losses(folder, "theirs")
    assert ours[0][1] != ours[1][1]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-3)
        assert mine[2] == pytest.approx(mine[0] + mine[1], rel=1e-3)


def test_a_student_with_sigmoids_is_trained_too(runs):
    folder, _ = runs
    steps = losses(folder, "sigmoid")
    assert all(math.isfinite(value) for step in steps for value in step)
    assert steps[0] != steps[-1]


def test_a_teacher_without_its_weights_is_refused(environment):
    command = [sys.executable, EXAMPLE, "--distill-model", "RN50"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 2
    assert "--distill-pretrained" in done.stderr
