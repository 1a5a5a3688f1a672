"""Losses on what a model sees: features of matching items, row by row."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.losses.checks import Fraction, Positive, check_fraction, check_positive, check_same_shape
from xmodal.losses.numerics import cosine_distance, directions, keep_valid, masked_mean, raise_precision, smooth_l1
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


@loss(kind="per_item")
def feature_smooth_l1(
    student: Float[Tensor, "*items dim"],
    teacher: Float[Tensor, "*items dim"],
    *,
    beta: Positive = 1.0,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Pull each of the student's features to the teacher's, with a bounded pull on entries that are far off.

    .. math:: \operatorname{mean}_i \tfrac1D \sum_d h(s_{id} - t_{id}), \qquad
              h(x) = \begin{cases} x^2 / 2\beta & |x| < \beta \\ |x| - \beta/2 & \text{otherwise} \end{cases}

    with :math:`s, t` the features, :math:`D` their width, :math:`i` the valid items and :math:`\beta` the difference
    from which on the pull grows no more. Below it the loss is ``feature_mse`` divided by :math:`2\beta`. In the
    features' own unit; zero when the features agree. No gradient reaches the teacher.

    Smooth L1, Girshick 2015, arXiv:1504.08083; on a teacher's features in data2vec, Baevski et al. 2022,
    arXiv:2202.03555, whose targets are normalised first: :math:`\beta` is a length, so it means something only on
    features of known size. ``torch.nn.functional.smooth_l1_loss`` is the same, without masks.

    >>> import torch
    >>> feature_smooth_l1(torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 1.0]])).item()  # (1/2 + 5/2) / 2
    1.5
    >>> feature_smooth_l1(torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 1.0]]), beta=2.0).item()  # (1/4 + 2) / 2
    1.125
    """
    check_same_shape(student, teacher)
    check_positive("beta", beta)
    s = raise_precision(keep_valid(student, mask))
    t = raise_precision(keep_valid(teacher.detach(), mask))
    return masked_mean(smooth_l1(s, t, beta).mean(-1), mask)


@loss(kind="per_item")
def feature_cosine_smooth_l1(
    student: Float[Tensor, "*items dim"],
    teacher: Float[Tensor, "*items dim"],
    *,
    alpha: Fraction = 0.9,
    beta: Positive = 1.0,
    mask: Bool[Tensor, "*items"] | None = None,
) -> Float[Tensor, ""]:
    r"""Turn each of the student's features to the teacher's, and pull it gently to the teacher's length.

    .. math:: \operatorname{mean}_i \left[ \alpha (1 - \cos(s_i, t_i))
              + (1 - \alpha) \tfrac1D \sum_d h(s_{id} - t_{id}) \right]

    with :math:`s, t` the features, :math:`D` their width, :math:`i` the valid items, :math:`\alpha` the cosine's share
    and :math:`h` the smooth L1 of ``feature_smooth_l1``, quadratic up to :math:`\beta`. Zero when the features agree.
    The cosine with a row of zeros is taken as 0, without gradient. No gradient reaches the teacher.

    Theia, Shang et al. 2024, arXiv:2407.20179, takes 0.9 of the cosine and 0.1 of the smooth L1; UNIC, Sariyildiz et
    al. 2024, arXiv:2408.05088, half of each. Both standardise the teacher's features beforehand (UNIC by moving
    averages), which is a projection's work here, and take the mean over several teachers (UNIC: over those it keeps),
    which is the objective's.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    >>> round(feature_cosine_smooth_l1(student, teacher).item(), 4)  # 0.9 · 1 + 0.1 · 1/2
    0.95
    """
    check_same_shape(student, teacher)
    check_fraction("alpha", alpha)
    check_positive("beta", beta)
    s = raise_precision(keep_valid(student, mask))
    t = raise_precision(keep_valid(teacher.detach(), mask))
    per_item = alpha * cosine_distance(s, t) + (1 - alpha) * smooth_l1(s, t, beta).mean(-1)
    return masked_mean(per_item, mask)
