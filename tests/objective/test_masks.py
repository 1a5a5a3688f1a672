"""Masks: one or several, over positions, pairs, or samples; what a term counts by them; parts combine exactly."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.errors import RecipeError
from xmodal.losses import LOSSES
from xmodal.objective import Objective, check_terms
from xmodal.recipe import Term

SCORES = {"loss": "attention_scores", "student": "text.scores.0", "teacher": "text.scores.0"}
WORDS = {"loss": "universal_logit", "student": "text.logits", "teacher": "text.logits"}
BOTH = {"student_mask": "text.mask", "teacher_mask": "teacher:text.mask"}
GRAPH = {
    "loss": "multimodal_graph",
    "student": {"image": "image.embedding", "text": "text.embedding"},
    "teacher": {"image": "image.embedding", "text": "text.embedding"},
}


def wrong(term):
    return {mistake.path: mistake.message for mistake in check_terms([Term(**term)])[1]}


def features(num_rows=12, seed=0):
    """Rows of unlike numbers of valid positions, which differ between the two sides."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(num_rows, *shape, generator=generator, dtype=torch.float64)

    def mask(length):
        return (torch.rand(num_rows, length, generator=generator) < torch.rand(num_rows, 1, generator=generator)).long()

    return {
        "student": {
            "text.scores.0": random(2, 4, 4).requires_grad_(),
            "text.logits": random(4, 5).requires_grad_(),
            "text.mask": mask(4),
        },
        "teacher": {"text.scores.0": random(2, 4, 4), "text.logits": random(3, 7), "text.mask": mask(3)},
    }


@pytest.mark.parametrize("mask", [BOTH, ["text.mask", "teacher:text.mask"]])
def test_several_masks_go_by_name_or_by_the_losses_own_order(mask):
    given_features = features()
    objective = Objective([Term(**WORDS, mask=mask)])
    direct = LOSSES["universal_logit"].function(
        given_features["student"]["text.logits"],
        given_features["teacher"]["text.logits"],
        student_mask=given_features["student"]["text.mask"] == 1,
        teacher_mask=given_features["teacher"]["text.mask"] == 1,
    )
    torch.testing.assert_close(objective(given_features)["universal_logit"], direct)


def test_a_mapping_of_masks_by_modality_may_leave_some_out():
    generator = torch.Generator().manual_seed(0)
    rows = {
        model: {f"{name}.embedding": torch.randn(5, 3, generator=generator) for name in ("image", "text")}
        for model in ("student", "teacher")
    }
    present = torch.tensor([1, 1, 0, 1, 0])
    objective = Objective([Term(**GRAPH, mask={"presence": {"text": "batch:has_text"}})])
    value = objective({**rows, "batch": {"has_text": present}})["multimodal_graph"]
    by_name = [{name: taps[f"{name}.embedding"] for name in ("image", "text")} for taps in rows.values()]
    direct = LOSSES["multimodal_graph"].function(*by_name, presence={"text": present == 1})
    torch.testing.assert_close(value, direct)


def test_what_compares_samples_counts_samples_whatever_is_masked():
    """Ranks with unlike numbers of present texts would else weigh a value that is the whole batch's already."""
    objective = Objective([Term(**GRAPH, mask={"presence": {"text": "batch:has_text"}})])
    assert objective.counts({"batch": {"has_text": torch.tensor([1, 0, 0])}}, 3) == {"multimodal_graph": 3}


@pytest.mark.parametrize(
    ("term", "path", "message"),
    [
        ({**WORDS, "mask": "text.mask"}, "mask", "takes 2 masks (student_mask, teacher_mask), or {student_mask: …"),
        ({**WORDS, "mask": ["text.mask"] * 3}, "mask", "given 3"),
        ({**WORDS, "mask": {"studnet_mask": "text.mask"}}, "mask.studnet_mask", "Nearest: student_mask"),
        ({**WORDS, "mask": {**BOTH, "teacher_mask": {"a": "text.mask"}}}, "mask.teacher_mask", "takes one tap"),
        ({**WORDS, "mask": {**BOTH, "teacher_mask": "techer:text.mask"}}, "mask.teacher_mask", "'techer' is no model"),
        ({**SCORES, "mask": ["text.mask", "text.mask"]}, "mask", "takes 1 mask (mask), or {mask: …}; given 2"),
        ({**GRAPH, "mask": "text.mask"}, "mask", "takes a mapping from names to taps; given one tap. Write {presence:"),
        ({**GRAPH, "mask": {"text": "text.mask"}}, "mask.text", "no such mask of multimodal_graph. Known: presence"),
        ({"loss": "logit_mse", "student": "logits", "teacher": "logits", "mask": []}, "mask", "given 0"),
        ({**SCORES, "mask": {}}, "mask", "names no tap: attention_scores takes mask; without a mask, leave `mask` out"),
        ({**GRAPH, "mask": {}}, "mask", "names no tap: multimodal_graph takes presence; without"),
        ({**GRAPH, "mask": {"presence": {}}}, "mask.presence", "names no tap"),
        ({**WORDS, "mask": {**BOTH, "teacher_mask": {}}}, "mask.teacher_mask", "names no tap"),
        ({**WORDS, "student_mask": "text.mask"}, "student_mask", "It is a mask: write `mask: {student_mask: TAP}`."),
        ({**SCORES, "bank": 8}, "bank", "attention_scores takes no options. It belongs to contrastive_representation."),
        ({**SCORES, "temperature": 2}, "temperature", "It belongs to "),
    ],
)
def test_masks_that_are_not_the_losses_are_refused(term, path, message):
    found = wrong(term)
    assert list(found) == [f"objective.0.{path}"]
    assert message in found[f"objective.0.{path}"]


