"""What losses remember and learn: banks, running statistics, fusions, scales."""

from __future__ import annotations

import collections
import copy
import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import xmodal.losses.state
from xmodal.errors import LossError
from xmodal.losses.state import Fusion, LearnedBias, LearnedScale, MemoryBank, RunningStandardisation


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_examples_of_the_docstrings_hold():
    done = doctest.testmod(xmodal.losses.state)
    assert (done.failed, done.attempted > 0) == (0, True)


# MemoryBank


@given(size=st.integers(1, 7), batches=st.lists(st.integers(1, 10), max_size=8))
def test_a_bank_holds_the_newest_rows(size, batches):
    bank, queue, count = MemoryBank(size, 1), collections.deque([0.0] * size, maxlen=size), 0
    for batch in batches:
        pushed = torch.arange(count + 1.0, count + batch + 1)
        count += batch
        bank.push(pushed[:, None])
        queue.extend(pushed.tolist())
    assert sorted(bank.rows.flatten().tolist()) == sorted(queue)


def test_a_restored_bank_goes_on_where_it_stopped():
    bank, again = MemoryBank(4, 2), MemoryBank(4, 2)
    bank.push(rows(3, 2))
    again.load_state_dict(bank.state_dict())
    for either in (bank, again):
        either.push(rows(2, 2, seed=1))
    assert torch.equal(bank.rows, again.rows)
    assert set(bank.state_dict()) == {"rows", "next_row"}


def test_a_bank_keeps_values_not_graphs():
    bank = MemoryBank(2, 3)
    embeddings = rows(2, 3).half().requires_grad_()
    bank.push(embeddings)
    assert bank.rows.dtype == torch.float32
    assert not bank.rows.requires_grad
    assert torch.equal(bank.rows, embeddings.detach().float())


def test_rows_of_another_width_are_refused_by_a_bank(unchecked):
    with pytest.raises(LossError, match=r"\[B, 3\]; given \[2, 4\]"):
        unchecked(MemoryBank.push)(MemoryBank(5, 3), rows(2, 4))


# RunningStandardisation


