"""Losses on what a model answers: logits over one vocabulary or one set of classes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from xmodal.losses.checks import (
    Fraction,
    NotNegative,
    Positive,
    check_fraction,
    check_indices,
    check_not_negative,
    check_positive,
    check_same_shape,
)
from xmodal.losses.numerics import keep_valid, log_mass, masked_mean, raise_precision, relative_entropy, soften
from xmodal.losses.registration import loss


@loss(kind="per_item")
def kl_divergence(
    student_logits: Float[Tensor, "*items vocab"],
    teacher_logits: Float[Tensor, "*items vocab"],
    *,
    temperature: Positive = 1.0,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Pull the student's softened distribution to the teacher's, mode-covering.

    .. math:: T^2 \cdot \operatorname{mean}_i \sum_v p^T_{iv} (\log p^T_{iv} - \log p^S_{iv}),
              \qquad p = \operatorname{softmax}(z / T)

    with :math:`z` the logits, :math:`T` the temperature (it divides both sides) and :math:`i` the valid
    items. :math:`T^2` keeps the gradient's size independent of the temperature. In nats; zero exactly when
    the two distributions agree on every valid item. No gradient reaches the teacher. A logit of −inf is a
    word that cannot be said: where the teacher rules a word out it adds nothing, whatever the student says;
    where only the student does, the loss is infinite.

    Hinton et al. 2015, arXiv:1503.02531. Averages over *every* valid item, so a sequence's length does not
    scale the loss, as ``reduction="batchmean"`` over a 3-D tensor would.

    >>> import torch
    >>> z = torch.tensor([[2.0, 0.0, -1.0]])
    >>> kl_divergence(z, z).item()
    0.0
    >>> round(kl_divergence(torch.zeros(1, 3), z, temperature=2.0).item(), 4)
    0.7706
    """
    student, teacher = soft_pair(student_logits, teacher_logits, temperature, mask)
    return temperature**2 * masked_mean(relative_entropy(teacher, student), mask)


