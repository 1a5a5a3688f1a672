"""Losses on what a model sees: features of matching items, row by row."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.losses.numerics import (
    check_same_shape,
    cosine_distance,
    directions,
    keep_valid,
    masked_mean,
    raise_precision,
)
from xmodal.losses.registration import loss


@loss(kind="per_item")
def feature_mse(
    student: Float[Tensor, "*items dim"],
    teacher: Float[Tensor, "*items dim"],
    *,
    normalize: bool = False,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Pull each of the student's features to the teacher's of the same item.

    .. math:: \operatorname{mean}_i \tfrac1D \sum_d (s_{id} - t_{id})^2 \qquad\text{or, with } \texttt{normalize},
              \qquad \operatorname{mean}_i \lVert \hat s_i - \hat t_i \rVert^2
              = \operatorname{mean}_i (2 - 2\cos(s_i, t_i))

    with :math:`s, t` the features, :math:`D` their width, :math:`\hat x = x / \lVert x \rVert` and :math:`i` the valid
    items. Normalised, the sum over :math:`D` stays a sum, so that a weight means the same at any width. Zero when the
    features (normalised: their directions) agree; no gradient reaches the teacher. A row of zeros has no direction: it
    stays zero when normalised and gets no gradient.

    FitNets, Romero et al. 2015, arXiv:1412.6550; CLIP-KD's FD, Yang et al. 2024, arXiv:2307.12732, which takes the mean
    over :math:`D` of normalised features, for image plus text: its weight 2000 is 2000/D here, about 4 at D = 512.

    >>> import torch
    >>> feature_mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])).item()
    2.0
    >>> feature_mse(torch.tensor([[0.0, 3.0]]), torch.tensor([[5.0, 0.0]]), normalize=True).item()
    2.0
    """
    check_same_shape(student, teacher)
    s = raise_precision(keep_valid(student, mask))
    t = raise_precision(keep_valid(teacher.detach(), mask))
    if normalize:
        return masked_mean((directions(s) - directions(t)).square().sum(-1), mask)
    return masked_mean((s - t).square().mean(-1), mask)


@loss(kind="per_item")
def feature_cosine(
    student: Float[Tensor, "*items dim"],
    teacher: Float[Tensor, "*items dim"],
    *,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Turn each of the student's features to the teacher's of the same item; lengths are free.

    .. math:: \operatorname{mean}_i\, (1 - \cos(s_i, t_i))

    with :math:`s, t` the features and :math:`i` the valid items. From 0, where the directions agree, to 2, where they
    are opposed; half of ``feature_mse`` with ``normalize``. The cosine with a row of zeros is taken as 0, without
    gradient. No gradient reaches the teacher.

    DistilBERT's cosine term, Sanh et al. 2019, arXiv:1910.01108, which has it on the last hidden states, weight 1.

    >>> import torch
    >>> feature_cosine(torch.tensor([[0.0, 3.0], [1.0, 0.0]]), torch.tensor([[5.0, 0.0], [2.0, 0.0]])).item()
    0.5
    """
    check_same_shape(student, teacher)
    s = raise_precision(keep_valid(student, mask))
    t = raise_precision(keep_valid(teacher.detach(), mask))
    return masked_mean(cosine_distance(s, t), mask)
