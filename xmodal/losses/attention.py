"""Losses on where a model looks: attention maps of images, scores and probabilities between tokens, their relations."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.errors import LossError
from xmodal.losses.checks import PositiveInt, check_count
from xmodal.losses.numerics import (
    directions,
    keep_valid,
    log_softmax_over,
    masked_mean,
    pool_to,
    products,
    raise_precision,
    relative_entropy,
)
from xmodal.losses.registration import loss


def num_pairs(mask: Tensor) -> Tensor:
    """Pairs of a valid query and a valid key, over all samples: what :func:`attention_scores` counts."""
    return mask.sum(-1).square().sum()


@loss(kind="per_item")
def attention_transfer(
    student_map: Float[Tensor, "batch student_channels student_height student_width"],
    teacher_map: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
) -> Float[Tensor, ""]:
    r"""Make the student's feature map strong where the teacher's is, whatever the channels say.

    .. math:: \operatorname{mean}_{b,p}\, (Q^S_{bp} - Q^T_{bp})^2, \qquad
              Q_{b} = \frac{q_b}{\lVert q_b \rVert}, \qquad q_{bp} = \operatorname{mean}_c F_{bcp}^2

    with :math:`F` a map, :math:`b` the samples, :math:`c` its channels, :math:`p` the places of its height and width,
    and :math:`S, T` student and teacher. Channels may differ. Where sizes do, the larger map :math:`F` is adaptively
    average-pooled to the smaller height and width, before it is squared. Between 0, where both are strong in the same
    places, and 2 over the number of places. A map of zeros is strong nowhere: its :math:`Q` is zero, without gradient.
    No gradient reaches the teacher.

    Zagoruyko and Komodakis 2017, arXiv:1612.03928, as their code has it: RepDistiller's weight 1000 is for this mean.
    The paper's equation takes the length of :math:`Q^S_b - Q^T_b` instead of the mean of its squares. RepDistiller
    pools by the height alone, to a square.

    >>> import torch
    >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]], [[0.0, 5.0]]]])
    >>> attention_transfer(left, left * 2).item(), attention_transfer(left, right).item()
    (0.0, 1.0)
    """
    if student_map.ndim != 4 or teacher_map.ndim != 4 or len(student_map) != len(teacher_map):
        raise LossError(
            "student_map and teacher_map must be maps [B, C, H, W] of the same samples; "
            f"given {list(student_map.shape)} and {list(teacher_map.shape)}"
        )
    student, teacher = raise_precision(student_map), raise_precision(teacher_map.detach())
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    strong = [_strong_places(pool_to(feature_map, size)) for feature_map in (student, teacher)]
    return (strong[0] - strong[1]).square().mean()


@loss(kind="per_item", count=num_pairs)
def attention_scores(
    student: Float[Tensor, "batch heads length length"],
    teacher: Float[Tensor, "batch heads length length"],
    *,
    mask: Bool[Tensor, "batch length"] | None = None,
) -> Float[Tensor, ""]:
    r"""Pull the student's attention scores to the teacher's, before their softmax.

    .. math:: \operatorname{mean}_{h,(q,k)}\, (s_{hqk} - t_{hqk})^2

    with :math:`s, t` the scores :math:`q \cdot k / \sqrt d` of student and teacher, :math:`h` the heads and
    :math:`(q, k)` the pairs of a valid query and a valid key of one sample, pooled over the batch: a sample of
    :math:`n` valid positions counts :math:`n^2`. Zero where the scores agree; a softmax would forgive a constant a row,
    this does not. No gradient reaches the teacher. A pair that both rule out by −inf (a causal mask that is in the
    scores already) differs by nothing, and counts.

    TinyBERT, Jiao et al. 2020, arXiv:1909.10351. Its code sets scores at padded keys to zero on both sides, and then
    takes the mean over all pairs: padding makes the loss smaller, and queries that are padding are taught too. Head
    counts must agree; :func:`attention_relation` does without.

    >>> import torch
    >>> student, teacher = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    >>> attention_scores(student, teacher).item()
    1.0
    >>> teacher[..., 2] = 9.0  # a key that is padding
    >>> attention_scores(student, teacher, mask=torch.tensor([[True, True, False]])).item()
    1.0
    """
    _check_heads(student, teacher)
    pairs = _valid_pairs(student, mask)
    s, t = raise_precision(student), raise_precision(teacher.detach())
    counted = s != t  # −inf − (−inf) would be no number
    if pairs is not None:
        counted = counted & pairs
    squares = torch.where(counted, s - t, 0).square()
    return masked_mean(squares.mean(1), None if pairs is None else pairs.squeeze(1))


@loss(kind="per_item")
def attention_kl(
    student: Float[Tensor, "batch heads length length"],
    teacher: Float[Tensor, "batch heads length length"],
    *,
    mask: Bool[Tensor, "batch length"] | None = None,
) -> Float[Tensor, ""]:
    r"""Pull the student's attention probabilities to the teacher's, head by head.

    .. math:: \operatorname{mean}_{h,q} \sum_k A^T_{hqk} (\log A^T_{hqk} - \log A^S_{hqk})

    with :math:`A` the probabilities of student :math:`S` and teacher :math:`T`, :math:`h` the heads, :math:`q` the
    valid queries, pooled over the batch, and :math:`k` the valid keys. In nats; zero where the probabilities agree. No
    gradient reaches the teacher. The gradient with respect to a probability is that of the formula,
    :math:`-A^T / A^S`: −1 at equality, which the softmax that made them turns into zero.

    Probability on invalid keys is left out, and what remains is not normalised again: models that mask keys put exactly
    0 there. A key of teacher probability 0 adds 0. Logarithms are of no less than the smallest normal number of the
    dtype: a student's probability that has underflowed to 0 costs 87 nats times the teacher's in float32, 708 in
    float64, and gets no gradient, as its softmax would pass none on.

    MiniLM, Wang et al. 2020, arXiv:2002.10957, on the last layer, beside the relation of values. Head counts must
    agree; :func:`attention_relation` does without.

    >>> import torch
    >>> teacher = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    >>> round(attention_kl(torch.full((1, 1, 2, 2), 0.5), teacher).item(), 4)  # ln 2 and 0
    0.3466
    """
    _check_heads(student, teacher)
    pairs = _valid_pairs(student, mask)
    s, t = raise_precision(student), raise_precision(teacher.detach())
    if pairs is not None:
        s, t = torch.where(pairs, s, 0), torch.where(pairs, t, 0)
    per_query = (t * (_safe_log(t) - _safe_log(s))).sum(-1)
    return masked_mean(per_query.mean(1), mask)


@loss(kind="per_item")
def attention_relation(
    student_states: Float[Tensor, "batch length student_dim"],
    teacher_states: Float[Tensor, "batch length teacher_dim"],
    *,
    num_relation_heads: PositiveInt,
    mask: Bool[Tensor, "batch length"] | None = None,
) -> Float[Tensor, ""]:
    r"""Let the student's tokens relate to each other as the teacher's do, at any width and number of heads.

    .. math:: \operatorname{mean}_{a,q} \operatorname{KL}(R^T_{aq} \,\|\, R^S_{aq}), \qquad
              R_{aq} = \operatorname{softmax}_k \left( x_{aq} \cdot x_{ak} / \sqrt{d} \right), \qquad d = D / A

    with :math:`x_a` the :math:`a`-th of :math:`A` (``num_relation_heads``) equal parts of a model's queries, keys or
    values of width :math:`D`, each model's own, :math:`S, T` student and teacher, :math:`q` the valid positions, pooled
    over the batch, and :math:`k` the valid ones of the same sample. In nats; zero where the relations agree, which
    turned states have, too. :math:`A` must divide both widths. No gradient reaches the teacher.

    One call for each of queries, keys and values is MiniLMv2, Wang et al. 2021, arXiv:2012.15828; values with as many
    relation heads as attention heads are the value relation of MiniLM, arXiv:2002.10957. Well-known code averages over
    each sample's positions first, then over samples, so that a short text's tokens weigh more; here all weigh alike.

    >>> import torch
    >>> student, teacher = torch.zeros(1, 2, 4), torch.eye(2)[None]
    >>> round(attention_relation(student, teacher, num_relation_heads=1).item(), 4)
    0.0588
    """
    check_count("num_relation_heads", num_relation_heads)
    if student_states.ndim != 3 or teacher_states.ndim != 3 or student_states.shape[:2] != teacher_states.shape[:2]:
        raise LossError(
            "student_states and teacher_states must be [B, L, D] with one B and L; "
            f"given {list(student_states.shape)} and {list(teacher_states.shape)}"
        )
    widths = student_states.shape[-1], teacher_states.shape[-1]
    if any(width % num_relation_heads for width in widths):
        raise LossError(
            f"num_relation_heads must divide both widths; {num_relation_heads} does not divide "
            f"{widths[0]} of the student and {widths[1]} of the teacher"
        )
    student = _relations(student_states, num_relation_heads, mask)
    teacher = _relations(teacher_states.detach(), num_relation_heads, mask)
    return masked_mean(relative_entropy(teacher, student).mean(1), mask)


def _strong_places(feature_map: Tensor) -> Tensor:
    """Direction of the mean square over channels, places in a row: ``[B, C, H, W]`` → ``[B, H · W]``."""
    return directions(feature_map.square().mean(1).flatten(1))


def _safe_log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def _relations(states: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    """Log-softmax over valid keys of each part's scaled products: ``[B, L, D]`` → ``[B, heads, L, L]``."""
    x = raise_precision(keep_valid(states, mask))
    heads = x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2)
    scores = products(heads, heads) / heads.shape[-1] ** 0.5
    return log_softmax_over(scores, None if mask is None else mask[:, None, None, :])


def _valid_pairs(scores: Tensor, mask: Tensor | None) -> Tensor | None:
    """Whether query and key are both valid: ``[B, L]`` → ``[B, 1, L, L]``; all are without a mask."""
    if mask is None:
        return None
    batch, _, length, _ = scores.shape
    if mask.dtype != torch.bool or mask.shape != (batch, length):
        raise LossError(
            f"mask must be boolean, one entry a position: {[batch, length]}; given {mask.dtype} {list(mask.shape)}"
        )
    return mask[:, None, :, None] & mask[:, None, None, :]


def _check_heads(student: Tensor, teacher: Tensor) -> None:
    if student.ndim != 4 or student.shape != teacher.shape or student.shape[2] != student.shape[3]:
        raise LossError(
            "student and teacher must be [B, H, L, L] both, with as many heads and positions; "
            f"given {list(student.shape)} and {list(teacher.shape)}. "
            "attention_relation compares models of unlike heads, on their queries, keys or values"
        )
