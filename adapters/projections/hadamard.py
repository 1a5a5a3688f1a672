"""Hadamard matrices: orthogonal, with all entries of one size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmodal.errors import AdapterError


def hadamard(size: int) -> Tensor:
    """A Hadamard matrix divided by √size, so that its rows are orthonormal; float64 ``[size, size]``.

    Built as a Kronecker product of Sylvester's matrices and one of Paley's, which is possible for most multiples of 4.
    Raises :class:`AdapterError` for other sizes.

    >>> h = hadamard(12)
    >>> bool(((h @ h.T - torch.eye(12)).abs() < 1e-12).all()), h.abs().unique().numel()
    (True, 1)
    """
    for doublings in range(size.bit_length()):
        if size % 2**doublings:
            break
        core = _core(size // 2**doublings)
        if core is not None:
            for _ in range(doublings):
                core = np.block([[core, core], [core, -core]])
            matrix: Tensor = torch.from_numpy(core.astype(np.float64)) / size**0.5
            return matrix
    raise AdapterError(f"no Hadamard matrix {size} wide can be made here; PHI-S takes most multiples of 4")


def _core(size: int) -> NDArray[np.int64] | None:
    if size == 1:
        return np.ones((1, 1), dtype=np.int64)
    if size % 4 == 0 and _is_prime(size - 1):
        return _paley_one(size - 1)
    if size % 4 == 0 and (size // 2 - 1) % 4 == 1 and _is_prime(size // 2 - 1):
        return _paley_two(size // 2 - 1)
    return None


def _paley_one(prime: int) -> NDArray[np.int64]:
    """Of size prime + 1, where prime ≡ 3 mod 4: the identity and a skew conference matrix."""
    return np.eye(prime + 1, dtype=np.int64) + _conference(prime, skew=True)


def _paley_two(prime: int) -> NDArray[np.int64]:
    """Of size 2 (prime + 1), where prime ≡ 1 mod 4: a symmetric conference matrix, each entry a block of four."""
    conference = _conference(prime, skew=False)
    signs, zeros = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
    return np.kron(conference, signs) + np.kron(np.eye(prime + 1, dtype=np.int64), zeros)


def _conference(prime: int, *, skew: bool) -> NDArray[np.int64]:
    """Zeros on the diagonal, ±1 elsewhere: which differences are squares modulo the prime, bordered by ones."""
    squares = {value * value % prime for value in range(1, prime)}
    character = np.array([0, *(1 if value in squares else -1 for value in range(1, prime))])
    inner = character[(np.arange(prime)[:, None] - np.arange(prime)) % prime]
    conference = np.zeros((prime + 1, prime + 1), dtype=np.int64)
    conference[0, 1:], conference[1:, 0], conference[1:, 1:] = 1, -1 if skew else 1, inner
    return conference


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
