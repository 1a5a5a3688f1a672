"""Losses on how things lie to each other: the samples of a batch, or the channels of a map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.checks import Positive, check_positive, check_rows
from xmodal.losses.distributed import first_row, gather_rows, mean_over_ranks
from xmodal.losses.numerics import (
    directions,
    log_softmax_over,
    pool_to,
    products,
    raise_precision,
    relative_entropy,
    smooth_l1,
    unit_rows,
)
from xmodal.losses.registration import loss

LEAST_KERNEL = 1e-7
"""Opposite rows have a kernel of 0, and the logarithm of 0 no gradient: below this, kernels count as this."""


@loss(kind="per_item")
def gram_matrix(
    student_map: Float[Tensor, "batch channels student_height student_width"],
    teacher_map: Float[Tensor, "batch channels teacher_height teacher_width"],
) -> Float[Tensor, ""]:
    r"""Let the student's channels occur together as the teacher's do, wherever in the picture that is.

    .. math:: \operatorname{mean}_{i,a,b} \left( G^S_{iab} - G^T_{iab} \right)^2, \qquad
              G_{iab} = \frac{1}{HW} \sum_p F_{iap} F_{ibp}

    with :math:`F` a map, :math:`i` the samples, :math:`a, b` its channels, :math:`p` its places and :math:`HW` their
    number: each model's own, so that sizes may differ. Channels must be as many on both sides (project first). In the
    fourth power of the features' unit; zero when the Gram matrices agree, as they do for maps whose places are only
    shuffled. No gradient reaches the teacher.

    The style loss of Gatys et al. 2015, arXiv:1508.06576, times 4: there :math:`\sum_{ab}` is divided by
    :math:`4 C^2 (HW)^2` after a Gram matrix that is not divided by :math:`HW`.

    >>> import torch
    >>> here, there = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0], [3.0]]]])
    >>> gram_matrix(here, here.flip(3)).item()
    0.0
    >>> gram_matrix(here, there).item()  # (1/2 − 9/2)²
    16.0
    """
    if not _are_maps(student_map, teacher_map) or student_map.shape[1] != teacher_map.shape[1]:
        raise LossError(
            "student_map and teacher_map must be [B, C, H, W] with one B and one C; "
            f"given {list(student_map.shape)} and {list(teacher_map.shape)}"
        )
    student, teacher = raise_precision(student_map), raise_precision(teacher_map.detach())
    return (_flow(student, student) - _flow(teacher, teacher)).square().mean()


@loss(kind="per_item")
def flow_of_solution(
    student_maps: Sequence[Float[Tensor, "batch _channels _student_height _student_width"]],
    teacher_maps: Sequence[Float[Tensor, "batch _channels _teacher_height _teacher_width"]],
) -> Float[Tensor, ""]:
    r"""Let the student come from one of its maps to a later one as the teacher does.

    .. math:: \operatorname{mean}_{i,a,b} \left( G^S_{iab} - G^T_{iab} \right)^2, \qquad
              G_{iab} = \frac{1}{HW} \sum_p F^1_{iap} F^2_{ibp}

    with :math:`F^1, F^2` the two maps of one model, the larger average-pooled to the size of the smaller, :math:`i` the
    samples, :math:`a` and :math:`b` the channels of the first and of the second, :math:`p` the places and :math:`HW`
    their number. The two models' sizes may differ; their first maps must have equally many channels, and so must their
    second ones. In the fourth power of the features' unit; zero when the matrices agree. No gradient reaches the
    teacher.

    FSP, Yim et al. 2017, doi:10.1109/CVPR.2017.754, which takes the sum over :math:`a, b`, not the mean. RepDistiller's
    is this one, for square maps. torchdistill's pools by the maximum and sums the lengths of the difference's columns,
    unsquared.

    >>> import torch
    >>> first, second = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    >>> flow_of_solution([first, second], [2 * first, second]).item()
    1.0
    """
    if not _are_flows(student_maps, teacher_maps):
        raise LossError(
            "student_maps and teacher_maps must be two maps [B, C, H, W] each, with one B, and one C in the first maps "
            f"and in the second; given {[list(x.shape) for x in student_maps]} and "
            f"{[list(x.shape) for x in teacher_maps]}"
        )
    student = _flow(*(raise_precision(x) for x in student_maps))
    teacher = _flow(*(raise_precision(x.detach()) for x in teacher_maps))
    return (student - teacher).square().mean()


@loss(kind="relational")
def rkd_distance(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    *,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Keep the teacher's distances between samples, up to scale.

    .. math:: \operatorname{mean}_{i \ne j} h\!\left( \frac{\lVert s_i - s_j \rVert}{\mu_S}
              - \frac{\lVert t_i - t_j \rVert}{\mu_T} \right), \qquad
              \mu_X = \operatorname{mean}_{i \ne j} \lVert x_i - x_j \rVert

    with :math:`s, t` the rows, :math:`i, j` over the batch of all ranks of ``group`` and :math:`h` the smooth L1,
    :math:`x^2 / 2` up to 1 and :math:`|x| - 1/2` beyond. Without unit; zero when distances agree up to one factor, and
    for fewer than two samples. Gradient goes through :math:`\mu_S` too, none to the teacher. Two equal rows have
    distance 0 and pull on neither; where all rows are equal, all distances stay 0. Widths may differ.

    RKD-D, Park et al. 2019, arXiv:1904.05068. Its code and RepDistiller's divide by :math:`B^2`, the diagonal's zeros
    counted in: this is theirs times :math:`B / (B - 1)`; their weight is 25. They take distances off inner products,
    which cancel where rows lie close together and far from 0; these are taken off the differences themselves.

    >>> import torch
    >>> teacher = torch.tensor([[0.0], [1.0], [3.0]])
    >>> rkd_distance(5 * teacher + 2, teacher).item()
    0.0
    >>> round(rkd_distance(torch.eye(3), teacher).item(), 4)  # distances 1, 1, 1 for 1/2, 1, 3/2
    0.0833
    """
    check_rows(student, teacher)
    s = _relative_distances(raise_precision(student), group)
    t = _relative_distances(raise_precision(teacher.detach()), group)
    own, everyone = s.shape
    return mean_over_ranks(smooth_l1(s, t).sum() / max(own * (everyone - 1), 1), group)