def test_the_first_batch_sets_the_statistics_exactly():
    standardise, batch = RunningStandardisation(5), rows(8, 5) * 3 + 7
    out = standardise(batch)
    torch.testing.assert_close(standardise.mean.numpy(), batch.numpy().mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(standardise.deviation.numpy(), batch.numpy().std(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.mean(0), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(5))


def test_later_batches_move_the_statistics_by_their_share():
    standardise, mean, deviation = RunningStandardisation(3, momentum=0.25), None, None
    for seed in range(4):
        batch = rows(6, 2, 3, seed=seed) * (seed + 1)
        standardise(batch)
        new_mean, new_deviation = batch.numpy().mean((0, 1)), batch.numpy().std((0, 1))
        mean = new_mean if mean is None else 0.75 * mean + 0.25 * new_mean
        deviation = new_deviation if deviation is None else 0.75 * deviation + 0.25 * new_deviation
    np.testing.assert_allclose(standardise.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(standardise.deviation, deviation, rtol=1e-5)


def test_the_running_mean_is_batch_norms():
    """torch's BatchNorm1d keeps the same mean; its deviation is a mean of variances over n − 1, ours of deviations."""
    norm, standardise = nn.BatchNorm1d(4, momentum=0.1, affine=False), RunningStandardisation(4, momentum=0.1)
    first = rows(8, 4) + 2
    norm.momentum = 1.0
    norm(first)
    standardise(first)
    torch.testing.assert_close(standardise.deviation, (norm.running_var * 7 / 8).sqrt())
    norm.momentum = 0.1
    for seed in range(1, 4):
        batch = rows(8, 4, seed=seed) * seed
        norm(batch)
        standardise(batch)
        torch.testing.assert_close(standardise.mean, norm.running_mean)


def test_an_invalid_item_changes_neither_statistics_nor_output():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    features = rows(2, 3, 4)
    broken = torch.where(mask[..., None], features, math.nan).requires_grad_()
    masked, plain = RunningStandardisation(4), RunningStandardisation(4)
    out, wanted = masked(broken, mask=mask), plain(features[mask])
    torch.testing.assert_close(out[mask], wanted)
    assert (out[~mask] == 0).all()
    torch.testing.assert_close(masked.deviation, plain.deviation)
    (gradient,) = torch.autograd.grad(out.square().sum(), broken)
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()


def test_a_batch_without_a_valid_item_changes_nothing():
    standardise = RunningStandardisation(4)
    standardise(rows(2, 4), mask=torch.zeros(2, dtype=torch.bool))
    assert (standardise.mean == 0).all()
    assert (standardise.deviation == 1).all()
    standardise(rows(3, 4, seed=1) + 5)  # still the first
    torch.testing.assert_close(standardise.mean, (rows(3, 4, seed=1) + 5).mean(0))


@pytest.mark.parametrize("value", [0.1, 1234.567, -3e4])
def test_a_dimension_that_does_not_vary_becomes_zero_and_is_not_blown_up(value):
    standardise = RunningStandardisation(2)
    for seed in range(3):
        batch = rows(7, 2, seed=seed)
        batch[:, 1] = value
        out = standardise(batch)
        assert (out[:, 1] == 0).all()
        assert standardise.deviation[1] == 0
    moved = standardise.eval()(torch.tensor([[0.0, value + 1]]))
    assert moved[0, 1].item() == pytest.approx(1, rel=1e-2)


def test_one_row_alone_is_taken():
    out = RunningStandardisation(3)(rows(1, 3))
    assert (out == 0).all()


def test_no_gradient_flows_through_the_statistics():
    standardise, features = RunningStandardisation(3), rows(5, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(standardise(features).sum(), features)
    torch.testing.assert_close(gradient, (1 / standardise.deviation).expand(5, 3))


def test_a_later_update_does_not_spoil_an_earlier_batchs_gradient():
    standardise, features = RunningStandardisation(3), rows(5, 3).requires_grad_()
    out = standardise(features)
    deviation = standardise.deviation.clone()
    standardise(rows(5, 3, seed=1) * 100)
    out.sum().backward()
    torch.testing.assert_close(features.grad, (1 / deviation).expand(5, 3))


def test_statistics_are_only_applied_in_eval_mode_or_when_told():
    standardise = RunningStandardisation(3)
    standardise(rows(5, 3))
    before = copy.deepcopy(standardise.state_dict())
    told = standardise(rows(5, 3, seed=1), update=False)
    quiet = standardise.eval()(rows(5, 3, seed=1))
    assert torch.equal(told, quiet)
    assert all(torch.equal(before[key], value) for key, value in standardise.state_dict().items())


def test_statistics_are_restored_and_go_on():
    standardise, again = RunningStandardisation(3), RunningStandardisation(3)
    standardise(rows(5, 3))
    again.load_state_dict(standardise.state_dict())
    assert torch.equal(standardise(rows(5, 3, seed=1)), again(rows(5, 3, seed=1)))
    assert torch.equal(standardise.deviation, again.deviation)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_statistics_are_float32_whatever_the_features_are(dtype):
    standardise = RunningStandardisation(3)
    out = standardise(rows(5, 3).to(dtype))
    assert (standardise.mean.dtype, standardise.deviation.dtype) == (torch.float32, torch.float32)
    assert out.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.usefixtures("without_shape_checks")
def test_the_standardisation_compiles_whole():
    standardise, plain = RunningStandardisation(3), RunningStandardisation(3)
    compiled = torch.compile(standardise, fullgraph=True, backend="aot_eager")
    mask = torch.tensor([True, False, True, True])
    for seed in range(2):
        batch = rows(4, 3, seed=seed)
        torch.testing.assert_close(compiled(batch, mask=mask), plain(batch, mask=mask))
    torch.testing.assert_close(standardise.deviation, plain.deviation)


@pytest.mark.usefixtures("without_shape_checks")
def test_a_scale_compiles_whole_and_stays_below_its_maximum():
    scale = LearnedScale(50.0, max=100)
    compiled = torch.compile(scale, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        scale.log_scale.fill_(10.0)
    value = compiled()
    value.backward()
    assert value.item() == pytest.approx(100, rel=1e-6)
    assert scale.log_scale.grad.item() == pytest.approx(100, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5, math.nan])
def test_a_momentum_that_is_no_share_is_refused(momentum):
    with pytest.raises(LossError, match="above 0 and at most 1"):
        RunningStandardisation(3, momentum=momentum)


def test_features_of_another_width_are_refused(unchecked):
    with pytest.raises(LossError, match=r"\[..., 3\]; given \[2, 5, 4\]"):
        unchecked(RunningStandardisation.forward)(RunningStandardisation(3), rows(2, 5, 4))


# Fusion, LearnedScale, LearnedBias


def test_a_fusion_is_linear_in_student_and_teacher():
    fusion = Fusion(2, 3)
    student, teacher = rows(4, 2), rows(4, 3, seed=1)
    wanted = student @ fusion.weight[:, :2].T + teacher @ fusion.weight[:, 2:].T + fusion.bias
    torch.testing.assert_close(fusion(torch.cat([student, teacher], -1)), wanted)
    assert set(fusion.state_dict()) == {"weight", "bias"}


def test_a_fusion_says_which_widths_it_takes():
    with pytest.raises(LossError, match="student 2 wide and a teacher 3 wide takes rows 5 wide"):
        Fusion(2, 3)(rows(4, 6))


def test_a_scale_is_learned_in_steps_relative_to_it():
    scale = LearnedScale(10.0, max=100)
    scale().backward()
    assert scale().item() == pytest.approx(10, rel=1e-6)
    assert scale.log_scale.grad.item() == pytest.approx(10, rel=1e-6)


def test_a_scale_beyond_its_maximum_is_put_back_and_can_come_down():
    scale = LearnedScale(50.0, max=100)
    with torch.no_grad():
        scale.log_scale.fill_(math.log(1e5))
    optimizer = torch.optim.SGD(scale.parameters(), lr=1e-3)
    value = scale()
    assert value.item() == pytest.approx(100, rel=1e-6)
    value.backward()
    optimizer.step()
    assert scale().item() == pytest.approx(100 * math.exp(-0.1), rel=1e-5)


def test_scales_and_biases_are_saved():
    scale, bias = LearnedScale(3.0, max=100), LearnedBias(-10.0)
    scale.load_state_dict(LearnedScale(7.0, max=100).state_dict())
    bias.load_state_dict(LearnedBias(2.0).state_dict())
    assert scale().item() == pytest.approx(7, rel=1e-6)
    assert bias().item() == 2
    bias().backward()
    assert bias.bias.grad.item() == 1


@pytest.mark.parametrize(
    ("first", "maximum", "message"), [(0.0, 1.0, "above 0"), (200.0, 100.0, "first 200.0, max 100.0")]
)
def test_a_scale_starts_between_zero_and_its_maximum(first, maximum, message):
    with pytest.raises(LossError, match=message):
        LearnedScale(first, max=maximum)


def test_a_bias_starts_at_a_number():
    with pytest.raises(LossError, match="finite"):
        LearnedBias(math.nan)


def test_a_batch_that_is_not_finite_leaves_no_trace_in_the_statistics():
    standardise = RunningStandardisation(3)
    standardise(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = {name: buffer.clone() for name, buffer in standardise.state_dict().items()}
    broken = torch.ones(8, 3)
    broken[0, 0] = float("nan")
    assert standardise(broken).isnan().any()
    assert all(torch.equal(buffer, before[name]) for name, buffer in standardise.state_dict().items())
