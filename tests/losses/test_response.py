"""Losses on logits of one vocabulary, against scipy, torch, torchdistill and formulas written down again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.response import (
    decoupled_kd,
    jensen_shannon,
    kl_divergence,
    logit_mse,
    reverse_kl,
    soft_cross_entropy,
)

OUT = -torch.inf  # the logit of a word that cannot be said


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=[(7, 11), (2, 3, 11), (11,)], ids=str)
def logits(request):
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(request.param, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.fixture
def classes(logits):
    """Logits, and the right class of each item."""
    shape = logits[0].shape[:-1]
    return [*logits, torch.randint(11, shape, generator=torch.Generator().manual_seed(1))]


def softmax(logits, temperature=1.0):
    return scipy.special.softmax(logits.detach().numpy() / temperature, -1)


def gradient(loss, student, *rest, **options):
    student = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest, **options), student)[0]


def check_against(ours, theirs, student):
    """Values and gradients, of two functions of the student's logits."""
    torch.testing.assert_close(ours(student), theirs(student), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(gradient(ours, student), gradient(theirs, student), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_divergence_is_hintons(temperature, logits):
    student, teacher = logits
    p, q = (scipy.special.softmax(z.numpy() / temperature, -1) for z in (teacher, student))
    wanted = temperature**2 * scipy.special.rel_entr(p, q).sum(-1).mean()
    assert kl_divergence(student, teacher, temperature=temperature).item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_is_the_difference_of_the_softened_distributions(temperature, logits):
    student, teacher = logits
    student.requires_grad_()
    kl_divergence(student, teacher, temperature=temperature).backward()
    p, q = (scipy.special.softmax(z.detach().numpy() / temperature, -1) for z in (teacher, student))
    np.testing.assert_allclose(student.grad, temperature * (q - p) / max(1, p[..., 0].size), rtol=1e-9, atol=1e-15)


def test_a_row_weighs_the_same_in_two_dimensions_as_torchs_batchmean():
    student, teacher = torch.randn(2, 9, 1000, dtype=torch.float64)
    wanted = functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)
    torch.testing.assert_close(kl_divergence(student, teacher), wanted)


def test_length_does_not_scale_the_loss():
    student, teacher = torch.randn(2, 4, 1, 6, dtype=torch.float64)
    once, tenfold = (kl_divergence(student.repeat(1, n, 1), teacher.repeat(1, n, 1)) for n in (1, 10))
    torch.testing.assert_close(once, tenfold)


def test_logits_of_a_thousand_neither_overflow_nor_vanish():
    student = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    value = kl_divergence(student, torch.tensor([[0.0, 1000.0, 0.0]]))
    assert value.item() == pytest.approx(1000)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0, 0.0]]))


def test_a_word_that_is_ruled_out_on_both_sides_adds_nothing():
    some = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    other = torch.tensor([[1.3, 0.0, -2.0]], dtype=torch.float64)
    out = torch.full((1, 2), -torch.inf, dtype=torch.float64)
    student = torch.cat([some, out], -1).requires_grad_()
    value = kl_divergence(student, torch.cat([other, out], -1))
    torch.testing.assert_close(value, kl_divergence(some, other))
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.isfinite().all()
    assert (gradient[:, 3:] == 0).all()


def test_a_word_that_only_the_teacher_rules_out_leaves_a_finite_loss():
    teacher = torch.tensor([[0.0, 1.0, -torch.inf]], dtype=torch.float64)
    student = torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64)
    p, q = (scipy.special.softmax(z.numpy(), -1) for z in (teacher, student))
    assert kl_divergence(student, teacher).item() == pytest.approx(scipy.special.rel_entr(p, q).sum(), rel=1e-12)


def test_half_precision_is_as_good_as_float32_on_the_same_logits():
    student, teacher = (4 * torch.randn(64, 512)).bfloat16(), (4 * torch.randn(64, 512)).bfloat16()
    near = teacher + 0.03 * student
    wanted = kl_divergence(near.double(), teacher.double())
    torch.testing.assert_close(kl_divergence(near, teacher).double(), wanted, rtol=1e-3, atol=0)


