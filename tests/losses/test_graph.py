"""Losses on graphs against scipy's distances, scikit-learn's neighbours, networkx's Laplacian, and plain loops."""

from __future__ import annotations

import math
from itertools import pairwise

import networkx
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cosine, pdist
from sklearn.neighbors import kneighbors_graph
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.graph import (
    graph_propagation,
    instance_graph,
    layer_graph,
    multimodal_graph,
    neighbour_graph,
)


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def assert_agree(ours, theirs, *inputs):
    """Values and gradients."""
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    gradients = (torch.autograd.grad(value, inputs, retain_graph=True) for value in (ours, theirs))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-13)


def arrays(*tensors):
    return [x.detach().numpy() for x in tensors]


# --- instance_graph


@pytest.mark.parametrize("shapes", [((7, 4), (7, 4)), ((5, 2), (5, 9)), ((2, 3), (2, 1))])
def test_instance_graph_compares_scipys_squared_distances_over_the_largest(shapes):
    student, teacher = (rows(*shape, seed=seed) for seed, shape in enumerate(shapes))
    edges = [pdist(x, "sqeuclidean") for x in arrays(student, teacher)]
    wanted = np.square(edges[0] / edges[0].max() - edges[1] / edges[1].max()).mean()
    assert instance_graph(student, teacher).item() == pytest.approx(wanted, rel=1e-10, abs=1e-14)


def test_gradient_of_instance_graph_takes_the_largest_distance_as_a_constant():
    student, teacher = rows(6, 4), rows(6, 3, seed=1)
    edges = [torch.pdist(x).square() for x in (student, teacher.detach())]
    theirs = functional.mse_loss(*(e / e.max().detach() for e in edges))
    assert_agree(instance_graph(student, teacher), theirs, student)


def test_nodes_and_edges_are_weighed():
    student, teacher = rows(6, 4), rows(6, 4, seed=1)
    nodes = functional.mse_loss(student, teacher.detach())
    theirs = 3 * nodes + 0.5 * instance_graph(student, teacher)
    assert_agree(instance_graph(student, teacher, node_weight=3.0, edge_weight=0.5), theirs, student)
    assert_agree(instance_graph(student, teacher, node_weight=1.0, edge_weight=0.0), nodes, student)


def test_scale_shift_and_turn_change_no_layout():
    student, teacher = rows(6, 4), rows(6, 3, seed=1)
    turn, _ = torch.linalg.qr(rows(4, 4, seed=2))
    moved = 5 * student @ turn + rows(4, seed=3)
    torch.testing.assert_close(instance_graph(moved, teacher), instance_graph(student, teacher), rtol=1e-10, atol=0)


def test_distances_far_from_the_origin_keep_their_digits():
    student, teacher = rows(32, 8).float(), rows(32, 8, seed=1).float()
    far = student + 1000  # the rounding of these sums is in both values below
    wanted = instance_graph(far.double(), teacher.double())
    assert instance_graph(far, teacher).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_are_all_alike_have_edges_of_zero(value, dtype):
    student = torch.full((5, 7), value, dtype=dtype, requires_grad=True)
    teacher = rows(5, 3).to(dtype)
    edges = pdist(teacher.detach().double().numpy(), "sqeuclidean")
    ours = instance_graph(student, teacher)
    assert ours.item() == pytest.approx(np.square(edges / edges.max()).mean(), rel=1e-5)
    assert (torch.autograd.grad(ours, student)[0] == 0).all()


def test_widths_must_agree_only_where_nodes_weigh_something(unchecked):
    with pytest.raises(LossError, match=r"one shape; given \[4, 2\] and \[4, 3\]"):
        unchecked(instance_graph)(torch.zeros(4, 2), torch.zeros(4, 3), node_weight=1.0)


@pytest.mark.parametrize("name", ["node_weight", "edge_weight"])
@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weights_below_zero_are_refused(unchecked, name, weight):
    with pytest.raises(LossError, match=f"{name} must be a number of at least 0; given {weight}"):
        unchecked(instance_graph)(torch.zeros(4, 2), torch.zeros(4, 2), **{name: weight})


# --- layer_graph


