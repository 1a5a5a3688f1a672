"""Relational losses against torchdistill, pytorch-metric-learning, open_clip and plain loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import CrossBatchMemory, NTXentLoss, SelfSupervisedLoss
from torch.nn.functional import normalize
from torchdistill.losses import mid_level

from xmodal.errors import LossError
from xmodal.losses.relation import (
    contrastive_representation,
    flow_of_solution,
    gram_matrix,
    probabilistic_knowledge_transfer,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)

ROWS = [(7, 5, 9), (4, 3, 3), (12, 20, 6)]
"""Samples, the student's width, the teacher's."""


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def two_models(num, student_width, teacher_width):
    return rows(num, student_width), rows(num, teacher_width, seed=1).detach()


def check_against(ours, theirs, *inputs, rtol=1e-10):
    """The same value and the same gradient."""
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-13)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=10 * rtol, atol=1e-13)


def smooth_l1(x):
    return x**2 / 2 if abs(x) < 1 else abs(x) - 0.5


# Maps


def gram_by_hand(first, second):
    """Of one sample, maps of one size as numpy arrays."""
    gram = np.zeros((len(first), len(second)))
    for a, b in itertools.product(range(len(first)), range(len(second))):
        places = itertools.product(range(first.shape[1]), range(first.shape[2]))
        gram[a, b] = sum(first[a, y, x] * second[b, y, x] for y, x in places) / first[0].size
    return gram


def test_gram_matrix_is_the_mean_squared_difference_of_products_of_channels():
    student, teacher = rows(3, 4, 2, 5), rows(3, 4, 6, 3, seed=1)
    wanted = [
        ((gram_by_hand(s, s) - gram_by_hand(t, t)) ** 2).mean()
        for s, t in zip(student.detach().numpy(), teacher.detach().numpy(), strict=True)
    ]
    assert gram_matrix(student, teacher).item() == pytest.approx(np.mean(wanted), rel=1e-12)


def test_gram_matrix_is_gatys_style_loss_times_four():
    student, teacher = rows(1, 4, 5, 5), rows(1, 4, 5, 5, seed=1)
    flat = [x[0].flatten(1) for x in (student, teacher.detach())]
    (num, places), (gram, wanted) = flat[0].shape, (torch.einsum("ap,bp->ab", x, x) for x in flat)
    gatys = ((gram - wanted) ** 2).sum() / (4 * num**2 * places**2)
    check_against(gram_matrix(student, teacher), 4 * gatys, student)


def test_where_things_are_does_not_matter_to_a_gram_matrix():
    student = rows(2, 3, 4, 5)
    shuffled = student.detach().flatten(2)[..., torch.randperm(20)].reshape(2, 3, 10, 2)
    assert gram_matrix(student, shuffled).item() == pytest.approx(0, abs=1e-28)


@pytest.mark.parametrize("shapes", [((2, 3, 4, 4), (2, 5, 4, 4)), ((2, 3, 4, 4), (1, 3, 4, 4)), ((2, 3, 4), (2, 3, 4))])
def test_maps_whose_channels_cannot_be_compared_are_refused_with_their_sizes(unchecked, shapes):
    with pytest.raises(LossError, match=r"\[B, C, H, W\] with one B and one C; given \[2, 3, 4"):
        unchecked(gram_matrix)(*(torch.zeros(shape) for shape in shapes))


def test_flow_of_solution_compares_torchdistills_matrices():
    # Their matrix of two maps of one size is ours; what they make of the difference is not the mean of squares but
    # the sum of its columns' lengths.
    student = [rows(3, 4, 5, 5), rows(3, 2, 5, 5, seed=1)]
    teacher = [rows(3, 4, 6, 3, seed=2), rows(3, 2, 6, 3, seed=3)]
    names = [f"{model}_{which}" for model in ("student", "teacher") for which in ("first", "second")]
    peer = mid_level.FSPLoss({"pair": {name: {"path": "tap", "io": name.split("_")[1]} for name in names}})
    difference = peer.compute_fsp_matrix(*student) - peer.compute_fsp_matrix(*teacher)
    check_against(flow_of_solution(student, teacher), difference.square().mean(), *student)
    theirs = peer(*({"tap": dict(zip(("first", "second"), maps, strict=True))} for maps in (student, teacher)))
    torch.testing.assert_close(theirs, difference.square().sum(1).sqrt().sum() / 3)
    assert theirs.item() == pytest.approx(1.159, abs=1e-3)
    assert flow_of_solution(student, teacher).item() == pytest.approx(0.093, abs=1e-3)


def average_pool(x, height, width):
    """Of one sample: means over the windows that adaptive pooling takes."""

    def windows(old, new):
        return [slice(i * old // new, math.ceil((i + 1) * old / new)) for i in range(new)]

    places = itertools.product(windows(x.shape[1], height), windows(x.shape[2], width))
    return np.stack([x[:, y, z].mean((1, 2)) for y, z in places], axis=1).reshape(-1, height, width)


@pytest.mark.parametrize("sizes", [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((7, 7), (3, 3)), ((6, 3), (4, 5))], ids=str)
def test_flow_of_solution_pools_the_larger_map_to_its_averages(sizes):
    # so does RepDistiller, for square maps
    student = [rows(2, 3, *sizes[0]), rows(2, 4, *sizes[1], seed=1)]
    teacher = [rows(2, 3, 5, 5, seed=2), rows(2, 4, 5, 5, seed=3)]
    height, width = (min(pair) for pair in zip(*sizes, strict=True))
    wanted = []
    for i in range(2):
        s = [average_pool(x[i].detach().numpy(), height, width) for x in student]
        t = [x[i].detach().numpy() for x in teacher]
        wanted.append(((gram_by_hand(*s) - gram_by_hand(*t)) ** 2).mean())
    assert flow_of_solution(student, teacher).item() == pytest.approx(np.mean(wanted), rel=1e-12)


def test_torchdistill_pools_the_larger_map_by_its_maximum():
    maps = [rows(2, 3, 8, 8).detach(), rows(2, 4, 4, 4, seed=1).detach()]
    theirs = mid_level.FSPLoss.compute_fsp_matrix(*maps)
    most = maps[0].unflatten(2, (4, 2)).unflatten(4, (4, 2)).amax((3, 5))
    torch.testing.assert_close(theirs, torch.einsum("iayx,ibyx->iab", most, maps[1]) / 16)
    # against a teacher without a flow, the mean square of the student's own is left
    nothing = [torch.zeros_like(x) for x in maps]
    assert theirs.square().mean().item() == pytest.approx(0.083, abs=1e-3)
    assert flow_of_solution(maps, nothing).item() == pytest.approx(0.025, abs=1e-3)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([(2, 3, 4, 4)] * 3, [(2, 3, 4, 4)] * 3),
        ([(2, 3, 4, 4)], [(2, 3, 4, 4)]),
        ([(2, 3, 4, 4), (2, 5, 4, 4)], [(2, 5, 4, 4), (2, 3, 4, 4)]),
        ([(2, 3, 4, 4), (2, 5, 4, 4)], [(1, 3, 4, 4), (1, 5, 4, 4)]),
        ([(2, 3), (2, 5)], [(2, 3), (2, 5)]),
    ],
)
def test_maps_that_make_no_flow_are_refused_with_their_sizes(unchecked, student, teacher):
    with pytest.raises(LossError, match=r"two maps \[B, C, H, W\] each.*given \[\[2, 3"):
        unchecked(flow_of_solution)(*([torch.zeros(shape) for shape in shapes] for shapes in (student, teacher)))


# Distances and angles


def torchdistill_rkd():
    return mid_level.RKDLoss("student", "teacher", dist_factor=1, angle_factor=1, reduction="mean")


@pytest.mark.parametrize("sizes", ROWS, ids=str)
def test_rkd_distance_is_torchdistills_without_its_zeros_of_the_diagonal(sizes):
    student, teacher = two_models(*sizes)
    num = sizes[0]
    theirs = torchdistill_rkd().compute_rkd_distance_loss(teacher, student)
    check_against(rkd_distance(student, teacher), theirs * num / (num - 1), student)


@pytest.mark.parametrize("sizes", ROWS, ids=str)
def test_rkd_angle_is_torchdistills_without_its_triplets_that_repeat_a_sample(sizes):
    student, teacher = two_models(*sizes)
    num = sizes[0]
    theirs = torchdistill_rkd().compute_rkd_angle_loss(teacher, student)
    check_against(rkd_angle(student, teacher), theirs * num**2 / ((num - 1) * (num - 2)), student)


def with_twins(sizes):
    """Rows of which the student has two equal ones, and the teacher two others."""
    student, teacher = (x.detach().clone() for x in two_models(*sizes))
    student[1], teacher[3] = student[0], teacher[0]
    return student, teacher


@pytest.mark.parametrize("sizes", ROWS, ids=str)
def test_equal_rows_are_pairs_at_distance_0(sizes):
    student, teacher = with_twins(sizes)
    pairs = list(itertools.permutations(range(sizes[0]), 2))
    distances = [[math.dist(x[i].tolist(), x[j].tolist()) for i, j in pairs] for x in (student, teacher)]
    s, t = (np.array(all_) / np.mean(all_) for all_ in distances)
    assert (s == 0).sum() == (t == 0).sum() == 2
    assert rkd_distance(student, teacher).item() == pytest.approx(np.mean([smooth_l1(x) for x in s - t]), rel=1e-12)


@pytest.mark.parametrize("sizes", ROWS, ids=str)
def test_equal_rows_have_no_direction_between_them_and_a_cosine_of_0_with_all(sizes):
    student, teacher = with_twins(sizes)

    def cosine(x, i, j, k):
        a, b = x[j] - x[i], x[k] - x[i]
        lengths = math.hypot(*a) * math.hypot(*b)
        return sum(a * b) / lengths if lengths else 0.0

    wanted = [
        smooth_l1(cosine(student.numpy(), *triplet) - cosine(teacher.numpy(), *triplet))
        for triplet in itertools.permutations(range(sizes[0]), 3)
    ]
    assert rkd_angle(student, teacher).item() == pytest.approx(np.mean(wanted), rel=1e-12)


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])
@pytest.mark.parametrize("which", ["student", "teacher", "both"])
def test_a_batch_of_one_row_repeated_has_a_finite_value_and_no_gradient_of_its_own(loss, which):
    student, teacher = two_models(5, 4, 4)
    student = student.detach()[:1].repeat(5, 1).requires_grad_() if which != "teacher" else student
    teacher = teacher[:1].repeat(5, 1) if which != "student" else teacher
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (value == 0) == (which == "both")
    assert (gradient == 0).all() == (which != "teacher")


@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
@settings(max_examples=25, deadline=None)
def test_shift_scale_and_rotation_of_a_model_change_neither_distances_nor_angles(seed, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    student, teacher, turn = (torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    moved = scale * student @ torch.linalg.qr(turn)[0] + shift
    for loss in (rkd_distance, rkd_angle):
        torch.testing.assert_close(loss(moved, teacher), loss(student, teacher))
        assert loss(moved, student).item() == pytest.approx(0, abs=1e-16)


def test_distances_far_from_the_origin_are_told_apart_in_float32():
    # taken off inner products, as torchdistill and RKD's authors have them, they cancel
    student, teacher = (1000 + x.detach() / 10 for x in two_models(8, 16, 16))
    wanted = rkd_distance(student, teacher).item()
    ours = rkd_distance(student.float(), teacher.float()).item()
    theirs = torchdistill_rkd().compute_rkd_distance_loss(teacher.float(), student.float()).item() * 8 / 7
    assert ours == pytest.approx(wanted, rel=1e-2)
    assert theirs > 3 * wanted


@pytest.mark.parametrize(("loss", "least"), [(rkd_distance, 2), (rkd_angle, 3), (probabilistic_knowledge_transfer, 3)])
def test_too_few_samples_for_a_relation_teach_nothing(loss, least):
    for num in range(1, least + 1):
        student, teacher = two_models(num, 4, 4)
        value = loss(student, teacher)
        (gradient,) = torch.autograd.grad(value, student)
        # two samples have one distance, which is its own mean
        assert (value.abs() < 1e-30) == (num < 3)
        assert (gradient.abs() < 1e-15).all() == (num < 3)


# Similarities


def similarities(x, norm):
    """RepDistiller's formula: each row of products divided by its norm."""
    products = np.array([[float(np.dot(a, b)) for b in x] for a in x])
    norms = np.linalg.norm(products, ord=norm, axis=1, keepdims=True)
    return products / np.where(norms > 0, norms, 1)


