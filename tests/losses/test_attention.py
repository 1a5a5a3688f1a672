"""attention_* against torchdistill, scipy, and the real attention of a transformers model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.attention import (
    attention_kl,
    attention_relation,
    attention_scores,
    attention_transfer,
    num_pairs,
)

LENGTHS = (5, 3, 1)
"""Valid positions of each sample of 5."""


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def padding(lengths=LENGTHS, length=5):
    return torch.arange(length) < torch.tensor(lengths)[:, None]


def assert_agree(ours, theirs, *inputs):
    """Values and gradients."""
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    gradients = (torch.autograd.grad(value, inputs, retain_graph=True) for value in (ours, theirs))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-13)


# --- attention_transfer


def torchdistill_transfer(student, teacher, mode):
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    pair = {"student": {"io": "output", "path": "s"}, "teacher": {"io": "output", "path": "t"}}
    criterion = mid_level.ATLoss({"pair": pair}, mode=mode)
    return criterion({"s": {"output": student}}, {"t": {"output": teacher}})


@pytest.mark.parametrize(("channels", "height", "width"), [((3, 3), 4, 4), ((2, 7), 5, 3), ((4, 1), 1, 6)])
def test_attention_transfer_is_torchdistills_after_the_authors_code(channels, height, width):
    student, teacher = (tensor(6, c, height, width, seed=seed) for seed, c in enumerate(channels))
    ours = attention_transfer(student, teacher)
    assert_agree(ours, torchdistill_transfer(student, teacher.detach(), "code"), student)


def test_the_papers_attention_transfer_is_the_mean_over_samples_of_a_root():
    student, teacher = tensor(6, 3, 4, 5), tensor(6, 2, 4, 5, seed=1)
    paper = torchdistill_transfer(student, teacher, "paper")
    places = 4 * 5
    roots = [(places * attention_transfer(s[None], t[None])).sqrt() for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(paper, torch.stack(roots).mean(), rtol=1e-10, atol=0)
    assert [round(value.item(), 3) for value in (paper, attention_transfer(student, teacher))] == [0.947, 0.045]


def pooled(feature_map, height, width):
    """Adaptive average pooling, bin by bin."""
    batch, channels, full_height, full_width = feature_map.shape
    result = np.empty((batch, channels, height, width))
    for i in range(height):
        for j in range(width):
            rows = slice(i * full_height // height, -((-(i + 1) * full_height) // height))
            columns = slice(j * full_width // width, -((-(j + 1) * full_width) // width))
            result[:, :, i, j] = feature_map[:, :, rows, columns].mean((2, 3))
    return result


@pytest.mark.parametrize(
    ("student_size", "teacher_size"), [((8, 8), (4, 4)), ((3, 3), (7, 7)), ((6, 4), (4, 6)), ((5, 4), (5, 7))]
)
def test_the_larger_map_is_pooled_before_it_is_squared(student_size, teacher_size):
    student, teacher = tensor(3, 2, *student_size), tensor(3, 4, *teacher_size, seed=1)
    size = [min(sizes) for sizes in zip(student_size, teacher_size, strict=True)]
    strengths = []
    for feature_map in (student, teacher):
        strength = (pooled(feature_map.detach().numpy(), *size) ** 2).mean(1).reshape(3, -1)
        strengths.append(strength / np.linalg.norm(strength, axis=1, keepdims=True))
    wanted = ((strengths[0] - strengths[1]) ** 2).mean()
    assert attention_transfer(student, teacher).item() == pytest.approx(wanted, rel=1e-12)


def test_sizes_of_the_features_do_not_matter_to_attention_transfer():
    student, teacher = tensor(3, 2, 4, 4), tensor(3, 4, 4, 4, seed=1)
    louder = attention_transfer(student * 100, teacher / 7)
    torch.testing.assert_close(louder, attention_transfer(student, teacher), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shapes", [((2, 3, 4, 4), (3, 3, 4, 4)), ((2, 3, 4), (2, 3, 4)), ((2, 3, 4, 4), (2, 16))])
def test_what_is_no_map_of_the_same_samples_is_refused(unchecked, shapes):
    with pytest.raises(LossError, match=r"must be maps \[B, C, H, W\].*given \[2, 3, 4"):
        unchecked(attention_transfer)(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


# --- a real model


class Recorded:
    """What a small BERT of random weights says of padded sentences, and what its layer's queries and keys were."""

    def __init__(self, width, heads, seed):
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(
            vocab_size=20,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=heads,
            intermediate_size=8,
            max_position_embeddings=8,
            initializer_range=0.6,
            attn_implementation="eager",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = transformers.BertModel(config).double().eval()
        self.heads, states = heads, {}
        layer = model.encoder.layer[1].attention.self
        for name in ("query", "key", "value"):
            getattr(layer, name).register_forward_hook(lambda _, __, out, name=name: states.setdefault(name, out))
        tokens = torch.arange(15).reshape(3, 5) % 20
        with torch.no_grad():
            self.attention = model(tokens, attention_mask=padding().long(), output_attentions=True).attentions[1]
        self.states = states

    def split(self, name):
        """``[B, H, L, d]``, as numpy."""
        states = self.states[name]
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2).numpy()

    def scores(self):
        query, key = self.split("query"), self.split("key")
        return np.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(query.shape[-1])


