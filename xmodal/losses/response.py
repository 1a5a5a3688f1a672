"""Losses on what a model answers: logits over a vocabulary or classes."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.losses.numerics import (
    check_positive,
    check_same_shape,
    keep_valid,
    kl_rows,
    masked_mean,
    raise_precision,
    soften,
)
from xmodal.losses.registration import loss


@loss(kind="per_item")
def kl_divergence(
    student_logits: Float[Tensor, "*items vocab"],
    teacher_logits: Float[Tensor, "*items vocab"],
    *,
    temperature: float = 1.0,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Pull the student's softened distribution to the teacher's, mode-covering.

    .. math:: T^2 \cdot \operatorname{mean}_i \sum_v p^T_{iv} (\log p^T_{iv} - \log p^S_{iv}),
              \qquad p = \operatorname{softmax}(z / T)

    with :math:`z` the logits, :math:`T` the temperature (it divides both sides) and :math:`i` the valid
    items. :math:`T^2` keeps the gradient's size independent of the temperature. In nats; zero exactly when
    the two distributions agree on every valid item. No gradient reaches the teacher. A logit of −inf is a
    word that cannot be said: where the teacher rules a word out it adds nothing, whatever the student says.

    Hinton et al. 2015, arXiv:1503.02531. Averages over *every* valid item, so a sequence's length does not
    scale the loss, as ``reduction="batchmean"`` over a 3-D tensor would.

    >>> import torch
    >>> z = torch.tensor([[2.0, 0.0, -1.0]])
    >>> kl_divergence(z, z).item()
    0.0
    >>> round(kl_divergence(torch.zeros(1, 3), z, temperature=2.0).item(), 4)
    0.7706
    """
    check_same_shape(student_logits, teacher_logits)
    check_positive("temperature", temperature)
    student = soften(raise_precision(keep_valid(student_logits, mask)), temperature)
    teacher = soften(raise_precision(keep_valid(teacher_logits.detach(), mask)), temperature)
    return temperature**2 * masked_mean(kl_rows(teacher, student), mask)