def layer_edges(layers):
    """By loops and scipy's cosine distance: one an edge and sample."""
    edges = []
    for first, second in pairwise(layers):
        for i in range(len(first)):
            if first.shape[1] == second.shape[1]:
                edges.append(cosine(first[i], second[i]))
            else:
                others = [j for j in range(len(first)) if j != i]
                row, following = ([1 - cosine(x[i], x[j]) for j in others] for x in (first, second))
                edges.append(cosine(row, following))
    return np.array(edges)


@pytest.mark.parametrize(
    ("student_widths", "teacher_widths"),
    [((4, 4), (6, 6)), ((4, 5), (6, 7)), ((4, 4, 3), (5, 8, 8)), ((3, 3, 3, 2), (3, 3, 3, 3))],
)
def test_layer_graph_is_scipys_cosine_distances_of_layers_or_of_their_similarity_rows(student_widths, teacher_widths):
    student = [rows(5, width, seed=seed) for seed, width in enumerate(student_widths)]
    teacher = [rows(5, width, seed=seed + 10) for seed, width in enumerate(teacher_widths)]
    wanted = np.square(layer_edges(arrays(*student)) - layer_edges(arrays(*teacher))).mean()
    assert layer_graph(student, teacher).item() == pytest.approx(wanted, rel=1e-10)


def test_gradient_of_layer_graph_is_that_of_torchs_cosine_similarity():
    student = [rows(5, width, seed=width) for width in (4, 3)]
    teacher = [rows(5, 6, seed=seed) for seed in (10, 11)]
    others = ~torch.eye(5, dtype=torch.bool)
    similar = [functional.cosine_similarity(x[:, None], x[None], dim=-1)[others].reshape(5, 4) for x in student]
    edges = [1 - functional.cosine_similarity(*pair) for pair in (similar, teacher)]
    assert_agree(layer_graph(student, teacher), functional.mse_loss(edges[0], edges[1].detach()), *student)


def test_tokens_and_maps_are_averaged_to_one_row_a_sample():
    tokens, feature_map, flat = rows(4, 7, 5), rows(4, 5, 3, 2, seed=1), rows(4, 5, seed=2)
    teacher = [rows(4, 6, seed=seed) for seed in (10, 11, 12)]
    pooled = [tokens.detach().numpy().mean(1), feature_map.detach().numpy().mean((2, 3)), flat.detach().numpy()]
    wanted = np.square(layer_edges(pooled) - layer_edges(arrays(*teacher))).mean()
    assert layer_graph([tokens, feature_map, flat], teacher).item() == pytest.approx(wanted, rel=1e-10)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_where_layers_point_does_not_matter_to_how_much_they_change(seed, scale):
    student, teacher = ([rows(4, 3, seed=seed + k) for k in ks] for ks in ((0, 1, 2), (3, 4, 5)))
    turn, _ = torch.linalg.qr(rows(3, 3, seed=seed + 6))
    turned = [scale * layer @ turn for layer in student]
    torch.testing.assert_close(layer_graph(turned, teacher), layer_graph(student, teacher), rtol=1e-7, atol=1e-12)


def test_an_edge_that_needs_other_samples_is_left_out_where_there_are_none():
    student = [rows(1, width, seed=seed) for seed, width in enumerate((4, 4, 3))]
    teacher = [rows(1, 5, seed=seed) for seed in (10, 11, 12)]
    ours, first_edge_alone = layer_graph(student, teacher), layer_graph(student[:2], teacher[:2])
    torch.testing.assert_close(ours, first_edge_alone, rtol=1e-12, atol=0)
    assert (torch.autograd.grad(ours, student)[2] == 0).all()


@pytest.mark.parametrize(("num_student", "num_teacher"), [(1, 1), (2, 3), (0, 0)])
def test_layers_must_be_equally_many_and_two(unchecked, num_student, num_teacher):
    layer = torch.zeros(3, 2)
    with pytest.raises(LossError, match=f"at least two; given {num_student} and {num_teacher}"):
        unchecked(layer_graph)([layer] * num_student, [layer] * num_teacher)


@pytest.mark.parametrize("shape", [(4, 2), (3,), (3, 2, 2, 2, 2)])
def test_a_layer_of_other_samples_or_axes_is_refused(unchecked, shape):
    layer = torch.zeros(3, 2)
    with pytest.raises(LossError, match=r"\[B, C, H, W\] of the same samples; given \[3, 2\], \[3, 2\] of the student"):
        unchecked(layer_graph)([layer, layer], [layer, torch.zeros(shape)])


# --- neighbour_graph