@given(seed=st.integers(0, 2**31), shift=st.floats(-50, 50), temperature=st.floats(0.1, 20))
@settings(max_examples=25, deadline=None)
def test_a_constant_added_to_all_logits_changes_nothing(seed, shift, temperature):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    value = kl_divergence(student, teacher, temperature=temperature)
    assert value >= 0
    torch.testing.assert_close(kl_divergence(student + shift, teacher - shift, temperature=temperature), value)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(LossError, match="temperature must be a number above 0"):
        kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_divergence_is_torchdistills(temperature):
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = 3 * torch.randn(2, 9, 11, dtype=torch.float64)
    right = torch.zeros(9, dtype=torch.long)

    def theirs(z, alpha=1e-15):
        loss = mid_level.KDLoss(".", "output", ".", "output", temperature, alpha=alpha, beta=1.0)
        return loss({".": {"output": z}}, {".": {"output": teacher}}, right)

    check_against(lambda z: kl_divergence(z, teacher, temperature=temperature), theirs, student)
    # at alpha = 0 exactly theirs forgets T²
    without = temperature**2 * theirs(student, alpha=0)
    torch.testing.assert_close(kl_divergence(student, teacher, temperature=temperature), without)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_reverse_kl_weighs_by_the_student(temperature, logits):
    student, teacher = logits
    p, q = (softmax(z, temperature) for z in (teacher, student))
    wanted = temperature**2 * scipy.special.rel_entr(q, p).sum(-1).mean()
    assert reverse_kl(student, teacher, temperature=temperature).item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_reverse_kl_is_torchs_with_the_sides_exchanged(temperature):
    student, teacher = 3 * torch.randn(2, 9, 11, dtype=torch.float64)

    def theirs(z):
        both = [(x / temperature).log_softmax(-1) for x in (teacher, z)]
        return temperature**2 * functional.kl_div(*both, reduction="batchmean", log_target=True)

    check_against(lambda z: reverse_kl(z, teacher, temperature=temperature), theirs, student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_cross_entropy_is_torchs_on_probabilities(temperature):
    student, teacher = 3 * torch.randn(2, 9, 11, dtype=torch.float64)

    def theirs(z):
        return temperature**2 * functional.cross_entropy(z / temperature, (teacher / temperature).softmax(-1))

    check_against(lambda z: soft_cross_entropy(z, teacher, temperature=temperature), theirs, student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_cross_entropy_is_the_kl_and_the_teachers_entropy(temperature, logits):
    student, teacher = logits
    options = {"temperature": temperature}
    entropy = temperature**2 * scipy.stats.entropy(softmax(teacher, temperature), axis=-1).mean()
    kl = kl_divergence(student, teacher, **options)
    assert soft_cross_entropy(student, teacher, **options).item() == pytest.approx(kl.item() + entropy, rel=1e-10)
    same = gradient(kl_divergence, student, teacher, **options)
    torch.testing.assert_close(gradient(soft_cross_entropy, student, teacher, **options), same)


def test_jensen_shannon_is_the_square_of_scipys_distance(logits):
    student, teacher = logits
    wanted = (scipy.spatial.distance.jensenshannon(softmax(student), softmax(teacher), axis=-1) ** 2).mean()
    assert jensen_shannon(student, teacher).item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("beta", [0.0, 1e-6, 0.1, 0.5, 0.9, 1.0])
def test_jensen_shannon_is_gkds_at_every_beta(beta, temperature, logits):
    student, teacher = logits
    p, q = (softmax(z, temperature) for z in (teacher, student))
    mixture = beta * p + (1 - beta) * q
    if beta == 0:
        rows = scipy.special.rel_entr(p, q)
    elif beta == 1:
        rows = scipy.special.rel_entr(q, p)
    else:
        rows = beta * scipy.special.rel_entr(p, mixture) + (1 - beta) * scipy.special.rel_entr(q, mixture)
    wanted = temperature**2 * rows.sum(-1).mean()
    value = jensen_shannon(student, teacher, beta=beta, temperature=temperature).item()
    assert value == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_gradient_of_jensen_shannon_is_that_of_the_formula_on_probabilities(beta):
    student, teacher = 2 * torch.randn(2, 9, 11, dtype=torch.float64)

    def theirs(z):
        p, q = (teacher / 3).softmax(-1), (z / 3).softmax(-1)
        mixture = beta * p + (1 - beta) * q
        rows = beta * p * (p / mixture).log() + (1 - beta) * q * (q / mixture).log()
        return 9 * rows.sum(-1).mean()

    check_against(lambda z: jensen_shannon(z, teacher, beta=beta, temperature=3.0), theirs, student)


def test_jensen_shannon_tends_to_a_small_part_of_the_kl_and_jumps_to_the_whole(logits):
    student, teacher = logits
    for small, end, kl in ((1e-7, 0.0, kl_divergence), (1 - 1e-7, 1.0, reverse_kl)):
        near = jensen_shannon(student, teacher, beta=small)
        assert near.item() == pytest.approx(1e-7 * kl(student, teacher).item(), rel=1e-3)
        torch.testing.assert_close(jensen_shannon(student, teacher, beta=end), kl(student, teacher), rtol=0, atol=0)


@given(seed=st.integers(0, 2**31), beta=st.floats(0.01, 0.99), size=st.sampled_from([0.1, 3.0, 100.0]))
@settings(max_examples=25, deadline=None)
def test_jensen_shannon_exchanges_its_sides_with_beta_and_stays_below_ln_two(seed, beta, size):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = size * torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    value = jensen_shannon(student, teacher, beta=beta)
    torch.testing.assert_close(jensen_shannon(teacher, student, beta=1 - beta), value, rtol=1e-9, atol=1e-12)
    assert value > -1e-15
    assert value <= math.log(2) + 1e-12


@pytest.mark.parametrize("size", [100.0, 1e4, torch.inf])
@pytest.mark.parametrize("beta", [0.3, 1e-12])
def test_jensen_shannon_of_two_that_share_no_word_is_the_entropy_of_beta(beta, size):
    student, teacher = torch.tensor([[size, -size, -size]]), torch.tensor([[-size, size, -size]])
    if size == torch.inf:
        student, teacher = student.clamp(max=0), teacher.clamp(max=0)
    wanted = 4 * scipy.stats.entropy([beta, 1 - beta])
    assert jensen_shannon(student, teacher, beta=beta, temperature=2.0).item() == pytest.approx(wanted, rel=1e-5)
    assert gradient(jensen_shannon, student, teacher, beta=beta, temperature=2.0).isfinite().all()


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_beta_that_mixes_nothing_is_refused(beta):
    with pytest.raises(LossError, match="beta must be a number from 0 to 1"):
        jensen_shannon(torch.zeros(1, 2), torch.zeros(1, 2), beta=beta)


def test_logit_mse_is_torchs(logits):
    student, teacher = logits
    check_against(lambda z: logit_mse(z, teacher), lambda z: functional.mse_loss(z, teacher), student)


def test_ba_and_caruanas_sum_is_half_the_vocabulary_times_logit_mse():
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 6))
    theirs = (
        sum(0.5 * sum((s - t) ** 2 for s, t in zip(*rows, strict=True)) for rows in zip(student, teacher, strict=True))
        / 4
    )
    ours = logit_mse(torch.from_numpy(student), torch.from_numpy(teacher))
    assert theirs == pytest.approx(6 / 2 * ours.item(), rel=1e-12)


