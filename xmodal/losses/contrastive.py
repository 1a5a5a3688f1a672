"""Losses across modalities: each image against every text of the batch, and each text against every image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.distributed import first_row, gather_rows, mean_over_ranks
from xmodal.losses.numerics import check_positive, cosines, directions, kl_rows, raise_precision
from xmodal.losses.registration import loss


@loss(kind="relational")
def clip_contrastive(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    *,
    logit_scale: float | Float[Tensor, ""],
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Match each image with its own text among all the batch's texts, and each text with its own image.

    .. math:: \tfrac12 \operatorname{mean}_i \left[ -\log\operatorname{softmax}_j(\sigma \cos(x_i, y_j))_i
              -\log\operatorname{softmax}_j(\sigma \cos(y_i, x_j))_i \right]

    with :math:`x, y` the rows of the two modalities, :math:`i` and :math:`j` over the batch of all ranks of ``group``
    and :math:`\sigma` the ``logit_scale``, which multiplies and is already exponentiated. In nats; ln B for rows that
    tell nothing, and above zero always. Gradient reaches both sides and the scale. Rows of one sample are a pair;
    where a text occurs twice in the batch, its other image counts as wrong all the same.

    CLIP, Radford et al. 2021, arXiv:2103.00020. Inputs need not be normalised.

    >>> import torch
    >>> image, text = torch.eye(2), torch.eye(2)
    >>> round(clip_contrastive(image, text, logit_scale=1.0).item(), 4)  # ln(1 + 1/e)
    0.3133
    """
    check_pairs(image, text)
    check_positive("logit_scale", logit_scale)
    logits = _both_ways(image, text, logit_scale, group)
    own = torch.arange(len(image), device=image.device) + first_row(len(image), group)
    both = [functional.cross_entropy(one_way, own) for one_way in logits]
    return mean_over_ranks((both[0] + both[1]) / 2, group)


@loss(kind="relational")
def soft_contrastive(
    student_image: Float[Tensor, "batch student_dim"],
    student_text: Float[Tensor, "batch student_dim"],
    teacher_image: Float[Tensor, "batch teacher_dim"] | Sequence[Float[Tensor, "batch _"]],
    teacher_text: Float[Tensor, "batch teacher_dim"] | Sequence[Float[Tensor, "batch _"]],
    *,
    student_scale: float | Float[Tensor, ""],
    teacher_scale: float | Float[Tensor, ""] | Sequence[float | Float[Tensor, ""]],
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Give the student the teacher's view of which texts suit an image how well, and which images a text.

    .. math:: \tfrac12 \sum_{\text{ways}} \operatorname{mean}_i
              \operatorname{KL}\!\left(\operatorname{softmax}_j(\sigma_T \cos(x^T_i, y^T_j)) \,\middle\|\,
              \operatorname{softmax}_j(\sigma_S \cos(x^S_i, y^S_j))\right)

    with :math:`x, y` image and text rows (the other way round in the second way), :math:`S` the student, :math:`T` the
    teacher, :math:`\sigma` the scales, which multiply and are already exponentiated, and :math:`i, j` over the batch of
    all ranks of ``group``. In nats; zero when student and teacher have the same cosines and scales. Widths of the two
    models may differ. Gradient reaches the student's rows and ``student_scale``, never the teacher's side.

    A tap may stand on both sides: a picture whose student has no text tower is set against the teacher's own texts.
    Several teachers are sequences, one entry each (one ``teacher_scale`` serves all): the mean of their KL. Its
    gradient is that of the KL to their mean distribution; its value is larger by how much they disagree, and so is not
    zero at its least.

    Affinity mimicking of TinyCLIP, Wu et al. 2023, arXiv:2309.12314; "CRD" of CLIP-KD, arXiv:2307.12732. Both use the
    cross-entropy, which is this plus the teacher's entropy: same gradient.

    >>> import torch
    >>> rows = torch.eye(3)
    >>> soft_contrastive(rows, rows, rows, rows, student_scale=10.0, teacher_scale=10.0).item()
    0.0
    """
    check_pairs(student_image, student_text)
    check_positive("student_scale", student_scale)
    student = [one_way.log_softmax(-1) for one_way in _both_ways(student_image, student_text, student_scale, group)]
    losses = []
    for image, text, scale in _teachers(teacher_image, teacher_text, teacher_scale):
        check_pairs(image, text, len(student_image))
        check_positive("teacher_scale", scale)
        with torch.no_grad():
            teacher = [one_way.log_softmax(-1) for one_way in _both_ways(image, text, scale, group)]
        losses += [kl_rows(t, s).mean() for t, s in zip(teacher, student, strict=True)]
    return mean_over_ranks(torch.stack(losses).mean(), group)


def check_pairs(image: Tensor, text: Tensor, num_rows: int | None = None) -> None:
    """Refuse rows that are no pairs, and widths that differ."""
    wanted = len(image) if num_rows is None else num_rows
    if image.ndim != 2 or image.shape != text.shape or len(image) != wanted or wanted == 0:
        rows = "B" if num_rows is None else str(num_rows)
        raise LossError(
            f"image and text must be [{rows}, D] both, one row a sample; "
            f"given {list(image.shape)} and {list(text.shape)}"
        )


def _both_ways(image: Tensor, text: Tensor, scale: float | Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Logits of this rank's images against all texts, and of its texts against all images: ``[B, ranks · B]`` each."""
    x, y = directions(raise_precision(image)), directions(raise_precision(text))
    return scale * cosines(x, gather_rows(y, group)), scale * cosines(y, gather_rows(x, group))


def _teachers(
    images: Tensor | Sequence[Tensor],
    texts: Tensor | Sequence[Tensor],
    scales: float | Tensor | Sequence[float | Tensor],
) -> list[tuple[Tensor, Tensor, float | Tensor]]:
    image_list = [images] if isinstance(images, Tensor) else list(images)
    text_list = [texts] if isinstance(texts, Tensor) else list(texts)
    scale_list = list(scales) if isinstance(scales, Sequence) else [scales] * len(image_list)
    if not len(image_list) == len(text_list) == len(scale_list) > 0:
        raise LossError(
            f"each teacher needs an image, a text and a scale; given {len(image_list)} images, {len(text_list)} texts, "
            f"{len(scale_list)} scales"
        )
    return list(zip(image_list, text_list, scale_list, strict=True))
