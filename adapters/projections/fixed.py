"""Projections that nothing trains and nothing measures."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from xmodal.adapters.projections.registration import PROJECTIONS, Fixed


@PROJECTIONS.register("random_orthogonal")
class RandomOrthogonal(Fixed):
    """A random rotation; to fewer dimensions a random projection with orthonormal rows, to more an isometry.

    Drawn from the run's seed. Distances and angles stay what they were where the width grows, and nearly so where it
    shrinks (Johnson and Lindenstrauss 1984).
    """

    matrix: Tensor

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.register_buffer("matrix", nn.init.orthogonal_(torch.empty(out_dim, in_dim)))

    def forward(self, features: Tensor) -> Tensor:
        """``[..., in_dim]`` → ``[..., out_dim]``."""
        return functional.linear(features.to(self.matrix.dtype), self.matrix)