@pytest.mark.parametrize("num_neighbours", [1, 3, 6, 100])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_neighbour_graph_is_scipys_kl_over_scikit_learns_neighbours(num_neighbours, temperature):
    student, teacher = rows(7, 4), rows(7, 3, seed=1)
    nearest = kneighbors_graph(
        teacher.detach().numpy(), min(num_neighbours, 6), metric="cosine", include_self=False
    ).toarray()
    wanted = []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        cosines = [np.array([1 - cosine(x[i], x[j]) for j in others]) for x in arrays(teacher, student)]
        logits = np.where(nearest[i, others] > 0, cosines[0] / temperature, -np.inf)
        target, other = scipy.special.softmax(logits), scipy.special.softmax(cosines[1] / temperature)
        wanted.append(scipy.special.rel_entr(target, other).sum())
    ours = neighbour_graph(student, teacher, num_neighbours=num_neighbours, temperature=temperature)
    assert ours.item() == pytest.approx(np.mean(wanted), rel=1e-10)


def test_gradient_of_neighbour_graph_is_that_of_torchs_cross_entropy():
    student, teacher = rows(6, 4), rows(6, 3, seed=1)
    nearest = kneighbors_graph(teacher.detach().numpy(), 2, metric="cosine", include_self=False).toarray() > 0
    logits = [functional.cosine_similarity(x[:, None], x[None], dim=-1) / 0.1 for x in (student, teacher.detach())]
    target = logits[1].masked_fill(~torch.from_numpy(nearest), -torch.inf).softmax(-1)
    own = torch.eye(6, dtype=torch.bool)
    cross_entropy = functional.cross_entropy(logits[0].masked_fill(own, -1e9), target)
    ours = neighbour_graph(student, teacher, num_neighbours=2)
    (mine,), (other,) = (torch.autograd.grad(value, student) for value in (ours, cross_entropy))
    torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-13)


def test_a_student_that_equals_its_teacher_pays_for_what_lies_beyond_the_neighbours():
    teacher = rows(6, 4)
    assert neighbour_graph(teacher, teacher, num_neighbours=5).item() == 0
    cosines = functional.cosine_similarity(teacher[:, None], teacher[None], dim=-1).masked_fill(
        torch.eye(6, dtype=torch.bool), -torch.inf
    )
    nearest = (cosines / 0.1).softmax(-1).amax(-1)
    wanted = -nearest.log().mean()  # one neighbour: its target is certain
    torch.testing.assert_close(neighbour_graph(teacher, teacher, num_neighbours=1), wanted, rtol=1e-10, atol=0)


def test_of_equal_cosines_the_earlier_row_is_the_nearer():
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]).double()
    student = rows(5, 3)
    logits = functional.cosine_similarity(student[:, None], student[None], dim=-1) / 0.1
    log = logits.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf).log_softmax(-1)
    earliest = {0: (1, 2), 1: (2, 3), 2: (1, 3), 3: (1, 2), 4: (1, 2)}
    wanted = [-math.log(2) - log[i, list(two)].mean() for i, two in earliest.items()]
    ours = neighbour_graph(student, teacher, num_neighbours=2)
    torch.testing.assert_close(ours, torch.stack(wanted).mean(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("number", [0, -3, 2.5])
@pytest.mark.parametrize("loss", [neighbour_graph, graph_propagation])
def test_neighbours_are_a_whole_number_above_zero(unchecked, loss, number):
    with pytest.raises(LossError, match=f"num_neighbours must be a whole number of at least 1; given {number}"):
        unchecked(loss)(torch.zeros(4, 2), torch.zeros(4, 2), num_neighbours=number)


# --- graph_propagation


def adjacency(teacher, num_neighbours):
    """By networkx: one minus the normalised Laplacian of scikit-learn's neighbours, both ways, with self-loops."""
    nearest = kneighbors_graph(teacher, num_neighbours, metric="cosine", include_self=False).toarray()
    graph = networkx.Graph()
    for i in range(len(teacher)):
        graph.add_edge(i, i, weight=1.0)
    for i, j in np.argwhere(nearest):
        graph.add_edge(i, j, weight=max(1 - cosine(teacher[i], teacher[j]), 0.0))
    laplacian = networkx.normalized_laplacian_matrix(graph, nodelist=range(len(teacher)))
    return np.eye(len(teacher)) - laplacian.toarray()


@pytest.mark.parametrize("num_hops", [0, 1, 2, 5])
@pytest.mark.parametrize("num_neighbours", [1, 3, 7])
def test_graph_propagation_spreads_by_networkxs_normalised_adjacency(num_hops, num_neighbours):
    student, teacher = rows(8, 4), rows(8, 4, seed=1)
    spread = torch.from_numpy(np.linalg.matrix_power(adjacency(teacher.detach().numpy(), num_neighbours), num_hops))
    theirs = 1 - functional.cosine_similarity(spread @ student, spread @ teacher.detach()).mean()
    ours = graph_propagation(student, teacher, num_hops=num_hops, num_neighbours=num_neighbours)
    assert_agree(ours, theirs, student)


def test_more_neighbours_than_others_are_all_others():
    student, teacher = rows(5, 3), rows(5, 3, seed=1)
    values = [graph_propagation(student, teacher, num_neighbours=number) for number in (4, 8)]
    assert values[0] == values[1]


def test_rows_that_point_away_are_no_neighbours():
    teacher = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]])
    student = rows(3, 2).float()
    ours = graph_propagation(student, teacher, num_hops=1, num_neighbours=2)
    similar = functional.cosine_similarity(teacher[1], teacher[2], dim=0)  # the first row is left to itself
    spread = torch.tensor([[1, 0, 0], [0, 1, similar], [0, similar, 1]])
    wanted = 1 - functional.cosine_similarity(spread @ student, spread @ teacher).mean()
    torch.testing.assert_close(ours, wanted)


