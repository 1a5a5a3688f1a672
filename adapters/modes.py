"""Modules in eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_eval_mode(*models: nn.Module) -> Iterator[None]:
    """Inside, no BatchNorm learns and no Dropout draws; afterwards every module is in the mode that it was in.

    Module by module, since a part that was frozen in eval mode inside a model in train mode must stay so.
    """
    training = [module for model in models for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