@pytest.fixture(scope="module")
def student():
    return Recorded(width=8, heads=2, seed=1)


@pytest.fixture(scope="module")
def teacher():
    return Recorded(width=12, heads=2, seed=2)


@pytest.fixture(scope="module")
def wide_teacher():
    return Recorded(width=24, heads=6, seed=3)


def test_the_models_own_attention_is_the_softmax_of_the_scores_over_valid_keys(student):
    scores = np.where(padding().numpy()[:, None, None], student.scores(), -np.inf)
    np.testing.assert_allclose(student.attention, scipy.special.softmax(scores, -1), rtol=1e-9, atol=1e-12)


def test_attention_scores_is_the_mean_square_over_pairs_of_valid_tokens(student, teacher):
    squares = [
        (student.scores()[b, h, q, k] - teacher.scores()[b, h, q, k]) ** 2
        for b, n in enumerate(LENGTHS)
        for h in range(2)
        for q in range(n)
        for k in range(n)
    ]
    scores = (torch.from_numpy(model.scores()) for model in (student, teacher))
    assert attention_scores(*scores, mask=padding()).item() == pytest.approx(np.mean(squares), rel=1e-12)


def test_attention_kl_is_scipys_on_a_models_probabilities(student, teacher):
    wanted = [
        scipy.special.rel_entr(teacher.attention[b, h, q].numpy(), student.attention[b, h, q].numpy()).sum()
        for b, n in enumerate(LENGTHS)
        for h in range(2)
        for q in range(n)
    ]
    ours = attention_kl(student.attention, teacher.attention, mask=padding())
    assert ours.item() == pytest.approx(np.mean(wanted), rel=1e-10)
    assert ours > 0.01