def test_a_negative_number_of_hops_is_refused(unchecked):
    with pytest.raises(LossError, match="num_hops must be a whole number of at least 0; given -1"):
        unchecked(graph_propagation)(torch.zeros(3, 2), torch.zeros(3, 2), num_hops=-1)


def test_propagated_rows_must_be_equally_wide(unchecked):
    with pytest.raises(LossError, match=r"one shape; given \[3, 2\] and \[3, 4\]"):
        unchecked(graph_propagation)(torch.zeros(3, 2), torch.zeros(3, 4))


# --- multimodal_graph


def modalities(widths, batch=4, seed=0):
    return {name: rows(batch, width, seed=seed + k) for k, (name, width) in enumerate(widths.items())}


def node_by_node(student, teacher, presence, temperature):
    present = [(name, i) for name in student for i in range(len(student[name])) if presence[name][i]]
    values = []
    for node in present:
        others = [other for other in present if other != node]
        if others:
            logits = [
                np.array([1 - cosine(side[node[0]][node[1]], side[name][i]) for name, i in others]) / temperature
                for side in (teacher, student)
            ]
            values.append(scipy.special.rel_entr(*(scipy.special.softmax(z) for z in logits)).sum())
    return np.mean(values)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("names", [("image",), ("image", "text"), ("text", "audio", "image")])
@pytest.mark.parametrize("some_absent", [False, True])
def test_multimodal_graph_is_scipys_kl_node_by_node(temperature, names, some_absent):
    student, teacher = modalities(dict.fromkeys(names, 3)), modalities(dict.fromkeys(names, 5), seed=10)
    generator = torch.Generator().manual_seed(len(names))
    presence = {name: torch.rand(4, generator=generator) > (0.4 if some_absent else -1) for name in names}
    sides = ({name: x.detach().numpy() for name, x in side.items()} for side in (student, teacher))
    wanted = node_by_node(*sides, {name: mask.numpy() for name, mask in presence.items()}, temperature)
    ours = multimodal_graph(student, teacher, temperature=temperature, presence=presence if some_absent else None)
    assert ours.item() == pytest.approx(wanted, rel=1e-10)


