"""AdamW over everything that a scheme trains."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import AdamW, Optimizer

from xmodal.errors import RunError
from xmodal.recipe import Train


def make_optimizer(
    module: nn.Module, settings: Train, factors: Mapping[nn.Parameter, float] | None = None
) -> Optimizer:
    """AdamW with ``settings``' peak learning rate; biases, norms and scales (fewer than two axes) are not decayed.

    ``factors`` multiply the learning rate of single parameters.
    """
    factors = factors or {}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise RunError("The student has no parameter that can be trained: every one of them is frozen.")
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for parameter in trained:
        groups.setdefault((factors.get(parameter, 1.0), parameter.ndim >= 2), []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay if decays else 0.0,
                "learning_rate_factor": factor,
                "lr": settings.learning_rate * factor,
            }
            for (factor, decays), parameters in groups.items()
            if parameters
        ],
        betas=settings.betas,
    )


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set it in every group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("learning_rate_factor", 1.0)
