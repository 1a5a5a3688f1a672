"""Losses on graphs: samples, layers or embeddings are nodes, and what the student copies is how they are connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributed import ProcessGroup

from xmodal.errors import LossError
from xmodal.losses.checks import (
    NotNegative,
    NotNegativeInt,
    Positive,
    PositiveInt,
    check_count,
    check_not_negative,
    check_positive,
    check_rows,
    check_same_shape,
)
from xmodal.losses.distributed import first_row, gather_rows, mean_over_ranks, num_ranks
from xmodal.losses.numerics import (
    cosine_distance,
    keep_valid,
    log_softmax_over,
    masked_mean,
    products,
    raise_precision,
    relative_entropy,
    unit_rows,
)
from xmodal.losses.registration import loss


@loss(kind="relational")
def instance_graph(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    *,
    node_weight: NotNegative = 0.0,
    edge_weight: NotNegative = 1.0,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Lay the student's samples out as the teacher's are: each pair as far apart, beside the farthest pair.

    .. math:: w_E \operatorname{mean}_{i \ne j} (E^S_{ij} - E^T_{ij})^2
              + w_N \operatorname{mean}_{i,d} (x^S_{id} - x^T_{id})^2, \qquad
              E_{ij} = \frac{\lVert x_i - x_j \rVert^2}{\max_{kl} \lVert x_k - x_l \rVert^2}

    with :math:`x` the rows of student :math:`S` and teacher :math:`T`, :math:`i, j` over the batch of all ranks of
    ``group``, :math:`E` the edges, :math:`w_E` the ``edge_weight`` and :math:`w_N` the ``node_weight``. Zero where the
    layouts agree, up to scale, shift and turn (with a node term: where the rows agree). The largest distance is taken
    as a constant: no gradient flows through it. Where all rows of a side are alike its edges are 0. Widths may differ
    unless nodes weigh something. No gradient reaches the teacher.

    IRG, Liu et al. 2019, doi:10.1109/CVPR.2019.00726. Its released settings have no node term, and it has an edge term
    across layers, for which see :func:`layer_graph`.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [2.0], [2.0]])
    >>> round(instance_graph(student, teacher).item(), 4)  # edges 1/4, 1/4, 1 against 1, 0, 1
    0.2083
    """
    check_rows(student, teacher)
    check_not_negative("node_weight", node_weight)
    check_not_negative("edge_weight", edge_weight)
    if node_weight:
        check_same_shape(student, teacher)
    s, t = (gather_rows(raise_precision(rows), group) for rows in (student, teacher.detach()))
    squares = (_edges(s) - _edges(t)).square()
    value = edge_weight * masked_mean(squares, ~_self_of(s, None))
    return value + node_weight * (s - t).square().mean() if node_weight else value


