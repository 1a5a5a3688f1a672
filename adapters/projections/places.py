"""Projections of whole maps and sequences, where student and teacher differ in resolution or number of tokens."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from xmodal.adapters.projections.registration import PROJECTIONS
from xmodal.errors import AdapterError


@PROJECTIONS.register("conv")
class Conv(nn.Module):
    """One convolution over a map's places, which is then as large as the other model's map.

    ``[B, *in_places, in_dim]`` → ``[B, *out_places, out_dim]``. Tokens ``[B, N, D]`` are taken for the square grid that
    N makes. ``kernel_size`` is odd, 1 by default: each place by itself. The grid is resized bilinearly, before the
    convolution where it shrinks (then averaging over what is left out), behind it where it grows.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        in_places: tuple[int, ...],
        out_places: tuple[int, ...],
        kernel_size: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise AdapterError(f"`conv` has an odd kernel_size, at least 1; given {kernel_size}.")
        self.in_grid, self.out_grid, self.out_places = _grid(in_places), _grid(out_places), out_places
        self.conv = nn.Conv2d(in_dim, out_dim, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        rows, columns = self.in_grid
        x = features.reshape(len(features), rows, columns, -1).permute(0, 3, 1, 2)
        shrinks = math.prod(self.out_grid) < math.prod(self.in_grid)
        x = self.conv(self._resized(x)) if shrinks else self._resized(self.conv(x))
        return rearrange(x, "b c h w -> b h w c").reshape(len(x), *self.out_places, -1)

    def _resized(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) == self.out_grid:
            return x
        return functional.interpolate(x, self.out_grid, mode="bilinear", align_corners=False, antialias=True)


@PROJECTIONS.register("resampler")
class Resampler(nn.Module):
    """As many tokens as the other model has, each gathered from all of the student's by cross-attention.

    ``[B, *in_places, in_dim]`` → ``[B, *out_places, out_dim]``. Learned queries, one for each token that is wanted,
    attend to the student's tokens; each of the ``layers`` adds an attention and an MLP, both behind a LayerNorm.
    ``heads`` must divide the width that is wanted.

    Perceiver resampler, Alayrac et al. 2022, arXiv:2204.14198; there the queries attend to each other too.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        in_places: tuple[int, ...],
        out_places: tuple[int, ...],
        heads: int = 4,
        layers: int = 1,
    ) -> None:
        super().__init__()
        if not in_places or not out_places:
            raise AdapterError("`resampler` maps tokens or maps; pooled embeddings have none. Try `linear` or `mlp`.")
        if heads < 1 or out_dim % heads:
            raise AdapterError(f"`resampler` needs heads that divide the width {out_dim}; given {heads}.")
        if layers < 1:
            raise AdapterError(f"`resampler` has at least one layer; given {layers}.")
        self.out_places = out_places
        self.queries = nn.Parameter(torch.randn(math.prod(out_places), out_dim) * out_dim**-0.5)
        self.tokens_norm = nn.LayerNorm(in_dim)
        self.layers = nn.ModuleList(_ResamplerLayer(in_dim, out_dim, heads) for _ in range(layers))

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.tokens_norm(features.reshape(len(features), -1, features.shape[-1]))
        x = repeat(self.queries, "n d -> b n d", b=len(tokens))
        for layer in self.layers:
            x = layer(x, tokens)
        return x.reshape(len(x), *self.out_places, -1)


class _ResamplerLayer(nn.Module):
    def __init__(self, in_dim: int, dim: int, heads: int) -> None:
        super().__init__()
        self.query_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, kdim=in_dim, vdim=in_dim, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = x + self.attention(self.query_norm(x), tokens, tokens, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


def _grid(places: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a map, or of the square that a number of tokens makes."""
    if len(places) == 2:
        return places[0], places[1]
    side = math.isqrt(places[0]) if len(places) == 1 else 0
    if not side or side * side != places[0]:
        raise AdapterError(
            f"`conv` maps grids: maps, or tokens that make a square; here the places are {list(places) or 'none'}. "
            "For unlike numbers of tokens take `resampler`, for pooled embeddings `linear`."
        )
    return side, side