def test_the_kl_at_high_temperature_is_half_of_logit_mse_on_centred_logits():
    student, teacher = torch.randn(2, 9, 11, dtype=torch.float64)
    centred = [z - z.mean(-1, keepdim=True) for z in (student, teacher)]
    torch.testing.assert_close(
        kl_divergence(student, teacher, temperature=1e4), logit_mse(*centred) / 2, rtol=1e-3, atol=0
    )


def published_decoupled_kd(student, teacher, target, alpha, beta, temperature):
    """The paper's formula the way its code evaluates it: logarithms of softmax, the right class 1000 lower."""
    right = functional.one_hot(target, student.shape[-1]).to(student.dtype)
    sure = [
        torch.stack([(p * right).sum(-1), (p * (1 - right)).sum(-1)], -1)
        for p in ((z / temperature).softmax(-1) for z in (teacher, student))
    ]
    wrong = [z / temperature - 1000.0 * right for z in (teacher, student)]
    tckd = functional.kl_div(sure[1].log(), sure[0], reduction="batchmean")
    nckd = functional.kl_div(wrong[1].log_softmax(-1), wrong[0].softmax(-1), reduction="batchmean")
    return temperature**2 * (alpha * tckd + beta * nckd)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0)])
def test_decoupled_kd_is_the_published_one(alpha, beta, temperature):
    student, teacher = 2 * torch.randn(2, 9, 11, dtype=torch.float64)
    options = {"alpha": alpha, "beta": beta, "temperature": temperature}
    right = torch.randint(11, (9,))
    check_against(
        lambda z: decoupled_kd(z, teacher, right, **options),
        lambda z: published_decoupled_kd(z, teacher, right, **options),
        student,
    )