@pytest.mark.parametrize("sizes", ROWS, ids=str)
def test_similarity_preserving_is_repdistillers_and_torchdistills_has_another_norm(sizes):
    # torchdistill's normalize(products, 1) takes 1 for the axis; it is the norm, the sum of absolute values
    student, teacher = two_models(*sizes)
    ours = similarity_preserving(student, teacher)
    peer = mid_level.SPKDLoss("student", "teacher", reduction="batchmean")
    theirs = peer({"student": {"output": student}}, {"teacher": {"output": teacher}})
    for value, norm in ((ours, 2), (theirs, 1)):
        s, t = (similarities(x.detach().numpy(), norm) for x in (student, teacher))
        assert value.item() == pytest.approx(((s - t) ** 2).sum() / sizes[0] ** 2, rel=1e-11)
    assert ours > 2 * theirs


def test_gradient_of_similarity_preserving_is_repdistillers():
    student, teacher = two_models(7, 5, 9)
    s, t = (normalize(x @ x.T, dim=1) for x in (student, teacher))
    check_against(similarity_preserving(student, teacher), (s - t).square().sum() / 49, student)


def test_a_row_of_zeros_is_similar_to_nothing():
    student, teacher = two_models(5, 4, 4)
    student.data[2] = 0
    value = similarity_preserving(student, teacher)
    s, t = (similarities(x.detach().numpy(), 2) for x in (student, teacher))
    assert (s[2] == 0).all()
    assert value.item() == pytest.approx(((s - t) ** 2).mean(), rel=1e-12)
    assert torch.autograd.grad(value, student)[0].isfinite().all()


