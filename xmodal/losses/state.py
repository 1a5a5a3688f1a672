"""What some losses remember or learn: past rows, running statistics, a fusion of two models, scales and biases.

Losses are pure functions; these modules stand beside them, so that what is remembered reaches the checkpoint and what
is learned reaches the optimizer.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.checks import check_positive
from xmodal.losses.distributed import gather_rows
from xmodal.losses.numerics import keep_valid, raise_precision


class MemoryBank(nn.Module):
    """The last ``num_rows`` teacher embeddings: more negatives than a batch holds, for ``contrastive_representation``.

    ``rows`` is ``[K, D]`` in float32, zeros where nothing has been pushed yet: losses skip rows of zeros. The queue is
    a ring, so rows stand in no particular order once it is full. It is saved with ``state_dict``.

    Push a batch after its loss is computed: pushed before, each sample would be its own negative.

    >>> import torch
    >>> bank = MemoryBank(3, 2)
    >>> bank.push(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> bank.rows.tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """

    rows: Tensor
    next_row: Tensor

    def __init__(self, num_rows: int, dim: int) -> None:
        super().__init__()
        check_positive("num_rows", num_rows)
        check_positive("dim", dim)
        self.register_buffer("rows", torch.zeros(num_rows, dim))
        self.register_buffer("next_row", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, rows: Float[Tensor, "batch dim"], group: ProcessGroup | None = None) -> None:
        """Put the rows of all ranks of ``group`` in place of the oldest, equally many from each.

        In the order of ranks, so that all ranks hold one bank. Of more rows than the bank has, the newest stay.
        """
        size, dim = self.rows.shape
        if rows.ndim != 2 or rows.shape[1] != dim:
            raise LossError(f"rows of this memory bank must be [B, {dim}]; given {list(rows.shape)}")
        pushed = gather_rows(rows.detach(), group)
        newest = pushed[-size:].to(self.rows)
        first = self.next_row + (len(pushed) - len(newest))
        positions = (first + torch.arange(len(newest), device=self.rows.device)) % size
        self.rows.index_copy_(0, positions, newest)
        self.next_row.copy_((self.next_row + len(pushed)) % size)


class RunningStandardisation(nn.Module):
    r"""Features less their running mean, divided by their running deviation, dimension by dimension.

    .. math:: \hat x_d = (x_d - \mu_d) / s_d, \qquad
              \mu \leftarrow (1 - m) \mu + m \operatorname{mean}_i x_i, \quad
              s \leftarrow (1 - m) s + m \sqrt{\operatorname{mean}_i (x_i - \operatorname{mean}_j x_j)^2}

    with :math:`i, j` the valid items of the batch of all ranks of ``group``, :math:`d` a dimension and :math:`m` the
    ``momentum``. Teachers whose features are of unlike size then weigh alike in a regression.

    The batch at hand is learned from first and standardised then. The first one sets the statistics outright; before
    it, features pass unchanged. A dimension that hardly varies, :math:`s_d` at most ``eps``, is centred and not
    divided. A batch without a valid item, or with one that is not finite, changes nothing. In eval mode, or with
    ``update=False``, statistics are applied only. They are float32, the same on every rank, saved with ``state_dict``,
    and get no gradient; features do.

    UNIC, Sariyildiz et al. 2024, arXiv:2408.05088, standardises its teachers so. Its code starts from mean 0 and
    deviation 1, standardises before it learns, and takes deviations over n − 1.

    >>> import torch
    >>> standardise = RunningStandardisation(1)
    >>> standardise(torch.tensor([[10.0], [14.0]])).flatten().tolist()
    [-1.0, 1.0]
    >>> standardise.eval()(torch.tensor([[16.0]])).item()
    2.0
    """

    mean: Tensor
    deviation: Tensor
    num_batches: Tensor

    def __init__(self, dim: int, *, momentum: float = 0.1, eps: float = 1e-6) -> None:
        super().__init__()
        check_positive("dim", dim)
        check_positive("eps", eps)
        if not 0 < momentum <= 1:
            raise LossError(f"momentum is the new batch's share, above 0 and at most 1; given {momentum!r}")
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        features: Float[Tensor, "*items dim"],
        *,
        mask: Bool[Tensor, "*items"] | None = None,
        group: ProcessGroup | None = None,
        update: bool = True,
    ) -> Float[Tensor, "*items dim"]:
        """Standardised features, zeros at invalid items. Every rank must call it as often as the others."""
        if features.shape[-1:] != self.mean.shape:
            raise LossError(f"features must be [..., {len(self.mean)}]; given {list(features.shape)}")
        x = raise_precision(keep_valid(features, mask))
        if update and self.training:
            self._learn(x.detach(), mask, group)
        # A new tensor, which the next update does not touch: the backward pass needs it.
        divisor = torch.where(self.deviation > self.eps, self.deviation, 1)
        return keep_valid((x - self.mean) / divisor, mask)

    @torch.no_grad()
    def _learn(self, x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> None:
        # Sums in float64 keep a dimension that does not vary exactly so. Where a device has no float64, do without.
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        rows, valid = x.flatten(0, -2), torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        here = valid.sum(dtype=wide)
        mean = rows.sum(0, dtype=wide) / here.clamp(min=1)
        spread = keep_valid(rows - mean.to(x.dtype), valid.flatten()).square().sum(0, dtype=wide)
        # One exchange: each rank's count, mean and squares about its own mean.
        parts = gather_rows(torch.cat([here.expand(1), mean, spread])[None], group)
        counts, (means, spreads) = parts[:, :1], parts[:, 1:].chunk(2, -1)
        total = counts.sum().clamp(min=1)
        mean = (counts * means).sum(0) / total
        deviation = ((spreads + counts * (means - mean).square()).sum(0) / total).sqrt()

        # A batch that is not finite makes its loss so, and is skipped: what it says must not stay behind.
        learn = (counts.sum() > 0) & mean.isfinite().all() & deviation.isfinite().all()
        share = torch.where(self.num_batches == 0, 1.0, self.momentum) * learn
        self.mean.lerp_(torch.where(learn, mean, 0).to(self.mean), share.to(self.mean))
        self.deviation.lerp_(torch.where(learn, deviation, 0).to(self.deviation), share.to(self.deviation))
        self.num_batches += learn.to(self.num_batches)


class Fusion(nn.Linear):
    """A linear map of a student's row and a teacher's, one behind the other, to the student's width.

    What ``augmented_feature`` trains: one for images, one for texts.

    >>> import torch
    >>> Fusion(2, 3)(torch.zeros(4, 5)).shape
    torch.Size([4, 2])
    """

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        check_positive("student_dim", student_dim)
        check_positive("teacher_dim", teacher_dim)
        super().__init__(student_dim + teacher_dim, student_dim)
        self.student_dim, self.teacher_dim = student_dim, teacher_dim

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] != self.in_features:
            raise LossError(
                f"a fusion of a student {self.student_dim} wide and a teacher {self.teacher_dim} wide takes rows "
                f"{self.in_features} wide; given {list(input.shape)}"
            )
        return functional.linear(input, self.weight, self.bias)


class LearnedScale(nn.Module):
    """A trained factor above zero and at most ``max``, such as ``logit_scale``; calling it gives the factor.

    Kept as its logarithm, ``log_scale``, so that steps are relative. Beyond its maximum it is put back, rather than cut
    off in the formula: there, it would have no gradient to come back by.

    >>> scale = LearnedScale(14.3, max=100)
    >>> round(scale().item(), 4)
    14.3
    """

    def __init__(self, first: float, max: float) -> None:
        super().__init__()
        check_positive("first", first)
        check_positive("max", max)
        if first > max:
            raise LossError(f"a learned scale starts at or below its maximum; given first {first!r}, max {max!r}")
        self.max = max
        self.log_scale = nn.Parameter(torch.tensor(math.log(first)))

    def forward(self) -> Float[Tensor, ""]:
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(self.max))
        return self.log_scale.exp()

    def extra_repr(self) -> str:
        return f"max={self.max}"


class LearnedBias(nn.Module):
    """A trained summand, such as SigLIP's ``logit_bias``; calling it gives the summand.

    >>> LearnedBias(-10)().item()
    -10.0
    """

    def __init__(self, first: float) -> None:
        super().__init__()
        if not math.isfinite(first):
            raise LossError(f"a learned bias starts at a finite number; given {first!r}")
        self.bias = nn.Parameter(torch.tensor(float(first)))

    def forward(self) -> Float[Tensor, ""]:
        return self.bias
