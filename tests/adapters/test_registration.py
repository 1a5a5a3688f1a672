"""Making models by name: what a wrong name or option says."""

from __future__ import annotations

import pytest

from xmodal.adapters import STUDENTS, TEACHERS, create_student, create_teacher
from xmodal.errors import AdapterError, UnknownNameError


def test_the_registries_hold_every_adapter() -> None:
    import xmodal.adapters.students
    import xmodal.adapters.teachers  # noqa: F401

    assert list(TEACHERS) == [
        "ema",
        "ensemble",
        "open_clip",
        "reinforced",
        "sentence",
        "timm",
        "trained",
        "transformers",
    ]
    assert list(STUDENTS) == ["clip", "image", "open_clip", "static", "text"]


def test_a_wrong_name_points_at_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'sentense' is not a teacher\. Nearest: sentence"):
        create_teacher("sentense")
    with pytest.raises(UnknownNameError, match=r"'imgae' is not a student\. Nearest: image"):
        create_student("imgae")


def test_wrong_and_missing_options_are_all_said_at_once() -> None:
    with pytest.raises(AdapterError) as error:
        create_student("image", modle="resnet18", image_sise=3)
    assert str(error.value).splitlines() == [
        "student 'image' has no option 'modle'. Nearest: model",
        "student 'image' has no option 'image_sise'. Nearest: image_size",
        "student 'image' needs the option model.",
    ]


def test_a_model_remembers_what_it_was_made_of() -> None:
    options = {"model": "test_resnet", "weights": "random", "embed_dim": 4, "image_size": 32}
    assert create_student("image", **options).spec == {"name": "image", **options}
