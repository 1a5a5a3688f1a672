import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.train.schedule import learning_rate_factor

SCHEDULES = ["one_cycle", "cosine", "linear", "constant"]


@given(st.sampled_from(SCHEDULES), st.integers(1, 500), st.floats(0, 0.9))
def test_factors_stay_between_zero_and_one(schedule, num_steps, warmup):
    factors = [learning_rate_factor(step, num_steps, schedule, warmup) for step in range(num_steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) > 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_peak_is_reached_when_warmup_ends(schedule):
    factors = [learning_rate_factor(step, 100, schedule, 0.3) for step in range(100)]
    assert factors[29] == pytest.approx(1.0)
    assert factors[:30] == sorted(factors[:30])
    assert factors[30:] == sorted(factors[30:], reverse=True)


def test_cosine_is_torchs_cosine_annealing():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    for step in range(50):
        assert learning_rate_factor(step, 50, "cosine", 0.0) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_one_cycle_starts_at_a_twenty_fifth():
    assert learning_rate_factor(0, 10_000, "one_cycle", 0.3) == pytest.approx(1 / 25, rel=1e-4)
