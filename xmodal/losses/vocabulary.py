"""Losses on logits where student and teacher do not share a whole vocabulary: unlike ones, or its likeliest words."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.checks import Positive, check_indices, check_positive
from xmodal.losses.numerics import keep_valid, log_mass, masked_mean, raise_precision, relative_entropy, soften
from xmodal.losses.registration import loss


def count_aligned(student_mask: Tensor | None = None, teacher_mask: Tensor | None = None) -> Tensor:
    """How many positions :func:`universal_logit` takes its mean over."""
    if student_mask is None or teacher_mask is None:
        given = "teacher_mask" if student_mask is None else "student_mask"
        raise LossError(
            f"universal_logit counts positions that are valid on both sides: give both masks or none, not {given} alone"
        )
    return torch.minimum(student_mask.sum(-1), teacher_mask.sum(-1)).sum()


@loss(kind="per_item", count=count_aligned)
def universal_logit(
    student_logits: Float[Tensor, "batch student_length student_vocab"],
    teacher_logits: Float[Tensor, "batch teacher_length teacher_vocab"],
    *,
    student_mask: Bool[Tensor, "batch student_length"] | None = None,
    teacher_mask: Bool[Tensor, "batch teacher_length"] | None = None,
    temperature: Positive = 1.0,
) -> Float[Tensor, ""]:
    r"""Make the student as sure as a teacher with another tokenizer, whichever words the two have.

    .. math:: \operatorname{mean}_{b, k} \sum_v \left| \operatorname{sort}(p^S_{bk})_v
              - \operatorname{sort}(p^T_{bk})_v \right|, \qquad p = \operatorname{softmax}(z / T)

    with :math:`z` the logits, :math:`T` the temperature (it divides both sides; above :math:`p` it is the teacher,
    :math:`S` the student), :math:`b` the samples and :math:`k` = 1, 2, … the valid positions of a sample: the student's
    k-th valid one faces the teacher's k-th, up to the shorter count, and gaps in a mask are skipped. Probabilities are
    sorted from the largest down, and the smaller vocabulary's are followed by zeros; only ranks are compared, not
    words. No :math:`T^2`. Probability, not nats: from 0, where the sorted probabilities agree, to below 2. No gradient
    reaches the teacher. A logit of −inf is a word of probability 0. A mask that is not given calls all valid.

    Universal Logit Distillation, Boizard et al. 2024, arXiv:2402.12030, who train on the labels' cross-entropy plus 1.5
    times this. Their code takes each sample's mean first, then that of the samples; here all positions weigh the same.
    The sum is V times the Wasserstein-1 distance between the two sets of V probability values.

    >>> import torch
    >>> student, teacher = torch.tensor([[[0.2, 0.8]]]).log(), torch.tensor([[[0.5, 0.1, 0.4], [1.0, 0, 0]]]).log()
    >>> round(universal_logit(student, teacher).item(), 4)  # |0.8 − 0.5| + |0.2 − 0.4| + |0 − 0.1|
    0.6
    """
    check_positive("temperature", temperature)
    check_sequences(student_logits, teacher_logits)
    student, num_student = valid_first("student_mask", student_logits, student_mask)
    teacher, num_teacher = valid_first("teacher_mask", teacher_logits.detach(), teacher_mask)
    length = min(student.shape[1], teacher.shape[1])
    both = torch.arange(length, device=student.device) < torch.minimum(num_student, num_teacher).unsqueeze(-1)
    width = max(student.shape[-1], teacher.shape[-1])
    p, q = (ranked(logits[:, :length], both, temperature, width) for logits in (student, teacher))
    return masked_mean((p - q).abs().sum(-1), both)


@loss(kind="per_item")
def top_k_kl(
    student_logits: Float[Tensor, "*items vocab"],
    teacher_log_probs: Float[Tensor, "*items k"],
    teacher_indices: Int[Tensor, "*items k"],
    teacher_tail: Float[Tensor, "*items"],
    *,
    temperature: Positive,
    cached_temperature: Positive | None = None,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Pull the student to a teacher of whom the k likeliest words were kept, and what all others have together.

    .. math:: T^2 \cdot \operatorname{mean}_i \left[ \sum_{j \le k} p^T_{ij} (\log p^T_{ij} - \log p^S_{i v_{ij}})
              + r^T_i (\log r^T_i - \log r^S_i) \right],
              \qquad r^S_i = \sum_{v \notin \{v_{ij}\}} p^S_{iv}, \quad p^S = \operatorname{softmax}(z^S / T)

    with :math:`z^S` the student's logits, :math:`\log p^T` the ``teacher_log_probs`` of the words :math:`v` of
    ``teacher_indices``, k different ones an item, :math:`\log r^T` the ``teacher_tail``, the log of the probability of
    all other words, :math:`T` the temperature and :math:`i` the valid items: the KL where all other words are one. The
    temperature divides the student's logits here; the teacher's were divided when its probabilities were taken, by
    ``cached_temperature``. Where that is given and is not ``temperature``, the loss refuses: top probabilities cannot
    be softened anew. :math:`T^2` multiplies as in ``kl_divergence``, which is this at k = V with a tail of −inf, and
    never less. In nats; zero where the student agrees on the k words and on the tail's mass. No gradient reaches the
    teacher. Words with a log-probability of −inf, and a tail of −inf, add nothing; where the student rules out with
    logits of −inf what the teacher says, or nothing is left for a tail above −inf, the loss is infinite.

    Renormalising the k words instead, as is common, teaches the student to say nothing else. Anshumann et al. 2025,
    arXiv:2503.16870, measure that bias, and sample words in place of any top k. Log-probabilities are taken as they
    are: those kept in float16 add up to 1 within about 0.001, and so the least value lies that near to 0.

    >>> import torch
    >>> teacher = torch.tensor([[2.0, 0.0, -1.0, 1.0]]).log_softmax(-1)
    >>> top, indices = teacher.topk(2)
    >>> tail = teacher.scatter(-1, indices, -torch.inf).logsumexp(-1)
    >>> round(top_k_kl(torch.zeros(1, 4), top, indices, tail, temperature=1.0).item(), 4)  # all four: 0.4388
    0.4255
    """
    check_positive("temperature", temperature)
    if cached_temperature is not None and cached_temperature != temperature:
        raise LossError(
            f"temperature must be {cached_temperature}, at which the teacher's probabilities were cached; "
            f"given {temperature}. Cache the teacher again to train at that"
        )
    check_top_k(student_logits, teacher_log_probs, teacher_indices, teacher_tail)
    words = keep_valid(teacher_indices, mask).long()
    tail = keep_valid(teacher_tail.detach().unsqueeze(-1), mask)
    teacher = raise_precision(torch.cat([keep_valid(teacher_log_probs.detach(), mask), tail], -1))
    every = soften(raise_precision(keep_valid(student_logits, mask)), temperature)
    others = torch.ones_like(every, dtype=torch.bool).scatter(-1, words, False)
    student = torch.cat([every.gather(-1, words), log_mass(every, others).unsqueeze(-1)], -1)
    return temperature**2 * masked_mean(relative_entropy(teacher, student), mask)


