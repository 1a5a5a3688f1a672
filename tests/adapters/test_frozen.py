"""Frozen is frozen: mode, gradients, statistics and every tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from xmodal.adapters import Encoder, create_student, create_teacher


@pytest.fixture
def teacher() -> Encoder:
    torch.manual_seed(0)
    return create_teacher("timm", model="test_efficientnet", pretrained=False)


def test_no_train_call_takes_a_teacher_out_of_eval_mode(teacher: Encoder) -> None:
    parent = nn.ModuleDict({"teacher": teacher, "student": nn.BatchNorm1d(2)})
    for call in (teacher.train, parent.train, lambda: parent.train(True), lambda: teacher.eval().train()):
        call()
        assert not any(module.training for module in teacher.modules())
    assert parent["student"].training


def test_statistics_and_weights_stay_through_forwards_in_a_training_loop(
    teacher: Encoder, picture: Callable[..., object]
) -> None:
    before = teacher.state_hash()
    images = torch.randn(8, 3, 160, 160) * 5 + 3
    head = nn.Linear(teacher.embed_dim or 0, 4)
    optimizer = torch.optim.SGD([*teacher.parameters(), *head.parameters()], lr=1.0)
    teacher.train()
    for _ in range(2):
        head(teacher({"image": images}, ["image.embedding"])["image.embedding"]).square().mean().backward()
        optimizer.step()
    teacher.encode(image=[picture()])
    assert teacher.state_hash() == before
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_state_hash_sees_one_changed_number_in_a_buffer(teacher: Encoder) -> None:
    before = teacher.state_hash()
    statistics = next(module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)).running_var
    statistics[0] += 1e-6
    assert teacher.state_hash() != before


def test_a_student_trains_and_its_statistics_move() -> None:
    student = create_student("image", model="test_efficientnet", weights="random", embed_dim=4, image_size=32)
    before = student.state_hash()
    assert student.training
    student({"image": torch.randn(4, 3, 32, 32)}, ["image.embedding"])
    assert student.state_hash() != before


def test_encode_leaves_mode_statistics_and_random_state_alone(picture: Callable[..., object]) -> None:
    student = create_student("image", model="test_efficientnet", weights="random", embed_dim=4, image_size=32)
    before, random = student.state_hash(), torch.get_rng_state()
    features = student.encode(image=[picture(seed) for seed in range(3)], batch_size=2)
    assert features["image.embedding"].shape == (3, 4)
    assert student.training
    assert student.state_hash() == before
    assert torch.equal(torch.get_rng_state(), random)
