"""universal_logit against optimal transport and loops; top_k_kl against loops and the whole KL."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.errors import LossError
from xmodal.losses import LOSSES
from xmodal.losses.response import kl_divergence
from xmodal.losses.vocabulary import top_k_kl, universal_logit

OUT = -torch.inf  # the logit of a word that cannot be said


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gradient(loss, student, *rest, **options):
    student = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest, **options), student)[0]


# universal_logit


@pytest.fixture(params=[(5, 5, 7, 7), (4, 6, 9, 5), (6, 2, 5, 9)], ids=str)
def sequences(request):
    """Logits ``[3, L, V]`` of two lengths and two vocabularies."""
    student_length, teacher_length, student_vocab, teacher_vocab = request.param
    shapes = (3, student_length, student_vocab), (3, teacher_length, teacher_vocab)
    return [2 * torch.randn(shape, dtype=torch.float64) for shape in shapes]


def distances(student, teacher, student_mask, teacher_mask, temperature):
    """Position by position, a list a sample, with everything done by hand."""
    samples = []
    for z_s, z_t, m_s, m_t in zip(student, teacher, student_mask, teacher_mask, strict=True):
        rows = []
        valid = ([z for z, kept in zip(side, mask, strict=True) if kept] for side, mask in ((z_s, m_s), (z_t, m_t)))
        for pair in zip(*valid, strict=False):
            p, q = (sorted(scipy.special.softmax(z.numpy() / temperature), reverse=True) for z in pair)
            width = max(len(p), len(q))
            p, q = ([*x, *[0.0] * (width - len(x))] for x in (p, q))
            rows.append(sum(abs(a - b) for a, b in zip(p, q, strict=True)))
        samples.append(rows)
    return samples


@pytest.mark.filterwarnings("ignore:The use of `x.T`")  # POT's own
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_universal_logit_is_v_times_the_transport_between_probability_values(temperature, sequences):
    ot = pytest.importorskip("ot")
    student, teacher = sequences
    student.requires_grad_()
    length, width = min(student.shape[1], teacher.shape[1]), max(student.shape[2], teacher.shape[2])
    theirs = []
    for b in range(3):
        for k in range(length):
            p, q = ((z[b, k] / temperature).softmax(-1) for z in (student, teacher))
            p, q = (torch.nn.functional.pad(x, (0, width - len(x))) for x in (p, q))
            theirs.append(width * ot.wasserstein_1d(p, q))
    theirs = torch.stack(theirs).mean()
    ours = universal_logit(student, teacher, temperature=temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    mine, other = (torch.autograd.grad(value, student)[0] for value in (ours, theirs))
    torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("trial", range(8))
def test_valid_positions_face_each_other_in_order_whatever_lies_between(trial, sequences):
    student, teacher = sequences
    masks = [torch.rand(z.shape[:2], generator=torch.Generator().manual_seed(trial)) > 0.4 for z in sequences]
    rows = [row for sample in distances(student, teacher, *masks, 2.0) for row in sample]
    value = universal_logit(student, teacher, student_mask=masks[0], teacher_mask=masks[1], temperature=2.0)
    assert value.item() == pytest.approx(np.mean(rows) if rows else 0.0, rel=1e-12)
    assert LOSSES["universal_logit"].count_items({"student_mask": masks[0], "teacher_mask": masks[1]}) == len(rows)


def test_a_gap_is_as_good_as_absent():
    student, teacher = torch.randn(1, 5, 6, dtype=torch.float64), torch.randn(1, 4, 8, dtype=torch.float64)
    mask = torch.tensor([[False, True, False, True, True]])
    all_there = torch.ones(1, 4, dtype=torch.bool)
    options = {"student_mask": mask, "teacher_mask": all_there}
    short = student[:, [1, 3, 4]]
    torch.testing.assert_close(universal_logit(student, teacher, **options), universal_logit(short, teacher))
    of_gapped = gradient(universal_logit, student, teacher, **options)
    torch.testing.assert_close(of_gapped[:, [1, 3, 4]], gradient(universal_logit, short, teacher))
    assert (of_gapped[:, [0, 2]] == 0).all()


def test_positions_that_face_nobody_teach_nothing():
    student, teacher = torch.randn(2, 5, 6), torch.randn(2, 3, 6)
    torch.testing.assert_close(universal_logit(student, teacher), universal_logit(student[:, :3], teacher))
    assert (gradient(universal_logit, student, teacher)[:, 3:] == 0).all()


def test_all_positions_weigh_the_same_where_the_reference_takes_each_samples_mean_first():
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(2, 4, 6, dtype=torch.float64)
    masks = torch.tensor([[True, True, True, True], [True, False, False, False]]), torch.ones(2, 4, dtype=torch.bool)
    long, short = distances(student, teacher, *masks, 1.0)
    value = universal_logit(student, teacher, student_mask=masks[0], teacher_mask=masks[1])
    reference = (np.mean(long) + np.mean(short)) / 2
    assert value.item() == pytest.approx((4 * np.mean(long) + np.mean(short)) / 5, rel=1e-12)
    assert value.item() != pytest.approx(reference, rel=1e-3)


def test_only_one_mask_leaves_the_other_side_all_valid(sequences):
    student, teacher = sequences
    mask, every = torch.rand(student.shape[:2]) > 0.5, torch.ones(teacher.shape[:2], dtype=torch.bool)
    alone = universal_logit(student, teacher, student_mask=mask)
    torch.testing.assert_close(alone, universal_logit(student, teacher, student_mask=mask, teacher_mask=every))


@pytest.mark.parametrize("name", ["student_mask", "teacher_mask"])
def test_positions_cannot_be_counted_by_one_mask(name):
    with pytest.raises(LossError, match=f"give both masks or none, not {name} alone"):
        LOSSES["universal_logit"].count_items({name: torch.ones(2, 3, dtype=torch.bool)})


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_words_have_no_names(seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, 2, 3, 6, generator=generator, dtype=torch.float64)
    order = torch.randperm(6, generator=generator)
    value = universal_logit(student, teacher)
    torch.testing.assert_close(universal_logit(student[..., order], teacher), value)
    torch.testing.assert_close(universal_logit(student, teacher[..., order]), value)
    assert universal_logit(student[..., order], student) < 1e-15
    assert 0 <= value < 2


def test_no_square_of_the_temperature_multiplies(sequences):
    student, teacher = sequences
    torch.testing.assert_close(
        universal_logit(student, teacher, temperature=3.0), universal_logit(student / 3, teacher / 3)
    )


def test_a_smaller_vocabulary_is_one_with_words_that_cannot_be_said():
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    wide = torch.cat([student, torch.full((2, 3, 3), OUT, dtype=torch.float64)], -1)
    torch.testing.assert_close(universal_logit(wide, teacher), universal_logit(student, teacher))
    of_wide = gradient(universal_logit, wide, teacher)
    torch.testing.assert_close(of_wide[..., :5], gradient(universal_logit, student, teacher))
    assert (of_wide[..., 5:] == 0).all()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 5), (3, 3, 5)), r"of one B.*given \[2, 3, 5\] and \[3, 3, 5\]"),
        (((2, 5), (2, 5)), r"must be \[B, L, V\] both.*given \[2, 5\] and \[2, 5\]"),
        (((2, 0, 5), (2, 3, 5)), r"given \[2, 0, 5\] and \[2, 3, 5\]"),
    ],
)
def test_what_is_no_pair_of_sequences_is_refused(shapes, message, unchecked):
    with pytest.raises(LossError, match=message):
        unchecked(universal_logit)(*(torch.zeros(shape) for shape in shapes))


def test_the_message_names_the_mask_that_does_not_fit(unchecked):
    z, mask = torch.zeros(2, 3, 5), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(LossError, match=r"teacher_mask must be boolean.*\[2, 3\]; given torch.bool \[2, 1\]"):
        unchecked(universal_logit)(z, z, student_mask=mask, teacher_mask=mask[:, :1])


# top_k_kl


def cached(logits, k, temperature=1.0):
    """What a cache keeps of a teacher: its k likeliest words, and the log of what is left, by summing what is left."""
    every = (logits / temperature).log_softmax(-1)
    log_probs, indices = every.topk(k, -1)
    return log_probs, indices, every.scatter(-1, indices, OUT).logsumexp(-1)


@pytest.fixture(params=[(6, 9), (2, 3, 9), (9,)], ids=str)
def logits(request):
    return [2 * torch.randn(request.param, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_top_k_kl_is_the_kl_with_the_other_words_as_one(k, temperature, logits):
    student, teacher = logits
    total = 0.0
    for z_s, z_t in zip(student.reshape(-1, 9), teacher.reshape(-1, 9), strict=True):
        q, p = (scipy.special.softmax(z.numpy() / temperature) for z in (z_s, z_t))
        top = sorted(range(9), key=lambda word, p=p: -p[word])[:k]
        rest = [word for word in range(9) if word not in top]
        bins = [[*(x[word] for word in top), sum(x[word] for word in rest)] for x in (p, q)]
        total += scipy.special.rel_entr(*bins).sum()
    wanted = temperature**2 * total / (student.numel() // 9)
    value = top_k_kl(student, *cached(teacher, k, temperature), temperature=temperature)
    assert value.item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_spreads_the_tails_mass_as_the_student_has_it(temperature):
    student, teacher = torch.randn(2, 6, 9, dtype=torch.float64)
    ours = gradient(top_k_kl, student, *cached(teacher, 4, temperature), temperature=temperature)
    q, p = (scipy.special.softmax(z.numpy() / temperature, -1) for z in (student, teacher))
    for i in range(6):
        rest = np.argsort(-p[i])[4:]
        wanted = p[i].copy()
        wanted[rest] = p[i][rest].sum() * q[i][rest] / q[i][rest].sum()
        np.testing.assert_allclose(ours[i], temperature / 6 * (q[i] - wanted), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_all_words_and_no_tail_are_the_whole_kl(temperature, logits):
    student, teacher = logits
    log_probs, indices, tail = cached(teacher, 9, temperature)
    assert (tail == OUT).all()
    options = {"temperature": temperature}
    value = top_k_kl(student, log_probs, indices, tail, **options)
    torch.testing.assert_close(value, kl_divergence(student, teacher, **options), rtol=1e-12, atol=0)
    ours = gradient(top_k_kl, student, log_probs, indices, tail, **options)
    torch.testing.assert_close(ours, gradient(kl_divergence, student, teacher, **options), rtol=1e-10, atol=1e-15)


@given(seed=st.integers(0, 2**31), temperature=st.floats(0.3, 10))
@settings(max_examples=20, deadline=None)
def test_more_words_tell_more_and_all_of_them_everything(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    values = [top_k_kl(student, *cached(teacher, k, temperature), temperature=temperature) for k in range(1, 8)]
    assert values[0] >= 0
    assert all(more >= fewer - 1e-12 for fewer, more in pairwise(values))
    torch.testing.assert_close(values[-1], kl_divergence(student, teacher, temperature=temperature))


def test_a_students_tail_too_small_for_one_minus_the_rest_is_seen():
    student = torch.tensor([[0.0, -1.0, -60.0, -61.0]])
    teacher = torch.tensor([[0.0, -1.0, -3.0, -4.0]])
    top = student.softmax(-1)[:, :2].sum(-1)
    assert (1 - top).log() == OUT  # the short way has no digits left
    value = top_k_kl(student, *cached(teacher, 2), temperature=1.0)
    wanted = top_k_kl(student.double(), *cached(teacher.double(), 2), temperature=1.0)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=0)
    assert value > 2
    assert gradient(top_k_kl, student, *cached(teacher, 2), temperature=1.0).isfinite().all()


def test_zero_where_the_student_spreads_the_tail_its_own_way():
    teacher = torch.tensor([[2.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[2.0, 1.0, np.log(1.5), np.log(0.5)]], dtype=torch.float64)
    words = cached(teacher, 2)
    assert top_k_kl(student, *words, temperature=1.0).abs() < 1e-15
    assert gradient(top_k_kl, student, *words, temperature=1.0).abs().max() < 1e-15


def test_words_that_the_teacher_rules_out_add_nothing():
    teacher = torch.tensor([[1.0, 0.0, OUT, OUT]], dtype=torch.float64)
    student = torch.randn(1, 4, dtype=torch.float64)
    for k in (2, 3, 4):
        value = top_k_kl(student, *cached(teacher, k), temperature=1.0)
        torch.testing.assert_close(value, kl_divergence(student, teacher))
        assert gradient(top_k_kl, student, *cached(teacher, k), temperature=1.0).isfinite().all()


def test_words_that_both_rule_out_might_as_well_not_be_there():
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    wide = torch.cat([student, torch.full((3, 2), OUT, dtype=torch.float64)], -1)
    words = cached(teacher, 3)
    torch.testing.assert_close(top_k_kl(wide, *words, temperature=2.0), top_k_kl(student, *words, temperature=2.0))
    of_wide = gradient(top_k_kl, wide, *words, temperature=2.0)
    torch.testing.assert_close(of_wide[:, :5], gradient(top_k_kl, student, *words, temperature=2.0))
    assert (of_wide[:, 5:] == 0).all()


def test_what_the_student_rules_out_and_the_teacher_does_not_is_infinite():
    words = cached(torch.tensor([[2.0, 1.0, 0.0, 0.0]]), 2)
    for student in (torch.tensor([[2.0, OUT, 0.0, 0.0]]), torch.tensor([[2.0, 1.0, OUT, OUT]])):
        assert top_k_kl(student, *words, temperature=1.0) == torch.inf


def test_padding_of_the_students_vocabulary_falls_to_the_tail():
    teacher, student = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    padded = torch.cat([teacher, torch.full((3, 2), OUT, dtype=torch.float64)], -1)
    value = top_k_kl(student, *cached(teacher, 3), temperature=1.0)
    torch.testing.assert_close(value, top_k_kl(student, *cached(padded, 3), temperature=1.0))


def test_a_cache_in_float16_teaches_the_same_to_its_precision():
    student, teacher = 3 * torch.randn(2, 64, 2000)
    log_probs, indices, tail = cached(teacher, 50)
    options = {"temperature": 1.0}
    halves = log_probs.half(), indices.int(), tail.half()
    assert ((halves[0].double().exp().sum(-1) + halves[2].double().exp()) - 1).abs().max() < 1e-3
    whole = top_k_kl(student, log_probs, indices, tail, **options)
    torch.testing.assert_close(top_k_kl(student, *halves, **options), whole, rtol=2e-3, atol=0)
    wanted = gradient(top_k_kl, student, log_probs, indices, tail, **options)
    error = (gradient(top_k_kl, student, *halves, **options) - wanted).norm() / wanted.norm()
    assert error < 2e-3


def test_probabilities_of_another_temperature_are_refused():
    words = cached(torch.randn(2, 5), 3, temperature=2.0)
    top_k_kl(torch.randn(2, 5), *words, temperature=2.0, cached_temperature=2.0)
    with pytest.raises(LossError, match=r"temperature must be 2\.0, at which .* were cached; given 1\.0"):
        top_k_kl(torch.randn(2, 5), *words, temperature=1.0, cached_temperature=2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(3, 5)}, r"student_logits must be .* given \[3, 5\] and \[2, 3\]"),
        ({0: torch.zeros(2, 2)}, r"k from 1 to V; given \[2, 2\] and \[2, 3\]"),
        ({2: torch.zeros(2, 3)}, r"teacher_indices must be integers \[2, 3\]; given torch.float32 \[2, 3\]"),
        ({2: torch.zeros(2, 2, dtype=torch.long)}, r"teacher_indices must be integers \[2, 3\]; given .* \[2, 2\]"),
        ({3: torch.zeros(2, 1)}, r"teacher_tail must have one entry an item: \[2\]; given \[2, 1\]"),
    ],
)
def test_what_is_no_top_k_of_these_items_is_refused(change, message, unchecked):
    inputs = [torch.zeros(2, 5), torch.zeros(2, 3), torch.tensor([[0, 1, 2]] * 2), torch.zeros(2)]
    with pytest.raises(LossError, match=message):
        unchecked(top_k_kl)(*(change.get(i, x) for i, x in enumerate(inputs)), temperature=1.0)


@pytest.mark.parametrize("loss", [universal_logit, top_k_kl])
def test_no_temperature_is_taken_that_is_not_above_zero(loss):
    z = torch.zeros(1, 2, 3)
    inputs = (z, z) if loss is universal_logit else (z, *cached(z, 2))
    with pytest.raises(LossError, match="temperature must be a number above 0"):
        loss(*inputs, temperature=0.0)
