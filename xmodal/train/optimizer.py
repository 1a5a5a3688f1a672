"""AdamW over everything that a scheme trains."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer

from xmodal.errors import RunError
from xmodal.recipe import Train


def make_optimizer(module: nn.Module, settings: Train) -> Optimizer:
    """AdamW with ``settings``' peak learning rate; biases, norms and scales (fewer than two axes) are not decayed."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise RunError("The student has no parameter that can be trained: every one of them is frozen.")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, betas=settings.betas)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set it in every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
