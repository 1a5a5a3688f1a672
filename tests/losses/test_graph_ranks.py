"""Graph losses over several processes: value and gradient of one process that holds the whole batch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("graph_ranks.py")
pytestmark = pytest.mark.xdist_group("ranks")  # one worker starts the processes, once

spec = importlib.util.spec_from_file_location("graph_ranks", SCRIPT)
graph_ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(graph_ranks)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(5)
    shapes = {
        "x": (8, 6),
        "narrow_image": (8, 3),
        **{f"teacher_{name}": (8, 5) for name in ("image", "text", "audio")},
        **{f"weight_{name}": (6, 3) for name in ("image", "text", "audio")},
        "weight_wide": (6, 4),
    }
    given = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    given["equal"] = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1, 1, 0, 0, 1]]
    given["presence"] = torch.tensor(
        [  # image and text of three cases; the ranks' numbers of nodes differ in all
            [1, 1, 1, 1, 0, 0],
            [1, 0, 1, 0, 0, 0],
            [1, 1, 0, 1, 0, 1],
            [0, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0],
        ]
    )
    return given


@pytest.fixture(scope="module")
def ranks(inputs, on_two_ranks):
    return on_two_ranks(SCRIPT, inputs)


@pytest.fixture(scope="module")
def alone(inputs):
    return graph_ranks.run(inputs, 0, 1, None)


@pytest.mark.parametrize("name", graph_ranks.LOSSES)
def test_every_rank_has_the_value_of_the_whole_batch(ranks, alone, name):
    assert (alone[f"{name}.value"] > 0) == (name != "one node in all")
    for rank in ranks:
        torch.testing.assert_close(rank[f"{name}.value"], alone[f"{name}.value"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", graph_ranks.LOSSES)
def test_the_gradient_averaged_over_ranks_is_that_of_one_rank(inputs, ranks, alone, name):
    keys = [f"{name}.{weight}" for weight in inputs if weight.startswith("weight_")]
    assert any(alone[key].abs().sum() > 0 for key in keys) == (name != "one node in all")
    for key in keys:
        for rank in ranks:
            torch.testing.assert_close(rank[key], alone[key], rtol=1e-9, atol=1e-13)
