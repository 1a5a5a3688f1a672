import pytest
import torch
from torch import nn

from xmodal.train.ema import make_average, update_average


def test_the_average_is_torchs_once_it_has_warmed_up():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ours = make_average(model)
    theirs = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=False
    )
    theirs.update_parameters(model)  # its first update copies
    for _ in range(3):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 2))
        update_average(ours, model, 0.9, step=10_000)
        theirs.update_parameters(model)
    torch.testing.assert_close(ours[0].weight, theirs.module[0].weight)


def test_statistics_are_averaged_and_counters_copied():
    model = nn.BatchNorm1d(2)
    average = make_average(model)
    model(torch.randn(8, 2) + 5)
    update_average(average, model, 0.5, step=10_000)
    assert average.num_batches_tracked == model.num_batches_tracked == 1
    torch.testing.assert_close(average.running_mean, model.running_mean / 2)


def test_the_first_weights_are_soon_forgotten():
    model = nn.Linear(1, 1)
    average = make_average(model)
    with torch.no_grad():
        model.weight.fill_(100.0)
    update_average(average, model, 0.9999, step=1)
    assert average.weight.item() == pytest.approx(100, rel=0.2)


def test_the_average_takes_no_gradient_and_stays_in_eval_mode():
    average = make_average(nn.BatchNorm1d(2))
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
