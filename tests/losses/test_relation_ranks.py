"""Relational losses over several processes: value and gradient of one process that holds the whole batch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("relation_ranks.py")
pytestmark = pytest.mark.xdist_group("relation_ranks")  # one worker starts the processes, once


def load_script():
    spec = importlib.util.spec_from_file_location("relation_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(3)
    shapes = {"x": (8, 6), "weight": (6, 5), "teacher": (8, 7), "like_student": (8, 5), "bank": (4, 5)}
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    tensors["bank"][3] = 0  # not filled yet
    tensors["x_twins"] = tensors["x"].clone()
    tensors["x_twins"][6] = tensors["x"][1]  # on two ranks
    tensors["x_twins"][2] = tensors["x"][0]  # on one
    return tensors


@pytest.fixture(scope="module")
def alone(inputs):
    return script.run(inputs, 0, 1, None)


@pytest.fixture(scope="module")
def ranks(inputs, on_two_ranks):
    return on_two_ranks(SCRIPT, inputs)


@pytest.mark.parametrize("call", script.CALLS)
def test_every_rank_has_the_value_of_the_whole_batch(ranks, alone, call):
    assert alone[f"{call}.value"] > 0
    for rank in ranks:
        torch.testing.assert_close(rank[f"{call}.value"], alone[f"{call}.value"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("call", script.CALLS)
def test_the_gradient_averaged_over_ranks_is_that_of_one_rank(ranks, alone, call):
    wanted = alone[f"{call}.gradient"]
    assert wanted.abs().sum() > 0
    for rank in ranks:
        torch.testing.assert_close(rank[f"{call}.gradient"], wanted, rtol=1e-9, atol=1e-14)