def neighbours(x):
    """Each sample's probability of each other one, by loops over others; 0 for itself."""
    num = len(x)
    kernel = np.zeros((num, num))
    for i, j in itertools.permutations(range(num), 2):
        kernel[i, j] = (1 + np.dot(x[i], x[j]) / (np.linalg.norm(x[i]) * np.linalg.norm(x[j]))) / 2
    return kernel / kernel.sum(1, keepdims=True), kernel.sum(1)


@pytest.mark.parametrize("sizes", ROWS, ids=str)
def test_probabilistic_knowledge_transfer_is_the_divergence_over_the_others(sizes):
    student, teacher = two_models(*sizes)
    (s, _), (t, _) = (neighbours(x.detach().numpy()) for x in (student, teacher))
    wanted = scipy.special.rel_entr(t, s).sum(1).mean()
    assert probabilistic_knowledge_transfer(student, teacher).item() == pytest.approx(wanted, rel=1e-11)


@pytest.mark.parametrize("sizes", ROWS, ids=str)
def test_torchdistills_pkt_also_asks_how_likely_a_sample_is_its_own_neighbour(sizes):
    # By the chain rule of the divergence, B times theirs is that of "itself or another" plus ours, row by row times the
    # probability of another. A sample's kernel with itself is 1, so that another has probability Z / (1 + Z).
    student, teacher = two_models(*sizes)
    peer = mid_level.PKTLoss("student", "output", "teacher", "output", eps=1e-15)
    theirs = peer({"student": {"output": student}}, {"teacher": {"output": teacher}})
    (s, s_sum), (t, t_sum) = (neighbours(x.detach().numpy()) for x in (student, teacher))
    rows_of_ours = scipy.special.rel_entr(t, s).sum(1)
    itself = [1 / (1 + t_sum), 1 / (1 + s_sum)]
    binary = scipy.special.rel_entr(*itself) + scipy.special.rel_entr(*(1 - p for p in itself))
    assert sizes[0] * theirs.item() == pytest.approx((binary + (1 - itself[0]) * rows_of_ours).mean(), rel=1e-9)
    assert probabilistic_knowledge_transfer(student, teacher).item() == pytest.approx(rows_of_ours.mean(), rel=1e-11)