def test_decoupled_kd_is_two_divergences_taken_item_by_item(classes):
    student, teacher, right = classes
    total = 0.0
    for z_s, z_t, y in zip(student.reshape(-1, 11), teacher.reshape(-1, 11), right.reshape(-1), strict=True):
        p, q = softmax(z_t, 4.0), softmax(z_s, 4.0)
        sure = scipy.special.rel_entr([p[y], 1 - p[y]], [q[y], 1 - q[y]]).sum()
        wrong_p, wrong_q = (np.delete(x, y) for x in (p, q))
        total += 16 * (sure + 8 * scipy.stats.entropy(wrong_p, wrong_q)) / right.numel()
    assert decoupled_kd(student, teacher, right).item() == pytest.approx(total, rel=1e-10)


def test_the_kl_is_its_decoupled_parts_weighed_by_the_teachers_doubt(classes):
    student, teacher, right = classes[0].reshape(-1, 11), classes[1].reshape(-1, 11), classes[2].reshape(-1)
    for s, t, y in zip(student, teacher, right, strict=True):
        sure = decoupled_kd(s, t, y, alpha=1.0, beta=0.0, temperature=1.0)
        wrong = decoupled_kd(s, t, y, alpha=0.0, beta=1.0, temperature=1.0)
        torch.testing.assert_close(sure + (1 - t.softmax(-1)[y]) * wrong, kl_divergence(s, t))


def test_decoupled_kd_is_finite_at_logits_of_a_thousand_where_the_published_code_is_infinite():
    student, teacher = torch.tensor([[1000.0, 0.0, 0.0]]), torch.tensor([[0.0, 1000.0, 0.0]])
    right, options = torch.tensor([0]), {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}
    assert published_decoupled_kd(student, teacher, right, **options) == torch.inf
    # TCKD: log(1 / (2 exp(−250))); NCKD: log(1 / ½)
    wanted = 16 * (250 - math.log(2) + 8 * math.log(2))
    assert decoupled_kd(student, teacher, right, **options).item() == pytest.approx(wanted, rel=1e-6)
    assert gradient(decoupled_kd, student, teacher, right, **options).isfinite().all()


def test_the_published_code_lets_the_right_class_back_in_above_a_thousand():
    student, teacher = (
        torch.tensor([[2000.0, 1.0, 0.0]], dtype=torch.float64),
        torch.tensor([[2000.0, 0.0, 1.0]], dtype=torch.float64),
    )
    right, options = torch.tensor([0]), {"alpha": 0.0, "beta": 1.0, "temperature": 1.0}
    assert published_decoupled_kd(student, teacher, right, **options).nan_to_num() == 0
    wanted = scipy.stats.entropy(*(softmax(z[:, 1:])[0] for z in (teacher, student)))
    assert decoupled_kd(student, teacher, right, **options).item() == pytest.approx(wanted, rel=1e-12)


