"""A loss's signature is its schema."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from types import ModuleType

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from xmodal.errors import UnknownNameError
from xmodal.losses import LOSSES, loss
from xmodal.losses.checks import Positive
from xmodal.losses.registration import describe


def test_inputs_options_and_kind_are_read_off_the_signature():
    soft = LOSSES["soft_contrastive"]
    assert (soft.kind, soft.num_student, soft.num_teacher, soft.masks, soft.state) == ("relational", 2, 2, (), ())
    assert [given.width for given in soft.inputs] == ["student_dim", "student_dim", "teacher_dim", "teacher_dim"]
    assert [given.forms for given in soft.inputs] == [("tensor",)] * 2 + [("tensor", "sequence")] * 2
    required = {name for name, option in soft.options.items() if option.required}
    assert required == {"student_scale", "teacher_scale"}
    assert soft.options["student_scale"].learnable
    assert not soft.options["teacher_scale"].learnable
    assert soft.options["teacher_scale"].annotation == Positive | Sequence[Positive]
    assert soft.options["teacher_scale"].number == Positive
    divergence = LOSSES["kl_divergence"]
    assert (divergence.kind, divergence.num_student, divergence.num_teacher) == ("per_item", 1, 1)
    assert [mask.name for mask in divergence.masks] == ["mask"]
    assert list(divergence.options) == ["temperature"]
    assert not divergence.options["temperature"].learnable
    assert LOSSES["clip_contrastive"].num_teacher == 0


def test_labels_are_no_side_of_the_student_and_no_floats():
    target = LOSSES["decoupled_kd"].inputs[-1]
    assert (target.name, target.dtype, target.detached) == ("target", "int", True)


def test_masks_and_state_are_the_objectives_to_fill():
    assert [mask.name for mask in LOSSES["universal_logit"].masks] == ["student_mask", "teacher_mask"]
    graph = LOSSES["multimodal_graph"]
    assert [given.forms for given in (*graph.inputs, *graph.masks)] == [("mapping",)] * 3
    assert LOSSES["contrastive_representation"].state == ("bank",)
    assert LOSSES["augmented_feature"].state == ("image_fusion", "text_fusion")
    assert list(LOSSES["augmented_feature"].options) == ["logit_scale"]


def test_a_loss_counts_the_entries_of_its_mask_or_what_it_says_it_does():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert LOSSES["kl_divergence"].count_items({"mask": mask}) == 3
    assert LOSSES["attention_scores"].count_items({"mask": mask}) == 2**2 + 1**2
    aligned = {"student_mask": mask, "teacher_mask": torch.tensor([[True, False, False], [True, True, True]])}
    assert LOSSES["universal_logit"].count_items(aligned) == 1 + 1


def test_a_registered_loss_stays_the_function_it_is():
    import xmodal.losses

    for name in LOSSES:
        assert LOSSES[name].function is getattr(xmodal.losses, name)


def test_a_second_loss_of_one_name_is_refused():
    def feature_mse(student, teacher): ...

    with pytest.raises(ValueError, match="registered already"):
        loss(kind="per_item")(feature_mse)


def test_an_unknown_loss_lists_the_nearest():
    with pytest.raises(UnknownNameError, match="Nearest: feature_cosine"):
        LOSSES["feature_cosin"]


def starred(student, *teachers): ...


def only_teachers(teacher, teacher_text): ...


def without_group(image, text): ...


def with_group(student, teacher, *, group=None): ...


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (starred, "per_item", "name every argument"),
        (only_teachers, "per_item", "no input for the student"),
        (without_group, "relational", "take the keyword `group`"),
        (with_group, "per_item", "no others do"),
    ],
)
def test_a_signature_that_says_too_little_is_refused(function, kind, message):
    with pytest.raises(TypeError, match=message):
        describe(function, kind)


def test_widths_are_read_off_the_first_shape_of_a_union():
    def either(
        student: Float[Tensor, "batch a"] | list[Float[Tensor, "batch _"]], teacher: Float[Tensor, "batch b"]
    ): ...

    either.__annotations__ = {
        "student": Float[Tensor, "batch a"] | list[Float[Tensor, "batch _"]],
        "teacher": Float[Tensor, "batch b"],
    }
    assert [given.width for given in describe(either, "per_item").inputs] == ["a", "b"]


def test_another_packages_loss_is_found_through_its_entry_point(monkeypatch):
    module = ModuleType("other_package_of_losses")
    source = """
from torch import Tensor
from xmodal.losses import loss

@loss(kind="per_item")
def other_loss(student: Tensor, teacher: Tensor, *, power: int = 2) -> Tensor:
    return (student - teacher).abs().pow(power).mean()
"""
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class EntryPoint:
        name = "other_loss"

        def load(self):
            exec(source, module.__dict__)
            return module.other_loss

    monkeypatch.setattr(metadata, "entry_points", lambda *, group: [EntryPoint()] if group == "xmodal.losses" else [])
    monkeypatch.setattr(LOSSES, "_looked_outside", False)
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    found = LOSSES["other_loss"]
    assert (found.kind, list(found.options)) == ("per_item", ["power"])
    assert found.function(torch.zeros(2), torch.ones(2)).item() == 1