@loss(kind="per_item")
def reverse_kl(
    student_logits: Float[Tensor, "*items vocab"],
    teacher_logits: Float[Tensor, "*items vocab"],
    *,
    temperature: Positive = 1.0,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Keep the student from saying what the teacher would not, mode-seeking.

    .. math:: T^2 \cdot \operatorname{mean}_i \sum_v p^S_{iv} (\log p^S_{iv} - \log p^T_{iv}),
              \qquad p = \operatorname{softmax}(z / T)

    with :math:`z` the logits, :math:`T` the temperature (it divides both sides; above :math:`p` it is the teacher,
    :math:`S` the student) and :math:`i` the valid items: ``kl_divergence`` with the sides exchanged. In nats; zero
    exactly when the two distributions agree on every valid item. No gradient reaches the teacher. A word that the
    student rules out with a logit of −inf adds nothing; where only the teacher does, the loss is infinite, so mask a
    padded vocabulary on both sides.

    The term of one step in MiniLLM, Gu et al. 2024, arXiv:2306.08543, which adds what a step does to those after it, by
    policy gradient on the student's own samples, and has no :math:`T^2`.

    >>> import torch
    >>> student, teacher = torch.tensor([[4.0, -4.0]]), torch.zeros(1, 2)  # sure of one of two equally good words
    >>> round(reverse_kl(student, teacher).item(), 4)  # kl_divergence: 3.3072
    0.6901
    """
    student, teacher = soft_pair(student_logits, teacher_logits, temperature, mask)
    return temperature**2 * masked_mean(relative_entropy(student, teacher), mask)


@loss(kind="per_item")
def jensen_shannon(
    student_logits: Float[Tensor, "*items vocab"],
    teacher_logits: Float[Tensor, "*items vocab"],
    *,
    temperature: Positive = 1.0,
    beta: Fraction = 0.5,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Pull the student to the teacher through a mixture of the two, bounded where either KL is not.

    .. math:: T^2 \cdot \operatorname{mean}_i \left[ \beta \operatorname{KL}(p^T_i \| M_i)
              + (1 - \beta) \operatorname{KL}(p^S_i \| M_i) \right],
              \qquad M = \beta p^T + (1 - \beta) p^S, \quad p = \operatorname{softmax}(z / T)

    with :math:`z` the logits, :math:`T` the temperature (it divides both sides; above :math:`p` it is the teacher,
    :math:`S` the student) and :math:`i` the valid items. In nats; zero when the two distributions agree, and never more
    than :math:`T^2 \ln 2`, also where one side rules out with −inf what the other says. No gradient reaches the
    teacher.

    The formula tends to 0 at both ends, for whatever distributions. Exactly there another loss stands, that to which
    it tends when divided by :math:`\beta` or :math:`1 - \beta`: ``beta=0`` is ``kl_divergence``, ``beta=1``
    ``reverse_kl``. So the value jumps:

    >>> import torch
    >>> student, teacher = torch.tensor([[4.0, -4.0]]), torch.zeros(1, 2)
    >>> [round(jensen_shannon(student, teacher, beta=beta).item(), 3) for beta in (0.0, 0.001, 0.5, 0.999, 1.0)]
    [3.307, 0.003, 0.214, 0.001, 0.69]

    GKD, Agarwal et al. 2024, arXiv:2306.13649, whose :math:`\beta` and ends these are, as in trl. There no :math:`T^2`
    multiplies, and without labels the sum over positions is divided by their number of samples only.
    """
    check_fraction("beta", beta)
    student, teacher = soft_pair(student_logits, teacher_logits, temperature, mask)
    if beta == 0:
        per_item = relative_entropy(teacher, student)
    elif beta == 1:
        per_item = relative_entropy(student, teacher)
    else:
        log_teacher_part, log_student_part = math.log(beta), math.log1p(-beta)
        # NaN is −inf − (−inf), a word that neither says. ±inf, one that only one side says, becomes a number so large
        # that the other's probability is 0 all the same. NaN among the logits stays in the probabilities.
        difference = (student - teacher).nan_to_num(nan=0.0, posinf=1e9, neginf=-1e9)
        # log p^T/M and log p^S/M by way of the odds that a word drawn from M is the student's: M itself may underflow
        odds = difference + (log_student_part - log_teacher_part)
        from_teacher = teacher.exp() * (functional.logsigmoid(-odds) - log_teacher_part)
        from_student = student.exp() * (functional.logsigmoid(odds) - log_student_part)
        per_item = (beta * from_teacher + (1 - beta) * from_student).sum(-1)
    return temperature**2 * masked_mean(per_item, mask)


@loss(kind="per_item")
def soft_cross_entropy(
    student_logits: Float[Tensor, "*items vocab"],
    teacher_logits: Float[Tensor, "*items vocab"],
    *,
    temperature: Positive = 1.0,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Teach the student the teacher's softened distribution as if it were the label.

    .. math:: -T^2 \cdot \operatorname{mean}_i \sum_v p^T_{iv} \log p^S_{iv}, \qquad p = \operatorname{softmax}(z / T)

    with :math:`z` the logits, :math:`T` the temperature (it divides both sides; above :math:`p` it is the teacher,
    :math:`S` the student) and :math:`i` the valid items. In nats. This is ``kl_divergence`` plus :math:`T^2` times the
    teacher's entropy: same gradient, but at its least, where the distributions agree, it is that and not zero. No
    gradient reaches the teacher. A word that the teacher rules out with a logit of −inf adds nothing; where only the
    student does, the loss is infinite.

    Hinton et al. 2015, arXiv:1503.02531, who write the soft targets' term this way.

    >>> import torch
    >>> z = torch.zeros(1, 4)
    >>> round(soft_cross_entropy(z, z).item(), 4)  # ln 4
    1.3863
    """
    student, teacher = soft_pair(student_logits, teacher_logits, temperature, mask)
    target = teacher.exp()
    # 0 · (−inf) is a word that neither says
    per_item = -(target * torch.where(target == 0, 0, student)).sum(-1)
    return temperature**2 * masked_mean(per_item, mask)


@loss(kind="per_item")
def logit_mse(
    student: Float[Tensor, "*items vocab"],
    teacher: Float[Tensor, "*items vocab"],
    *,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Match the teacher's logits themselves, and with them how sure it is.

    .. math:: \operatorname{mean}_i \tfrac1V \sum_v (z^S_{iv} - z^T_{iv})^2

    with :math:`z` the logits, :math:`V` their number and :math:`i` the valid items; no temperature. Zero when the
    logits agree: unlike the losses on distributions, this one feels a constant added to all of them. On logits of mean
    zero it is twice what ``kl_divergence`` tends to as its temperature grows. No gradient reaches the teacher. A word
    that both rule out with a logit of −inf counts as agreed upon.

    Ba and Caruana 2014, arXiv:1312.6184: half the *sum* over :math:`v` there, so V/2 times this. Against the KL:
    Kim et al. 2021, arXiv:2105.08919.

    >>> import torch
    >>> logit_mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])).item()
    2.0
    """
    check_same_shape(student, teacher)
    s = raise_precision(keep_valid(student, mask))
    t = raise_precision(keep_valid(teacher.detach(), mask))
    difference = torch.where(s == t, 0, s - t)  # −inf − (−inf) would be NaN
    return masked_mean(difference.square().mean(-1), mask)


@loss(kind="per_item")
def decoupled_kd(
    student: Float[Tensor, "*items vocab"],
    teacher: Float[Tensor, "*items vocab"],
    target: Int[Tensor, "*items"],
    *,
    alpha: NotNegative = 1.0,
    beta: NotNegative = 8.0,
    temperature: Positive = 4.0,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Teach apart how sure the teacher is of the right class, and what it thinks of the wrong ones.

    .. math:: T^2 \cdot \operatorname{mean}_i \left[
              \alpha \operatorname{KL}\big((p^T_{iy}, 1 - p^T_{iy}) \,\|\, (p^S_{iy}, 1 - p^S_{iy})\big)
              + \beta \operatorname{KL}(\hat p^T_i \,\|\, \hat p^S_i) \right],
              \qquad p = \operatorname{softmax}(z / T), \quad \hat p = \operatorname{softmax}_{v \ne y}(z_v / T)

    with :math:`z` the logits, :math:`T` the temperature (it divides both sides; above :math:`p` it is the teacher,
    :math:`S` the student), :math:`y` the ``target``, the index of the right class, :math:`\hat p` over all other
    classes and :math:`i` the valid items. The first term is the paper's TCKD, the second its NCKD: the ordinary KL is
    TCKD + :math:`(1 - p^T_y)` NCKD, which silences the second where the teacher is sure. In nats; zero when the two
    distributions agree. No gradient reaches the teacher. A teacher that gives other classes nothing at all, logits of
    −inf, has no opinion of them, and NCKD is 0; where the student rules out with −inf what the teacher says, the loss
    is infinite. An index that is no class is an error of torch's own, as in its cross-entropy; at masked items any will
    do.

    Zhao et al. 2022, arXiv:2203.08679. Their code takes the logarithm of a softmax, which underflows: its value is
    infinite once logits differ by about 100 T in float32, this one is finite. Their warm-up over 20 epochs is a
    schedule of the term's weight.

    >>> import torch
    >>> teacher, right = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0])
    >>> round(decoupled_kd(torch.zeros(1, 3), teacher, right, temperature=1.0).item(), 4)
    1.4446
    >>> decoupled_kd(teacher, teacher, right).item()
    0.0
    """
    check_same_shape(student, teacher)
    check_indices("target", target, student.shape[:-1])
    check_positive("temperature", temperature)
    check_not_negative("alpha", alpha)
    check_not_negative("beta", beta)
    right = keep_valid(target.unsqueeze(-1), mask).long()
    sure_s, wrong_s = decouple(raise_precision(keep_valid(student, mask)) / temperature, right)
    sure_t, wrong_t = decouple(raise_precision(keep_valid(teacher.detach(), mask)) / temperature, right)
    per_item = alpha * relative_entropy(sure_t, sure_s) + beta * relative_entropy(wrong_t, wrong_s)
    return temperature**2 * masked_mean(per_item, mask)


def decouple(logits: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the right class against all others, ``[*items, 2]``, and of the others among themselves.

    The latter are ``[*items, V]``, −inf at the right class ``[*items, 1]``, and everywhere if no other is possible.
    """
    others = torch.arange(logits.shape[-1], device=logits.device) != right
    log_probs = logits.log_softmax(-1)
    sure = torch.cat([log_probs.gather(-1, right), log_mass(log_probs, others).unsqueeze(-1)], -1)
    # from the logits again, not from log_probs, where a large logit of the right class has eaten the others' digits
    wrong = torch.where(others, logits, -torch.inf)
    possible = (wrong != -torch.inf).any(-1, keepdim=True)
    return sure, torch.where(possible, torch.where(possible, wrong, 0).log_softmax(-1), -torch.inf)


def soft_pair(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher at one temperature, the teacher's without gradient."""
    check_same_shape(student_logits, teacher_logits)
    check_positive("temperature", temperature)
    student = soften(raise_precision(keep_valid(student_logits, mask)), temperature)
    return student, soften(raise_precision(keep_valid(teacher_logits.detach(), mask)), temperature)
