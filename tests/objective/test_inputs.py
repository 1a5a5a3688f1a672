"""Inputs of several tensors, in a recipe's words: lists, nested lists, mappings, and fields of the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xmodal.errors import RecipeError
from xmodal.losses import LOSSES
from xmodal.objective import Objective, check_terms
from xmodal.recipe import Term

LAYERS = {
    "loss": "layer_graph",
    "student": ["image.hidden.0", "image.hidden.1"],
    "teacher": ["text.hidden.0", "text.hidden.1"],
}
TWO_TEACHERS = {
    "loss": "soft_contrastive",
    "student": ["image.embedding", "image.embedding"],
    "teacher": [["a:image.embedding", "b:image.embedding"], ["a:text.embedding", "b:text.embedding"]],
    "student_scale": 20,
    "teacher_scale": [100, 20],
}
MODALITIES = {
    "loss": "multimodal_graph",
    "student": {"image": "image.embedding", "text": "image.features"},
    "teacher": {"image": "image.embedding", "text": "text.embedding"},
}
LABELS = {"loss": "decoupled_kd", "student": "logits", "teacher": ["logits", "batch:label"]}


def wrong(term, teachers=("teacher",)):
    return {mistake.path: mistake.message for mistake in check_terms([Term(**term)], teachers)[1]}


def inputs(term, teachers=("teacher",)):
    (entry,), mistakes = check_terms([Term(**term)], teachers)
    assert mistakes == []
    return entry.inputs


def taps(entry):
    if isinstance(entry, dict):
        return {name: taps(inner) for name, inner in entry.items()}
    return [taps(inner) for inner in entry] if isinstance(entry, tuple) else f"{entry.model}:{entry.tap}"


def test_a_flat_list_is_the_sequence_where_a_side_has_one_input():
    student, teacher = inputs(LAYERS)
    assert taps(student) == ["student:image.hidden.0", "student:image.hidden.1"]
    assert taps(teacher) == ["teacher:text.hidden.0", "teacher:text.hidden.1"]
    assert [reference.path for reference in teacher] == ["objective.0.teacher.0", "objective.0.teacher.1"]
    nested = {**LAYERS, "student": [LAYERS["student"]]}
    assert taps(inputs(nested)[0]) == taps(student)


def test_a_nested_list_gives_one_input_of_several_a_sequence():
    found = inputs(TWO_TEACHERS, ("a", "b"))
    assert [taps(entry) for entry in found[:2]] == ["student:image.embedding"] * 2
    assert taps(found[2]) == ["a:image.embedding", "b:image.embedding"]
    assert found[3][0].path == "objective.0.teacher.1.0"
    one = {**TWO_TEACHERS, "teacher": ["a:image.embedding", "a:text.embedding"], "teacher_scale": 100}
    assert taps(inputs(one, ("a",))[2]) == "a:image.embedding"


def test_a_mapping_goes_to_an_input_by_names():
    student, teacher = inputs(MODALITIES)
    assert taps(student) == {"image": "student:image.embedding", "text": "student:image.features"}
    assert teacher["text"].path == "objective.0.teacher.text"


def test_a_field_of_the_batch_is_an_input_like_another():
    *_, target = inputs(LABELS)
    assert (target.model, target.tap) == ("batch", "label")
    objective = Objective([Term(**LABELS)])
    assert objective.taps() == {"student": ("logits",), "teacher": ("logits",)}
    assert objective.fields() == ("label",)


@pytest.mark.parametrize(
    ("term", "path", "message"),
    [
        ({**LAYERS, "student": "image.hidden.0"}, "student", "takes a list of taps here (student_layers); given a tap"),
        ({**LAYERS, "student": {"a": "image.map"}}, "student", "takes a list of taps here"),
        ({**LAYERS, "teacher": None}, "teacher", "takes 1 list of taps here (teacher_layers); given 0"),
        ({**LAYERS, "teacher": [["text.hidden.0"], ["text.hidden.1"]]}, "teacher", "given 2"),
        ({**LAYERS, "teacher": []}, "teacher", "given 0"),
        ({**LAYERS, "teacher": ["text.hidden.0", "studnet:x"]}, "teacher.1", "Nearest: student"),
        ({**MODALITIES, "student": "image.embedding"}, "student", "takes a mapping from names to taps here (student)"),
        (
            {**MODALITIES, "student": {"image": "teacher:image.embedding"}},
            "student",
            "no tap here is the student's own",
        ),
        ({**MODALITIES, "teacher": {"image": "techer:image.embedding"}}, "teacher.image", "'techer' is no model"),
        ({**LABELS, "teacher": "logits"}, "teacher", "takes 2 taps here (teacher, target); given 1"),
        ({**LABELS, "teacher": ["logits", ["batch:label"]]}, "teacher.1", "takes a tap here (target); given a list"),
        ({**LABELS, "teacher": ["logits", "btch:label"]}, "teacher.1", "Nearest: batch"),
    ],
)
def test_what_does_not_fit_an_input_is_named_by_its_key(term, path, message):
    found = wrong(term)
    assert list(found) == [f"objective.0.{path}"]
    assert message in found[f"objective.0.{path}"]


def test_a_list_where_one_tap_belongs_is_a_mistake_of_its_own_entry():
    term = {**TWO_TEACHERS, "student": ["image.embedding", ["image.embedding", "image.features"]]}
    assert "takes a tap here (student_text)" in wrong(term, ("a", "b"))["objective.0.student.1"]


@pytest.mark.parametrize("name", ["batch", "student"])
def test_a_teacher_may_not_be_called_what_a_prefix_means_already(name):
    term = {"loss": "feature_mse", "student": "image.embedding", "teacher": f"{name}:image.embedding"}
    assert "call this teacher otherwise" in wrong(term, (name,))[f"teachers.{name}"]


def mistakes(term, models, views, **fields):
    with pytest.raises(RecipeError) as error:
        Objective.build([Term(**term)], models, views, fields=fields)
    return {mistake.path: mistake.message for mistake in error.value.mistakes}


LABELLED = {
    "loss": "decoupled_kd",
    "student": "image.embedding",
    "teacher": ["text.embedding", "batch:label"],
    "projection": "linear",
}


def test_missing_labels_are_found_by_the_dry_run(models, views):
    assert "the data have no labels" in mistakes(LABELLED, models, views)["objective.0.teacher.1"]
    other = {**LABELLED, "teacher": ["text.embedding", "batch:class"]}
    found = mistakes(other, models, views, label=torch.zeros(5, dtype=torch.long))
    assert "no field of numbers called 'class'; it has label" in found["objective.0.teacher.1"]


def test_numbers_of_the_wrong_kind_are_found_by_the_dry_run(models, views):
    found = mistakes(LABELLED, models, views, label=torch.zeros(5))
    assert (
        "holds numbers with a fraction (torch.float32); decoupled_kd takes whole numbers"
        in found["objective.0.teacher.1"]
    )
    term = {"loss": "feature_mse", "student": "image.tokens", "teacher": "text.mask", "projection": "linear"}
    assert "feature_mse takes numbers with a fraction here" in mistakes(term, models, views)["objective.0.teacher"]


def test_labels_are_neither_projected_nor_taught(models, views):
    label = torch.tensor([0, 1, 2, 3, 0])
    objective = Objective.build([Term(**LABELLED)], models, views, fields={"label": label})
    assert list(objective.terms["decoupled_kd"].projections) == ["student/image/embedding"]
    features = {name: models[name](views[name], taps) for name, taps in objective.taps().items()}
    value = objective({**features, "batch": {"label": label}})["decoupled_kd"]
    layer = objective.terms["decoupled_kd"].projections["student/image/embedding"]
    projected = layer(features["student"]["image.embedding"])
    direct = LOSSES["decoupled_kd"].function(projected, features["teacher"]["text.embedding"], label)
    torch.testing.assert_close(value, direct)


def test_two_maps_of_unlike_channels_get_a_projection_each_along_their_channels(make_encoder):
    maps = {
        "student": {"image.hidden.0": torch.randn(2, 8, 4, 4), "image.hidden.1": torch.randn(2, 6, 2, 2)},
        "teacher": {"image.hidden.0": torch.randn(2, 3, 4, 4), "image.hidden.1": torch.randn(2, 5, 4, 4)},
    }
    models = {name: make_encoder(name, "image", 8) for name in maps}
    for name, model in models.items():
        model.compute = lambda inputs, taps, name=name: {tap: maps[name][tap] for tap in taps}
    chosen = ["image.hidden.0", "image.hidden.1"]
    term = Term(loss="flow_of_solution", student=chosen, teacher=chosen, projection="linear")
    objective = Objective.build([term], models, {"student": {}, "teacher": {}})
    layers = list(objective.terms["flow_of_solution"].projections.values())
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(8, 3), (6, 5)]
    projected = [
        nn.functional.conv2d(x, layer.weight[:, :, None, None], layer.bias)
        for x, layer in zip(maps["student"].values(), layers, strict=True)
    ]
    direct = LOSSES["flow_of_solution"].function(projected, list(maps["teacher"].values()))
    torch.testing.assert_close(objective(maps)["flow_of_solution"], direct)
    twice = Term(loss="flow_of_solution", student=chosen[:1] * 2, teacher=chosen, projection="linear")
    with pytest.raises(RecipeError, match=r"student.1 .*meets widths of 3 and of 5 in one term"):
        Objective.build([twice], models, {"student": {}, "teacher": {}})


def test_attention_is_no_map(make_encoder):
    scores = {name: torch.randn(2, 3, 5, 5) for name in ("student", "teacher")}
    models = {name: make_encoder(name, "text", 8) for name in scores}
    for name, model in models.items():
        model.compute = lambda inputs, taps, name=name: dict.fromkeys(taps, scores[name])
    term = Term(loss="feature_mse", student="text.attention", teacher="text.attention")
    objective = Objective.build([term], models, {"student": {}, "teacher": {}})
    values = objective({name: {"text.attention": tensor} for name, tensor in scores.items()})
    torch.testing.assert_close(values["feature_mse"], nn.functional.mse_loss(scores["student"], scores["teacher"]))


def test_a_projection_may_be_asked_for_where_a_loss_takes_any_widths(models, views, embedding_term):
    term = embedding_term("instance_graph", node_weight=1)
    objective = Objective.build([term], models, views)
    (layer,) = objective.terms["instance_graph"].projections.values()
    assert (layer.in_features, layer.out_features) == (8, 4)
    assert not Objective.build([embedding_term("rkd_distance", projection=None)], models, views).state_dict()


def test_teachers_of_unlike_widths_stand_side_by_side(models, views, make_encoder):
    models["other"] = make_encoder("other", "text", 7).freeze()
    views["other"] = views["teacher"]
    term = Term(
        loss="soft_contrastive",
        student=["image.embedding", "teacher:text.embedding"],
        teacher=[["teacher:text.embedding", "other:text.embedding"]] * 2,
        student_scale=5,
        teacher_scale=[5, 9],
        projection="linear",
    )
    objective = Objective.build([term], models, views)
    features = {name: models[name](views[name], taps) for name, taps in objective.taps().items()}
    assert objective(features)["soft_contrastive"].isfinite()
    found = mistakes({**term.model_dump(exclude_none=True), "teacher_scale": [5, 9, 3]}, models, views)
    assert "3 scales" in found["objective.0"]