def test_gradient_of_probabilistic_knowledge_transfer_is_that_of_the_formula():
    student, teacher = two_models(7, 5, 9)
    kernels = [(1 + normalize(x, dim=1) @ normalize(x, dim=1).T) / 2 for x in (student, teacher)]
    others = ~torch.eye(7, dtype=torch.bool)
    s, t = (kernel[others].reshape(7, 6) / (kernel * others).sum(1, keepdim=True) for kernel in kernels)
    wanted = torch.nn.functional.kl_div(s.log(), t, reduction="batchmean")
    check_against(probabilistic_knowledge_transfer(student, teacher), wanted, student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opposite_rows_of_the_student_cost_a_finite_price(dtype):
    # the teacher's are at right angles: ½ each. The student's ½ · log(½ / p): p is 1e-7 of 1
    teacher = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=dtype)
    student = torch.tensor([[3.0, 0.0], [-2.0, 0.0], [1.0, 0.0]], dtype=dtype, requires_grad=True)
    value = probabilistic_knowledge_transfer(student, teacher)
    two = (math.log(0.5 / 1e-7) + math.log(0.5)) / 2
    assert value.item() == pytest.approx((2 * two + 0) / 3, rel=1e-5)
    assert torch.autograd.grad(value, student)[0].isfinite().all()


