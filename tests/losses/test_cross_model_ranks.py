"""Cross-model losses, their state and the drop-in for open_clip's over two processes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

SCRIPT = Path(__file__).with_name("cross_model_ranks.py")
WORLD_SIZE = 2
TERMS = ["contrastive_loss", "distill_loss"]
OPTIONS = ["False False", "False True", "True False", "True True"]
"""local_loss, gather_with_grad"""
pytestmark = pytest.mark.xdist_group("cross_model_ranks")  # one worker starts the processes, once


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("cross_model_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
def alone(script, inputs):
    return script.run(inputs, 0, 1, None)


@pytest.mark.parametrize("loss", ["interactive", "gradient", "augmented"])
def test_every_rank_has_the_value_of_the_whole_batch(ranks, alone, loss):
    for rank in ranks:
        torch.testing.assert_close(rank[f"{loss}.value"], alone[f"{loss}.value"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ["interactive", "gradient", "augmented"])
def test_the_gradient_averaged_over_ranks_is_that_of_one_rank(ranks, alone, loss):
    parameters = ["image", "text", "log_scale"]
    if loss == "augmented":
        parameters += [f"{side}_fusion.{name}" for side in ("image", "text") for name in ("weight", "bias")]
    for name in parameters:
        wanted = alone[f"{loss}.{name}"]
        assert wanted.abs().sum() > 0
        for rank in ranks:
            torch.testing.assert_close(rank[f"{loss}.{name}"], wanted, rtol=1e-9, atol=1e-14)


def test_all_ranks_hold_one_bank_in_the_order_of_ranks(ranks):
    for rank in ranks:
        # 1, 1.5, 2, 2.5, then 11, 11.5, 12, 12.5 over the oldest three
        assert rank["bank.rows"].flatten().tolist() == [11.5, 12.0, 12.5, 2.5, 11.0]
        assert rank["bank.next_row"].item() == 3


def test_statistics_are_those_of_the_global_batch_and_the_same_on_every_rank(ranks, script):
    mean = deviation = None
    for step in range(2):
        rows = torch.cat(
            [
                script.standardisation_batch(step, rank)[0][script.standardisation_mask(step, rank)]
                for rank in range(WORLD_SIZE)
            ]
        )
        new = rows.double().mean(0), rows.double().std(0, correction=0)
        mean = new[0] if mean is None else 0.9 * mean + 0.1 * new[0]
        deviation = new[1] if deviation is None else 0.9 * deviation + 0.1 * new[1]
    for rank in ranks:
        torch.testing.assert_close(rank["standardise.mean"].double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(rank["standardise.deviation"].double(), deviation, rtol=1e-6, atol=1e-6)
    for name in ("mean", "deviation", "num_batches"):
        assert torch.equal(ranks[0][f"standardise.{name}"], ranks[1][f"standardise.{name}"])
    batch, mask = script.standardisation_batch(1, 0)[0], script.standardisation_mask(1, 0)
    torch.testing.assert_close(ranks[0]["standardised"][mask].double(), (batch[mask].double() - mean) / deviation)
    assert (ranks[1]["standardised"] == 0).all()  # nothing valid there


# open_clip's DistillClipLoss, ours in its place


@pytest.mark.parametrize("term", TERMS)
def test_one_process_has_open_clips_value_and_gradient(alone, term):
    for name in ("value", "image", "text", "log_scale"):
        ours, theirs = (alone[f"{whose} False False {term}.{name}"] for whose in ("ours", "theirs"))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_drop_in_is_one_process_with_the_whole_batch_whatever_the_options(ranks, alone, options, term):
    for rank in ranks:
        for name in ("value", "image", "text", "log_scale"):
            wanted = alone[f"ours False False {term}.{name}"]
            torch.testing.assert_close(rank[f"ours {options} {term}.{name}"], wanted, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("options", ["False True", "True True"])
def test_open_clips_gradient_is_ours_where_it_gathers_with_gradient(ranks, options, term):
    for rank in ranks:
        for name in ("image", "text", "log_scale"):
            ours, theirs = (rank[f"{whose} {options} {term}.{name}"] for whose in ("ours", "theirs"))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("term", TERMS)
def test_open_clips_towers_get_their_gradient_divided_by_the_ranks_where_it_does_not(ranks, term):
    for rank in ranks:
        for name, factor in (("image", WORLD_SIZE), ("text", WORLD_SIZE), ("log_scale", 1)):
            ours, theirs = (rank[f"{whose} False False {term}.{name}"] for whose in ("ours", "theirs"))
            torch.testing.assert_close(ours, factor * theirs, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("term", TERMS)
def test_open_clips_local_loss_without_gathered_gradient_leaves_out_the_candidates_share(ranks, script, inputs, term):
    towers = script.Towers(inputs)
    out = towers.model_out(inputs)
    image, text, scale = out["image_features"], out["text_features"], out["logit_scale"]
    teacher = 5 * out["dist_image_features"] @ out["dist_text_features"].T
    target = torch.eye(8, dtype=torch.float64)
    partial = 0.0
    for rows, others, way in ((image, text, teacher), (text, image, teacher.T)):
        wanted = target if term == "contrastive_loss" else way.softmax(-1)
        partial = partial + cross_entropy(scale * rows @ others.detach().T, wanted) / 2
    gradients = torch.autograd.grad(partial, [towers.image, towers.text, towers.log_scale])
    for rank in ranks:
        for name, gradient in zip(("image", "text", "log_scale"), gradients, strict=True):
            torch.testing.assert_close(rank[f"theirs True False {term}.{name}"], gradient, rtol=1e-9, atol=1e-14)
        ours = rank[f"ours True False {term}.image"]
        assert not torch.allclose(ours, gradients[0], rtol=1e-2)


@pytest.mark.parametrize("term", TERMS)
def test_open_clips_local_value_is_a_ranks_own_and_ours_their_mean(ranks, term):
    theirs = [rank[f"theirs True True {term}.value"] for rank in ranks]
    assert theirs[0] != theirs[1]
    for rank in ranks:
        torch.testing.assert_close(rank[f"ours True True {term}.value"], sum(theirs) / WORLD_SIZE, rtol=1e-12, atol=0)
        for whose in ("ours", "theirs"):  # without local_loss, both have the whole batch's
            assert rank[f"{whose} False True {term}.value"].item() == pytest.approx(sum(theirs).item() / WORLD_SIZE)
