"""Contrast across models: the student's rows against the teacher's, their gradients, or the two fused."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.checks import Positive, check_positive
from xmodal.losses.contrastive import both_ways, check_pairs, one_way, own_pairs
from xmodal.losses.distributed import first_row, gather_rows, mean_over_ranks
from xmodal.losses.numerics import products, unit_rows
from xmodal.losses.registration import loss


@loss(kind="relational")
def interactive_contrastive(
    student_image: Float[Tensor, "batch dim"],
    student_text: Float[Tensor, "batch dim"],
    teacher_image: Float[Tensor, "batch dim"],
    teacher_text: Float[Tensor, "batch dim"],
    *,
    logit_scale: Positive | Float[Tensor, ""],
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Match the student's images with the teacher's texts, and the student's texts with the teacher's images.

    .. math:: \tfrac12 \operatorname{mean}_i \left[ -\log\operatorname{softmax}_j(\sigma \cos(x^S_i, y^T_j))_i
              -\log\operatorname{softmax}_j(\sigma \cos(y^S_i, x^T_j))_i \right]

    with :math:`x, y` image and text rows, :math:`S` the student, :math:`T` the teacher, :math:`i` and :math:`j` over
    the batch of all ranks of ``group`` and :math:`\sigma` the ``logit_scale``, which multiplies and is already
    exponentiated. In nats; ln B for rows that tell nothing. Above zero always: a student that equals its teacher still
    pays what the teacher's own images and texts do. The student's rows must be as wide as the teacher's. Gradient
    reaches them and the scale, never the teacher's rows.

    ICL of CLIP-KD, Yang et al. 2024, arXiv:2307.12732, whose code learns this scale's logarithm and multiplies by it
    without exponentiating. Inputs need not be normalised.

    >>> import torch
    >>> rows = torch.eye(2)
    >>> round(interactive_contrastive(rows, rows, rows, rows, logit_scale=1.0).item(), 4)  # ln(1 + 1/e)
    0.3133
    """
    check_positive("logit_scale", logit_scale)
    _check_four(student_image, student_text, teacher_image, teacher_text)
    by_image = one_way(student_image, teacher_text.detach(), logit_scale, group)
    by_text = one_way(student_text, teacher_image.detach(), logit_scale, group)
    return mean_over_ranks(own_pairs([by_image.log_softmax(-1), by_text.log_softmax(-1)], group), group)


