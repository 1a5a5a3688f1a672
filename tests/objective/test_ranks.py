"""An objective on two ranks under DDP trains as one rank with the whole batch would."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")
pytestmark = pytest.mark.xdist_group("ranks")  # one worker starts the processes, once


@pytest.fixture(scope="module")
def ranks(on_two_ranks):
    return on_two_ranks(SCRIPT)


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
    assert len(kept) == 14
    assert all(tensor.any() for tensor in kept.values())
    for rank in ranks:
        torch.testing.assert_close(part(rank, "kept."), kept, rtol=1e-10, atol=1e-14)


def test_gradients_of_student_projections_and_scales_are_those_of_the_whole_batch(ranks, alone):
    gradients = part(alone, "gradient.")
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    for rank in ranks:
        torch.testing.assert_close(part(rank, "gradient."), gradients, rtol=1e-8, atol=1e-12)
