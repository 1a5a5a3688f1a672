"""Losses across modalities: each image against every text of the batch, and each text against every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.checks import Fraction, Positive, PositiveInt, check_fraction, check_positive
from xmodal.losses.distributed import first_row, gather_rows, mean_over_ranks
from xmodal.losses.numerics import products, relative_entropy, unit_rows
from xmodal.losses.registration import loss
from xmodal.losses.tiled_sigmoid import tiled_sigmoid
from xmodal.losses.tiled_softmax import tiled_softmax
from xmodal.losses.tiles import check_tiling


@loss(kind="relational")
def clip_contrastive(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    *,
    logit_scale: Positive | Float[Tensor, ""],
    tile: PositiveInt | None = None,
    products: Literal["float32", "bfloat16"] = "float32",
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Match each image with its own text among all the batch's texts, and each text with its own image.

    .. math:: \tfrac12 \operatorname{mean}_i \left[ -\log\operatorname{softmax}_j(\sigma \cos(x_i, y_j))_i
              -\log\operatorname{softmax}_j(\sigma \cos(y_i, x_j))_i \right]

    with :math:`x, y` the rows of the two modalities, :math:`i` and :math:`j` over the batch of all ranks of ``group``
    and :math:`\sigma` the ``logit_scale``, which multiplies and is already exponentiated. In nats; ln B for rows that
    tell nothing, and above zero always. Gradient reaches both sides and the scale. Rows of one sample are a pair;
    where a text occurs twice in the batch, its other image counts as wrong all the same.

    ``tile`` and ``products``: less memory and less time for the same numbers, as in :func:`soft_contrastive`. Products
    in bfloat16 change the gradient by 0.3 to 0.5 % at a scale of 14, by about 1 % at 100.

    CLIP, Radford et al. 2021, arXiv:2103.00020. Inputs need not be normalised.

    >>> import torch
    >>> image, text = torch.eye(2), torch.eye(2)
    >>> round(clip_contrastive(image, text, logit_scale=1.0).item(), 4)  # ln(1 + 1/e)
    0.3133
    """
    check_pairs(image, text)
    check_positive("logit_scale", logit_scale)
    check_tiling(tile, products)
    if tile is not None:
        return tiled_softmax(image, text, logit_scale, tile=tile, products=products, group=group)[1]
    logs = [logits.log_softmax(-1) for logits in both_ways(image, text, logit_scale, group)]
    return mean_over_ranks(own_pairs(logs, group), group)


