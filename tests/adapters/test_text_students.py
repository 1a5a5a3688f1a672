"""The text student and the two-tower student."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers

from xmodal.adapters import create_student
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.students.clip import ClipStudent
from xmodal.errors import AdapterError

SMALL = {"num_layers": 2, "width": 32, "num_heads": 4, "max_length": 8}


def text_student(**options: object) -> SentenceEncoder:
    torch.manual_seed(0)
    student = create_student("text", **{**SMALL, **options})
    assert isinstance(student, SentenceEncoder)
    return student


def clip_student() -> ClipStudent:
    torch.manual_seed(0)
    image = {"model": "test_efficientnet", "weights": "random", "image_size": 32}
    student = create_student("clip", image=image, text=SMALL, embed_dim=6)
    assert isinstance(student, ClipStudent)
    return student


def test_the_text_embedding_is_the_head_over_the_mean_of_transformers_own_states() -> None:
    student = text_student(embed_dim=5).eval()
    reference = transformers.BertModel(student.model.config, add_pooling_layer=False).eval()
    reference.load_state_dict(student.model.state_dict())
    inputs = student.preprocess.collate([{"text": "a sad cat"}, {"text": "one two three four five six seven eight"}])
    assert inputs["text_ids"].shape == (2, 8)
    with torch.no_grad():
        states = reference(inputs["text_ids"], inputs["text_mask"]).last_hidden_state
        rows = [state[mask.bool()].mean(0) for state, mask in zip(states, inputs["text_mask"], strict=True)]
        dense = student.head[0].linear
        expected = torch.stack(rows) @ dense.weight.T + dense.bias
        assert torch.allclose(student(inputs, ["text.embedding"])["text.embedding"], expected, atol=1e-6)


@pytest.mark.parametrize("embed_dim", [5, None])
def test_every_parameter_of_the_text_student_gets_a_gradient(embed_dim: int | None) -> None:
    student = text_student(embed_dim=embed_dim)
    inputs = student.preprocess.collate([{"text": "a sad cat"}, {"text": "hello"}])
    student(inputs, ["text.embedding"])["text.embedding"].square().sum().backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []
    assert student.embed_dim == (embed_dim or 32)


def test_wrong_sizes_of_a_text_student_are_explained() -> None:
    with pytest.raises(AdapterError, match=r"width 30 is not a multiple of student\.num_heads 4"):
        text_student(width=30)
    with pytest.raises(AdapterError, match="max_length 9999 is more than the tokenizer"):
        text_student(max_length=9999)


@pytest.mark.parametrize("name", ["width", "num_heads", "num_layers", "embed_dim", "max_length"])
@pytest.mark.parametrize("size", [0, -4])
def test_a_size_of_nothing_is_refused_and_not_replaced(name: str, size: int) -> None:
    with pytest.raises(AdapterError, match=rf"student\.{name} must be at least 1; given {size}"):
        create_student("text", **{"width": 32, name: size})
    if name in ("width", "embed_dim"):
        with pytest.raises(AdapterError, match=rf"student\.{name} must be at least 1; given {size}"):
            create_student("static", **{"width": 32, name: size})


def test_a_dropout_is_a_share() -> None:
    with pytest.raises(AdapterError, match=r"student\.dropout is a share of 0 … 1; given 2"):
        create_student("text", width=32, dropout=2.0)


def test_two_towers_give_what_each_gives_alone(picture: Callable[..., object]) -> None:
    student = clip_student()
    pictures, texts = [picture(0), picture(1)], ["a cat", "the dog plays"]
    together = student.encode(image=pictures, text=texts)
    assert torch.equal(together["image.embedding"], student.image.encode(image=pictures)["image.embedding"])
    assert torch.equal(together["text.embedding"], student.text.encode(text=texts)["text.embedding"])
    assert torch.equal(student.encode(text=texts)["text.embedding"], together["text.embedding"])
    assert torch.equal(student.encode(image=pictures)["image.embedding"], together["image.embedding"])
    assert set(student.model) == {"image", "text"}


def test_a_tower_that_is_not_asked_for_does_not_run() -> None:
    student = clip_student()
    student.text.model.register_forward_hook(lambda *given: pytest.fail("the text tower ran"))
    student({"image": torch.randn(2, 3, 32, 32)}, ["image.embedding"])


def test_every_parameter_of_both_towers_gets_a_gradient(picture: Callable[..., object]) -> None:
    student = clip_student()
    samples = [{"image": picture(seed), "text": "a cat"} for seed in range(2)]
    inputs = student.preprocess.collate([student.preprocess(sample) for sample in samples])
    features = student(inputs, ["image.embedding", "text.embedding"])
    (features["image.embedding"] * features["text.embedding"]).sum().backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []


def test_the_towers_options_are_checked_by_name() -> None:
    with pytest.raises(AdapterError, match=r"student\.image has no option 'modle'\. Nearest: model"):
        create_student("clip", image={"modle": "resnet18"})
    with pytest.raises(AdapterError, match=r"student\.text takes the student's own embed_dim"):
        create_student("clip", image={"model": "resnet18", "weights": "random"}, text={"embed_dim": 3}, embed_dim=4)