def valid_first(name: str, logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions of ``[B, L, V]``, the valid ones moved to the front in their order, and their number ``[B]``."""
    if mask is None:
        return logits, logits.new_full((len(logits),), logits.shape[1], dtype=torch.long)
    if mask.dtype != torch.bool or mask.shape != logits.shape[:-1]:
        raise LossError(
            f"{name} must be boolean, one entry a position: {list(logits.shape[:-1])}; "
            f"given {mask.dtype} {list(mask.shape)}"
        )
    order = (~mask).byte().argsort(dim=-1, stable=True)
    return logits.gather(1, order.unsqueeze(-1).expand_as(logits)), mask.sum(-1)


def ranked(logits: Tensor, valid: Tensor, temperature: float, width: int) -> Tensor:
    """Probabilities from the largest down, followed by zeros up to ``width``."""
    p = soften(raise_precision(keep_valid(logits, valid)), temperature).exp()
    return functional.pad(p.sort(-1, descending=True).values, (0, width - p.shape[-1]))


def check_sequences(student: Tensor, teacher: Tensor) -> None:
    """Refuse logits that are not of the same samples' positions."""
    if student.ndim != 3 or teacher.ndim != 3 or len(student) != len(teacher) or 0 in (*student.shape, *teacher.shape):
        raise LossError(
            "student_logits and teacher_logits must be [B, L, V] both, of one B, lengths and vocabularies free; "
            f"given {list(student.shape)} and {list(teacher.shape)}"
        )


def check_top_k(student: Tensor, log_probs: Tensor, indices: Tensor, tail: Tensor) -> None:
    """Refuse a teacher's words that are not the student's items', and more of them than there are."""
    items, k = tuple(log_probs.shape[:-1]), log_probs.shape[-1] if log_probs.ndim else 0
    if student.ndim == 0 or tuple(student.shape[:-1]) != items or not 0 < k <= student.shape[-1]:
        raise LossError(
            "student_logits must be [*items, V] and teacher_log_probs [*items, k] of the same items, k from 1 to V; "
            f"given {list(student.shape)} and {list(log_probs.shape)}"
        )
    check_indices("teacher_indices", indices, tuple(log_probs.shape))
    if tuple(tail.shape) != items:
        raise LossError(f"teacher_tail must have one entry an item: {list(items)}; given {list(tail.shape)}")