@loss(kind="relational")
def rkd_angle(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    *,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Keep the teacher's angles in the triangles that samples make.

    .. math:: \operatorname{mean}_{i \ne j \ne k \ne i} h\!\left( \cos \angle s_j s_i s_k
              - \cos \angle t_j t_i t_k \right), \qquad
              \cos \angle x_j x_i x_k = \cos(x_j - x_i, x_k - x_i)

    with :math:`s, t` the rows, :math:`i, j, k` over triplets of distinct samples in the batch of all ranks of ``group``
    and :math:`h` the smooth L1, :math:`x^2 / 2` up to 1 and :math:`|x| - 1/2` beyond. Without unit; zero when rows
    agree up to shift, scale and rotation, and for fewer than three samples. Two equal rows have no direction between
    them: cosines with it are taken as 0, without gradient. No gradient reaches the teacher. Widths may differ.
    Takes :math:`B^3` cosines and :math:`B^2 D` differences, shared out among ranks.

    RKD-A, Park et al. 2019, arXiv:1904.05068. Its code and RepDistiller's divide by :math:`B^3`, triplets that repeat a
    sample counted in: this is theirs times :math:`B^2 / ((B - 1)(B - 2))`; their weight is 50.

    >>> import torch
    >>> triangle = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    >>> round(rkd_angle(triangle.flip(1) * 7 + 1, triangle).item(), 4)
    0.0
    >>> round(rkd_angle(torch.tensor([[0.0], [3.0], [4.0]]), triangle).item(), 4)  # cosines 1, −1, 1 for 0, 3/5, 4/5
    0.54
    """
    check_rows(student, teacher)
    s = _cosines_of_angles(raise_precision(student), group)
    t = _cosines_of_angles(raise_precision(teacher.detach()), group)
    own, everyone, _ = s.shape
    return mean_over_ranks(smooth_l1(s, t).sum() / max(own * (everyone - 1) * (everyone - 2), 1), group)


@loss(kind="relational")
def similarity_preserving(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    *,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Let samples excite the student alike where they excite the teacher alike.

    .. math:: \frac{1}{B^2} \lVert G^S - G^T \rVert_F^2, \qquad
              G_{i} = \frac{(X X^\top)_{i}}{\lVert (X X^\top)_{i} \rVert}

    with :math:`X` the rows of one model, :math:`G_i` the row of sample :math:`i`, :math:`B` the batch of all ranks of
    ``group``. Rows are not normalised before their products, so long ones count for more. Without unit; zero when the
    products of rows agree up to a factor for each sample. Products with a row of zeros are 0, and so is its own row of
    :math:`G`; it gets no gradient. No gradient reaches the teacher. Widths may differ.

    SP, Tung & Mori 2019, arXiv:1907.09682, weight 3000 there, and on whole maps: flatten them first. RepDistiller
    agrees; torchdistill normalises by the sum of absolute values instead of the length.

    >>> import torch
    >>> similarity_preserving(torch.eye(2), 3 * torch.eye(2)).item()
    0.0
    >>> round(similarity_preserving(torch.ones(2, 1), torch.eye(2)).item(), 4)  # 1 − 1/√2
    0.2929
    """
    check_rows(student, teacher)
    s, t = (_similarities(raise_precision(rows), group) for rows in (student, teacher.detach()))
    return mean_over_ranks((s - t).square().mean(), group)


@loss(kind="relational")
def probabilistic_knowledge_transfer(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    *,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Give each sample the neighbours that it has for the teacher, as likely as there.

    .. math:: \operatorname{mean}_i \sum_{j \ne i} p^T_{ij} (\log p^T_{ij} - \log p^S_{ij}), \qquad
              p_{ij} = \frac{K_{ij}}{\sum_{k \ne i} K_{ik}}, \quad K_{ij} = \tfrac12 (1 + \cos(x_i, x_j))

    with :math:`x` the rows of one model and :math:`i, j, k` over the batch of all ranks of ``group``. No temperature.
    In nats; zero when the kernels :math:`K` agree up to a factor for each sample, and for fewer than three samples. The
    cosine with a row of zeros is taken as 0, without gradient; kernels are at least 1e-7, so that a student with two
    opposite rows pays a finite price. No gradient reaches the teacher. Widths may differ.

    PKT, Passalis & Tefas 2018, arXiv:1803.10837. Its code, RepDistiller's and torchdistill's count each sample among
    its own neighbours, and take the mean over :math:`B^2` entries: a weight here is about theirs divided by :math:`B`.

    >>> import torch
    >>> probabilistic_knowledge_transfer(torch.eye(3), 5 * torch.eye(3)).item()
    0.0
    >>> far = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(probabilistic_knowledge_transfer(torch.eye(3), far).item(), 4)  # ⅔ · KL((⅔, ⅓) ‖ (½, ½))
    0.0378
    """
    check_rows(student, teacher)
    s, t = (_log_neighbours(unit_rows(rows), group) for rows in (student, teacher.detach()))
    return mean_over_ranks(relative_entropy(t, s).mean(), group)


@loss(kind="relational")
def contrastive_representation(
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    *,
    temperature: Positive = 0.07,
    bank: Float[Tensor, "bank dim"] | None = None,
    symmetric: bool = True,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Find each sample's teacher embedding by its student embedding, among those of other samples; and back.

    .. math:: \tfrac12 \operatorname{mean}_i \left[ -\log\operatorname{softmax}_j(\cos(s_i, t_j) / \tau)_i
              - \log\operatorname{softmax}_j(\cos(t_i, s_j) / \tau)_i \right]

    with :math:`s, t` the rows, :math:`i` and :math:`j` over the batch of all ranks of ``group`` and :math:`\tau` the
    ``temperature``, which divides. In the first direction :math:`j` runs over the rows of ``bank`` as well: the
    teacher's embeddings of earlier samples, more to be told apart. A row of zeros in it, as a bank has before it is
    full, is none. Without ``symmetric``, the first direction alone, not halved. In nats; ln B for rows that tell
    nothing (without a bank), and above zero also where student equals teacher: the teacher's own rows are not
    perfectly distinct. No gradient reaches the teacher or the bank; widths must be equal.

    In the spirit of CRD, Tian et al. 2020, arXiv:1910.10699, which is another loss: a sum of binary decisions, sample
    from noise, over thousands of stored negatives, with a normaliser that is fixed after the first batch, and weight
    0.8. This one is InfoNCE, van den Oord et al. 2018, arXiv:1807.03748, with a bank as in MoCo, He et al. 2020,
    arXiv:1911.05722. Ranks may hold one bank or each its own. A bank that holds this very batch would call each
    sample's own partner wrong: use it, then fill it.

    >>> import torch
    >>> rows = torch.eye(2)
    >>> round(contrastive_representation(rows, rows, temperature=1.0).item(), 4)  # ln(1 + 1/e)
    0.3133
    >>> bank = torch.tensor([[-1.0, 0.0], [0.0, 0.0]])
    >>> more = contrastive_representation(rows, rows, temperature=1.0, bank=bank, symmetric=False)
    >>> round(more.item(), 4)  # half of ln(1 + 1/e + 1/e²) + ln(1 + 2/e)
    0.4795
    """
    check_rows(student, teacher)
    check_positive("temperature", temperature)
    bank = teacher[:0] if bank is None else bank
    if student.shape[1] != teacher.shape[1] or bank.ndim != 2 or bank.shape[1] != teacher.shape[1]:
        raise LossError(
            "student, teacher and bank must be equally wide: [B, D], [B, D] and [K, D]; "
            f"given {list(student.shape)}, {list(teacher.shape)} and {list(bank.shape)}"
        )
    s, t = (unit_rows(rows) for rows in (student, teacher.detach()))
    past = directions(bank.detach().to(t.dtype))  # what is stored does not say how precisely to compute
    stored = products(s, past).masked_fill((past == 0).all(-1), float("-inf"))
    ways = [torch.cat([products(s, gather_rows(t, group)), stored], dim=1)]
    if symmetric:
        ways.append(products(t, gather_rows(s, group)))
    partner = torch.arange(len(s), device=s.device) + first_row(len(s), group)
    each = [functional.cross_entropy(cosine / temperature, partner) for cosine in ways]
    return mean_over_ranks(torch.stack(each).mean(), group)


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """Products of two maps' channels, averaged over places: ``[B, C, H, W]``, ``[B, E, H, W]`` → ``[B, C, E]``."""
    height, width = (min(first.shape[axis], second.shape[axis]) for axis in (2, 3))
    a, b = (pool_to(x, (height, width)).flatten(2) for x in (first, second))
    return products(a, b) / (height * width)


def _relative_distances(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    """Distances of this rank's rows to those of all ranks, divided by the mean over every two distinct ones."""
    # Off the differences, not off products: exactly 0 at equal rows, where its gradient is 0 too.
    distances = torch.cdist(rows, gather_rows(rows, group), compute_mode="donot_use_mm_for_euclid_dist")
    own, everyone = distances.shape
    mean = gather_rows(distances.sum().reshape(1) / max(own * (everyone - 1), 1), group).mean()
    return distances / torch.where(mean != 0, mean, 1)


def _cosines_of_angles(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    """Of the angles at this rank's rows i between rows j and k of all ranks; 0 where two of the three are one."""
    towards = directions(gather_rows(rows, group) - rows.unsqueeze(1))  # j − i: zeros at itself
    same = torch.eye(towards.shape[1], dtype=torch.bool, device=rows.device)
    return products(towards, towards).masked_fill(same, 0)


def _similarities(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    return directions(products(rows, gather_rows(rows, group)))


def _log_neighbours(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    """Log-probability, by directions, of each of all ranks' samples as a neighbour of this rank's; −inf at itself."""
    kernel = (1 + products(rows, gather_rows(rows, group))) / 2
    own, everyone = (torch.arange(num, device=rows.device) for num in kernel.shape)
    others = own.unsqueeze(1) + first_row(len(rows), group) != everyone
    return log_softmax_over(kernel.clamp(min=LEAST_KERNEL).log(), others)


def _are_maps(*maps: Tensor) -> bool:
    """Whether all are maps of the same samples."""
    return all(x.ndim == 4 and len(x) == len(maps[0]) and 0 not in x.shape for x in maps)


def _are_flows(*models: Sequence[Tensor]) -> bool:
    """Whether each model gives two maps, alike in channels across models."""
    if any(len(maps) != 2 for maps in models) or not _are_maps(*(x for maps in models for x in maps)):
        return False
    return all(len({x.shape[1] for x in stage}) == 1 for stage in zip(*models, strict=True))