@loss(kind="relational")
def gradient_matching(
    student_image: Float[Tensor, "batch dim"],
    student_text: Float[Tensor, "batch dim"],
    teacher_image: Float[Tensor, "batch dim"],
    teacher_text: Float[Tensor, "batch dim"],
    *,
    student_scale: Positive | Float[Tensor, ""],
    teacher_scale: Positive | Float[Tensor, ""],
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Give each of the student's rows the pull from the batch's pairs that the teacher's row feels.

    .. math:: \sum_{g} \operatorname{mean}_i B^2 \lVert g^S_i - g^T_i \rVert^2, \qquad
              g_A = \sigma (P - Y) K / B, \quad g_K = \sigma (P - Y)^\top A / B,
              \qquad P = \operatorname{softmax}_j(\sigma A K^\top)

    with :math:`A` (anchors) and :math:`K` (keys) the normalised image and text rows, then text and image rows: four
    :math:`g` in all, the sum's terms. :math:`Y` is the identity: row :math:`i` of :math:`K` is the partner of row
    :math:`i` of :math:`A`. :math:`\sigma` is a model's scale, which multiplies and is already exponentiated, :math:`B`
    the batch of all ranks of ``group``, :math:`i` its rows, :math:`S` the student, :math:`T` the teacher.

    :math:`g_A` and :math:`g_K` are the gradients of the contrastive loss of one way,
    :math:`\operatorname{mean}_i -\log P_{ii}`, by the normalised rows themselves, held free: what lies along a row is
    not taken out. :math:`B^2` takes the :math:`1/B` out again, so that a weight means the same at any batch size. No
    unit: the square of scales. Zero where the student's rows and scale give the teacher's gradients; so always for a
    batch of one. The student's rows must be as wide as the teacher's. Gradient reaches the student's rows, through
    :math:`P` too, and ``student_scale``.

    GD of CLIP-KD, Yang et al. 2024, arXiv:2307.12732. Its code divides by the scale where it should multiply, and
    takes the mean over :math:`D` without :math:`B^2`: its weight 1e8 belongs to that and must not be reused.

    >>> import torch
    >>> rows, turned = torch.eye(2), torch.eye(2).flip(0)
    >>> gradient_matching(rows, rows, rows, rows, student_scale=10.0, teacher_scale=10.0).item()
    0.0
    >>> round(gradient_matching(rows, turned, rows, rows, student_scale=1.0, teacher_scale=1.0).item(), 4)
    4.8542
    """
    check_positive("student_scale", student_scale)
    check_positive("teacher_scale", teacher_scale)
    _check_four(student_image, student_text, teacher_image, teacher_text)
    student = _row_gradients(student_image, student_text, student_scale, group)
    with torch.no_grad():
        teacher = _row_gradients(teacher_image, teacher_text, teacher_scale, group)
    each = [(s - t).square().sum(-1).mean() for s, t in zip(student, teacher, strict=True)]
    return mean_over_ranks(torch.stack(each).sum(), group)


@loss(kind="relational")
def augmented_feature(
    student_image: Float[Tensor, "batch student_dim"],
    student_text: Float[Tensor, "batch student_dim"],
    teacher_image: Float[Tensor, "batch teacher_dim"],
    teacher_text: Float[Tensor, "batch teacher_dim"],
    *,
    image_fusion: Callable[[Tensor], Tensor],
    text_fusion: Callable[[Tensor], Tensor],
    logit_scale: Positive | Float[Tensor, ""],
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Match images with texts by rows in which student and teacher are fused.

    .. math:: \tfrac12 \operatorname{mean}_i \left[ -\log\operatorname{softmax}_j(\sigma \cos(u_i, v_j))_i
              -\log\operatorname{softmax}_j(\sigma \cos(v_i, u_j))_i \right], \qquad
              u = W_I [\hat x^S; \hat x^T], \quad v = W_T [\hat y^S; \hat y^T]

    with :math:`x, y` image and text rows, :math:`\hat x = x / \lVert x \rVert`, :math:`S` the student, :math:`T` the
    teacher, :math:`W_I` the ``image_fusion`` and :math:`W_T` the ``text_fusion``, which map ``[B, D_S + D_T]`` to
    ``[B, D_S]`` and are trained, :math:`i` and :math:`j` over the batch of all ranks of ``group`` and :math:`\sigma`
    the ``logit_scale``, which multiplies and is already exponentiated. In nats; ln B for rows that tell nothing, and
    above zero always: student equal to teacher is nothing special here. Widths of the two models may differ. Gradient
    reaches the student's rows, the fusions and the scale, never the teacher's rows.

    Fusions belong to whoever trains: :class:`xmodal.losses.state.Fusion` is the linear one. They run without autocast,
    in their own parameters' precision.

    AFD of CLIP-KD, Yang et al. 2024, arXiv:2307.12732. Inputs need not be normalised: as there, each side's row has
    length 1 before it is fused.

    >>> import torch
    >>> rows = torch.eye(2)
    >>> mean = lambda pair: (pair[:, :2] + pair[:, 2:]) / 2
    >>> fusions = {"image_fusion": mean, "text_fusion": mean}
    >>> round(augmented_feature(rows, rows, rows, rows, **fusions, logit_scale=1.0).item(), 4)  # ln(1 + 1/e)
    0.3133
    """
    check_positive("logit_scale", logit_scale)
    check_pairs(student_image, student_text)
    check_pairs(teacher_image, teacher_text, len(student_image))
    image = _fuse("image_fusion", image_fusion, student_image, teacher_image)
    text = _fuse("text_fusion", text_fusion, student_text, teacher_text)
    check_pairs(image, text, len(student_image))
    logs = [logits.log_softmax(-1) for logits in both_ways(image, text, logit_scale, group)]
    return mean_over_ranks(own_pairs(logs, group), group)


def _row_gradients(image: Tensor, text: Tensor, scale: float | Tensor, group: ProcessGroup | None) -> list[Tensor]:
    """B · g of this rank's images as anchors and as keys, and of its texts: four of ``[B, D]``."""
    x, y = unit_rows(image), unit_rows(text)
    all_x, all_y = gather_rows(x, group), gather_rows(y, group)
    by_image, by_text = scale * products(x, all_y), scale * products(y, all_x)
    sum_x, sum_y = by_image.logsumexp(-1), by_text.logsumexp(-1)
    partners = torch.arange(len(x), device=x.device) + first_row(len(x), group)
    is_pair = functional.one_hot(partners, len(all_x))
    # One row of logits is how an own row stands to all rows of the other side. As an anchor it is normalised over them;
    # as a key, each entry is normalised by the sum of the anchor that it belongs to, which its own rank knows.
    seen = [
        (by_image, sum_x[:, None], all_y),
        (by_image, gather_rows(sum_y, group), all_y),
        (by_text, sum_y[:, None], all_x),
        (by_text, gather_rows(sum_x, group), all_x),
    ]
    return [scale * products((logits - total).exp() - is_pair, others.mT) for logits, total, others in seen]


def _fuse(name: str, fusion: Callable[[Tensor], Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    """The fused rows, in the precision of the two sides."""
    s, t = unit_rows(student), unit_rows(teacher.detach())
    dtype = torch.promote_types(s.dtype, t.dtype)
    rows = torch.cat([s.to(dtype), t.to(dtype)], -1)
    parameter = next(fusion.parameters(), None) if isinstance(fusion, nn.Module) else None
    with torch.autocast(rows.device.type, enabled=False):
        fused = fusion(rows if parameter is None else rows.to(parameter.dtype))
    if fused.ndim != 2 or len(fused) != len(rows):
        raise LossError(
            f"{name} must map [B, D_S + D_T] to [B, D_S]; given {list(rows.shape)} it made {list(fused.shape)}"
        )
    return fused.to(dtype)


def _check_four(student_image: Tensor, student_text: Tensor, teacher_image: Tensor, teacher_text: Tensor) -> None:
    """Refuse rows that are no pairs, and a student that is not as wide as its teacher."""
    check_pairs(student_image, student_text)
    check_pairs(teacher_image, teacher_text, len(student_image))
    if student_image.shape != teacher_image.shape:
        raise LossError(
            f"student and teacher must be equally wide; given {list(student_image.shape)} and "
            f"{list(teacher_image.shape)}: project one side first"
        )
