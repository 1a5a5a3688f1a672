"""An objective on two ranks under DDP trains as one rank with the whole batch would."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")
WORLD_SIZE = 2
pytestmark = pytest.mark.xdist_group("ranks")  # one worker starts the processes, once


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), str(WORLD_SIZE), folder / "store", folder / f"{rank}.pt"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        )
        for rank in range(WORLD_SIZE)
    ]
    try:  # generous: on a busy machine, importing torch alone can take a minute
        errors = [process.communicate(timeout=400)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD_SIZE, "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD_SIZE)]


@pytest.fixture(scope="module")
def alone():
    spec = importlib.util.spec_from_file_location("objective_on_two_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run(0, 1, None)


def part(results, section):
    return {name: tensor for name, tensor in results.items() if name.startswith(section)}


def test_projections_and_scales_start_alike_on_every_rank(ranks, alone):
    state = part(alone, "state.")
    assert len(state) > 8
    for rank in ranks:
        torch.testing.assert_close(part(rank, "state."), state, rtol=0, atol=0)


def test_values_are_those_of_the_whole_batch(ranks, alone):
    for rank in ranks:
        torch.testing.assert_close(part(rank, "value."), part(alone, "value."), rtol=1e-10, atol=0)


def test_banks_and_statistics_are_those_of_the_whole_batch_on_every_rank(ranks, alone):
    kept = part(alone, "kept.")
    assert len(kept) == 8
    assert all(tensor.any() for tensor in kept.values())
    for rank in ranks:
        torch.testing.assert_close(part(rank, "kept."), kept, rtol=1e-10, atol=1e-14)


def test_gradients_of_student_projections_and_scales_are_those_of_the_whole_batch(ranks, alone):
    gradients = part(alone, "gradient.")
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    for rank in ranks:
        torch.testing.assert_close(part(rank, "gradient."), gradients, rtol=1e-8, atol=1e-12)
