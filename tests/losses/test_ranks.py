"""Relational losses over several processes: value and gradient of one process that holds the whole batch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")
PLAIN = ("clip", "siglip", "soft", "teachers", "mixed", "sharp", "sigmoid")
LOSSES = (*PLAIN, *(f"tiled {name}" for name in PLAIN))
pytestmark = pytest.mark.xdist_group("ranks")  # one worker starts the processes, once


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "x": (8, 6),
        "y": (8, 5),
        "teacher_image": (8, 3),
        "teacher_text": (8, 3),
        "image": (6, 3),
        "text": (5, 3),
    }
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def ranks(inputs, on_two_ranks):
    return on_two_ranks(SCRIPT, inputs)


@pytest.fixture(scope="module")
def alone(inputs):
    spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run(inputs, 0, 1, None)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_rank_has_the_value_of_the_whole_batch(ranks, alone, loss):
    for rank in ranks:
        torch.testing.assert_close(rank[f"{loss}.value"], alone[f"{loss}.value"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("parameter", ["image", "text", "log_scale", "bias"])
def test_the_gradient_averaged_over_ranks_is_that_of_one_rank(ranks, alone, loss, parameter):
    wanted = alone[f"{loss}.{parameter}"]
    idle = {"text": ("mixed",), "bias": ("clip", "soft", "teachers", "mixed", "sharp")}.get(parameter, ())
    assert (wanted.abs().sum() > 0) == (loss.removeprefix("tiled ") not in idle)
    for rank in ranks:
        torch.testing.assert_close(rank[f"{loss}.{parameter}"], wanted, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("loss", PLAIN)
@pytest.mark.parametrize("what", ["value", "image", "text", "log_scale", "bias"])
def test_tiles_change_nothing_over_ranks(ranks, loss, what):
    for rank in ranks:
        torch.testing.assert_close(rank[f"tiled {loss}.{what}"], rank[f"{loss}.{what}"], rtol=1e-9, atol=1e-14)


def test_gathered_rows_stand_in_the_order_of_ranks_and_get_what_all_ranks_ask(ranks):
    for number, rank in enumerate(ranks):
        assert rank["gathered"].flatten().tolist() == [0, 0, 1, 1]
        # (1 + 2) times the positions of this rank's rows
        assert rank["gathered.gradient"].flatten().tolist() == [3 * 2 * number, 3 * (2 * number + 1)]


def test_the_mean_over_ranks_is_one(ranks):
    assert [rank["mean"].item() for rank in ranks] == [0.5, 0.5]


def test_without_a_group_a_process_stands_alone(ranks):
    torch.testing.assert_close(ranks[0]["alone"], ranks[1]["alone"])
