"""Projections of one vector at a time, whatever stands beside it."""

from __future__ import annotations

from torch import nn

from xmodal.adapters.projections.registration import PROJECTIONS
from xmodal.errors import AdapterError


@PROJECTIONS.register("linear")
def linear(in_dim: int, out_dim: int, *, bias: bool = True) -> nn.Module:
    """One matrix: what fits into a student's own checkpoint as its last layer."""
    return nn.Linear(in_dim, out_dim, bias=bias)


@PROJECTIONS.register("mlp")
def mlp(in_dim: int, out_dim: int, *, hidden: int | None = None, layers: int = 2) -> nn.Module:
    """``layers`` matrices with LayerNorm and GELU between them.

    ``hidden`` is the width in between, by default the larger of the two. Raises AdapterError for fewer than two layers
    (that is ``linear``) or a width below 1.

    >>> import torch
    >>> mlp(8, 4)(torch.zeros(2, 3, 8)).shape
    torch.Size([2, 3, 4])
    """
    if layers < 2:
        raise AdapterError(f"an mlp has at least 2 layers; given {layers}. One layer is `projection: linear`.")
    width = max(in_dim, out_dim) if hidden is None else hidden
    if width < 1:
        raise AdapterError(f"hidden is a width, at least 1; given {width}")
    modules: list[nn.Module] = []
    for before in [in_dim, *[width] * (layers - 2)]:
        modules += [nn.Linear(before, width), nn.LayerNorm(width), nn.GELU()]
    return nn.Sequential(*modules, nn.Linear(width, out_dim))


@PROJECTIONS.register("identity")
def identity(in_dim: int, out_dim: int) -> nn.Module:
    """No map at all: a way to say that the two spaces are one. Raises AdapterError where the widths differ."""
    if in_dim != out_dim:
        raise AdapterError(f"`identity` maps nothing, but the widths differ: {in_dim} and {out_dim}. Try `linear`.")
    return nn.Identity()
