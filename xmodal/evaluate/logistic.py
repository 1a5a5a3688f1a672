"""Multinomial logistic regression on standardised features, by L-BFGS: what scikit-learn's two steps compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_STRIP = 4096
"""Rows at once in float64, with their logits: of 1000 features and 1000 classes 2 x 32 MiB."""

_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier: ``weight`` ``[D + 1, C]`` in float64, whose last row is the intercept."""

    mean: Tensor
    scale: Tensor
    weight: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits, ``[N, C]`` in float64."""
        return torch.cat([self._prepared(rows) @ self.weight for rows in _strips(features)])

    def _prepared(self, features: Tensor) -> Tensor:
        return _with_one((features.double() - self.mean) / self.scale)


def fit(
    features: Tensor, classes: Tensor, num_classes: int, strength: float, *, start: Tensor | None = None
) -> Logistic:
    r"""Minimise :math:`C \sum_i \mathrm{CE}(W x_i + b, y_i) + \frac12 \lVert W \rVert^2`, the intercept being free.

    ``features`` ``[N, D]`` are standardised by their own mean and deviation, as scikit-learn's ``StandardScaler`` does;
    ``strength`` is its ``LogisticRegression``'s C: the larger, the less the weights are held back. Two classes have two
    rows of weights, as any number has. ``start`` is the weight of another fit to begin from.

    >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    >>> fit(x, y, 2, strength=1.0)(x).argmax(1).tolist()
    [0, 0, 1, 1]
    """
    mean, scale = _statistics(features)
    held = 1 / (strength * len(features))
    basis = _even_basis(features, mean, scale, held / ((1 - 1 / num_classes) / num_classes))
    places = basis.new_zeros((len(basis), num_classes)) if start is None else torch.linalg.solve(basis, start)
    places.requires_grad_(True)
    solver = torch.optim.LBFGS(
        [places],
        max_iter=_MAX_ITERATIONS,
        max_eval=2 * _MAX_ITERATIONS,
        tolerance_grad=3e-8,
        tolerance_change=1e-15,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def loss() -> Tensor:
        weight = basis @ places
        held_back = weight.clone()
        held_back[-1] = 0
        gradient = held_back * held
        total = (held_back * gradient).sum() / 2
        # by hand and in strips: a graph would hold all logits
        for inputs, own in zip(_strips(features), _strips(classes[:, None]), strict=True):
            inputs = _with_one((inputs.double() - mean) / scale)
            log_odds = (inputs @ weight).log_softmax(1)
            total = total - log_odds.gather(1, own).sum() / len(features)
            error = log_odds.exp().scatter_add(1, own, -torch.ones_like(own, dtype=torch.float64))
            gradient = gradient + inputs.T @ error / len(features)
        places.grad = basis.T @ gradient
        return total

    solver.step(loss)  # type: ignore[no-untyped-call,unused-ignore]
    return Logistic(mean, scale, (basis @ places).detach())


def _even_basis(features: Tensor, mean: Tensor, scale: Tensor, held: float) -> Tensor:
    """Directions of the weights, ``[D + 1, D + 1]``, in which the loss is about equally steep at its start.

    Embeddings vary a lot in a few directions and little in the many others, where plain L-BFGS creeps. The last
    direction is the intercept's.
    """
    width = features.shape[1]
    second = mean.new_zeros((width, width))
    for part in _strips(features):
        rows = (part.double() - mean) / scale
        second += rows.T @ rows / len(features)
    variances, directions = torch.linalg.eigh(second)
    basis = torch.eye(width + 1, dtype=mean.dtype, device=mean.device)
    basis[:-1, :-1] = directions / (variances.clamp(min=0) + held).sqrt()
    return basis


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``[D]`` in float64; 1 for what does not vary."""
    none = features.new_zeros(features.shape[1], dtype=torch.float64)
    mean = sum((part.double().sum(0) for part in _strips(features)), none) / len(features)
    variance = sum(((part.double() - mean).square().sum(0) for part in _strips(features)), none) / len(features)
    still = variance <= (1e-6 * mean).square()  # float32 features that are alike differ by rounding
    return mean, torch.where(still, 1.0, variance.sqrt())


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def _strips(rows: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(rows), _STRIP):
        yield rows[start : start + _STRIP]