def test_pairs_are_counted_where_the_loss_counts_pairs():
    masks = {"student": {"text.mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}}
    assert int(Objective([Term(**SCORES, mask="text.mask")]).counts(masks, 2)["attention_scores"]) == 5


def test_positions_are_counted_that_both_sides_have():
    masks = {
        "student": {"text.mask": torch.tensor([[1, 1, 0], [1, 0, 0]])},
        "teacher": {"text.mask": torch.tensor([[1, 1, 1], [0, 0, 0]])},
    }
    assert int(Objective([Term(**WORDS, mask=BOTH)]).counts(masks, 2)["universal_logit"]) == 2


@given(cuts=st.lists(st.integers(1, 11), max_size=4, unique=True), seed=st.integers(0, 99))
def test_parts_combine_exactly_by_what_each_loss_counts(cuts, seed):
    objective, whole = Objective([Term(**SCORES, mask="text.mask"), Term(**WORDS, mask=BOTH)]), features(seed=seed)
    wanted = objective(whole)
    bounds = [0, *sorted(cuts), 12]
    parts = [
        {model: {tap: tensor[start:stop] for tap, tensor in taps.items()} for model, taps in whole.items()}
        for start, stop in pairwise(bounds)
    ]
    counts = [objective.counts(part, len(part["student"]["text.mask"])) for part in parts]
    for label in objective.labels:
        total = max(sum(int(count[label]) for count in counts), 1)
        pairs = zip(parts, counts, strict=True)
        combined = sum(objective(part)[label] * count[label] / total for part, count in pairs)
        torch.testing.assert_close(combined, wanted[label], rtol=1e-10, atol=1e-14)


def test_the_dry_run_finds_a_mask_of_another_size_and_one_that_stands_alone(make_encoder):
    shapes = {"text.scores.0": (2, 4, 4), "text.logits": (4, 5), "text.mask": (4,), "text.other": (3,)}
    models = {name: make_encoder(name, "text", 8) for name in ("student", "teacher")}
    for model in models.values():
        model.taps = lambda: tuple(shapes)
        model.compute = lambda inputs, taps: {tap: torch.ones(6, *shapes[tap]) for tap in taps}
    terms = [
        Term(**SCORES, mask="text.other"),
        Term(**WORDS, mask={**BOTH, "teacher_mask": "teacher:text.other"}),
        Term(**WORDS, mask={"student_mask": "text.mask"}),
    ]
    with pytest.raises(RecipeError) as error:
        Objective.build(terms, models, {"student": {}, "teacher": {}})
    found = {mistake.path: mistake.message for mistake in error.value.mistakes}
    assert list(found) == ["objective.0.mask", "objective.1.mask.teacher_mask", "objective.2"]
    assert "one entry an item: [6, 4] for student's text.scores.0; student's text.other is" in found["objective.0.mask"]
    assert "[6, 4] for teacher's text.logits" in found["objective.1.mask.teacher_mask"]
    assert "give both masks or none, not student_mask alone" in found["objective.2"]


@pytest.mark.parametrize(
    ("term", "mend"),
    [
        (SCORES, "`mask: text.mask` or `mask: teacher:text.mask`"),
        (WORDS, "`mask: {student_mask: text.mask, teacher_mask: teacher:text.mask}`"),
        (
            {"loss": "feature_mse", "student": "text.embedding", "teacher": "text.logits", "projection": "linear"},
            "`mask: teacher:text.mask`",
        ),
    ],
)
def test_what_is_padded_to_the_longest_of_its_batch_needs_its_mask(make_encoder, term, mend):
    """How many positions a part of a batch has depends on its longest text, so parts would not combine to the whole."""
    shapes = {"text.embedding": (4, 6), "text.scores.0": (2, 4, 4), "text.logits": (4, 5), "text.mask": (4,)}
    models = {name: make_encoder(name, "text", 8) for name in ("student", "teacher")}
    models["teacher"].compute = lambda inputs, taps: {tap: torch.ones(6, *shapes[tap]) for tap in taps}
    models["student"].compute = models["teacher"].compute
    models["teacher"].taps = lambda: tuple(shapes)
    models["student"].taps = models["teacher"].taps
    if term["student"] == "text.embedding":  # rows of features that no mask is for
        models["student"].taps = lambda: ("text.embedding",)
    with pytest.raises(RecipeError) as error:
        Objective.build([Term(**term)], models, {"student": {}, "teacher": {}})
    (mistake,) = [found for found in error.value.mistakes if found.path == "objective.0.mask"]
    assert "is padded to the longest of its batch, and padding would count: add " in mistake.message
    assert mistake.message.endswith(f"add {mend}")


def test_what_has_no_positions_or_no_mask_tap_needs_none(models, views, embedding_term):
    models["teacher"].taps = lambda: ("text.embedding", "text.tokens")
    models["student"].taps = lambda: ("image.embedding", "image.tokens", "image.map")
    Objective.build([embedding_term(), embedding_term("rkd_distance", projection=None)], models, views)
    Objective.build([Term(loss="feature_mse", student="image.tokens", teacher="text.tokens")], models, views)