@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_attention_relation_is_softmax_by_softmax(student, wide_teacher, name, num_heads):
    wanted = []
    for b, n in enumerate(LENGTHS):
        for head in range(num_heads):
            relations = []
            for model in (student, wide_teacher):
                states = model.states[name][b, :n].numpy()
                part = states[:, head * states.shape[1] // num_heads : (head + 1) * states.shape[1] // num_heads]
                relations.append(scipy.special.softmax(part @ part.T / math.sqrt(part.shape[1]), -1))
            wanted.extend(scipy.special.rel_entr(relations[1], relations[0]).sum(-1))
    states = (model.states[name] for model in (student, wide_teacher))
    ours = attention_relation(*states, num_relation_heads=num_heads, mask=padding())
    assert ours.item() == pytest.approx(np.mean(wanted), rel=1e-10)
    assert ours > 0.01


def test_as_many_relation_heads_as_attention_heads_are_the_first_minilms_value_relation(student, teacher):
    relations = []
    for model in (student, teacher):
        value = model.split("value")[:1]  # the sentence that has no padding
        scores = np.einsum("bhqd,bhkd->bhqk", value, value) / math.sqrt(value.shape[-1])
        relations.append(scipy.special.softmax(scores, -1))
    ours = attention_relation(*(model.states["value"][:1] for model in (student, teacher)), num_relation_heads=2)
    wanted = scipy.special.rel_entr(relations[1], relations[0]).sum(-1).mean()
    assert ours.item() == pytest.approx(wanted, rel=1e-10)


# --- attention_scores


def test_attention_scores_without_a_mask_is_torchs_mean_square():
    student, teacher = tensor(3, 2, 5, 5), tensor(3, 2, 5, 5, seed=1)
    assert_agree(attention_scores(student, teacher), functional.mse_loss(student, teacher.detach()), student)


def test_tinyberts_code_counts_masked_keys_as_zeros_and_teaches_padding():
    student, teacher, mask = tensor(3, 2, 5, 5), tensor(3, 2, 5, 5, seed=1), padding()
    added = torch.where(mask, 0.0, -10000.0)[:, None, None]
    seen = [torch.where(scores + added <= -100, 0, scores + added) for scores in (student, teacher)]
    theirs, ours = functional.mse_loss(*seen), attention_scores(student, teacher, mask=mask)
    pairs, entries = num_pairs(mask), 3 * 5 * 5
    from_padding = ((student - teacher).square() * (~mask[:, None, :, None] & mask[:, None, None, :])).sum() / 2
    torch.testing.assert_close(theirs * entries, ours * pairs + from_padding, rtol=1e-12, atol=0)
    figures = [round(value.item(), 3) for value in (theirs, ours, from_padding / entries)]
    assert figures == [1.391, 2.483, 0.232]


def test_where_padding_agrees_tinyberts_is_ours_times_the_share_of_valid_pairs():
    teacher, mask = tensor(3, 2, 5, 5, seed=1), padding()
    student = torch.where(mask[:, None, :, None], tensor(3, 2, 5, 5), teacher)
    seen = [torch.where(mask[:, None, None], scores, 0) for scores in (student, teacher)]
    ours = attention_scores(student, teacher, mask=mask)
    torch.testing.assert_close(functional.mse_loss(*seen), ours * (25 + 9 + 1) / 75, rtol=1e-12, atol=0)


def test_a_sample_of_n_positions_counts_n_squared():
    assert num_pairs(padding()).item() == 25 + 9 + 1


def test_scores_that_both_rule_out_differ_by_nothing():
    student, teacher = tensor(1, 1, 3, 3), tensor(1, 1, 3, 3, seed=1)
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    ruled = [torch.where(causal, scores, -torch.inf) for scores in (student, teacher)]
    value = attention_scores(*ruled)
    (gradient,) = torch.autograd.grad(value, student)
    wanted = functional.mse_loss(student[..., causal], teacher[..., causal]) * 6 / 9
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    assert gradient.isfinite().all()


# --- attention_kl


def test_gradient_of_attention_kl_through_the_softmax_is_that_of_torchs_kl():
    student, teacher, mask = tensor(3, 2, 5, 5), tensor(3, 2, 5, 5, seed=1), padding()
    hidden = torch.where(mask, 0.0, -torch.inf)[:, None, None]
    target = (teacher + hidden).softmax(-1).detach()
    ours = attention_kl((student + hidden).softmax(-1), target, mask=mask)
    per_key = functional.kl_div(
        (student + hidden).log_softmax(-1).masked_fill(~mask[:, None, None], 0), target, reduction="none"
    )
    per_query = per_key.sum(-1)[mask[:, None].expand(3, 2, 5)]
    assert_agree(ours, per_query.mean(), student)


def test_the_softmax_makes_the_gradient_zero_at_equality():
    scores = tensor(2, 3, 4, 4)
    probabilities = scores.softmax(-1)
    value = attention_kl(probabilities, probabilities.detach())
    assert value.item() == 0
    own, through = torch.autograd.grad(value, (probabilities, scores))
    torch.testing.assert_close(own, torch.full_like(own, -1 / 24))  # of the formula: −1 over 2 · 3 · 4 rows
    torch.testing.assert_close(through, torch.zeros_like(through), rtol=0, atol=1e-16)


@pytest.mark.parametrize(("dtype", "cost"), [(torch.float32, 87.33654), (torch.float64, 708.39642)])
def test_a_probability_that_underflowed_costs_the_logarithm_of_the_smallest_normal_number(dtype, cost):
    student = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]], dtype=dtype)
    value = attention_kl(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx((0.5 * cost + math.log(0.5)) / 2, rel=1e-6)
    assert gradient.flatten().tolist() == [0, -0.25, 0, -0.5]


def test_probability_on_padding_is_left_out_and_the_rest_not_normalised_again():
    student, teacher = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.4, 0.4, 0.2])
    wanted = 0.4 * math.log(0.4 / 0.2) + 0.4 * math.log(0.4 / 0.3)
    rows = (row.expand(1, 1, 3, 3) for row in (student, teacher))
    assert attention_kl(*rows, mask=torch.tensor([[True, True, False]])).item() == pytest.approx(wanted, rel=1e-6)