@loss(kind="relational")
def siglip(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    *,
    logit_scale: Positive | Float[Tensor, ""],
    logit_bias: float | Float[Tensor, ""],
    tile: PositiveInt | None = None,
    products: Literal["float32", "bfloat16"] = "float32",
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Tell of each image and each text whether they are a pair, every two on their own.

    .. math:: -\tfrac1B \sum_{ij} \log \operatorname{sigmoid}\!\left(z_{ij} (\sigma \cos(x_i, y_j) + b)\right),
              \qquad z_{ij} = 1 \text{ for } i = j, \text{ else } -1

    with :math:`x, y` image and text rows, :math:`i, j` over the batch of all ranks of ``group``, :math:`B` its size,
    :math:`\sigma` the ``logit_scale``, which multiplies and is already exponentiated, and :math:`b` the ``logit_bias``,
    well below zero: there is one yes to B − 1 noes. In nats, per row, above zero always. Gradient reaches both sides,
    scale and bias.

    ``tile`` and ``products``: less memory and less time for the same numbers, as in :func:`soft_contrastive`; here in
    one pass, since no sum over a row or a column is needed first. Products in bfloat16 change the gradient by 0.2 to
    0.5 %, more where few pairs are in doubt.

    SigLIP, Zhai et al. 2023, arXiv:2303.15343, which begins at a scale of 10 and a bias of −10. Inputs need not be
    normalised.

    >>> import torch
    >>> image, text = torch.eye(2), torch.eye(2)
    >>> round(siglip(image, text, logit_scale=2.0, logit_bias=-1.0).item(), 4)  # 2 ln(1 + 1/e)
    0.6265
    """
    check_pairs(image, text)
    check_positive("logit_scale", logit_scale)
    check_tiling(tile, products)
    if tile is not None:
        return tiled_sigmoid((image, text, logit_scale, logit_bias), tile=tile, products=products, group=group)
    logits = one_way(image, text, logit_scale, group) + logit_bias
    pairs = torch.arange(logits.shape[1], device=image.device) - first_row(len(image), group)
    is_pair = pairs == torch.arange(len(image), device=image.device).unsqueeze(1)
    log_likelihood = functional.logsigmoid(torch.where(is_pair, logits, -logits))
    return mean_over_ranks(-log_likelihood.sum() / len(image), group)


@loss(kind="relational")
def soft_contrastive(
    student_image: Float[Tensor, "batch student_dim"],
    student_text: Float[Tensor, "batch student_dim"],
    teacher_image: Float[Tensor, "batch teacher_dim"] | Sequence[Float[Tensor, "batch _"]],
    teacher_text: Float[Tensor, "batch teacher_dim"] | Sequence[Float[Tensor, "batch _"]],
    *,
    student_scale: Positive | Float[Tensor, ""],
    teacher_scale: Positive | Float[Tensor, ""] | Sequence[Positive | Float[Tensor, ""]],
    hard_weight: Fraction = 0.0,
    tile: PositiveInt | None = None,
    products: Literal["float32", "bfloat16"] = "float32",
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

    ``hard_weight`` :math:`h` mixes in the student's own contrastive loss: :math:`(1 - h)` times the above, plus
    :math:`h` times :func:`clip_contrastive` of the student, from the same logits.

    ``tile`` gives the same numbers from ``tile`` × ``tile`` logits at a time, both ways from one product. Memory then
    grows with the batch, not with its square: a few copies of the rows and a few tiles. From the forward to the
    backward pass, which makes each tile again, two numbers are kept for each row and column of each model, and on a
    CPU the logits of the first ``tile`` rows. Any size will do; 1024 is a good one, on a GPU more. On a CPU it takes
    less time as well, from a batch of a few hundred on. A second derivative is not to be had.

    ``products="bfloat16"``, with a tile, rounds what the matrix products take and give to bfloat16, and sums in
    float32: about half the time where the processor has instructions for it. The gradient's relative error, as lengths
    of whole gradients, is about 0.5 % at a scale of 14 and 1 to 2 % at 100; it grows with the scale, and as the student
    nears the teacher, whose difference is the gradient.

    Affinity mimicking of TinyCLIP, Wu et al. 2023, arXiv:2309.12314; "CRD" of CLIP-KD, arXiv:2307.12732. Both use the
    cross-entropy, which is this plus the teacher's entropy: same gradient.

    >>> import torch
    >>> rows = torch.eye(3)
    >>> soft_contrastive(rows, rows, rows, rows, student_scale=10.0, teacher_scale=10.0).item()
    0.0
    """
    check_pairs(student_image, student_text)
    check_positive("student_scale", student_scale)
    check_fraction("hard_weight", hard_weight)
    check_tiling(tile, products)
    teachers = _teachers(teacher_image, teacher_text, teacher_scale)
    for image, text, scale in teachers:
        check_pairs(image, text, len(student_image))
        check_positive("teacher_scale", scale)
    if tile is not None:
        student = (student_image, student_text, student_scale)
        soft, hard = tiled_softmax(*student, teachers, tile=tile, products=products, group=group)
        return (1 - hard_weight) * soft + hard_weight * hard if hard_weight else soft
    logs = [logits.log_softmax(-1) for logits in both_ways(student_image, student_text, student_scale, group)]
    losses = []
    for teacher in teachers:
        targets = [logits.log_softmax(-1) for logits in both_ways(*teacher, group)]
        losses += [relative_entropy(target, log).mean() for target, log in zip(targets, logs, strict=True)]
    value = torch.stack(losses).mean()
    if hard_weight:
        value = (1 - hard_weight) * value + hard_weight * own_pairs(logs, group)
    return mean_over_ranks(value, group)


@loss(kind="relational")
def soft_sigmoid(
    student_image: Float[Tensor, "batch student_dim"],
    student_text: Float[Tensor, "batch student_dim"],
    teacher_image: Float[Tensor, "batch teacher_dim"],
    teacher_text: Float[Tensor, "batch teacher_dim"],
    *,
    student_scale: Positive | Float[Tensor, ""],
    student_bias: float | Float[Tensor, ""],
    teacher_scale: Positive | Float[Tensor, ""],
    teacher_bias: float | Float[Tensor, ""],
    tile: PositiveInt | None = None,
    products: Literal["float32", "bfloat16"] = "float32",
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Give the student the teacher's belief, of each image and each text, that they are a pair.

    .. math:: \tfrac1B \sum_{ij} \left[ p_{ij} \log \frac{p_{ij}}{q_{ij}}
              + (1 - p_{ij}) \log \frac{1 - p_{ij}}{1 - q_{ij}} \right], \qquad
              p_{ij} = \operatorname{sigmoid}(\sigma_T \cos(x^T_i, y^T_j) + b_T), \quad
              q_{ij} = \operatorname{sigmoid}(\sigma_S \cos(x^S_i, y^S_j) + b_S)

    with :math:`x, y` image and text rows, :math:`S` the student, :math:`T` the teacher, :math:`\sigma` the scales,
    which multiply and are already exponentiated, :math:`b` the biases, :math:`i, j` over the batch of all ranks of
    ``group`` and :math:`B` its size. In nats, per row: the binary cross-entropy less the teacher's entropy, zero when
    every two logits agree. Widths of the two models may differ. Gradient reaches the student's rows, its scale and its
    bias, never the teacher's side.

    ``tile`` and ``products``: less memory and less time for the same numbers, as in :func:`soft_contrastive`; here in
    one pass, since no sum over a row or a column is needed first. Products in bfloat16 change the gradient by 0.2 to
    0.5 %, more where few pairs are in doubt.

    For teachers trained as :func:`siglip`, Zhai et al. 2023, arXiv:2303.15343. Its formula with a label of
    :math:`2p - 1` in place of :math:`\pm1` would not do: −log sigmoid((2p − 1) x) has no least value at a finite
    :math:`x`.

    >>> import torch
    >>> rows = torch.eye(2)
    >>> teacher = {"teacher_scale": 2.0, "teacher_bias": -1.0}
    >>> soft_sigmoid(rows, rows, rows, rows, student_scale=2.0, student_bias=-1.0, **teacher).item()
    0.0
    >>> round(soft_sigmoid(rows, rows, rows, rows, student_scale=2.0, student_bias=0.0, **teacher).item(), 4)
    0.1936
    """
    check_pairs(student_image, student_text)
    check_pairs(teacher_image, teacher_text, len(student_image))
    check_positive("student_scale", student_scale)
    check_positive("teacher_scale", teacher_scale)
    check_tiling(tile, products)
    scale, bias = detached(teacher_scale), detached(teacher_bias)
    image, text = teacher_image.detach(), teacher_text.detach()
    if tile is not None:
        student = (student_image, student_text, student_scale, student_bias)
        return tiled_sigmoid(student, (image, text, scale, bias), tile=tile, products=products, group=group)
    target = one_way(image, text, scale, group) + bias
    logits = one_way(student_image, student_text, student_scale, group) + student_bias
    # −logsigmoid(−x) is softplus(x), which functional.softplus rounds above its threshold
    divergence = functional.logsigmoid(-target) - functional.logsigmoid(-logits) - target.sigmoid() * (logits - target)
    return mean_over_ranks(divergence.sum() / len(student_image), group)


def check_pairs(image: Tensor, text: Tensor, num_rows: int | None = None) -> None:
    """Refuse rows that are no pairs, and widths that differ."""
    wanted = len(image) if num_rows is None else num_rows
    if image.ndim != 2 or image.shape != text.shape or len(image) != wanted or wanted == 0:
        rows = "B" if num_rows is None else str(num_rows)
        raise LossError(
            f"image and text must be [{rows}, D] both, one row a sample; "
            f"given {list(image.shape)} and {list(text.shape)}"
        )


def one_way(image: Tensor, text: Tensor, scale: float | Tensor, group: ProcessGroup | None) -> Tensor:
    """Scaled cosines of this rank's images with all texts: ``[B, ranks · B]``."""
    return scale * products(unit_rows(image), gather_rows(unit_rows(text), group))


def both_ways(image: Tensor, text: Tensor, scale: float | Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Scaled cosines of this rank's images with all texts, and of its texts with all images, ``[B, ranks · B]``."""
    x, y = unit_rows(image), unit_rows(text)
    return scale * products(x, gather_rows(y, group)), scale * products(y, gather_rows(x, group))


def own_pairs(logs: Sequence[Tensor], group: ProcessGroup | None) -> Tensor:
    """Cross-entropy of this rank's rows with their own pairs, from log-probabilities of both ways: their mean."""
    first = first_row(len(logs[0]), group)
    return -torch.stack([log.diagonal(first).mean() for log in logs]).mean()


def detached(number: float | Tensor) -> float | Tensor:
    """A teacher's scale or bias, without gradient."""
    return number.detach() if isinstance(number, Tensor) else number


def _teachers(
    images: Tensor | Sequence[Tensor],
    texts: Tensor | Sequence[Tensor],
    scales: float | Tensor | Sequence[float | Tensor],
) -> list[tuple[Tensor, Tensor, float | Tensor]]:
    """Rows and scale of each teacher, cut off."""
    image_list = [images] if isinstance(images, Tensor) else list(images)
    text_list = [texts] if isinstance(texts, Tensor) else list(texts)
    scale_list = list(scales) if isinstance(scales, Sequence) else [scales] * len(image_list)
    if not len(image_list) == len(text_list) == len(scale_list) > 0:
        raise LossError(
            f"each teacher needs an image, a text and a scale; given {len(image_list)} images, {len(text_list)} texts, "
            f"{len(scale_list)} scales"
        )
    triples = zip(image_list, text_list, scale_list, strict=True)
    return [(image.detach(), text.detach(), detached(scale)) for image, text, scale in triples]