def test_the_right_classs_large_logit_does_not_eat_the_others_digits():
    student, teacher = torch.tensor([[1e4, 0.1, 0.2]]), torch.tensor([[1e4, 0.2, 0.1]])
    value = decoupled_kd(student, teacher, torch.tensor([0]), alpha=0.0, beta=1.0, temperature=1.0)
    wanted = scipy.stats.entropy(softmax(teacher.double()[0, 1:]), softmax(student.double()[0, 1:]))
    assert value.item() == pytest.approx(wanted, rel=1e-3)


def test_a_teacher_of_one_word_alone_has_no_opinion_of_the_wrong_ones():
    student = torch.randn(1, 4, dtype=torch.float64)
    teacher, right = torch.tensor([[OUT, 0.0, OUT, OUT]], dtype=torch.float64), torch.tensor([1])
    value = decoupled_kd(student, teacher, right, temperature=1.0)
    torch.testing.assert_close(value, functional.cross_entropy(student, right))
    expected = gradient(functional.cross_entropy, student, right)
    torch.testing.assert_close(gradient(decoupled_kd, student, teacher, right, temperature=1.0), expected)


def test_two_of_one_word_alone_agree():
    alone, right = torch.tensor([[OUT, 0.0, OUT]]), torch.tensor([1])
    assert decoupled_kd(alone, alone, right).item() == 0
    assert (gradient(decoupled_kd, alone, alone, right) == 0).all()


def test_one_class_is_no_choice():
    only, right = torch.randn(3, 1), torch.zeros(3, dtype=torch.long)
    assert decoupled_kd(only, only + 1, right).item() == 0
    assert (gradient(decoupled_kd, only, only + 1, right) == 0).all()


def test_the_label_of_a_masked_item_may_be_no_class():
    student, teacher, right = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([4, -100, 2])
    mask = right >= 0
    value = decoupled_kd(student, teacher, right, mask=mask)
    torch.testing.assert_close(value, decoupled_kd(student[mask], teacher[mask], right[mask]))


@pytest.mark.parametrize("label", [-100, -1, 5])
def test_a_label_that_is_no_class_is_an_error(label):
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        decoupled_kd(torch.zeros(1, 5), torch.zeros(1, 5), torch.tensor([label]))


@pytest.mark.parametrize(
    "target", [torch.zeros(2), torch.zeros(2, dtype=torch.bool), torch.zeros(2, 1, dtype=torch.long)]
)
def test_labels_that_do_not_index_are_refused(target, unchecked):
    with pytest.raises(LossError, match=r"target must be integers \[2\]; given torch"):
        unchecked(decoupled_kd)(torch.zeros(2, 5), torch.zeros(2, 5), target)


@pytest.mark.parametrize("option", ["alpha", "beta"])
def test_a_negative_weight_is_refused(option):
    with pytest.raises(LossError, match=f"{option} must be a number of at least 0; given -1"):
        decoupled_kd(torch.zeros(1, 5), torch.zeros(1, 5), torch.tensor([0]), **{option: -1.0})


def decoupled(student, teacher, **options):
    return decoupled_kd(student, teacher, torch.zeros(student.shape[:-1], dtype=torch.long), **options)


DIVERGENCES = {
    "kl_divergence": (kl_divergence, {}),
    "reverse_kl": (reverse_kl, {}),
    "soft_cross_entropy": (soft_cross_entropy, {}),
    "jensen_shannon": (jensen_shannon, {"beta": 0.3}),
    "jensen_shannon at 0": (jensen_shannon, {"beta": 0.0}),
    "jensen_shannon at 1": (jensen_shannon, {"beta": 1.0}),
    "decoupled_kd": (decoupled, {}),
}
divergences = pytest.mark.parametrize(("loss", "options"), DIVERGENCES.values(), ids=DIVERGENCES)


