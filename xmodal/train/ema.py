"""A moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def make_average(model: M) -> M:
    """A copy of ``model``, in eval mode and without gradients, to be kept by :func:`update_average`."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int, *, warmup: bool = True) -> None:
    """``average ← decay · average + (1 − decay) · model``; buffers that are counters are copied.

    With ``warmup`` the decay is at most (1 + step) / (10 + step), so that the first weights are soon forgotten. Weights
    that do not learn are left alone: they are the model's own.
    """
    if warmup:
        decay = min(decay, (1 + step) / (10 + step))
    current = model.state_dict()
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for name, tensor in average.state_dict().items():
        if name in still:
            continue
        if tensor.is_floating_point():
            tensor.lerp_(current[name].to(tensor.dtype), 1 - decay)
        else:
            tensor.copy_(current[name])
