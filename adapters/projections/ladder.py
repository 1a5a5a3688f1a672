"""One projection fed by several layers of the student, so that shallow ones are taught by the same term."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from xmodal.adapters.projections.pointwise import mlp
from xmodal.adapters.projections.registration import PROJECTIONS
from xmodal.errors import AdapterError


@PROJECTIONS.register("ladder")
class Ladder(nn.Module):
    r"""The sum of an MLP of the term's own tap and of one of each further tap, a rung.

    .. math:: y = f_0(x) + \sum_l f_l(h_l)

    with :math:`x` the student's tap, :math:`h_l` the taps listed under ``taps`` and :math:`f` MLPs of two layers,
    ``hidden`` wide (by default the wider of both sides). A rung with more places than :math:`x` is averaged over them
    where :math:`x` is pooled, and resized bilinearly where both are maps.

    UNIC, Sariyildiz et al. 2024, arXiv:2408.05088, attaches such projectors to the blocks of its encoder; there each
    teacher's class token and patch tokens have a ladder of their own, which are two terms here.
    """

    def __init__(self, in_dim: int, out_dim: int, *, rung_dims: tuple[int, ...], hidden: int | None = None) -> None:
        super().__init__()
        if not rung_dims:
            raise AdapterError("`ladder` needs taps, the student's further layers: {name: ladder, taps: [...]}.")
        self.last = mlp(in_dim, out_dim, hidden=hidden)
        self.rungs = nn.ModuleList(mlp(dim, out_dim, hidden=hidden) for dim in rung_dims)

    def forward(self, features: Tensor, rungs: Sequence[Tensor]) -> Tensor:
        """``features`` ``[B, *places, in_dim]``; ``rungs`` ``[B, *places_l, rung_dims[l]]``, features last."""
        out: Tensor = self.last(features)
        for rung, project in zip(rungs, self.rungs, strict=True):
            out = out + project(at_places(rung, tuple(features.shape[1:-1])))
        return out


def at_places(features: Tensor, places: tuple[int, ...]) -> Tensor:
    """``[B, *own places, D]`` → ``[B, *places, D]``. Raises AdapterError where the two are no places of one picture."""
    own = tuple(features.shape[1:-1])
    if own == places:
        return features
    if not places:
        return features.flatten(1, -2).mean(1)
    if len(own) == len(places) == 2:
        maps = features.permute(0, 3, 1, 2)
        resized = functional.interpolate(maps, places, mode="bilinear", align_corners=False, antialias=True)
        return resized.permute(0, 2, 3, 1)
    if len(own) == 2 and places == (own[0] * own[1],):
        return features.flatten(1, 2)
    raise AdapterError(
        f"a rung of this ladder has the places {list(own)}, the term's own tap {list(places)}: give maps for both, "
        "or tokens of one number, or a pooled tap for the term"
    )