# Contrast


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("sizes", [(7, 5), (12, 20)], ids=str)
def test_one_direction_is_pytorch_metric_learnings_nt_xent(sizes, temperature):
    student, teacher = rows(*sizes), rows(*sizes, seed=1).detach()
    peer = SelfSupervisedLoss(NTXentLoss(temperature), symmetric=False)
    ours = contrastive_representation(student, teacher, temperature=temperature, symmetric=False)
    check_against(ours, peer(student, teacher), student)
    # Both directions: theirs, asked twice. Their own `symmetric` also pushes samples of one model apart.
    both = contrastive_representation(student, teacher, temperature=temperature)
    check_against(both, (peer(student, teacher) + peer(teacher, student)) / 2, student)
    theirs = SelfSupervisedLoss(NTXentLoss(temperature), symmetric=True)(student, teacher)
    assert theirs > 1.01 * both


def test_both_directions_are_open_clips_loss(open_clip_loss):
    student, teacher = rows(7, 5), rows(7, 5, seed=1).detach()
    theirs = open_clip_loss.ClipLoss()(normalize(student, dim=-1), normalize(teacher, dim=-1), 1 / 0.07)
    check_against(contrastive_representation(student, teacher), theirs, student)


@pytest.mark.parametrize("num_stored", [4, 10])
def test_a_bank_is_pytorch_metric_learnings_cross_batch_memory(num_stored):
    # Theirs stores a batch before it compares, so that this batch's teacher rows are in it, as partners; they fill
    # its 17 rows or leave some free, where ours is all zeros.
    student, teacher, past = rows(7, 5), rows(7, 5, seed=1).detach(), rows(num_stored, 5, seed=2).detach()
    peer = CrossBatchMemory(NTXentLoss(0.07), embedding_size=5, memory_size=17)
    peer(torch.cat([student, past]), torch.arange(7 + num_stored), enqueue_mask=torch.arange(7 + num_stored) >= 7)
    theirs = peer(torch.cat([student, teacher]), torch.arange(7).repeat(2), enqueue_mask=torch.arange(14) >= 7)
    assert peer.has_been_filled == (num_stored == 10)
    bank = torch.cat([past, past.new_zeros(10 - num_stored, 5)])
    ours = contrastive_representation(student, teacher, bank=bank, symmetric=False)
    check_against(ours, theirs, student)