@divergences
def test_words_that_both_rule_out_might_as_well_not_be_there(loss, options):
    student, teacher = torch.randn(2, 2, 4, dtype=torch.float64)
    out = torch.full((2, 3), OUT, dtype=torch.float64)
    wide = torch.cat([student, out], -1), torch.cat([teacher, out], -1)
    torch.testing.assert_close(loss(*wide, **options), loss(student, teacher, **options), rtol=1e-12, atol=0)
    of_wide = gradient(loss, *wide, **options)
    torch.testing.assert_close(of_wide[:, :4], gradient(loss, student, teacher, **options), rtol=1e-11, atol=1e-15)
    assert (of_wide[:, 4:] == 0).all()


@divergences
def test_a_word_that_one_side_rules_out_is_as_good_as_unlikely_or_infinite(loss, options):
    plain, some = (
        torch.tensor([[0.3, 1.0, -0.5]], dtype=torch.float64),
        torch.tensor([[1.0, 0.2, 0.0]], dtype=torch.float64),
    )
    ruled_out, unlikely = (torch.where(torch.tensor([[False, False, True]]), low, some) for low in (OUT, -1e4))
    covers_teacher = loss in (kl_divergence, soft_cross_entropy, decoupled) or options.get("beta") == 0
    covers_student = loss is reverse_kl or options.get("beta") == 1
    for side, pair, near, infinite in (
        ("teacher", (plain, ruled_out), (plain, unlikely), covers_student),
        ("student", (ruled_out, plain), (unlikely, plain), covers_teacher),
    ):
        value = loss(*pair, **options)
        if infinite:
            assert value == torch.inf, side
        else:
            torch.testing.assert_close(value, loss(*near, **options), rtol=1e-9, atol=0)
            torch.testing.assert_close(
                gradient(loss, *pair, **options), gradient(loss, *near, **options), rtol=1e-9, atol=1e-12
            )


def test_the_formula_of_probabilities_and_logarithms_is_nan_where_a_word_is_ruled_out_on_both_sides():
    """What trl's function gives: the reason that ours goes another way."""
    student, teacher = (torch.tensor([[z, 0.0, OUT]]).log_softmax(-1) for z in (1.0, 2.0))
    mixture = torch.logsumexp(torch.stack([student + math.log(0.5), teacher + math.log(0.5)]), 0)
    assert functional.kl_div(mixture, teacher, reduction="sum", log_target=True).isnan()


@divergences
def test_a_logit_of_nan_is_not_hidden(loss, options):
    fine, broken = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, float("nan")]])
    assert loss(broken, fine, **options).isnan()
    assert loss(fine, broken, **options).isnan()


def test_logits_that_both_rule_out_agree():
    student, teacher = (torch.tensor([[z, 0.0, OUT]]) for z in (3.0, 0.0))
    assert logit_mse(student, teacher).item() == 3
    assert gradient(logit_mse, student, teacher).tolist() == [[2.0, 0.0, 0.0]]


@divergences
@given(seed=st.integers(0, 2**31), temperature=st.floats(0.1, 20))
@settings(max_examples=10, deadline=None)
def test_only_distributions_count_and_the_temperature_only_divides(loss, options, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    value = loss(student, teacher, temperature=temperature, **options)
    shifted = loss(student + 7, teacher - 3, temperature=temperature, **options)
    torch.testing.assert_close(shifted, value, rtol=1e-7, atol=1e-12)
    divided = loss(student / temperature, teacher / temperature, temperature=1.0, **options)
    torch.testing.assert_close(value, temperature**2 * divided, rtol=1e-7, atol=1e-12)
    assert value >= -1e-15


@divergences
def test_no_temperature_is_taken_that_is_not_above_zero(loss, options):
    with pytest.raises(LossError, match="temperature must be a number above 0"):
        loss(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0.0, **options)