@loss(kind="relational")
def layer_graph(
    student_layers: Sequence[Float[Tensor, "batch ..."]],
    teacher_layers: Sequence[Float[Tensor, "batch ..."]],
    *,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Change each sample from layer to layer as much as the teacher does.

    .. math:: \operatorname{mean}_{i,l}\, (e^S_{il} - e^T_{il})^2, \qquad
              e_{il} = 1 - \cos(h_{il}, h_{i,l+1}) \quad\text{or}\quad 1 - \cos(r_{il}, r_{i,l+1}), \qquad
              r_{il} = \left( \cos(h_{il}, h_{jl}) \right)_{j \ne i}

    with :math:`h_{il}` what the :math:`l`-th chosen layer says of sample :math:`i` (tokens ``[B, L, D]`` averaged over
    :math:`L`, maps ``[B, C, H, W]`` over :math:`H` and :math:`W`), :math:`e` the edge to the next chosen layer and
    :math:`S, T` student and teacher. Where a model's two layers are equally wide, the edge is that of the layers
    themselves. Where not, it is that of their similarity rows :math:`r`: the cosines to the batch's other samples
    :math:`j`, of all ranks of ``group``. Each model and each pair of consecutive layers decides for itself. An edge
    without another sample in the batch is left out.

    Zero where every edge is as long as the teacher's; this asks nothing of where a layer points. Both sides choose
    equally many layers, at least two. No gradient reaches the teacher. Averages over tokens include padding.

    Our own statement. The transformation edge of IRG, Liu et al. 2019, doi:10.1109/CVPR.2019.00726, compares two layers
    by their distance and so needs equal widths; this does not.

    >>> import torch
    >>> first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> layer_graph([first, first], [first, second]).item()  # edges 0 and 1
    1.0
    """
    _check_layers(student_layers, teacher_layers)
    student = [_pooled(layer) for layer in student_layers]
    teacher = [_pooled(layer.detach()) for layer in teacher_layers]
    pairs = list(zip(student, student[1:], teacher, teacher[1:], strict=False))
    alone = len(student[0]) * num_ranks(group) == 1
    counted = [not alone or (_as_wide(s, s_next) and _as_wide(t, t_next)) for s, s_next, t, t_next in pairs]
    differences = [
        # times 0 and not left away: every layer stays part of the backward pass
        (_layer_edge(s, s_next, group) - _layer_edge(t, t_next, group)) * counts
        for (s, s_next, t, t_next), counts in zip(pairs, counted, strict=True)
    ]
    value = torch.stack(differences).square().mean(1).sum() / max(sum(counted), 1)
    return mean_over_ranks(value, group)


@loss(kind="relational")
def neighbour_graph(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    *,
    num_neighbours: PositiveInt = 8,
    temperature: Positive = 0.1,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Keep near each sample those that are its nearest for the teacher, and all others away.

    .. math:: \operatorname{mean}_i \operatorname{KL}\!\left(
              \operatorname{softmax}_{j \in N_i} \frac{\cos(x^T_i, x^T_j)}{\tau} \,\middle\|\,
              \operatorname{softmax}_{j \ne i} \frac{\cos(x^S_i, x^S_j)}{\tau} \right)

    with :math:`x` the rows of student :math:`S` and teacher :math:`T`, :math:`i, j` over the batch of all ranks of
    ``group``, :math:`N_i` the ``num_neighbours`` rows, other than :math:`i`, of the largest cosine to :math:`i` for the
    teacher (all others, where the batch has fewer) and :math:`\tau` the ``temperature``, which divides both sides; no
    :math:`\tau^2` multiplies. Of equal cosines the earlier row of the batch is the nearer. In nats. With all others as
    neighbours it is zero where the cosines agree. With fewer it is not: the target is zero beyond the neighbours, so a
    student that equals its teacher still pays for the probability that it has there. Widths may differ. No gradient
    reaches the teacher.

    Local structure preserving, Yang et al. 2020, arXiv:2003.10477, on a graph that the teacher's embeddings make. There
    the graph is given, and both sides are normalised over its neighbours.

    >>> import torch
    >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> neighbour_graph(rows, rows).item()  # fewer than eight others: zero at equality
    0.0
    >>> round(neighbour_graph(torch.zeros(4, 1), rows, num_neighbours=1).item(), 4)  # ln 3
    1.0986
    """
    check_rows(student, teacher)
    check_count("num_neighbours", num_neighbours)
    check_positive("temperature", temperature)
    to_all, own = _cosines(student, group), _self_of(student, group)
    with torch.no_grad():
        teacher_to_all = _cosines(teacher, group)
        nearest = _nearest(teacher_to_all, own, num_neighbours)
        target = log_softmax_over(teacher_to_all / temperature, nearest)
    per_row = relative_entropy(target, log_softmax_over(to_all / temperature, ~own))
    return mean_over_ranks(masked_mean(per_row, (~own).any(-1)), group)


@loss(kind="relational")
def graph_propagation(
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    *,
    num_hops: NotNegativeInt = 2,
    num_neighbours: PositiveInt = 8,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Turn what a sample's neighbourhood says, for the student, to what it says for the teacher.

    .. math:: \operatorname{mean}_i\, (1 - \cos(Z^S_i, Z^T_i)), \qquad Z = \hat A^h X, \qquad
              \hat A = D^{-1/2} A D^{-1/2}, \qquad
              A_{ij} = \max(\cos(x^T_i, x^T_j), 0) \text{ on edges}, \; 1 \text{ at } i = j, \; 0 \text{ elsewhere}

    with :math:`X` the rows :math:`x` of the batch of all ranks of ``group``, of student :math:`S` or teacher :math:`T`,
    :math:`h` the ``num_hops`` and :math:`D` the diagonal of the row sums of :math:`A`. The teacher's graph serves both
    sides: :math:`ij` is an edge where :math:`j` is one of the ``num_neighbours`` rows nearest to :math:`i` by the
    teacher's cosine, or :math:`i` one of those nearest to :math:`j`. Of equal cosines the earlier row of the batch is
    the nearer. Zero where every neighbourhood points where the teacher's does: errors that neighbours even out cost
    nothing. 0 hops are ``feature_cosine``, and so is a batch of one. No gradient reaches the teacher.

    Our own statement of message passing between samples: :math:`\hat A` is that of Kipf and Welling 2017,
    arXiv:1609.02907, and its power without weights between the hops that of SGC, Wu et al. 2019, arXiv:1902.07153.

    >>> import torch
    >>> teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> student = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # each off by 45 degrees, together right
    >>> [round(graph_propagation(student, teacher, num_hops=hops).item(), 4) for hops in (0, 1)]
    [0.2929, 0.0]
    """
    check_rows(student, teacher)
    check_same_shape(student, teacher)
    check_count("num_hops", num_hops, least=0)
    check_count("num_neighbours", num_neighbours)
    s, t = (gather_rows(raise_precision(rows), group) for rows in (student, teacher.detach()))
    graph = _propagation(t, num_neighbours)
    for _ in range(num_hops):
        s, t = products(graph, s.mT), products(graph, t.mT)
    return cosine_distance(s, t).mean()


@loss(kind="relational")
def multimodal_graph(
    student: Mapping[str, Float[Tensor, "batch student_dim"]],
    teacher: Mapping[str, Float[Tensor, "batch teacher_dim"]],
    *,
    temperature: Positive = 0.1,
    presence: Mapping[str, Bool[Tensor, " batch"]] | None = None,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    r"""Relate every embedding of every modality to all others as the teacher does, within and across modalities.

    .. math:: \operatorname{mean}_n \operatorname{KL}\!\left(
              \operatorname{softmax}_{m \ne n} \frac{\cos(x^T_n, x^T_m)}{\tau} \,\middle\|\,
              \operatorname{softmax}_{m \ne n} \frac{\cos(x^S_n, x^S_m)}{\tau} \right)

    with :math:`x` the embeddings of student :math:`S` and teacher :math:`T`, :math:`n, m` over the nodes, which are all
    present embeddings of all modalities and of the batch of all ranks of ``group``, and :math:`\tau` the
    ``temperature``, which divides both sides; no :math:`\tau^2` multiplies. In nats; zero where the cosines agree. A
    node without another one counts nothing. No gradient reaches the teacher.

    Both sides map the same modalities to rows. All modalities of one model share its width; the two models need not
    share one. ``presence`` says per modality which samples have it; a modality that it does not name is always there.
    An absent embedding is no node: it is neither compared nor compared with, whatever it holds.

    Our own statement. With image and text, the edges across are the affinities of TinyCLIP, Wu et al. 2023,
    arXiv:2309.12314 (:func:`soft_contrastive`); here those within a modality share their softmax.

    >>> import torch
    >>> teacher = {"image": torch.eye(2), "text": torch.eye(2)}
    >>> multimodal_graph(teacher, teacher).item()
    0.0
    >>> student = {"image": torch.zeros(2, 1), "text": torch.zeros(2, 1)}
    >>> round(multimodal_graph(student, teacher, temperature=1.0).item(), 4)  # ln 3 − the teacher's entropy
    0.1233
    """
    check_positive("temperature", temperature)
    names = _check_modalities(student, teacher, presence)
    there = _presence(student, presence, names)
    nodes = _nodes(student, names, there)
    present, everywhere = there.flatten(), gather_rows(there, group).flatten()
    others = everywhere & ~_self_of(nodes, group)
    with torch.no_grad():
        target = log_softmax_over(_cosines(_nodes(teacher, names, there), group) / temperature, others)
    per_node = relative_entropy(target, log_softmax_over(_cosines(nodes, group) / temperature, others))
    num_nodes = everywhere.sum()
    total = torch.where(present & (num_nodes > 1), per_node, 0).sum()
    # ranks may hold unlike numbers of nodes: their sums over the number of all, not a mean of means
    return mean_over_ranks(num_ranks(group) * total / num_nodes.clamp(min=1), group)


def _edges(rows: Tensor) -> Tensor:
    """Squared distances of every two rows over the largest, which is a constant: ``[B, D]`` → ``[B, B]``."""
    # From the first row, which shifts nothing in between: rows that are all alike are then exactly 0 apart.
    x = rows - rows[:1].detach()
    lengths = x.square().sum(-1)
    squared = lengths[:, None] + lengths - 2 * products(x, x)
    largest = squared.detach().max()
    return squared / torch.where(largest >= torch.finfo(largest.dtype).tiny, largest, 1)


def _pooled(layer: Tensor) -> Tensor:
    """One row a sample."""
    x = raise_precision(layer)
    return x if x.ndim == 2 else x.mean(1) if x.ndim == 3 else x.mean((2, 3))


def _layer_edge(layer: Tensor, following: Tensor, group: ProcessGroup | None) -> Tensor:
    """1 − cos of two layers, or of their similarity rows where widths differ; one a sample."""
    if _as_wide(layer, following):
        return cosine_distance(layer, following)
    own = _self_of(layer, group)
    rows, following_rows = (_cosines(x, group).masked_fill(own, 0) for x in (layer, following))
    return cosine_distance(rows, following_rows)


def _as_wide(layer: Tensor, following: Tensor) -> bool:
    return layer.shape[-1] == following.shape[-1]


def _cosines(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    """Of this rank's rows with those of all ranks: ``[B, D]`` → ``[B, ranks · B]``."""
    x = unit_rows(rows)
    return products(x, gather_rows(x, group))


def _self_of(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    """Where a row of this rank meets itself among those of all ranks: ``[B, ranks · B]``."""
    everywhere = torch.arange(len(rows) * num_ranks(group), device=rows.device)
    first = first_row(len(rows), group)
    return everywhere[first : first + len(rows), None] == everywhere


def _nearest(similarities: Tensor, own: Tensor, num_neighbours: int) -> Tensor:
    """Whether a column is one of a row's nearest, itself excluded. The sort is stable: ties go by column."""
    num = min(num_neighbours, similarities.shape[-1] - 1)
    order = similarities.masked_fill(own, float("-inf")).argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(own).scatter(-1, order[:, :num], True)


def _propagation(rows: Tensor, num_neighbours: int) -> Tensor:
    """The normalised adjacency of the rows' graph: ``[B, D]`` → ``[B, B]``."""
    similarities, own = _cosines(rows, None), _self_of(rows, None)
    edges = torch.where(_nearest(similarities, own, num_neighbours), similarities.clamp(min=0), 0)
    adjacency = torch.where(own, 1, torch.maximum(edges, edges.mT))
    scale = adjacency.sum(-1).rsqrt()
    return scale[:, None] * adjacency * scale


def _presence(student: Mapping[str, Tensor], presence: Mapping[str, Tensor] | None, names: list[str]) -> Tensor:
    """Which sample has which modality: ``[B, modalities]``."""
    given = presence or {}
    always = student[names[0]].new_ones(len(student[names[0]]), dtype=torch.bool)
    return torch.stack([given.get(name, always) for name in names], 1)


def _nodes(embeddings: Mapping[str, Tensor], names: list[str], there: Tensor) -> Tensor:
    """All embeddings of all modalities, zeros where there is none: ``[B · modalities, D]``."""
    rows = torch.stack([raise_precision(embeddings[name]) for name in names], 1)
    return keep_valid(rows, there).flatten(0, 1)


def _check_layers(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    if len(student) != len(teacher) or len(student) < 2:
        raise LossError(
            "student_layers and teacher_layers must be equally many, at least two; "
            f"given {len(student)} and {len(teacher)}"
        )
    shapes = [list(layer.shape) for layer in (*student, *teacher)]
    if not all(2 <= len(shape) <= 4 and shape[0] == shapes[0][0] > 0 for shape in shapes):
        raise LossError(
            "every layer must be [B, D], [B, L, D] or [B, C, H, W] of the same samples; given "
            f"{', '.join(map(str, shapes[: len(student)]))} of the student and "
            f"{', '.join(map(str, shapes[len(student) :]))} of the teacher"
        )


def _check_modalities(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], presence: Mapping[str, Tensor] | None
) -> list[str]:
    """The modalities, in an order that every rank has."""
    names = sorted(student)
    if not names or names != sorted(teacher):
        raise LossError(
            "student and teacher must have the same modalities, at least one; "
            f"given {_listed(student)} and {_listed(teacher)}"
        )
    for side, embeddings in (("student", student), ("teacher", teacher)):
        shapes = {name: list(embeddings[name].shape) for name in names}
        wanted = [len(student[names[0]]), embeddings[names[0]].shape[-1]]
        if any(shape != wanted for shape in shapes.values()) or wanted[0] == 0:
            said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise LossError(f"{side}'s modalities must all be [B, D], of one B and D: {wanted}; given {said}")
    for name, mask in (presence or {}).items():
        if name not in names:
            raise LossError(f"presence names {name!r}, which is no modality here; there are {_listed(student)}")
        if mask.dtype != torch.bool or mask.shape != student[name].shape[:1]:
            raise LossError(
                f"presence of {name}: a mask must be boolean, one entry a sample: {[len(student[name])]}; "
                f"given {mask.dtype} {list(mask.shape)}"
            )
    return names


def _listed(names: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted(names)) or "none"
