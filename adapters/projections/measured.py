"""Maps of a teacher's features that are measured on the first samples of the data, and then stay."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.nn import functional

from xmodal.adapters.projections.hadamard import hadamard
from xmodal.adapters.projections.registration import PROJECTIONS, Fixed
from xmodal.errors import AdapterError, RunError
from xmodal.losses.distributed import num_ranks

_SAMPLES = 4096
_FLAT = 1e-6


class Measured(Fixed):
    """``y = matrix · (x − mean)``, ``[..., in_dim]`` → ``[..., out_dim]``, from the moments of what was observed.

    :meth:`observe` batches, each rank its own, then :meth:`fit`. The moments are kept in float64 on the CPU, and
    forgotten once fitted. ``samples`` says how many samples are to be looked at, at least.
    """

    mean: Tensor
    matrix: Tensor
    fitted: Tensor

    def __init__(self, in_dim: int, out_dim: int, samples: int) -> None:
        super().__init__()
        if samples < 2:
            raise AdapterError(f"statistics are measured on at least 2 samples; given samples: {samples}.")
        self.samples = samples
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("matrix", torch.eye(out_dim, in_dim))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self._count, self._moments = 0, torch.zeros(0)
        self._ready = False

    def forward(self, features: Tensor) -> Tensor:
        """The map; before it is fitted, a cut or padded copy, which serves a dry run alone."""
        if self.training and not self._ready:
            self._ready = bool(self.fitted)  # once: to read a tensor the process waits for its device
        if self.training and not self._ready:
            raise RunError("a measured projection is used before its statistics were measured: call scheme.prepare")
        return functional.linear(features.to(self.matrix.dtype) - self.mean, self.matrix)

    @torch.no_grad()
    def observe(self, rows: Tensor) -> None:
        """Take in ``[N, in_dim]``, of which ranks may have unlike many. Raises RunError for NaN or infinity."""
        x = rows.cpu().double()
        if not bool(x.isfinite().all()):
            raise RunError("a teacher's features hold NaN or infinity: no statistics can be measured on them")
        moments = torch.cat([x.sum(0)[None], x.T @ x])  # [1 + D, D]
        self._count += len(x)
        self._moments = self._moments.add_(moments) if self._moments.numel() else moments

    @torch.no_grad()
    def fit(self, group: ProcessGroup | None = None) -> None:
        """Compute the map from what all ranks of ``group`` observed, and forget the rest; each rank calls it once.

        Raises RunError where that is too little.
        """
        dim = len(self.mean)
        moments = self._moments if self._moments.numel() else torch.zeros(1 + dim, dim, dtype=torch.float64)
        if num_ranks(group) > 1:  # once, not a batch: they are large, and a rank may have had nothing to observe
            count = torch.tensor(self._count, device=self.mean.device)
            moments = moments.to(self.mean.device)
            dist.all_reduce(count, group=group)
            dist.all_reduce(moments, group=group)
            self._count, moments = int(count), moments.cpu()
        if self._count < 2:
            raise RunError(f"statistics were to be measured on {self.samples} samples, but {self._count} were seen")
        mean = moments[0] / self._count
        covariance = (moments[1:] - self._count * mean.outer(mean)) / (self._count - 1)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)  # the largest first
        largest = vectors.abs().argmax(0)
        vectors = vectors * vectors.gather(0, largest[None]).sign()  # or their signs would hang on the machine
        self.mean.copy_(mean)
        self.matrix.copy_(self._matrix(values, vectors))
        self.fitted.fill_(True)
        self._count, self._moments = 0, torch.zeros(0)

    def forget(self) -> None:
        """Be measured again."""
        self.fitted.fill_(False)
        self._ready = False

    @abstractmethod
    def _matrix(self, values: Tensor, vectors: Tensor) -> Tensor:
        """``[out_dim, in_dim]`` from the covariance's eigenvalues, falling, and its eigenvectors, by column."""

    def _check_enough(self) -> None:
        dim = len(self.mean)
        if self._count <= dim:
            raise RunError(
                f"{type(self).__name__} needs more than {dim} rows, for the teacher's {dim} dimensions, and saw "
                f"{self._count}. Give more samples, or standardize: {{method: phi_s}}."
            )


def _inverse_deviations(values: Tensor) -> Tensor:
    """1 / √λ, and 0 where a direction hardly varies: behind a LayerNorm there always is one, of rounding alone."""
    return torch.where(values > _FLAT * values[0], values.rsqrt(), 0)


@PROJECTIONS.register("pca")
class PCA(Measured):
    r"""The leading principal components, as many as the student is wide: :math:`y = U_k^T (x - \mu)`.

    The linear map that keeps most of the variance. ``whiten`` divides each component by its deviation.
    """

    def __init__(self, in_dim: int, out_dim: int, *, samples: int = _SAMPLES, whiten: bool = False) -> None:
        if out_dim > in_dim:
            raise AdapterError(
                f"`pca` keeps some of the teacher's {in_dim} dimensions, and the student has {out_dim}. "
                "Take `random_orthogonal`, or project the student: side: student."
            )
        super().__init__(in_dim, out_dim, samples)
        self.whiten = whiten

    def _matrix(self, values: Tensor, vectors: Tensor) -> Tensor:
        kept = len(self.matrix)
        self._check_enough()
        matrix = vectors[:, :kept].T
        return matrix * _inverse_deviations(values)[:kept, None] if self.whiten else matrix


class Whitening(Measured):
    r"""Zero mean, unit variance and no correlation, as near to the features as can be: :math:`y = U \Lambda^{-1/2} U^T
    (x - \mu)` with the eigenvectors :math:`U` and eigenvalues :math:`\Lambda` of the covariance (ZCA).

    A direction in which the features do not vary, as there is one behind a LayerNorm, is mapped to 0.
    """

    def __init__(self, dim: int, *, samples: int = _SAMPLES) -> None:
        super().__init__(dim, dim, samples)

    def _matrix(self, values: Tensor, vectors: Tensor) -> Tensor:
        self._check_enough()
        return (vectors * _inverse_deviations(values)) @ vectors.T


class PHIStandardisation(Measured):
    r"""Unit variance in every dimension, by one scale for all: :math:`y = \alpha^{-1} H U^T (x - \mu)`.

    :math:`U` are the eigenvectors of the covariance, :math:`\alpha^2` the mean of its eigenvalues and :math:`H` a
    Hadamard matrix of orthonormal rows, which spreads each principal direction over all dimensions alike. Unlike
    whitening, it keeps the shape of the distribution: only turned and scaled. The width must be one for which a
    Hadamard matrix is known to us (most multiples of 4).

    PHI-S, Ranzinger et al. 2024, arXiv:2410.01680.
    """

    def __init__(self, dim: int, *, samples: int = _SAMPLES) -> None:
        super().__init__(dim, dim, samples)
        hadamard(dim)  # refuses a width that has none

    def _matrix(self, values: Tensor, vectors: Tensor) -> Tensor:
        scale = values.mean().sqrt()
        if not scale > 0:
            raise RunError(f"PHI-S: the teacher's features are all the same, on the {self._count} rows seen")
        rotation: Tensor = hadamard(len(values)).to(vectors) @ vectors.T
        return rotation / scale


STANDARDISERS: dict[str, type[Whitening] | type[PHIStandardisation]] = {
    "whitening": Whitening,
    "phi_s": PHIStandardisation,
}
"""How a term may standardise its teacher by measured statistics."""