def test_a_bank_not_filled_at_all_changes_nothing():
    student, teacher = rows(7, 5), rows(7, 5, seed=1)
    for num in (0, 3):
        value = contrastive_representation(student, teacher, bank=torch.zeros(num, 5))
        check_against(value, contrastive_representation(student, teacher), student)


def test_a_bank_adds_negatives_to_the_first_direction_only_and_gets_no_gradient():
    student, teacher, bank = rows(7, 5), rows(7, 5, seed=1), rows(20, 5, seed=2)
    one_way = contrastive_representation(student, teacher, bank=bank, symmetric=False)
    both = contrastive_representation(student, teacher, bank=bank)
    without = contrastive_representation(student, teacher, symmetric=False)
    back = 2 * contrastive_representation(student, teacher) - without
    torch.testing.assert_close(both, (one_way + back) / 2)
    assert one_way > without
    assert torch.autograd.grad(both, bank, allow_unused=True) == (None,)


def test_embeddings_that_tell_nothing_cost_ln_of_the_number_of_choices():
    same = torch.ones(8, 4, dtype=torch.float64)
    assert contrastive_representation(same, same).item() == pytest.approx(math.log(8))
    assert contrastive_representation(same, same, bank=same, symmetric=False).item() == pytest.approx(math.log(16))


def test_crd_is_another_loss():
    # torchdistill's CRDLoss on the same rows: its memory of the teacher's begins with the batch's own, the rest is our
    # bank. Its sum of binary decisions depends on how many samples there are in all; its gradient points elsewhere.
    student, teacher, past = (normalize(rows(n, 6, seed=k).float(), dim=1).detach() for k, n in enumerate((4, 4, 12)))
    student.requires_grad_()
    ours = contrastive_representation(student, teacher, bank=past, symmetric=False)
    partners, others = torch.arange(4), torch.arange(4, 16)
    choices = torch.cat([partners[:, None], others.expand(4, -1)], 1)
    theirs = []
    for num_samples in (16, 160):
        peer = mid_level.CRDLoss("tap", "indices", "tap", 6, 16, len(past), num_samples)
        peer.memory_v2.copy_(torch.cat([teacher, past]))
        from_student, _ = peer.contrast_memory(student, teacher, partners, choices)
        theirs.append(peer.compute_contrast_loss(from_student.squeeze(-1)).squeeze())
    gradients = [torch.autograd.grad(value, student)[0].flatten() for value in (ours, theirs[0])]
    figures = [ours.item(), *(value.item() for value in theirs), torch.cosine_similarity(*gradients, dim=0).item()]
    assert figures == pytest.approx([12.29, 13.31, 12.70, 0.76], abs=0.01)


@pytest.mark.parametrize("bank", [torch.zeros(4, 3), torch.zeros(2)])
def test_a_bank_of_another_width_is_refused_with_its_size(unchecked, bank):
    with pytest.raises(LossError, match=r"equally wide.*\[3, 2\], \[3, 2\] and \[[24]"):
        unchecked(contrastive_representation)(torch.ones(3, 2), torch.ones(3, 2), bank=bank)


def test_models_of_unequal_widths_cannot_be_contrasted(unchecked):
    with pytest.raises(LossError, match=r"equally wide.*\[3, 2\], \[3, 5\]"):
        unchecked(contrastive_representation)(torch.ones(3, 2), torch.ones(3, 5))


def test_a_temperature_that_is_not_above_zero_is_refused():
    with pytest.raises(LossError, match="temperature must be a number above 0"):
        contrastive_representation(torch.ones(2, 2), torch.ones(2, 2), temperature=0.0)


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((2,), (2,)), ((0, 2), (0, 2)), ((3, 2), (1, 2))])
@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle, similarity_preserving, probabilistic_knowledge_transfer])
def test_rows_of_other_samples_are_refused(unchecked, loss, shapes):
    with pytest.raises(LossError, match=r"student and teacher must be \[B, D\] both"):
        unchecked(loss)(*(torch.zeros(shape) for shape in shapes))