def test_gradient_of_multimodal_graph_is_that_of_torchs_cross_entropy():
    student, teacher = modalities({"image": 3, "text": 3}), modalities({"image": 5, "text": 5}, seed=10)
    here = torch.tensor([0, 1, 3, 4, 5, 6])  # the third image and the last text are absent
    presence = {"image": torch.tensor([True, True, False, True]), "text": torch.tensor([True, True, True, False])}
    nodes = [torch.cat(list(side.values()))[here] for side in (student, teacher)]
    own = torch.eye(6, dtype=torch.bool)
    logits = [(functional.cosine_similarity(x[:, None], x[None], dim=-1) / 0.1).masked_fill(own, -1e9) for x in nodes]
    theirs = functional.cross_entropy(logits[0], logits[1].softmax(-1).detach())
    ours = multimodal_graph(student, teacher, presence=presence)
    for mine, other in zip(
        *(torch.autograd.grad(value, list(student.values())) for value in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-13)


def test_one_modality_is_the_neighbour_graph_of_all():
    student, teacher = rows(6, 3), rows(6, 5, seed=1)
    ours = multimodal_graph({"image": student}, {"image": teacher})
    assert_agree(ours, neighbour_graph(student, teacher, num_neighbours=5), student)


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, 1e30])
def test_what_an_absent_embedding_holds_does_not_matter(rubbish):
    student, teacher = modalities({"image": 3, "text": 3}), modalities({"image": 5, "text": 5}, seed=10)
    presence = {"text": torch.tensor([True, False, True, True])}
    wanted = multimodal_graph(student, teacher, presence=presence)
    broken = [
        {**side, "text": torch.where(presence["text"][:, None], side["text"], rubbish)} for side in (student, teacher)
    ]
    ours = multimodal_graph(*broken, presence=presence)
    assert_agree(ours, wanted, *student.values())
    assert (torch.autograd.grad(ours, student["text"])[0][1] == 0).all()


@pytest.mark.parametrize("present", [[], [1]])
def test_a_node_without_another_counts_nothing(present):
    student, teacher = modalities({"image": 3, "text": 3}), modalities({"image": 5, "text": 5}, seed=10)
    some = torch.zeros(4, dtype=torch.bool)
    some[present] = True
    ours = multimodal_graph(student, teacher, presence={"image": some, "text": torch.zeros(4, dtype=torch.bool)})
    assert ours.item() == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(ours, list(student.values())))


def test_the_order_in_which_modalities_are_named_does_not_matter():
    student, teacher = modalities({"image": 3, "text": 3}), modalities({"image": 5, "text": 5}, seed=10)
    again = multimodal_graph(student, dict(reversed(teacher.items())))
    torch.testing.assert_close(multimodal_graph(student, teacher), again, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"image": (3, 2)}, "same modalities, at least one; given image, text and image"),
        ({"image": (3, 2), "audio": (3, 2)}, "given image, text and audio, image"),
        ({"image": (3, 2), "text": (3, 5)}, r"teacher's modalities .*: \[3, 2\]; given image \[3, 2\], text \[3, 5\]"),
        ({"image": (4, 2), "text": (4, 2)}, r"teacher's modalities .*: \[3, 2\]; given image \[4, 2\]"),
    ],
)
def test_sides_of_unlike_modalities_are_refused(unchecked, teacher, message):
    student = {"image": torch.zeros(3, 4), "text": torch.zeros(3, 4)}
    with pytest.raises(LossError, match=message):
        unchecked(multimodal_graph)(student, {name: torch.zeros(shape) for name, shape in teacher.items()})


@pytest.mark.parametrize(
    ("presence", "message"),
    [
        ({"imgae": torch.ones(3, dtype=torch.bool)}, "'imgae', which is no modality here; there are image, text"),
        ({"text": torch.ones(3)}, "presence of text: a mask must be boolean, one entry a sample"),
        ({"text": torch.ones(4, dtype=torch.bool)}, r"one entry a sample: \[3\]; given torch.bool \[4\]"),
    ],
)
def test_a_presence_that_does_not_fit_is_refused(unchecked, presence, message):
    side = {"image": torch.zeros(3, 4), "text": torch.zeros(3, 4)}
    with pytest.raises(LossError, match=message):
        unchecked(multimodal_graph)(side, side, presence=presence)


# --- all


@pytest.mark.parametrize("loss", [instance_graph, neighbour_graph, graph_propagation])
@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 2), (1, 2)), ((2,), (2,)), ((0, 2), (0, 2))])
def test_rows_that_are_not_of_the_same_samples_are_refused(unchecked, loss, shapes):
    with pytest.raises(LossError, match=r"must be \[B, D\] both, one row a sample"):
        unchecked(loss)(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


@pytest.mark.parametrize("loss", [instance_graph, neighbour_graph, graph_propagation])
def test_the_order_of_samples_does_not_matter(loss):
    student, teacher, order = rows(7, 4), rows(7, 4, seed=1), torch.randperm(7)
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher), rtol=1e-10, atol=1e-14)