@given(st.integers(0, 10_000), st.floats(0.1, 30))
def test_attention_kl_is_never_below_zero(seed, scale):
    student, teacher = ((tensor(2, 2, 3, 3, seed=s) * scale).softmax(-1) for s in (seed, seed + 1))
    assert attention_kl(student, teacher).item() >= -1e-15


# --- attention_relation


def test_minilms_well_known_code_averages_each_sample_first():
    student, teacher, mask = tensor(3, 5, 6), tensor(3, 5, 4, seed=1), padding()
    options = {"num_relation_heads": 2}
    each = [
        attention_relation(student[b : b + 1, :n], teacher[b : b + 1, :n], **options) for b, n in enumerate(LENGTHS)
    ]
    ours, theirs = attention_relation(student, teacher, **options, mask=mask), torch.stack(each).mean()
    weighed = sum(n * value for n, value in zip(LENGTHS, each, strict=True)) / sum(LENGTHS)
    assert_agree(ours, weighed, student)
    assert [round(value.item(), 3) for value in (ours, theirs)] == [0.527, 0.405]


def test_turning_a_models_states_changes_no_relation():
    student, teacher = tensor(2, 4, 6), tensor(2, 4, 4, seed=1)
    turn, _ = torch.linalg.qr(tensor(3, 3, seed=2))
    turned = (student.unflatten(-1, (2, 3)) @ turn).flatten(-2)
    values = [attention_relation(x, teacher, num_relation_heads=2) for x in (student, turned)]
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)


def test_a_sample_without_a_valid_token_is_as_if_it_were_not_there():
    student, teacher, mask = tensor(3, 5, 6), tensor(3, 5, 4, seed=1), padding((5, 0, 2))
    without = [0, 2]
    ours = attention_relation(student, teacher, num_relation_heads=2, mask=mask)
    wanted = attention_relation(student[without], teacher[without], num_relation_heads=2, mask=mask[without])
    assert_agree(ours, wanted, student)
    assert (torch.autograd.grad(ours, student)[0][1] == 0).all()


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_relations_as_hard_as_choices_stay_finite(scale):
    student, teacher = tensor(2, 4, 6), tensor(2, 4, 6, seed=1)
    value = attention_relation(scale * student, scale * teacher, num_relation_heads=3)
    assert value.isfinite()
    assert torch.autograd.grad(value, student)[0].isfinite().all()


# --- what is refused


def test_widths_that_the_relation_heads_do_not_divide_are_both_named(unchecked):
    with pytest.raises(LossError, match="4 does not divide 6 of the student and 8 of the teacher"):
        unchecked(attention_relation)(torch.zeros(2, 3, 6), torch.zeros(2, 3, 8), num_relation_heads=4)


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_relation_heads_are_a_whole_number_above_zero(unchecked, number):
    with pytest.raises(LossError, match=f"num_relation_heads must be a whole number of at least 1; given {number}"):
        unchecked(attention_relation)(torch.zeros(2, 3, 6), torch.zeros(2, 3, 6), num_relation_heads=number)


def test_states_of_unlike_length_are_refused(unchecked):
    with pytest.raises(LossError, match=r"one B and L; given \[2, 3, 6\] and \[2, 4, 6\]"):
        unchecked(attention_relation)(torch.zeros(2, 3, 6), torch.zeros(2, 4, 6), num_relation_heads=1)


@pytest.mark.parametrize("loss", [attention_scores, attention_kl])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 2, 5, 5), (2, 2, 4, 5), (1, 2, 4, 4)])
def test_unlike_heads_are_refused_and_what_takes_them_is_named(unchecked, loss, shape):
    with pytest.raises(LossError, match=r"\[B, H, L, L\] both.*attention_relation"):
        unchecked(loss)(torch.zeros(2, 2, 4, 4), torch.zeros(shape))


@pytest.mark.parametrize("loss", [attention_scores, attention_kl])
@pytest.mark.parametrize(
    "mask", [torch.ones(2, 4), torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 1, 4, dtype=torch.bool)]
)
def test_a_mask_that_is_not_one_truth_a_position_is_refused(unchecked, loss, mask):
    with pytest.raises(LossError, match=r"mask must be boolean, one entry a position: \[2, 4\]"):
        unchecked(loss)(torch.zeros(2, 2, 4, 4), torch.zeros(2, 2, 4, 4), mask=mask)
