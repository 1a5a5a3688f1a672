"""Further texts of a sample: read by whoever reads texts, each under its own name."""

from __future__ import annotations

import torch

from xmodal.adapters import create_student, create_teacher
from xmodal.adapters.preprocessing import finish, gather

SAMPLES = [
    {"text": "ein trauriger Hund", "english": "a sad dog"},
    {"text": "eine Katze", "english": "a cat that sits on a mat and sleeps"},
]


def inputs_of(model):
    viewing = model.viewing
    return finish(viewing, gather(viewing, [viewing(sample) for sample in SAMPLES]))


def test_taps_of_a_further_text_are_what_the_model_makes_of_that_text():
    teacher = create_teacher("sentence", model="sentence-transformers/all-MiniLM-L6-v2").read_texts(["english"])
    asked = ["english.hidden.-1", "text.embedding", "english.embedding", "english.mask"]
    assert set(asked) - {"english.hidden.-1"} <= set(teacher.every_tap())
    features = teacher(inputs_of(teacher), asked)
    assert list(features) == asked
    for field in ("text", "english"):
        texts = [sample[field] for sample in SAMPLES]
        expected = teacher.encode(text=texts, taps=["text.embedding", "text.hidden.-1", "text.mask"])
        torch.testing.assert_close(features[f"{field}.embedding"], expected["text.embedding"])
        if field == "english":
            torch.testing.assert_close(features["english.hidden.-1"], expected["text.hidden.-1"])
            assert torch.equal(features["english.mask"], expected["text.mask"])


def test_a_model_of_pictures_reads_no_further_text():
    student = create_student("image", model="test_efficientnet", weights="random", image_size=32)
    assert student.read_texts(["english"]).every_tap() == student.taps()
    assert student.viewing is student.preprocess


def test_two_towers_see_the_picture_once_and_both_texts():
    torch.manual_seed(0)
    tower = {"model": "test_efficientnet", "weights": "random", "image_size": 32}
    student = create_student("clip", image=tower, text={"num_layers": 1, "width": 32}, embed_dim=16)
    student.read_texts(["english"]).eval()
    inputs = inputs_of(student)
    assert set(inputs) == {
        *(f"{name}{key}" for name in ("", "english:") for key in ("text_ids", "text_mask", "text_types"))
    }
    found = student(inputs, ["text.embedding", "english.embedding"])
    expected = student.encode(text=[sample["english"] for sample in SAMPLES])
    torch.testing.assert_close(found["english.embedding"], expected["text.embedding"])
