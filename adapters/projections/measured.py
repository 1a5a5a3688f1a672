"""Maps of a teacher's features that are measured on the first samples of the data, and then stay."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from xmodal.adapters.projections.hadamard import hadamard
from xmodal.adapters.projections.registration import PROJECTIONS, Fixed
from xmodal.errors import AdapterError, RunError
from xmodal.losses.distributed import gather_rows

_SAMPLES = 4096
_FLAT = 1e-6


class Measured(Fixed):
    """``y = matrix · (x − mean)``, ``[..., in_dim]`` → ``[..., out_dim]``, from the moments of what was observed.

    :meth:`observe` batches of all ranks, then :meth:`fit`. The moments are kept in float64 on the CPU, and forgotten
    once fitted. ``samples`` says how many samples are to be looked at.
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
        self._count, self._sum, self._squares = 0, torch.zeros(0), torch.zeros(0)

    def forward(self, features: Tensor) -> Tensor:
        """The map; before it is fitted, a cut or padded copy, which serves a dry run alone."""
        if self.training and not bool(self.fitted):
            raise RunError("a measured projection is used before its statistics were measured: call scheme.prepare")
        return functional.linear(features.to(self.matrix.dtype) - self.mean, self.matrix)

    @torch.no_grad()
    def observe(self, rows: Tensor, group: ProcessGroup | None = None) -> None:
        """Take in ``[N, in_dim]`` of this rank; every rank calls it as often. Raises RunError for NaN or infinity."""
        count = torch.tensor([[float(len(rows))]], dtype=torch.float64, device=rows.device)
        x = rows.to("cpu", torch.float64)
        if not bool(x.isfinite().all()):
            raise RunError("a teacher's features hold NaN or infinity: no statistics can be measured on them")
        moments = torch.cat([x.sum(0)[None], x.T @ x]).to(rows.device)  # [1 + D, D]
        count, moments = gather_rows(count, group).sum(), gather_rows(moments[None], group).sum(0).cpu()
        self._count += int(count)
        self._sum = moments[0] + (self._sum if self._sum.numel() else 0)
        self._squares = moments[1:] + (self._squares if self._squares.numel() else 0)

    @torch.no_grad()
    def fit(self) -> None:
        """Compute the map from what was observed, and forget the rest. Raises RunError where that is too little."""
        if self._count < 2:
            raise RunError(f"statistics were to be measured on {self.samples} samples, but {self._count} were seen")
        mean = self._sum / self._count
        covariance = (self._squares - self._count * mean.outer(mean)) / (self._count - 1)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)  # the largest first
        largest = vectors.abs().argmax(0)
        vectors = vectors * vectors.gather(0, largest[None]).sign()  # or their signs would hang on the machine
        self.mean.copy_(mean)
        self.matrix.copy_(self._matrix(values, vectors))
        self.fitted.fill_(True)
        self._count, self._sum, self._squares = 0, torch.zeros(0), torch.zeros(0)

    @abstractmethod
    def _matrix(self, values: Tensor, vectors: Tensor) -> Tensor:
        """``[out_dim, in_dim]`` from the covariance's eigenvalues, falling, and its eigenvectors, by column."""

    def _check_rank(self, values: Tensor, needed: int) -> None:
        rank = int((values > _FLAT * values[0]).sum())
        if rank < needed:
            raise RunError(
                f"{type(self).__name__} needs {needed} directions in which the teacher's features vary; on the "
                f"{self._count} rows seen they vary in {rank}. Give more samples, or standardize: {{method: phi_s}}."
            )


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
        self._check_rank(values, kept)
        matrix = vectors[:, :kept].T
        return matrix / values[:kept, None].sqrt() if self.whiten else matrix


class Whitening(Measured):
    r"""Zero mean, unit variance and no correlation, as near to the features as can be: :math:`y = U \Lambda^{-1/2} U^T
    (x - \mu)` with the eigenvectors :math:`U` and eigenvalues :math:`\Lambda` of the covariance (ZCA).
    """

    def __init__(self, dim: int, *, samples: int = _SAMPLES) -> None:
        super().__init__(dim, dim, samples)

    def _matrix(self, values: Tensor, vectors: Tensor) -> Tensor:
        self._check_rank(values, len(values))
        return (vectors / values.sqrt()) @ vectors.T


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
